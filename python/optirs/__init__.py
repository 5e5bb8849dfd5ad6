"""Gradient optimisers with explicit state on trees of NumPy arrays."""
