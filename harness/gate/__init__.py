"""Tells whether a change made training slower or less accurate."""
