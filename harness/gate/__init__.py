"""Whether a change made it worse."""
