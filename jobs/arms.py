"""ray job submit --working-dir . -- python jobs/arms.py --store URI --student NAME --per-teacher N
--out URI
"""

import sys
from pathlib import Path

# the package beside this file, where it is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rsr_ray.cli import run

if __name__ == "__main__":
    run(["arms", *sys.argv[1:]])
