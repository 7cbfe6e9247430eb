"""Doctor's estimate: of what is left, as a range that the truth is in."""

import json

import numpy as np
import pyarrow as pa
import pytest

from rsr_ray.config.score import ScoreConfig
from rsr_ray.run.doctor.engine import Speed, Timed, _batches, fit_speed, measure_speed
from rsr_ray.run.doctor.estimate import (
    FEWEST,
    MARGIN,
    START_HERE,
    UNSURE,
    Load,
    estimate_cost,
    in_words,
)
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.doctor.sample import EncodedSample, Sample, check_corpus
from rsr_ray.run.resources import Resources
from rsr_ray.student.facts import StudentFacts

from .conftest import DEMO_STUDENT


def load_of(tokens: np.ndarray, sizes: np.ndarray, n_bytes: float, shards: int = 4) -> Load:
    """From sampled rows; one with 0 tokens is a reject."""
    encoded = EncodedSample(of_rows=[np.zeros(int(n), np.int32) if n else None for n in tokens])
    sample = Sample(rows=[{}] * len(tokens), row_bytes=[float(size) for size in sizes])
    return Load.of(sample, encoded, int(n_bytes), shards)


@pytest.mark.parametrize("spread", [0.2, 1.0])
@pytest.mark.parametrize("kind", ["text", "parquet"])
@pytest.mark.parametrize("rejects", [0.0, 0.2])
def test_the_tokens_of_a_corpus_are_within_the_range(spread, kind, rejects):
    """Of random corpora: lengths of any spread, bytes that say them or do not, rejects."""
    rng = np.random.default_rng(0)
    inside, factors = 0, []
    for _ in range(200):
        lengths = np.exp(rng.normal(6, spread, 5000)).astype(int) + 1
        sizes = lengths * rng.normal(4, 0.4, 5000) + 100
        lengths[rng.random(5000) < rejects] = 0
        if kind == "parquet":
            sizes = np.full(5000, sizes.mean())
        sample = rng.choice(5000, 48, replace=False)
        load = load_of(lengths[sample], sizes[sample], sizes.sum())
        truth = lengths.sum() / load.tokens
        off = load.off(load.lengths)
        inside += 1 / off <= truth <= off
        factors.append(off)
    assert inside >= 0.9 * 200
    if kind == "text" and not rejects:
        assert np.median(factors) < 1.2, "bytes say how long rows are"


def test_of_few_rows_the_range_is_wide():
    rows = np.full(FEWEST - 1, 100)
    few = load_of(rows, rows * 4, 10**6)
    assert few.off(few.lengths) == UNSURE
    alike = load_of(np.full(FEWEST, 100), np.full(FEWEST, 400), 10**6)
    assert alike.off(alike.lengths) == MARGIN


FACTS = StudentFacts(
    source=str(DEMO_STUDENT),
    weights_hash="",
    config_hash="",
    tokenizer_hash="",
    template_hash="",
    context_length=512,
    vocab_size=512,
)
SPEED = Speed("cpu", 0.01, 0.0, 0.8, 1.25, 50)


def cost_of(load: Load, replicas: int, speed: Speed | None = SPEED, gpus: int = 0):
    resources = Resources(
        replicas=replicas, gpus_per_replica=gpus, dtype="float32", batch_tokens=4096
    )
    config = ScoreConfig(corpus=("c",), student=str(DEMO_STUDENT), store="s")
    findings = Findings()
    cost = estimate_cost(findings, config, FACTS, resources, load, speed, True)
    return cost, findings.all[-1]


def test_time_is_shared_by_as_many_replicas_as_there_are_shards():
    load = load_of(np.full(20, 100), np.full(20, 400), 4_000_000, shards=2)
    assert load.tokens == pytest.approx(1_000_000)
    alone, _ = cost_of(load, 1)
    two, _ = cost_of(load, 2)
    many, said = cost_of(load, 50)
    assert (two.hours_low, two.hours_high) == (many.hours_low, many.hours_high)
    assert many.replicas == 2
    scoring = [(cost.hours_high * 3600 - START_HERE[1]) for cost in (alone, two)]
    assert scoring[0] == pytest.approx(2 * scoring[1])
    assert alone.hours_low < 1_000_000 / 100 / 3600 < alone.hours_high
    assert many.span in said.says


def test_no_time_is_said_of_a_replica_that_was_not_measured():
    load = load_of(np.full(20, 100), np.full(20, 400), 4_000_000)
    for speed, gpus in ((None, 0), (SPEED, 1)):
        cost, said = cost_of(load, 1, speed, gpus)
        assert (cost.hours, cost.hours_low, cost.hours_high) == (None, None, None)
        assert said.level == "warning"
    assert in_words(None, 1.0) == "no estimate of the time"


def test_with_nothing_left_there_is_nothing_to_estimate():
    cost, said = cost_of(load_of(np.full(20, 100), np.full(20, 400), 0, shards=0), 1, None)
    assert (cost.hours_low, cost.hours_high, cost.trajectories) == (0.0, 0.0, 0.0)
    assert said.level == "ok"


def test_every_row_is_timed_before_one_is_timed_again():
    lengths = [5, 90, 40, 40, 200, 7]
    batches = _batches(lengths, 100)
    seen: list[int] = []
    while len(seen) < 30:
        batch = next(batches)
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= 100
        seen += batch
    for start in range(0, 30, 6):
        assert sorted(seen[start : start + 6]) == [*range(6)]


def test_speed_is_of_seconds_of_work_and_a_long_row_is_cut_to_its_scored_end(student, monkeypatch):
    monkeypatch.setattr("rsr_ray.run.doctor.engine.TIMED_SECONDS", 0.2)
    monkeypatch.setattr("rsr_ray.run.doctor.engine.BATCH_SECONDS", 0.05)
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, student.vocab_size, n).astype(np.int32) for n in (40, 300, 480)]
    spans = [np.array([10, 40]), np.array([5, 20, 280, 300]), np.array([470, 480])]
    spans = [span.astype(np.int32) for span in spans]
    sample = EncodedSample(ids=ids, spans=spans, images=[[] for _ in ids])
    speed = measure_speed(student, sample, 256, 100, "cpu")
    assert 0 < speed.least <= 1 <= speed.most
    assert speed.longest_row == 480
    assert speed.seconds_a_token + speed.seconds_a_pair > 0


@pytest.mark.parametrize("a_pair", [0.0, 2e-8, 1e-6])
def test_a_corpus_of_long_rows_is_estimated_from_shorter_ones(a_pair):
    """Random speeds and noise: rows eight times as long as any that was timed."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        a_token = 10 ** rng.uniform(-6, -3)
        timed = []
        for lengths in ([256] * 16, [900, 1500, 700], [2000, 1100], [4096], [300] * 12, [8192]):
            tokens, pairs = sum(lengths), sum(n**2 for n in lengths)
            took = (a_token * tokens + a_pair * pairs) * rng.uniform(0.95, 1.05)
            timed.append(Timed(tokens, pairs, took))
        speed = fit_speed(timed, "cpu", 8192)
        rows = np.array([200.0, 5000.0, 65536.0])
        truth = a_token * rows + a_pair * rows**2
        off = speed.seconds(rows, 65536) / truth
        assert (abs(np.log(off)) < np.log([1.1, 1.2, 1.8])).all()
        assert speed.seconds(rows, 4096)[2] <= speed.seconds(rows, 65536)[2]
        assert 0.8 < speed.least <= 1 <= speed.most < 1.25


def test_of_short_rows_alone_no_price_of_length_is_made_up():
    timed = [Timed(4000, 4000 * n, 1.0 + 0.001 * n) for n in (40, 60, 100)]
    speed = fit_speed(timed, "cpu", 300)
    assert speed.seconds_a_pair == 0


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "jsonl.bz2"])
@pytest.mark.parametrize("n", [40, 4000])
def test_rows_are_counted_by_their_bytes_in_packed_shards_too(tmp_path, ending, n):
    """Short rows that are alike: together they pack far better than a few of them alone."""
    lines = [
        json.dumps({"id": f"{i:05}", "prompt": f"What is {i:05}?", "response": f"It is {i:05}."})
        for i in range(n)
    ]
    compression = pa.Codec.detect(f"0.{ending}").name if ending != "jsonl" else None
    with pa.output_stream(tmp_path / f"0.{ending}", compression=compression) as file:
        file.write("\n".join(lines).encode() + b"\n")
    config = ScoreConfig(corpus=(str(tmp_path),), student="s", store=str(tmp_path / "store"))
    assert check_corpus(Findings(), config).n_rows == pytest.approx(n, rel=0.1)
