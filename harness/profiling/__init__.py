"""How profilers look at a training: each instrument, and what they share."""
