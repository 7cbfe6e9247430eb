"""What quantized weights do to ranks and to speed."""

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import rsr_ray
from rsr_ray.bench.bench import R_MAX, Load, Way, measure
from rsr_ray.bench.models import in_4bit
from rsr_ray.bench.naive import whole_model
from rsr_ray.bench.part import GIB, Figure, Machine, SkippedError, needs
from rsr_ray.bench.student import rows_of
from rsr_ray.engine.scoring import Work, score_rows, score_tokens
from rsr_ray.engine.sums import Tokens
from rsr_ray.student.model import QUANTIZE, Student

TRAINED = Path(rsr_ray.__file__).parent / "demo" / "student"
N_ROWS, LENGTH = 24, 128


def check_quantized(machine: Machine) -> Iterator[Figure]:
    """Ranks and rsr under each quantization whose package is there, beside the same dtype without.

    The student is the demo's, which is trained: one of random weights has no rank that a rounding
    leaves where it is. The rows are what it writes itself.
    """
    kinds = [kind for kind, package in QUANTIZE.items() if importlib.util.find_spec(package)]
    if not kinds:
        raise SkippedError(f"none of {', '.join(sorted(set(QUANTIZE.values())))} is installed")
    dtype = "float16"  # which bitsandbytes' 8 bits work in
    ids = written_rows(machine.device)
    spans = [np.array([1, len(row)], np.int32) for row in ids]
    plain = _tokens(Student(str(TRAINED), dtype, machine.device), ids, spans)
    yield Figure("tokens", len(plain.rank))
    for kind in kinds:
        student = Student(str(TRAINED), dtype, machine.device, quantize=kind)
        found = _tokens(student, ids, spans)
        rank, before = (np.minimum(tokens.rank, R_MAX) for tokens in (found, plain))
        yield Figure(f"ranks that change, {kind}", float(np.mean(rank != before)))
        ratio = rank.sum() / found.surprisal.sum() / (before.sum() / plain.surprisal.sum())
        yield Figure(f"rsr of all, relative change, {kind}", float(ratio - 1))


def _tokens(student: Student, ids: list[np.ndarray], spans: list[np.ndarray]) -> Tokens:
    found = score_tokens(student, ids, spans, Work(4096))
    return Tokens.join(row for row in found if row is not None)


def written_rows(device: str) -> list[np.ndarray]:
    """Rows that the demo's student writes, int32 [T] each, with the same seed every time."""
    import torch

    model = whole_model(str(TRAINED), "float32", device)
    torch.manual_seed(0)
    row_BT = torch.randint(3, model.config.vocab_size, (N_ROWS, 1), device=device)
    for _ in range(LENGTH - 1):
        logits_BV = model(input_ids=row_BT, use_cache=False).logits[:, -1]
        row_BT = torch.cat([row_BT, logits_BV.softmax(-1).multinomial(1)], 1)
    return list(row_BT.cpu().numpy().astype(np.int32))


def measure_in_4bit(machine: Machine) -> Iterator[Figure]:
    """The engine with a student that fits in 4 bits alone."""
    needs(QUANTIZE["4bit"])
    shape = machine.large
    student, parameters = in_4bit(shape, machine.device)
    ids, spans = rows_of(shape)
    way = Way(partial(score_rows, student, ids, spans, Work(shape.batch_tokens), R_MAX))
    score_rows(student, ids[:2], spans[:2], Work(shape.batch_tokens), R_MAX)
    ceiling = measure([way], 1, shape, machine.device)
    load = Load.of(shape, parameters, np.array([len(row) for row in ids]), spans, ceiling)
    figures = load.figures(way, 0.0)
    yield Figure("parameters of the layers", parameters / 1e9, "billions")
    yield Figure("speed", figures.tokens_per_second, "tokens/s")
    yield Figure("share of the ceiling", figures.share_of_matmul_ceiling)
    yield Figure("peak above the weights", figures.peak_bytes_above_weights / GIB, "GiB")
