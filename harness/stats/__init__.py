"""Intervals, tests and forecasts."""
