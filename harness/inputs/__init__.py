"""What a user fills in, and how it is refused."""
