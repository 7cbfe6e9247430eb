"""The store's layout, its units and records, and who is at work on it."""
