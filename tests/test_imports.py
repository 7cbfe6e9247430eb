"""Importing is free, and the maths knows nothing of storage."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "ray", "pyarrow"}
ALLOWED = {
    "rsr_ray": set(),
    "rsr_ray.cli": {"pyarrow"},
    "rsr_ray.lm_head": set(),
    "rsr_ray.lm_head_reference": set(),
    "rsr_ray.sums": set(),
    "rsr_ray.batching": set(),
    "rsr_ray.correlate": set(),
    "rsr_ray.published": set(),
    "rsr_ray.elimination": set(),
    "rsr_ray.student": set(),
    "rsr_ray.read": {"pyarrow"},
    "rsr_ray.store": {"pyarrow"},
    "rsr_ray.config": {"pyarrow"},
    "rsr_ray.encode": {"pyarrow"},
    "rsr_ray.score": {"pyarrow"},
}


@pytest.mark.parametrize("module", ALLOWED)
def test_importing_brings_nothing_heavy(module):
    code = f"import sys, {module}; print(*{HEAVY} & set(sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert loaded <= ALLOWED[module]
