"""Models, states and rules in files, and their digests."""
