"""The engine with this student: against its full logits, and how fast."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rsr_ray.config.score import ScoreConfig
from rsr_ray.engine.lm_head_reference import token_stats_reference
from rsr_ray.engine.scoring import Images, Work, score_rows
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
LONG = 2  # times the tokens of a timed batch: as much of the longest row is timed by itself


@dataclass(frozen=True)
class Speed:
    """How fast a replica is. A token of a row takes some time, and more by as much for each other
    token of its row, because attention looks at all of them.
    """

    device: str
    seconds_a_token: float
    seconds_a_pair: float  # of a token and a token of its row
    # of the timed batches, the least and the most: the time it took, over what these say
    least: float
    most: float
    longest_row: int  # tokens of the longest row timed

    def seconds(self, lengths: np.ndarray, window: int) -> np.ndarray:
        """Of rows with so many tokens, [R], that are scored in windows of at most `window`."""
        pairs = lengths * np.minimum(lengths, window)
        return self.seconds_a_token * lengths + self.seconds_a_pair * pairs


@dataclass(frozen=True)
class Timed:
    """A batch that was timed."""

    tokens: int
    pairs: int  # of tokens of the same row
    seconds: float


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
    """Of batches of the sample's rows in random order, of short rows and of the longest one. Of a
    row that is longer than what is timed, its end is.
    """

    def time_rows(rows: list[int], most: int) -> Timed:
        """These rows, of each at most so many tokens."""
        ids = [sample.ids[i][-most:] for i in rows]
        spans = [np.maximum(sample.spans[i] - max(0, len(sample.ids[i]) - most), 1) for i in rows]
        images: Images = [sample.images[i] if len(sample.ids[i]) <= most else () for i in rows]
        begun = time.monotonic()
        score_rows(student, ids, spans, Work(batch_tokens), r_max, images)
        lengths = [len(row) for row in ids]
        return Timed(sum(lengths), sum(n**2 for n in lengths), time.monotonic() - begun)

    lengths = [len(row) for row in sample.ids]
    shortest = [int(np.argmin(lengths))]
    time_rows(shortest, LEAST_TOKENS)  # the first time is slower
    short = time_rows(shortest, LEAST_TOKENS)
    most = min(batch_tokens, max(LEAST_TOKENS, int(BATCH_SECONDS * short.tokens / short.seconds)))
    batches = _batches([min(n, most) for n in lengths], most)
    timed: list[Timed] = []
    while len(timed) < FEWEST_TIMED or sum(batch.seconds for batch in timed) < TIMED_SECONDS:
        timed.append(time_rows(next(batches), most))
    longest = min(LONG * most, max(lengths))
    if longest > LONG * LEAST_TOKENS:  # long enough to tell tokens from pairs
        some = next(_batches([min(n, LEAST_TOKENS) for n in lengths], most))
        timed.append(time_rows(some, LEAST_TOKENS))
        timed.append(time_rows([int(np.argmax(lengths))], longest))
    return fit_speed(timed, device, longest)


def fit_speed(timed: list[Timed], device: str, longest: int) -> Speed:
    """The speed that is least off, relatively, from the time that batches took; `longest` is the
    longest of their rows.
    """
    from scipy.optimize import nnls

    took = np.array([batch.seconds for batch in timed])
    work = np.array([[batch.tokens, batch.pairs] for batch in timed], float)
    if longest <= LONG * LEAST_TOKENS:
        work[:, 1] = 0.0
    unit = np.maximum(work.max(0), 1.0)
    found = nnls(work / unit / took[:, None], np.ones(len(timed)))[0] / unit
    off = took / (work @ found)
    a_token, a_pair = found.tolist()
    return Speed(device, a_token, a_pair, float(off.min()), float(off.max()), longest)


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
