"""Answers -> what a person reads in the terminal."""
