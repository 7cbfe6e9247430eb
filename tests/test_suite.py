"""The suite of checks and measurements of the engine, whole, on a small student."""

import dataclasses
import json
import subprocess
import sys

import pytest

from rsr_ray.bench import student, suite
from rsr_ray.bench.suite import Figure, Machine, Part, run_part, run_suite

from .conftest import REPOSITORY

TINY = dataclasses.replace(
    student.SHAPES["cpu"],
    hidden=32,
    layers=2,
    intermediate=32,
    vocabulary=500,
    rows=12,
    median=60,
    p95=200,
    longest=256,
)
MACHINE = Machine("cpu", {"tiny": TINY}, TINY, long_row=3000, window=64)


def test_every_part_runs_and_what_it_checks_is_so():
    said = []
    parts = run_suite(MACHINE, said.append)
    assert {part.name for part in parts if part.skipped} == {"memory that runs out"}
    assert [(part.name, part.broke) for part in parts if part.broke] == []
    for part in parts:
        assert part.figures or part.skipped, part.name
        unmet = {figure.name for figure in part.figures if not figure.is_met}
        assert unmet <= {"engine over naive"}, part  # of a student this small
    assert any("tokens/s" in line for line in said)


def test_a_part_that_breaks_is_told_and_a_bound_that_is_not_met():
    def breaks(_):
        yield Figure("before", 3.0, "s", most=2.0)
        raise RuntimeError("CUDA error\nmore")

    part = run_part("one", MACHINE, breaks)
    assert part.broke == "RuntimeError: CUDA error more"
    (line, figure) = suite.lines_of(part)
    assert "BROKE" in line
    assert "at most 2: NOT MET" in figure


@pytest.mark.parametrize(("bounds", "met"), [({"least": 1}, True), ({"most": 0.5}, False)])
def test_bounds(bounds, met):
    assert Figure("x", 1.0, **bounds).is_met is met
    assert not Figure("x", float("nan"), **bounds).is_met


BARE = """
import builtins, sys
real = builtins.__import__
def bare(name, globals=None, *more, **how):
    top, by = name.partition(".")[0], (globals or {}).get("__name__", "")
    allowed = {"torch", "transformers", "numpy", "triton", "rsr_ray"} | sys.stdlib_module_names
    if by.partition(".")[0] == "rsr_ray" and top not in allowed and not (how or more)[-1:] == (1,):
        raise AssertionError(f"{by} imports {name}")
    return real(name, globals, *more, **how)
builtins.__import__ = bare
from tests import test_suite
from rsr_ray.bench import suite
suite.this_machine = lambda: test_suite.MACHINE
sys.exit(suite.main())
"""


def test_it_needs_torch_transformers_and_numpy_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "bench").glob("suite-*.json")
    kept = json.loads(path.read_text())
    assert {"date", "device", "torch", "transformers", "parts"} <= kept.keys()
    assert all(Part(**part) for part in kept["parts"])
