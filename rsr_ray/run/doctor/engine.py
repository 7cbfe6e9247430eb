"""The engine with this student: against its full logits, and how fast."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rsr_ray.config.score import ScoreConfig
from rsr_ray.engine.lm_head_reference import token_stats_reference
from rsr_ray.engine.scoring import Work, score_rows
from rsr_ray.errors import RunError
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.doctor.sample import EncodedSample
from rsr_ray.run.resources import Resources
from rsr_ray.student.facts import StudentFacts
from rsr_ray.student.model import Student

CHECKED_TOKENS = 64
# Timed are batches of about so many seconds, FEWEST_TIMED at least, until TIMED_SECONDS are over.
BATCH_SECONDS = 1.0
TIMED_SECONDS = 3.0
FEWEST_TIMED = 3
LEAST_TOKENS = 256  # of a timed batch


@dataclass(frozen=True)
class Speed:
    """How fast a replica is, from timed batches of the sample: all of them, the slowest, the
    fastest.
    """

    device: str
    tokens_per_second: float
    slowest: float
    fastest: float
    longest_row: int  # tokens of the longest row timed


@dataclass(frozen=True)
class Difference:
    """How far the engine is from the full logits, and a batch from rows alone."""

    rank_sum: int  # under the full logits
    ranks: int  # by which the engine's sum is off
    surprisal: float  # of the engine's sum, relative
    batch: float  # of a row's surprisals in a batch, relative

    def exceeds(self, dtype: str) -> bool:
        """Whether it is more than rounding explains."""
        most_ranks = 1 if dtype == "float32" else 0.05 * self.rank_sum
        budget = rounding(dtype)
        return self.surprisal > budget or self.batch > budget or self.ranks > most_ranks


def rounding(dtype: str) -> float:
    """The relative difference of two sums of surprisals that rounding explains."""
    return 1e-5 if dtype == "float32" else 1e-2


def check_engine(
    findings: Findings,
    config: ScoreConfig,
    facts: StudentFacts,
    resources: Resources,
    sample: EncodedSample,
) -> Speed | None:
    """Compare on 64 tokens, then measure the speed on the sample, where there is one.

    Raises UserError, and RunError where the numbers are off.
    """
    device = _device()
    student = Student(
        facts.source,
        resources.dtype,
        device,
        trust_remote_code=config.trust_remote_code,
        quantize=config.quantize,
        expected=facts,
    )
    rng = np.random.default_rng(0)
    ids = sample.ids or [
        rng.integers(0, facts.vocab_size, CHECKED_TOKENS).astype(np.int32) for _ in range(3)
    ]
    short = [row[: CHECKED_TOKENS + 1] for row in ids[:3]]
    off = compare(student, short, resources.batch_tokens, config.r_max)
    said = (
        f"{len(short[0]) - 1} tokens: ranks differ by {off.ranks} from the full logits, "
        f"surprisals by {off.surprisal:.0e}; a batch differs by {off.batch:.0e} from single rows"
    )
    if off.exceeds(resources.dtype):
        way_out = "try --dtype float32, or another version of torch or transformers"
        raise RunError(f"{said}: too far apart for {resources.dtype}; {way_out}")
    findings.ok("engine", said)
    if not sample.ids:
        return None
    return measure_speed(student, sample, resources.batch_tokens, config.r_max, device)


def _device() -> str:
    """Where a replica would be on this machine; with one thread on a CPU, as a replica has."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"


def compare(student: Student, ids: list[np.ndarray], batch_tokens: int, r_max: int) -> Difference:
    """The first row under its full logits, and all rows alone and together.

    `ids` int32 [T] a row; every token but the first is scored. Raises RunError where a surprisal
    is no number.
    """
    import torch

    spans = [np.array([1, len(row)], np.int32) for row in ids]
    with torch.inference_mode():
        source_1T = ids[0][None, :-1].astype(np.int64)
        logits_TV = student.logits(student.hidden(source_1T).flatten(0, 1))
        target_T = torch.from_numpy(ids[0][1:].astype(np.int64)).to(logits_TV.device)
        rank_T, surprisal_T, *_ = token_stats_reference(logits_TV, target_T)
    alone = [
        score_rows(student, [row], [span], Work(batch_tokens), r_max)
        for row, span in zip(ids, spans, strict=True)
    ]
    together = score_rows(student, ids, spans, Work(batch_tokens), r_max)
    if not np.isfinite(together["surprisal_sum"]).all():
        raise RunError("the student's logits are not finite numbers: are its weights complete?")
    rank_sum = int(rank_T.clamp_max(r_max).sum())
    return Difference(
        rank_sum=rank_sum,
        ranks=abs(rank_sum - int(alone[0]["rank_sum"][0])),
        surprisal=abs(float(surprisal_T.sum()) / float(alone[0]["surprisal_sum"][0]) - 1),
        batch=max(
            abs(float(a["surprisal_sum"][0]) / float(b) - 1)
            for a, b in zip(alone, together["surprisal_sum"], strict=True)
        ),
    )


def measure_speed(
    student: Student, sample: EncodedSample, batch_tokens: int, r_max: int, device: str
) -> Speed:
    """Of batches of the sample's rows in random order; of a row longer than a batch, its end."""

    def seconds(rows: list[int], most: int) -> tuple[int, float]:
        """Tokens of these rows, of each at most so many, and the time they take."""
        ids = [sample.ids[i][-most:] for i in rows]
        spans = [np.maximum(sample.spans[i] - max(0, len(sample.ids[i]) - most), 1) for i in rows]
        begun = time.monotonic()
        score_rows(student, ids, spans, Work(batch_tokens), r_max)
        return sum(map(len, ids)), time.monotonic() - begun

    shortest = [int(np.argmin([len(row) for row in sample.ids]))]
    seconds(shortest, LEAST_TOKENS)  # the first time is slower
    tokens, took = seconds(shortest, LEAST_TOKENS)
    most = min(batch_tokens, max(LEAST_TOKENS, int(BATCH_SECONDS * tokens / took)))
    batches = _batches([min(len(row), most) for row in sample.ids], most)
    timed: list[tuple[int, float]] = []
    while len(timed) < FEWEST_TIMED or sum(took for _, took in timed) < TIMED_SECONDS:
        timed.append(seconds(next(batches), most))
    speeds = [tokens / took for tokens, took in timed]
    in_all = sum(tokens for tokens, _ in timed) / sum(took for _, took in timed)
    longest = min(most, max(map(len, sample.ids)))
    return Speed(device, in_all, min(speeds), max(speeds), longest)


def _batches(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Rows by number, in random order again and again, with at most so many tokens together."""
    rng = np.random.default_rng(0)
    batch: list[int] = []
    while True:
        for i in map(int, rng.permutation(len(lengths))):
            if batch and sum(lengths[j] for j in batch) + lengths[i] > most:
                yield batch
                batch = []
            batch.append(i)
