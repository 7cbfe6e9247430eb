"""The engine beside vLLM, which gives ranks of a prompt's tokens too, where it is installed."""

import tempfile
import time
from collections.abc import Iterator

import numpy as np

from rsr_ray.bench.bench import R_MAX
from rsr_ray.bench.part import Figure, Machine, needs
from rsr_ray.bench.student import Shape, make_student, rows_of
from rsr_ray.engine.scoring import Work, score_tokens
from rsr_ray.engine.sums import Tokens
from rsr_ray.student.model import Student

SHARE = 0.5  # of the GPU's memory that vLLM may take


def measure_vllm(machine: Machine) -> Iterator[Figure]:
    """Speed of both on the same rows under the same student, and ranks that are not the same."""
    needs("vllm")
    shape = machine.small
    ids, spans = rows_of(shape)
    with tempfile.TemporaryDirectory() as folder:
        make_student(shape, folder)
        student = Student(folder, shape.dtype, machine.device)
        score_tokens(student, ids[:2], spans[:2], Work(shape.batch_tokens))
        begun = time.perf_counter()
        found = score_tokens(student, ids, spans, Work(shape.batch_tokens))
        ours = time.perf_counter() - begun
        theirs, others = _vllm(folder, shape, ids, spans)
    n_tokens = sum(map(len, ids))
    tokens = Tokens.join(row for row in found if row is not None)
    rank, other = np.minimum(tokens.rank, R_MAX), np.minimum(others[0], R_MAX)
    yield Figure("engine", n_tokens / ours, "tokens/s")
    yield Figure("vLLM", n_tokens / theirs, "tokens/s")
    yield Figure("engine over vLLM", theirs / ours, "x")
    yield Figure("ranks unlike vLLM's", float(np.mean(rank != other)))
    apart = tokens.surprisal.sum() / others[1].sum() - 1
    yield Figure("surprisal of all against vLLM's", float(apart))


def _vllm(
    folder: str, shape: Shape, ids: list[np.ndarray], spans: list[np.ndarray]
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Seconds, and rank and surprisal of all scored tokens, each [N]."""
    from vllm import LLM, SamplingParams

    model = LLM(
        model=folder,
        dtype=shape.dtype,
        skip_tokenizer_init=True,
        max_model_len=max(map(len, ids)) + 1,
        gpu_memory_utilization=SHARE,
        enable_prefix_caching=False,
    )
    # 0: of the prompt's own tokens alone
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    rows = [{"prompt_token_ids": row.tolist()} for row in ids]
    model.generate(rows[:2], asked, use_tqdm=False)
    begun = time.perf_counter()
    answers = model.generate(rows, asked, use_tqdm=False)
    seconds = time.perf_counter() - begun
    entries = [
        answer.prompt_logprobs[at][int(row[at])]
        for answer, row, (start, stop) in zip(answers, ids, spans, strict=True)
        for at in range(start, stop)
    ]
    rank = np.array([entry.rank for entry in entries])
    return seconds, (rank, -np.array([entry.logprob for entry in entries]))
