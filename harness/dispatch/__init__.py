"""Which node runs a job: this machine, or the nodes of a Ray cluster."""
