"""A benchmark: this engine against the naive method."""
