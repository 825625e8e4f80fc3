"""Checks what a user writes."""
