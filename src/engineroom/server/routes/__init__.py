"""One file for each family of paths; each has a ``router``."""
