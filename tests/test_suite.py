"""The suite of checks and measurements of the engine, whole, on a small student."""

import dataclasses
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM

from rsr_ray.bench import student
from rsr_ray.bench.part import Figure, Machine, Part, lines_of, run_part
from rsr_ray.bench.suite import run_suite
from rsr_ray.bench.vllm import measure_vllm
from rsr_ray.engine.lm_head_reference import token_stats_reference

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
MACHINE = Machine("cpu", {"tiny": TINY}, TINY, long_row=3000, window=64, large=TINY)


def test_every_part_runs_and_what_it_checks_is_so():
    said = []
    parts = run_suite(MACHINE, said.append)
    assert {part.name for part in parts if part.skipped} == {"memory that runs out", "vLLM"}
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
    (line, figure) = lines_of(part)
    assert "BROKE" in line
    assert "at most 2: NOT MET" in figure


@pytest.mark.parametrize(("bounds", "met"), [({"least": 1}, True), ({"most": 0.5}, False)])
def test_bounds(bounds, met):
    assert Figure("x", 1.0, **bounds).is_met is met
    assert not Figure("x", float("nan"), **bounds).is_met


class Logprob(NamedTuple):
    logprob: float
    rank: int


class FakeLLM:
    """What is used of vLLM's, by the student's full logits."""

    def __init__(self, model, dtype, skip_tokenizer_init, max_model_len, **_):
        assert skip_tokenizer_init
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        self.longest = max_model_len

    def generate(self, prompts, params, use_tqdm):
        assert params["prompt_logprobs"] == 0
        assert not use_tqdm
        return [self.answer(prompt["prompt_token_ids"]) for prompt in prompts]

    def answer(self, ids):
        assert len(ids) < self.longest
        row = torch.tensor(ids)
        rank, surprisal, *_ = token_stats_reference(self.model(row[None]).logits[0, :-1], row[1:])
        given = zip(ids[1:], (-surprisal).tolist(), rank.tolist(), strict=True)
        entries = [{token: Logprob(logprob, rank)} for token, logprob, rank in given]
        return SimpleNamespace(prompt_logprobs=[None, *entries])


def test_beside_vllm(monkeypatch):
    made = SimpleNamespace(LLM=FakeLLM, SamplingParams=dict, __spec__=ModuleSpec("vllm", None))
    monkeypatch.setitem(sys.modules, "vllm", made)
    part = run_part("vLLM", MACHINE, measure_vllm)
    assert not part.broke
    figures = {figure.name: figure.value for figure in part.figures}
    assert figures["ranks unlike vLLM's"] == 0
    assert abs(figures["surprisal of all against vLLM's"]) < 1e-6
    assert figures["engine"] > 0


BARE = """
import builtins, importlib.util, sys
find_spec, absent = importlib.util.find_spec, {"bitsandbytes", "torchao", "vllm"}
importlib.util.find_spec = lambda name, *a: None if name in absent else find_spec(name, *a)
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
