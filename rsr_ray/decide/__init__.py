"""Scores -> answers, and how sure they are; never starts Ray."""
