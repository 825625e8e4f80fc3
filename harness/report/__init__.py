"""A run for somebody else: its page, and its entries in MLflow."""
