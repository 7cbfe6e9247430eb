"""A store -> the page people open, and the same as CSV, JSON and Markdown."""
