"""The backends that come with the harness, one file each, found by entry point.

`torch` (PyTorch eager), `jax` (Flax and optax) and `reference` (NumPy, derived by hand).
"""
