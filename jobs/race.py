"""ray job submit --working-dir . -- python jobs/race.py --corpus URI --student DIR_OR_HUB_ID --store URI"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this file, where it is not installed

from rsr_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["race", *sys.argv[1:]]))
