"""The training loop, its callbacks, and the data that it reads."""
