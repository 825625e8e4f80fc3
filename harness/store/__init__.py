"""Results at rest: the folder of a run, on a disk or behind a URL."""
