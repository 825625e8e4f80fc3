"""What is planned, what is sent to a process, and what comes back."""
