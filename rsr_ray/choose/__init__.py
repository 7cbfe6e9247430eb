"""Of each prompt the best trajectories, as training data."""
