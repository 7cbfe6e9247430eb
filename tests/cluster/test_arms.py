"""Arms end to end on a real Ray: from a scored corpus to folders that trainers load."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.arms.arms import make_arms
from rsr_ray.arms.audit import audit_row, scored_by, trainer_ids
from rsr_ray.cli import main
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.errors import UserError
from rsr_ray.store.store import Store
from rsr_ray.student.tokenizer import load_tokenizer

from .conftest import score, stored
from .test_choose import raw, written
from .test_runs import write_lines

pytestmark = pytest.mark.usefixtures("local_ray")
QUOTAS = ("terse-7b=4", "looping-3b=3")


def arms(store, out, **changes) -> dict:
    given = {"store": str(store), "student": "student", "out": str(out), "quotas": QUOTAS}
    if "per_teacher" in changes:
        del given["quotas"]
    given |= {"tolerance": 0.01, "keep_degenerate": True}  # nearly all of looping-3b is
    return make_arms(ArmsConfig(**(given | changes))).to_json()


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_arms_are_folders_of_the_corpus_own_rows(demo_store, tmp_path, format):
    import datasets

    names = ("low", "middle", "high", "random")
    manifest = arms(demo_store, tmp_path / "out", arms=names, format=format, audit=True)
    assert manifest == json.loads((tmp_path / "out/manifest.json").read_text())
    where = {row["trajectory_id"]: row for row in stored(demo_store)}
    rsr, seen = {}, set()
    for arm in manifest["arms"]:
        folder = tmp_path / "out" / arm["name"]
        rows = written(folder)
        facts = [row["rsr_ray"] for row in rows]
        teachers = [fact["teacher"] for fact in facts]
        assert {t: teachers.count(t) for t in teachers} == {"terse-7b": 4, "looping-3b": 3}
        assert arm["tokens"] == sum(where[f["trajectory_id"]]["n_tokens"] for f in facts)
        assert len({f["prompt_id"] for f in facts}) == arm["prompts"] == len(rows)
        for row in rows:
            at = where[row["id"]]
            shard = raw(at["source"])[at["source_row"]]
            assert {name: row[name] for name in row if name != "rsr_ray"} == shard
        for file in arm["files"]:
            data = (folder / file["name"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
        loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
        assert loaded["train"].to_list() == rows
        rsr[arm["name"]] = sum(f["rsr"] for f in facts) / len(facts)
        assert not seen & {f["trajectory_id"] for f in facts}
        seen |= {f["trajectory_id"] for f in facts}
    assert rsr["low"] < rsr["middle"] < rsr["high"]
    tokens = [arm["tokens"] for arm in manifest["arms"]]
    assert max(tokens) / min(tokens) - 1 == pytest.approx(manifest["spread"]["tokens"])
    assert manifest["spread"]["tokens"] <= 0.01
    assert manifest["rows"] == manifest["candidates"] + sum(manifest["dropped"].values())
    assert manifest["audit"] == {
        "rows": 28, "same": 28, "differ": {}, "examples": [], "cut": 0,
        "longest": manifest["audit"]["longest"],
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_shards(
    demo_store, shuffled_run, tmp_path
):
    first = arms(demo_store, tmp_path / "a", arms=("low", "high", "random", "matched-low"))
    other = arms(shuffled_run[1], tmp_path / "b", arms=("low", "high", "random", "matched-low"))
    for one, two in zip(first["arms"], other["arms"], strict=True):
        assert one["files"] == two["files"]
        for file in one["files"]:
            place = f"{one['name']}/{file['name']}"
            assert (tmp_path / "a" / place).read_bytes() == (tmp_path / "b" / place).read_bytes()


def test_flops_and_prompts_are_matched(demo_store, tmp_path):
    manifest = arms(
        demo_store, tmp_path / "out", match=("prompts", "flops"), tolerance=0.02, per_teacher=2
    )
    flops = [arm["flops"] for arm in manifest["arms"]]
    assert max(flops) / min(flops) <= 1.02
    assert manifest["flops_formula"].startswith("6 N S + 12 L d S^2")
    prompts = [
        {row["rsr_ray"]["prompt_id"] for row in written(tmp_path / "out" / arm["name"])}
        for arm in manifest["arms"]
    ]
    assert prompts[0] == prompts[1] == prompts[2]


def test_prompts_of_an_evaluation_set_are_in_no_arm(demo_store, tmp_path):
    rows = stored(demo_store)
    source = next(row["source"] for row in rows if row["teacher"] == "terse-7b")
    held_out = {}
    for row in raw(source)[:5]:
        held_out[row["prompt_id"]] = row["messages"][0]["content"].upper()
    path = tmp_path / "eval.jsonl"
    write_lines(path, [{"problem": text} for text in held_out.values()])
    manifest = arms(demo_store, tmp_path / "out", eval_set=str(path), eval_overlap=1.0)
    n = sum(
        row["prompt_id"] in held_out
        and row["reject_reason"] is None
        and row["teacher"] in ("terse-7b", "looping-3b")
        for row in rows
    )
    assert manifest["dropped"]["eval_normalized"] == n
    for arm in manifest["arms"]:
        for row in written(tmp_path / "out" / arm["name"]):
            assert row["rsr_ray"]["prompt_id"] not in held_out


def test_prompts_with_a_row_that_the_trainer_cuts_are_left_out(demo_store, tmp_path):
    """Its length is that of the whole rendering, end markers included."""
    store = Store(str(demo_store), "student", None)
    (fingerprint,) = store.units()
    source, _ = scored_by(store, fingerprint)
    tokenizer = load_tokenizer(source)
    free = arms(demo_store, tmp_path / "free", audit=True)
    lengths = [
        len(trainer_ids(row, tokenizer))
        for arm in free["arms"]
        for row in written(tmp_path / "free" / arm["name"])
    ]
    assert max(lengths) == free["audit"]["longest"]
    limit = sorted(lengths)[-4]
    cut = arms(demo_store, tmp_path / "cut", trainer_length=limit, tolerance=0.05)
    assert cut["dropped"]["trainer_length"] > 0
    assert cut["audit"]["cut"] == 0
    assert cut["audit"]["longest"] <= limit
    too_long = {
        row["prompt_id"]
        for row in stored(demo_store)
        if row["teacher"] in ("terse-7b", "looping-3b")
        and row["n_tokens"]
        and row["n_prompt_tokens"] + row["n_tokens"] > limit
    }
    for arm in cut["arms"]:
        for row in written(tmp_path / "cut" / arm["name"]):
            assert row["rsr_ray"]["prompt_id"] not in too_long


def test_the_audit_finds_what_a_trainer_would_not_see_as_scored(demo_store, tmp_path):
    arms(demo_store, tmp_path / "out")
    row = written(tmp_path / "out/low")[0]
    store = Store(str(demo_store), "student", None)
    (fingerprint,) = store.units()
    source, how = scored_by(store, fingerprint)
    tokenizer = load_tokenizer(source)
    assert audit_row(row, tokenizer, how).differs is None

    def differs(**changes):
        return audit_row({**row, **changes}, tokenizer, how).differs

    longer = [
        *row["messages"][:-1],
        {**row["messages"][-1], "content": "More words than before. " * 90},
    ]
    assert "more tokens" in differs(messages=longer)
    assert "fewer tokens" in differs(
        messages=[*row["messages"][:-1], {"role": "assistant", "content": "4"}]
    )
    context = [{**turn, "train": False} for turn in row["messages"]]
    assert "rejected as no_assistant_turn" in differs(messages=context)


def test_degenerate_trajectories_are_in_no_arm(demo_store, tmp_path):
    quotas = ("terse-7b=5", "looping-3b=1")
    options = {"arms": ("low", "high"), "tolerance": 0.05, "keep_degenerate": False}
    manifest = arms(demo_store, tmp_path / "out", quotas=quotas, **options)
    kept = arms(demo_store, tmp_path / "kept", quotas=quotas, **options | {"keep_degenerate": True})
    assert manifest["dropped"]["degenerate"] > 50
    assert "degenerate" not in kept["dropped"]


def test_an_earlier_set_of_arms_is_replaced_only_if_asked(demo_store, tmp_path):
    arms(demo_store, tmp_path / "out", arms=("low", "random"), format="jsonl")
    with pytest.raises(UserError, match="contains an earlier choice"):
        arms(demo_store, tmp_path / "out")
    # what cannot be made deletes nothing
    with pytest.raises(UserError, match="too few"):
        arms(demo_store, tmp_path / "out", overwrite=True, per_teacher=1000)
    assert (tmp_path / "out/low/README.md").exists()
    arms(demo_store, tmp_path / "out", arms=("low", "high"), overwrite=True)
    assert not (tmp_path / "out/low/README.md").exists()
    assert not [*(tmp_path / "out/random").glob("train-*")]
    (tmp_path / "out/low/mine.txt").write_text("")
    with pytest.raises(UserError, match="low/mine.txt"):
        arms(demo_store, tmp_path / "out", overwrite=True)


def test_the_command_prints_the_arms_side_by_side(demo_store, tmp_path, capsys):
    options = ["--store", str(demo_store), "--student", "student", "--out", str(tmp_path / "out")]
    options += ["--per-teacher", "5", "--tolerance", "0.01", "--audit"]
    assert main(["arms", *options]) == 2
    said = capsys.readouterr().err
    assert "too few trajectories of teacher looping-3b: 5 in each of 3 arms" in said
    assert "pass --exclude-teachers looping-3b" in said
    assert main(["arms", *options, "--exclude-teachers", "looping-3b"]) == 0
    said = capsys.readouterr().out
    assert "3 arms of 25 trajectories" in said
    options += ["--keep-degenerate", "--overwrite"]
    assert main(["arms", *options]) == 0
    said = capsys.readouterr().out
    for text in ("3 arms of 30 trajectories for student student, by rsr; tokens within 0.", "low ",
                 "rows in every arm", "90 of 90 written rows have the tokens that were scored",
                 "and no trajectory."):  # fmt: skip
        assert text in said
    assert main(["arms", *options, "--per-teacher", "25"]) == 2
    assert "To fix it, pass --per-teacher 10" in capsys.readouterr().err
    options = [name for name in options if name not in ("--per-teacher", "5")]
    assert main(["arms", *options, "--quotas", "terse-7=5"]) == 2
    assert "--quotas terse-7: the store has no such teacher; did you mean terse-7b?" in (
        capsys.readouterr().err
    )


def test_a_choice_leaves_out_an_evaluation_set_as_well(demo_store, tmp_path, capsys):
    path = tmp_path / "eval.parquet"
    row = next(row for row in stored(demo_store) if row["reject_reason"] is None)
    n = sum(one["prompt_id"] == row["prompt_id"] for one in stored(demo_store))
    text = raw(row["source"])[row["source_row"]]["messages"][0]["content"]
    pq.write_table(pa.table({"question": [text]}), path)
    options = ["--store", str(demo_store), "--student", "student", "--out", str(tmp_path / "out")]
    held_out = ["--eval-set", str(path), "--eval-overlap", "1"]
    assert main(["choose", *options, "--keep-degenerate", *held_out]) == 0
    assert f"{n} eval_exact: Its prompt is in --eval-set." in capsys.readouterr().out
    assert row["prompt_id"] not in {r["rsr_ray"]["prompt_id"] for r in written(tmp_path / "out")}


def test_arms_of_a_corpus_whose_rows_were_cut_for_scoring_are_told_apart(tmp_path, demo_corpus):
    store = tmp_path / "store"
    score(demo_corpus, store, over_length="truncate", max_length=120)
    manifest = arms(store, tmp_path / "out", per_teacher=3, audit=True, tolerance=0.05)
    audit = manifest["audit"]
    assert audit["same"] < audit["rows"]
    assert set(audit["differ"]) == {"more tokens than were scored"}
