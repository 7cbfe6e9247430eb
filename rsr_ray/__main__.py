"""`python -m rsr_ray` is `rsr-ray`."""

import sys

from rsr_ray.cli import main

sys.exit(main())
