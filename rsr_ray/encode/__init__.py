"""Conversations -> token ids and the spans of scored tokens."""
