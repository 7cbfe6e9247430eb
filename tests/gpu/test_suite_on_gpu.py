"""The suite of checks and measurements of the engine, on a GPU: pytest -n 0 tests/gpu"""

import pytest
import torch

from rsr_ray.bench.suite import run_suite, this_machine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_nothing_breaks_and_every_bound_is_met():
    parts = run_suite(this_machine(), print)
    assert not {part.name: part.broke for part in parts if part.broke}
    unmet = [(part.name, figure) for part in parts for figure in part.figures if not figure.is_met]
    assert not unmet
