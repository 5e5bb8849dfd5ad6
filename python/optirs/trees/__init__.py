"""Models as trees: what is walked and trained, which arrays are one parameter, and models as flat vectors."""
