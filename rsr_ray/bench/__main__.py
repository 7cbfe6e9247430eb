import sys

from rsr_ray.bench.suite import main

sys.exit(main())
