"""One block of trials on one node."""
