"""Shards -> conversations of one form."""
