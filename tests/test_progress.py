"""progress: a run simulated unit by unit; what is shown is what was counted, and the time left
comes true.
"""

import dataclasses
import io
import itertools
import json
import random
import time

import pytest

from rsr_ray.run import display
from rsr_ray.run.counts import Counts, Reject, WrittenUnit
from rsr_ray.run.display import Stage, duration, shown, size
from rsr_ray.run.progress import Progress

from .conftest import few


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def units_of(rng, n_shards, unit_rows=50):
    """Shards of random sizes, their units shuffled as replicas finish them: (shard, bytes of it,
    unit, seconds of work).
    """
    shards, units = {}, []
    for n in range(n_shards):
        shard, n_rows = (f"{n:016x}", "v"), rng.randrange(1, 20) * unit_rows
        shards[shard] = n_rows * 1000
        for start in range(0, n_rows, unit_rows):
            stop = start + unit_rows
            n_tokens = unit_rows * rng.randrange(250, 350)
            units.append(
                WrittenUnit(
                    file="", key=shard[0], version=shard[1], start=start, stop=stop,
                    last=stop == n_rows, share=stop / n_rows, n_rows=unit_rows,
                    n_scored=unit_rows - 1, n_tokens=n_tokens, n_prompt_tokens=10, rejected={},
                    seconds=n_tokens / 5000, splits=0, padded=n_tokens + 100, positions=n_tokens,
                )
            )  # fmt: skip
    return shards, units


def rejecting(unit, n):
    return dataclasses.replace(unit, rejected={"over_length": Reject(n, "")})


def follow(shards, before, replicas, clock, label=""):
    return Progress(label, shards, before, replicas, Counts(), clock(), clock)


def add(run, unit):
    run.counts.add(unit)
    run.add(unit)


def finished(units, replicas, begun, *, late=0.0, encoding=0.0):
    """The units as replicas finish them, with the time: each replica takes the next shard that no
    other has, and scores 5,000 tokens a second. Each is ready so many seconds after the one before
    it, and takes a share of the time more to read and encode.
    """
    shards = {}
    for unit in units:
        shards.setdefault(unit.key, []).append(unit)
    free, done = [begun + n * late for n in range(replicas)], []
    for own in shards.values():
        first = free.index(min(free))
        for unit in own:
            free[first] += unit.n_tokens / 5000 * (1 + encoding)
            done.append((free[first], unit))
    return sorted(done, key=lambda unit: unit[0])


@pytest.mark.parametrize("seed", range(few(5, 2)))
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("replicas", "n_shards"), [(1, 30), (2, 30), (2, 3), (8, 40)])
def test_the_time_left_comes_true_from_a_third_of_the_run_on(seed, resumed, replicas, n_shards):
    rng = random.Random(seed)
    shards, units = units_of(rng, n_shards)
    before = dict.fromkeys(shards, 0)
    if resumed:  # an earlier run did the first half of each shard
        whole = {shard: sum(u.n_rows for u in units if u.shard == shard) for shard in shards}
        before = {shard: n // 100 * 50 for shard, n in whole.items()}
        units = [unit for unit in units if unit.start >= before[unit.shard]]
    clock = Clock()
    run = follow(shards, before, replicas, clock)
    began = clock.now + 25  # replicas load the student
    done = finished(units, replicas, began)
    ends = done[-1][0]
    for n, (at, unit) in enumerate(done):
        clock.now = at
        add(run, rejecting(unit, 1))
        state = run.state()
        assert (state.scored, state.rejected) == ((n + 1) * 49, {"over_length": n + 1})
        if at - began > (ends - began) / 3 and ends - at > 10:
            assert state.seconds_left == pytest.approx(ends - at, rel=0.25), n
        if n > len(units) / 3:
            assert state.of_trajectories == pytest.approx(len(units) * 50, rel=0.25)
    state = run.state()
    assert (state.shards, state.bytes, state.of_trajectories) == (
        len(shards),
        sum(shards.values()),
        pytest.approx(len(units) * 50),
    )
    assert state.seconds_left == pytest.approx(0, abs=0.01)
    assert 0 < state.padding_share < 0.02
    of_run = run.counts.n_all_tokens / state.seconds  # as the run's record says it
    assert state.tokens_per_second_of_run == pytest.approx(of_run)


@pytest.mark.parametrize(("late", "encoding"), [(0.0, 0.0), (20.0, 0.15)])
@pytest.mark.parametrize("seed", range(few(20, 4)))
def test_the_time_left_comes_true_where_each_shard_is_one_unit(seed, late, encoding):
    """Also between units: what replicas have begun is taken as begun."""
    rng = random.Random(seed)
    shards, units = units_of(rng, 24)
    whole = [
        dataclasses.replace(
            own[-1],
            start=0,
            n_rows=sum(u.n_rows for u in own),
            n_tokens=sum(u.n_tokens for u in own),
            seconds=sum(u.seconds for u in own),
        )
        for own in ([u for u in units if u.shard == shard] for shard in shards)
    ]
    clock = Clock()
    run = follow(shards, dict.fromkeys(shards, 0), 2, clock)
    began = clock.now + 25
    done = finished(whole, 2, began, late=late, encoding=encoding)
    ends = done[-1][0]
    for (at, unit), (later, _) in itertools.pairwise(done):
        clock.now = at
        add(run, unit)
        for now in (at, (at + later) / 2, later):
            clock.now = now
            if now - began > (ends - began) / 3 and ends - now > 0.1 * (ends - began):
                assert run.state().seconds_left == pytest.approx(ends - now, rel=0.25)


def test_before_the_first_unit_it_says_that_the_student_is_loaded():
    clock = Clock()
    run = follow({("k", "v"): 10}, {("k", "v"): 0}, 4, clock, "student 1 of 2, a")
    clock.now += 70
    assert run.state().parts == [
        "student 1 of 2, a",
        "loading the student on 4 replicas",
        "1:10 min",
    ]
    run.count_replicas = lambda: 3
    assert run.state().parts[1] == "3 of 4 replicas alive, scoring the first units"


def test_replicas_that_are_alive_are_said_where_they_are_known():
    clock = Clock()
    run = follow({("k", "v"): 10}, {("k", "v"): 0}, 4, clock)
    run.counts.n_scored = 1
    assert "4 replicas" in run.state().parts
    run.count_replicas = lambda: 3
    assert "3 of 4 replicas alive" in run.state().parts


def test_a_log_has_a_line_now_and_then_and_one_that_ends_soon_has_none(monkeypatch, capsys):
    with shown(lambda: Stage(doing="reading", seconds=1)):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(display, "LOG_SECONDS", 0.01)
    with shown(lambda: Stage(doing="reading \x1b[31m", seconds=1)):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert {*lines} == {r"rsr-ray: reading \x1b[31m; 1 s"}


def test_json_has_an_object_with_every_figure(monkeypatch, logged):
    monkeypatch.setattr(display, "LOG_SECONDS", 0.01)
    shards, units = units_of(random.Random(1), 3)
    run = follow(shards, dict.fromkeys(shards, 0), 2, time.monotonic)
    for unit in units:
        add(run, unit)
    with shown(run.state, "json"):
        time.sleep(0.1)
    record = logged.records[0]
    assert record.getMessage() == "progress"
    assert {field.name for field in dataclasses.fields(run.state())} <= vars(record).keys()
    assert json.dumps(record.rejected) == "{}"


def test_a_terminal_breaks_lines_between_words_that_belong_together():
    from rich.console import Console

    shards, units = units_of(random.Random(2), 4)
    clock = Clock()
    run = follow(shards, dict.fromkeys(shards, 0), 2, clock)
    for unit in units[:-1]:
        clock.now += 1
        add(run, rejecting(unit, 3))
    for width in (40, 80, 200):
        out = io.StringIO()
        Console(file=out, width=width, force_terminal=False).print(
            display._drawn(run.state(), width)
        )
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        if width >= 80:
            assert all(any(part in line for line in lines) for part in run.state().parts[:-2])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (3599.4, "59:59 min"), (7260, "2:01 h")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("n_bytes", "said"), [(0, "0 kB"), (999_000, "999 kB"), (1e6, "1.0 MB"), (2.34e12, "2.3 TB")]
)
def test_sizes(n_bytes, said):
    assert size(n_bytes) == said
