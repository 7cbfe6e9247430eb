"""Rank-Surprisal Ratio of reasoning trajectories under a student model, as a batch job on Ray."""

__version__ = "0.1.0"
