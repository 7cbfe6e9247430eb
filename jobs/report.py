"""ray job submit --working-dir . -- python jobs/report.py --store URI --out URI"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this file, where it is not installed

from rsr_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
