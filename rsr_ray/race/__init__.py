"""The best teacher at the least cost."""
