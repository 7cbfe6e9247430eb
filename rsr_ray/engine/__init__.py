"""Token ids and spans -> sums; torch and numpy alone."""
