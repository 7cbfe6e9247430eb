"""The charts of the report, one per file."""
