"""Whole races on a real Ray: the full run's winner, killed and resumed, and a store that holds
the corpus alone.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.cli import main
from rsr_ray.config.race import RaceConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.corpus.shards import SHARDS
from rsr_ray.demo.corpus import conversation, make_problem
from rsr_ray.errors import UserError
from rsr_ray.files.objects import list_objects
from rsr_ray.race import race as races

from ..conftest import DEMO_STUDENT, REPOSITORY
from .conftest import kill, replicas, rsr_ray, score, stored, wait_for

# by what they write like: two are a hair apart
TEACHERS = {
    "near": "doubtful-32b-think",
    "twin": "doubtful-32b-think",
    "far": "flowery-8b",
}
N_PROMPTS = 40
MARGIN = 0.0  # so that the race takes several rounds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Shards that hold several teachers, a teacher with two answers to a prompt, prompts without
    an answer of each, bad rows.
    """
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    problems = [make_problem(rng) for _ in range(N_PROMPTS)]
    shards: list[list[dict]] = [[], [], []]
    for n, problem in enumerate(problems):
        for teacher, style in TEACHERS.items():
            for sample in range({"near": 1, "twin": 2, "far": n % 10 != 9}[teacher]):
                row = {
                    "prompt_id": f"p{n}",
                    "teacher": teacher,
                    "sample": sample,
                    "messages": conversation(style, problem, rng),
                }
                shards[rng.randrange(3)].append(row)
    shards[0] += [{"prompt_id": "p0", "teacher": "near", "messages": "none"}]
    shards[1] += [{**shards[1][0]}]  # the same once more
    for n, rows in enumerate(shards[:2]):
        (folder / f"{n}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(shards[2]), folder / "2.parquet")
    return folder


def config(corpus, store, **changes) -> RaceConfig:
    given = {
        "corpus": (str(corpus),),
        "student": str(DEMO_STUDENT),
        "store": str(store),
        "margin": MARGIN,
        "first_round": 20,
    }
    return RaceConfig(**(given | changes))


def race(config: RaceConfig, rounds: list[dict] | None = None) -> dict:
    """The answer as JSON; `rounds` gets the rounds."""
    said = [] if rounds is None else rounds
    return races.race(config, lambda decided: said.append(decided.to_json())).to_json()


@pytest.fixture(scope="module")
def undisturbed(corpus, local_ray, tmp_path_factory):
    store, rounds = tmp_path_factory.mktemp("undisturbed"), []
    return race(config(corpus, store, replicas=2), rounds), rounds, store


@pytest.fixture(scope="module")
def full(corpus, here, tmp_path_factory):
    store = tmp_path_factory.mktemp("full")
    return score(corpus, store, max_rejects=1.0), stored(store)


def values(rows: list[dict]) -> dict[str, float]:
    """rsr of each teacher over the prompts that all of them have a score for, each prompt the
    same weight.
    """
    scored = [row for row in rows if row["reject_reason"] is None]
    by: dict[tuple, dict] = {}
    for row in scored:
        by.setdefault((row["teacher"], row["prompt_id"]), {})[row["trajectory_id"]] = row
    prompts = set.intersection(*({p for t, p in by if t == teacher} for teacher in TEACHERS))

    def mean(teacher, name):
        cells = [by[teacher, p].values() for p in prompts]
        return sum(sum(row[name] for row in cell) / len(cell) for cell in cells) / len(cells)

    return {t: mean(t, "mean_rank") / mean(t, "mean_surprisal") for t in TEACHERS}


def own(store, record: dict) -> str:
    """The race's own store."""
    return f"{store}/races/{record['race_id']}"


def units(store: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(store)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in store.glob("**/scores/**/*.parquet")
    }


def answer(record: dict) -> dict:
    """What may not differ between two ways to the same answer."""
    rounds = [
        {name: value for name, value in entry.items() if name != "run_id"}
        for entry in record["rounds"]
    ]
    return {name: value for name, value in record.items() if name != "config"} | {"rounds": rounds}


def test_the_winner_is_the_full_runs(undisturbed, full):
    record, rounds, store = undisturbed
    truth = values(full[1])
    assert record["decided"]
    assert record["winner"] == min(truth, key=lambda name: truth[name])
    assert [entry["prompts"] for entry in rounds] == [20, 30, 36]
    assert rounds == record["rounds"]
    assert record["matched_prompts"] == N_PROMPTS - N_PROMPTS // 10
    assert record["unreadable_rows"] == 1
    kept = json.loads((store / f"races/{record['race_id']}/race.json").read_text())
    assert {name: kept[name] for name in kept if name not in ("place", "seal")} == json.loads(
        json.dumps(record)
    )
    ends = [entry["prompts"] for entry in rounds]
    out = next(t for t in record["teachers"] if t["teacher"] == "far")
    assert (out["left_after_round"], out["n_prompts"]) == (1, ends[0])
    # Every answer of a teacher to the prompts it was in for, and nothing else; the repeated row
    # counts once.
    assert record["full"]["trajectories"] == (N_PROMPTS - N_PROMPTS // 10) * 4
    rows = stored(own(store, record))
    assert record["spent"]["trajectories"] == ends[0] + 3 * ends[-1] == len(rows)
    assert record["taken_from_store"]["trajectories"] == 0
    assert 0 < record["spent"]["cost_share"] < 1
    assert record["spent"]["scored_tokens"] == sum(row["n_tokens"] for row in rows)


def test_a_race_is_a_store_of_its_own(undisturbed, capsys):
    record, _, store = undisturbed
    assert [path.name for path in store.iterdir() if any(p.is_file() for p in path.rglob("*"))] == [
        "races"
    ]
    assert main(["teachers", "--store", own(store, record), "--student", "student", "--json"]) == 0
    assert {
        t["teacher"] for t in json.loads(capsys.readouterr().out)["teachers"]
    } == TEACHERS.keys()


def test_where_every_prompt_was_scored_the_values_are_the_full_runs(undisturbed, full):
    record, _, _ = undisturbed
    if record["rounds"][-1]["prompts"] < record["matched_prompts"]:
        pytest.skip("decided before")
    truth = values(full[1])
    for t in record["teachers"]:
        if t["teacher"] != "far":
            assert t["value"] == pytest.approx(truth[t["teacher"]], rel=1e-6)
            assert t["low"] == t["high"] == t["value"]


def test_a_rounds_shards_hold_what_the_corpus_holds(undisturbed, corpus):
    record, _, store = undisturbed

    def rows(*folders):
        objects = [obj for folder in folders for obj in list_objects(str(folder), None, SHARDS)]
        found = [
            canonical(row, obj, n, Reading())
            for obj in objects
            for n, row in enumerate(iter_trajectories(obj, None, Reading()))
        ]
        return {
            row["trajectory_id"]: {
                name: row[name] for name in ("teacher", "prompt_id", "sample", "messages", "tools")
            }
            for row in found
        }

    given, written = rows(corpus), rows(*(store / "races" / record["race_id"]).glob("round-*"))
    assert len(written) == record["spent"]["trajectories"]
    for name, row in written.items():
        assert row == given[name]


def test_killed_resumed_and_followed_by_a_full_run(head, undisturbed, full, corpus, tmp_path):
    """Killed while the second round is at work, resumed: the same answer, and no unit is scored
    twice.

    A full run on the same store then is as one without a race, and another race after it has
    nothing to score.
    """
    command = [
        sys.executable,
        "-m",
        "rsr_ray",
        "race",
        "--corpus",
        str(corpus),
        "--student",
        str(DEMO_STUDENT),
        "--store",
        str(tmp_path),
    ]
    command += [
        "--margin",
        str(MARGIN),
        "--first-round",
        "20",
        "--replicas",
        "2",
        "--ray-address",
        head.address,
        "--json",
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ,
    ) as run:
        assert run.stderr is not None
        lines = iter(run.stderr)
        assert any(line.startswith("round 1: ") for line in lines)
        assert any("already scored" in line for line in lines), "the second round began"
        kill(run.pid)
    wait_for(lambda: not replicas())  # what was in their hands may still be written
    before = units(tmp_path)
    assert before
    assert not list(tmp_path.glob("races/*/race.json"))
    done = rsr_ray(*command[3:])
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(done.stdout)
    assert answer(record) == json.loads(json.dumps(answer(undisturbed[0])))
    after = units(tmp_path)
    assert before.items() <= after.items()
    ids = [(row["teacher"], row["trajectory_id"]) for row in stored(own(tmp_path, record))]
    assert len(ids) == len(set(ids)) == undisturbed[0]["spent"]["trajectories"]

    run = score(corpus, tmp_path, max_rejects=1.0)
    assert after.items() <= units(tmp_path).items()
    assert run.teachers is not None
    assert run.teachers.to_pylist() == full[0].teachers.to_pylist()
    assert {Path(row["source"]).parent for row in stored(tmp_path)} == {corpus}

    free = race(config(corpus, tmp_path, seed=1))
    assert (free["spent"]["trajectories"], free["spent"]["cost_share"]) == (0, 0.0)
    assert free["taken_from_store"]["trajectories"] >= 4 * 20
    assert (free["decided"], free["winner"]) == (True, record["winner"])
    assert [path.name for path in Path(own(tmp_path, free)).rglob("*") if path.is_file()] == [
        "race.json"
    ]


def test_what_a_part_of_the_corpus_was_scored_for_is_not_scored_again(
    undisturbed, here, corpus, tmp_path
):
    run = score([corpus / "0.jsonl", corpus / "2.parquet"], tmp_path, max_rejects=1.0)
    before = units(tmp_path)
    record, whole = race(config(corpus, tmp_path)), undisturbed[0]
    spent, taken = record["spent"]["trajectories"], record["taken_from_store"]["trajectories"]
    assert spent + taken == whole["spent"]["trajectories"]
    assert 0 < spent < taken <= run.n_scored
    assert record["spent"]["cost_share"] + record["taken_from_store"][
        "cost_share"
    ] == pytest.approx(whole["spent"]["cost_share"])
    rows = stored(own(tmp_path, record))
    assert len(rows) == spent
    there = {(row["teacher"], row["trajectory_id"]) for row in stored(tmp_path)}
    assert not there & {(row["teacher"], row["trajectory_id"]) for row in rows}
    assert {name: units(tmp_path)[name] for name in before} == before
    for got, want in zip(record["teachers"], whole["teachers"], strict=True):
        assert got["value"] == pytest.approx(want["value"], rel=1e-5)
        assert {
            name: got[name] for name in ("teacher", "why", "n_prompts", "left_after_round")
        } == {name: want[name] for name in ("teacher", "why", "n_prompts", "left_after_round")}


def test_a_budget_ends_a_race_and_more_of_it_goes_on_with_the_same(undisturbed, here, corpus):
    record, _, store = undisturbed
    before = units(store)
    first, second = (entry["cost_share"] for entry in record["rounds"][:2])
    stopped = race(config(corpus, store, budget=(first + second) / 2))
    assert (stopped["race_id"], stopped["decided"], stopped["winner"]) == (
        record["race_id"],
        False,
        None,
    )
    assert answer(stopped)["rounds"] == answer(record)["rounds"][:1]
    assert sorted(stopped["alive"]) == ["near", "twin"]
    assert stopped["next_cost_share"] == second
    with pytest.raises(UserError, match="--budget 0.01: the first round alone costs"):
        race(config(corpus, store, budget=0.01))
    assert answer(race(config(corpus, store))) == answer(record)
    assert units(store) == before, "all of it was there"


def test_rows_that_cannot_be_scored_leave_the_comparison(corpus, full, tmp_path, capsys):
    """With a length limit that a part of one teacher's answers breaks."""
    lengths = sorted(
        row["n_prompt_tokens"] + row["n_tokens"] for row in full[1] if row["teacher"] == "twin"
    )
    limit = lengths[int(0.85 * len(lengths))]
    options = [
        "--corpus",
        str(corpus),
        "--student",
        str(DEMO_STUDENT),
        "--store",
        str(tmp_path),
        "--first-round",
        "36",
    ]
    assert main(["race", *options, "--max-length", str(limit), "--json"]) == 1
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert "more than --max-rejects 0.05 allows: over_length" in shown.err
    rows = stored(own(tmp_path, record))
    assert record["rejected"] == {
        "over_length": sum(row["reject_reason"] is not None for row in rows)
    }
    truth = values(rows)
    (entry,) = record["rounds"]
    assert entry["prompts_compared"] < entry["prompts"] == record["matched_prompts"]
    assert {t["teacher"]: t["value"] for t in record["teachers"]} == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("s3", ["moto"], indirect=True, scope="module")
def test_a_store_on_s3_and_names_that_are_hard_on_paths(s3, local_ray, tmp_path):
    _, endpoint = s3
    names, rng = ["org/näme 7B", "..", "[x]*?&%41", "名前" * 80], random.Random(0)
    problems = [make_problem(rng) for _ in range(6)]
    for n, name in enumerate(names):
        rows = [
            {"prompt_id": f"p{i}", "teacher": name, "messages": conversation("flowery-8b", p, rng)}
            for i, p in enumerate(problems)
        ]
        (tmp_path / f"{n}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        "--corpus",
        tmp_path,
        "--student",
        DEMO_STUDENT,
        "--store",
        "s3://rsr/race",
        "--replicas",
        "1",
        "--json",
    ]
    done = rsr_ray("race", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(done.stdout)
    assert record["decided"]
    assert {t["teacher"] for t in record["teachers"]} == set(names)
    assert all(t["n_prompts"] == 6 for t in record["teachers"])
    assert len(stored(own("s3://rsr/race", record), endpoint=endpoint)) == 24
    assert answer(json.loads(rsr_ray("race", *options).stdout)) == answer(record)
    assert len(stored(own("s3://rsr/race", record), endpoint=endpoint)) == 24
