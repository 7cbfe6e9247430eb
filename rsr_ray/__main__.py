"""`python -m rsr_ray` is `rsr-ray`."""

from rsr_ray.cli import run

run()
