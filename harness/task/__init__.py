"""What is learned, and from which data."""
