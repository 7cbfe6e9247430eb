"""Whole runs: golden numbers, what may not change them, bad data. Those with --replicas are on a
real local Ray, the others in this process, as small runs are.
"""

import csv
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import UserError
from rsr_ray.run import datasets, display
from rsr_ray.run.ledger import Run
from rsr_ray.run.reduce import reduce_scores
from rsr_ray.run.resources import take
from rsr_ray.store.store import Store
from rsr_ray.watch import attempt

from ..conftest import DEMO_STUDENT
from .conftest import kill, replicas, score, stored

GOLDEN = Path(__file__).parents[1] / "golden"
NUMBERS = (
    "n_prompt_tokens",
    "n_tokens",
    "rank_sum",
    "surprisal_sum",
    "entropy_sum",
    "mean_rank",
    "mean_surprisal",
    "rsr",
)

pytestmark = pytest.mark.usefixtures("here")


def test_the_row_equation_holds_and_is_stored(demo_run):
    run, store = demo_run
    assert run.equation == "read 360 = scored 358 + rejected 2 + already scored 0"
    record = json.loads((store / "runs" / f"{run.run_id}.json").read_text())
    assert record["equation"] == {
        "read": 360, "scored": 358, "rejected": {"unreadable_row": 1, "empty_response": 1},
        "already_scored": 0, "holds": True,
    }  # fmt: skip
    assert record["fingerprint"] == run.fingerprint
    assert len(stored(store)) == 360
    assert {row["fingerprint"] for row in stored(store)} == {run.fingerprint}


def test_replicas_that_are_alive_are_shown(local_ray, demo_corpus, tmp_path, monkeypatch, logged):
    monkeypatch.setattr(display, "LOG_SECONDS", 0.02)
    run = score(demo_corpus, tmp_path, unit_rows=16, replicas=2, log="json")
    shown = [r for r in logged.records if r.getMessage() == "progress"]
    alive = [record.replicas_alive for record in shown]
    assert alive[0] == 0
    assert max(alive) == 2 == shown[0].replicas
    assert shown[-1].scored <= run.n_scored


def test_the_repositorys_golden_numbers(demo_run):
    _, store = demo_run
    got = {row["trajectory_id"]: row for row in stored(store) if row["reject_reason"] is None}
    golden = list(csv.DictReader((GOLDEN / "demo.trajectories.csv").open()))
    assert len(golden) == len(got)
    flips = 0
    for want in golden:
        row = got[want["trajectory_id"]]
        assert row["n_tokens"] == int(want["n_tokens"])
        assert row["surprisal_sum"] == pytest.approx(float(want["surprisal_sum"]), rel=1e-5)
        assert row["entropy_sum"] == pytest.approx(float(want["entropy_sum"]), rel=1e-5)
        flips += abs(row["rank_sum"] - int(want["rank_sum"]))
    assert flips <= 3, "more than near ties on another processor explain"
    teachers = {
        t["teacher"]: t
        for t in pq.read_table(store / "teachers/student=student.parquet").to_pylist()
    }
    for want in csv.DictReader((GOLDEN / "demo.teachers.csv").open()):
        for name in ("rsr", "rsr_of_totals", "rsr_mean", "rsr_median", "rsr_std", "mean_tokens"):
            assert teachers[want["teacher"]][name] == pytest.approx(float(want[name]), rel=1e-4), (
                name
            )
        assert teachers[want["teacher"]]["place"] == int(want["place"])


def test_teacher_values_are_what_their_definitions_say(demo_run):
    import statistics

    run, store = demo_run
    rows = stored(store)
    for t in run.teachers.to_pylist():
        mine = [row for row in rows if row["teacher"] == t["teacher"]]
        scored = [row for row in mine if row["reject_reason"] is None]
        assert (t["n_trajectories"], t["n_rejected"], t["n_duplicates"]) == (
            len(scored),
            len(mine) - len(scored),
            0,
        )
        assert t["n_prompts"] == len({row["prompt_id"] for row in scored})
        rsr = [row["rsr"] for row in scored]
        mean_rank, mean_surprisal = (
            statistics.fmean(row[name] for row in scored)
            for name in ("mean_rank", "mean_surprisal")
        )
        expected = {
            "n_tokens": sum(row["n_tokens"] for row in scored),
            "mean_rank": mean_rank,
            "mean_surprisal": mean_surprisal,
            "rsr": mean_rank / mean_surprisal,
            "rsr_mean": statistics.fmean(rsr),
            "rsr_median": statistics.median(rsr),
            "rsr_std": statistics.stdev(rsr),
            "rsr_of_totals": sum(row["rank_sum"] for row in scored)
            / sum(row["surprisal_sum"] for row in scored),
        }
        for name, value in expected.items():
            assert t[name] == pytest.approx(value, rel=1e-8), name
    assert [t["place"] for t in run.teachers.to_pylist()] == list(range(1, 7))


def numbers(rows: list[dict]) -> list[tuple]:
    return [
        tuple(row[name] for name in ("trajectory_id", "reject_reason", *NUMBERS)) for row in rows
    ]


def table(run) -> list[dict]:
    return run.teachers.to_pylist()


def test_replicas_the_order_of_shards_and_their_blocks_change_no_bit(
    demo_run, shuffled_run, demo_corpus, tmp_path, monkeypatch
):
    run, store = demo_run
    monkeypatch.setattr(datasets, "MOST", 2)  # shards share blocks
    for other, there in (
        shuffled_run,
        (score(demo_corpus, tmp_path, replicas=3, unit_rows=16), tmp_path),
    ):
        assert other.fingerprint == run.fingerprint
        assert numbers(stored(there)) == numbers(stored(store))
        assert table(other) == table(run)


@pytest.mark.slow
def test_a_replica_that_dies_within_a_block_of_several_shards(
    local_ray, demo_run, demo_corpus, tmp_path, monkeypatch
):
    """What it had of the block is done again, and counts once."""
    run, store = demo_run
    monkeypatch.setattr(datasets, "MOST", 1)
    monkeypatch.setattr(datasets, "ROUNDS", 1)
    counted, was = [], Run.count

    def count(self, unit):
        counted.append(unit)
        if len(counted) == 5:
            kill(replicas()[0])
        was(self, unit)

    monkeypatch.setattr(Run, "count", count)
    again = score(demo_corpus, tmp_path, unit_rows=16, replicas=2)
    assert again.equation == run.equation
    assert len(counted) == len({unit.file for unit in counted})
    assert stored(tmp_path) == stored(store)
    assert table(again) == table(run)


@pytest.mark.parametrize("batch_tokens", [1, 64 * 300])
def test_batch_size_changes_no_rank_and_sums_only_in_the_last_digits(
    demo_run, demo_corpus, tmp_path, batch_tokens
):
    _, store = demo_run
    shards = sorted(demo_corpus.rglob("part-*"))[::3]
    score(shards, tmp_path, batch_tokens=batch_tokens, unit_rows=64)
    wanted = [row for row in stored(store) if row["source"] in map(str, shards)]
    assert len(wanted) >= 100
    for got, want in zip(stored(tmp_path), wanted, strict=True):
        assert got["trajectory_id"] == want["trajectory_id"]
        for name in NUMBERS:
            exact = name in ("n_prompt_tokens", "n_tokens", "rank_sum", "mean_rank")
            assert got[name] == (
                want[name] if exact or want[name] is None else pytest.approx(want[name], rel=1e-5)
            ), name


def test_a_second_run_scores_nothing_and_a_lost_unit_alone_is_scored_again(
    demo_run, demo_corpus, tmp_path
):
    first, store = demo_run
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    before = stored(tmp_path)
    again = score(demo_corpus, tmp_path, unit_rows=32)
    assert again.equation == "read 360 = scored 0 + rejected 0 + already scored 360"
    files = sorted(Path(tmp_path, "scores").rglob("*.parquet"))
    lost = pq.read_metadata(files[3]).num_rows
    files[3].unlink()
    # another unit size finds the same rows missing
    third = score(demo_corpus, tmp_path, unit_rows=10)
    assert third.n_scored + third.rejected.total() == lost
    assert third.n_already == 360 - lost
    after = stored(tmp_path)
    assert [(r["trajectory_id"], r["rank_sum"]) for r in after] == [
        (r["trajectory_id"], r["rank_sum"]) for r in before
    ]
    assert [t["rsr"] for t in table(third)] == pytest.approx(
        [t["rsr"] for t in table(first)], rel=1e-6
    )


def conversation(n: int) -> list[dict]:
    return [
        {"role": "user", "content": f"What is {n} + 1?"},
        {"role": "assistant", "content": f"{n} + 1 = {n + 1}. The answer is {n + 1}."},
    ]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_replaced_shard_replaces_its_scores(tmp_path):
    shard = tmp_path / "corpus" / "teacher=A" / "0.jsonl"
    write_lines(shard, [{"id": f"old{n}", "messages": conversation(n)} for n in range(5)])
    score(tmp_path / "corpus", tmp_path / "store")
    write_lines(shard, [{"id": f"new{n}", "messages": conversation(n)} for n in range(3)])
    os.utime(shard, (1, 1))  # replaced by something that claims to be older
    run = score(tmp_path / "corpus", tmp_path / "store")
    assert run.n_scored == 3
    assert [row["trajectory_id"] for row in stored(tmp_path / "store")] == ["new0", "new1", "new2"]
    assert table(run)[0]["n_trajectories"] == 3


def test_the_same_trajectory_twice_counts_once(tmp_path):
    write_lines(
        tmp_path / "corpus/teacher=A/0.jsonl",
        [{"id": f"{n}", "messages": conversation(n)} for n in range(6)],
    )
    write_lines(
        tmp_path / "corpus/teacher=A/1.jsonl",
        [{"id": f"{n}", "messages": conversation(n)} for n in range(4, 9)],
    )
    write_lines(
        tmp_path / "corpus/teacher=B/0.jsonl",
        [{"id": f"{n}", "messages": conversation(n)} for n in range(2)],
    )
    run = score(tmp_path / "corpus", tmp_path / "store")
    counts = {
        t["teacher"]: (t["n_trajectories"], t["n_duplicates"], t["n_prompts"]) for t in table(run)
    }
    assert counts == {"A": (9, 2, 9), "B": (2, 0, 2)}
    assert run.n_scored == 13


def test_scores_of_other_settings_do_not_mix(tmp_path):
    write_lines(
        tmp_path / "corpus/teacher=A/0.jsonl", [{"messages": conversation(n)} for n in range(3)]
    )
    score(tmp_path / "corpus", tmp_path / "store")
    with pytest.raises(UserError, match="other settings or weights"):
        score(tmp_path / "corpus", tmp_path / "store", r_max=5)
    run = score(tmp_path / "corpus", tmp_path / "store", r_max=5, new_generation=True)
    assert (run.n_scored, run.n_already) == (3, 0)
    assert table(run)[0]["mean_rank"] <= 5


def test_one_trajectory_and_none(tmp_path):
    write_lines(tmp_path / "corpus/teacher=A/0.jsonl", [{"messages": conversation(1)}])
    write_lines(tmp_path / "corpus/teacher=B/0.jsonl", [{"messages": conversation(1)[:1]}])
    (tmp_path / "corpus/teacher=C").mkdir()
    # no row; a file of 0 bytes would be a broken one
    (tmp_path / "corpus/teacher=C/0.jsonl").write_text("\n")
    run = score(tmp_path / "corpus", tmp_path / "store")
    one, none = table(run)
    assert (one["teacher"], one["n_trajectories"], one["rsr_std"], one["place"]) == (
        "A",
        1,
        None,
        1,
    )
    assert (none["teacher"], none["n_trajectories"], none["rsr"], none["place"]) == (
        "B",
        0,
        None,
        None,
    )


def test_strange_names_stay_names(tmp_path):
    names = ["../../x", "<script>alert(1)</script>", "=cmd()", "[red]x[/red]", "名前 🤖", "a" * 300]
    write_lines(
        tmp_path / "corpus/0.jsonl",
        [
            {"teacher": name, "id": name, "messages": conversation(n)}
            for n, name in enumerate(names)
        ],
    )
    run = score(tmp_path / "corpus", tmp_path / "store")
    assert {t["teacher"] for t in table(run)} == set(names)
    assert {p.name for p in tmp_path.iterdir()} == {"corpus", "store"}


def test_a_conversation_the_template_would_change_is_rejected(tmp_path):
    student = shutil.copytree(DEMO_STUDENT, tmp_path / "student")
    (student / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}{% endfor %}"
    )
    rows = [
        {"messages": conversation(1)},
        {
            "messages": [
                conversation(2)[0],
                {"role": "assistant", "content": "<think>one more</think>3"},
            ]
        },
    ]
    write_lines(tmp_path / "corpus/teacher=A/0.jsonl", rows)
    run = score(tmp_path / "corpus", tmp_path / "store", student=str(student))
    assert (run.n_scored, dict(run.rejected)) == (1, {"template_drops_response": 1})


def test_a_task_that_ends_its_process_again_and_again_is_given_up(local_ray):
    import ray

    @ray.remote(max_retries=-1, num_cpus=1)
    def deadly() -> None:
        attempt()
        os._exit(1)

    with pytest.raises(ray.exceptions.RayTaskError, match="died 10 times in a row"):
        ray.get(deadly.remote(), timeout=200)


def test_the_same_conversation_in_every_shape_has_the_same_scores(tmp_path):
    from ..test_shapes import COLUMNS, SHAPES

    for n, row in enumerate(SHAPES.values()):
        write_lines(tmp_path / f"corpus/{n:02d}.jsonl", [row, {"messages": conversation(n)}])
    columns = tuple(f"{name}={column}" for name, column in COLUMNS.items())
    run = score(tmp_path / "corpus", tmp_path / "store", columns=columns, teacher="T")
    rows = [row for row in stored(tmp_path / "store") if row["source_row"] == 0]
    assert len(rows) == len(SHAPES)
    assert table(run)[0]["n_duplicates"] == len(SHAPES) - 1
    assert len({row["trajectory_id"] for row in rows}) == 1
    assert {tuple(row[name] for name in NUMBERS) for row in rows} == {
        tuple(rows[0][name] for name in NUMBERS)
    }
    assert rows[0]["n_tokens"] > 10


BAD_ROWS = {
    "unreadable_row": "{broken",
    "unknown_role": {"messages": [{"role": "narrator", "content": "x"}]},
    "not_text": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    "no_assistant_turn": {"messages": [{"role": "user", "content": "x"}]},
    "empty_response": {"prompt": "x", "response": "  "},
    "tool_calls": {
        "messages": [
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "{"}]}
        ]
    },
    "over_length": {"prompt": "x", "response": "word " * 9000},
    "template_changes_response": {"prompt": "x", "response": "SHOUT this"},
    "template_drops_response": {"prompt": "x", "response": "DROP this"},
    "template_error": {
        "messages": [{"role": "system", "content": "FAIL"}, {"role": "assistant", "content": "x"}]
    },
}


def test_all_shapes_ten_kinds_of_bad_rows_and_a_corrupt_shard(tmp_path):
    from ..test_shapes import COLUMNS, SHAPES

    student = shutil.copytree(DEMO_STUDENT, tmp_path / "student")
    (student / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.content == 'FAIL' %}{{ raise_exception('no') }}{% "
        "endif %}<|im_start|>{{ m.role }}\n"
        "{% if 'DROP' not in m.content %}{{ m.content.replace('SHOUT', 'shout') }}{% endif "
        "%}<|im_end|>\n{% endfor %}"
    )
    for n, row in enumerate(SHAPES.values()):
        write_lines(
            tmp_path / f"corpus/teacher=T{n % 3}/{n:02d}.jsonl",
            [row, {"messages": conversation(n)}],
        )
    lines = [row if isinstance(row, str) else json.dumps(row) for row in BAD_ROWS.values()]
    (tmp_path / "corpus/teacher=T0/bad.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "corpus/teacher=T1/corrupt.parquet").write_bytes(b"PAR1" + b"\0" * 500 + b"PAR1")
    columns = tuple(f"{name}={column}" for name, column in COLUMNS.items())
    run = score(tmp_path / "corpus", tmp_path / "store", student=str(student), columns=columns)
    assert dict(run.rejected) == dict.fromkeys(BAD_ROWS, 1) | {"unreadable_shard": 1}
    assert (run.n_scored, run.n_read) == (2 * len(SHAPES), 2 * len(SHAPES) + len(BAD_ROWS) + 1)
    rejected = [row for row in stored(tmp_path / "store") if row["reject_reason"]]
    assert all(row["reject_detail"] and row["rsr"] is None for row in rejected)
    assert "corrupt.parquet" in next(
        row["source"] for row in rejected if row["reject_reason"] == "unreadable_shard"
    )


def test_the_sums_of_each_turn_on_request(tmp_path):
    two = [*conversation(1), *conversation(2)]
    write_lines(
        tmp_path / "corpus/teacher=A/0.jsonl",
        [{"id": "two", "messages": two}, {"id": "bad", "messages": two[:1]}],
    )
    score(tmp_path / "corpus", tmp_path / "plain")
    score(
        tmp_path / "corpus", tmp_path / "turns", per_turn=True, over_length="window", max_length=40
    )
    bad, plain = stored(tmp_path / "plain")
    assert (bad["turns"], plain["turns"]) == (None, None)
    bad, row = stored(tmp_path / "turns")
    assert bad["turns"] is None
    assert [turn["turn"] for turn in row["turns"]] == [1, 3]
    assert row["n_tokens"] == plain["n_tokens"] > 40 - row["n_prompt_tokens"]
    for name in ("n_tokens", "rank_sum", "surprisal_sum", "entropy_sum"):
        assert sum(turn[name] for turn in row["turns"]) == pytest.approx(row[name]), name


def test_a_table_of_a_run_is_the_one_added_up_in_buckets(demo_run, monkeypatch):
    """To the bit: more rows than are added up at once go by buckets of prompts."""
    run, uri = demo_run
    store = Store(str(uri), "student", None)
    monkeypatch.setattr("rsr_ray.run.reduce.HERE_ROWS", -1)
    found = reduce_scores(store, run.fingerprint, store.counted(run.fingerprint))
    assert found.to_pylist() == run.teachers.to_pylist()


def test_no_more_replicas_than_have_something_to_do(local_ray, demo_corpus, tmp_path):
    settings = {"corpus": str(demo_corpus), "student": str(DEMO_STUDENT), "store": str(tmp_path)}
    config = ScoreConfig(**settings)
    everything = take(config).replicas
    assert everything > 1
    assert [take(config, flops).replicas for flops in (0, 1, 1e11, 1e20)] == [1, 1, 1, everything]
    assert take(ScoreConfig(**settings, replicas=3), 1).replicas == 3, (
        "what the user says comes first"
    )
