"""The batch job on Ray, and what is done before and after it."""
