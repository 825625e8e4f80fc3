"""A run from its first second to its last."""
