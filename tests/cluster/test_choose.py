"""Choices end to end on a real Ray: from a scored corpus to files that trainers load."""

import gzip
import hashlib
import json
import random
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.choose.choose import choose_trajectories
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.demo.corpus import conversation, make_problem
from rsr_ray.errors import UserError
from rsr_ray.files.objects import get

from ..conftest import DEMO_STUDENT
from .conftest import rsr_ray, score, stored, upload
from .test_runs import write_lines

pytestmark = pytest.mark.usefixtures("local_ray")


def pick(store, out, **changes) -> dict:
    given = {"store": str(store), "student": "student", "out": str(out)}
    return choose_trajectories(ChooseConfig(**(given | changes))).to_json()


def written(out: Path) -> list[dict]:
    """The rows of all files of a choice."""
    rows = []
    for path in sorted(Path(out).glob("train-*")):
        rows += (
            pq.read_table(path).to_pylist()
            if path.suffix == ".parquet"
            else list(map(json.loads, path.read_text().splitlines()))
        )
    return rows


def raw(source: str) -> list[dict]:
    """The rows of a shard as they lie there; None for a line that is no JSON."""
    if source.endswith(".parquet"):
        return pq.read_table(source).to_pylist()
    data = Path(source).read_bytes()
    rows = []
    for line in (gzip.decompress(data) if source.endswith(".gz") else data).splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            rows.append(None)
    return rows


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
@pytest.mark.parametrize(("by", "k"), [("rsr", 2), ("mean_rank_unclipped", 1)])
def test_a_choice_is_the_brute_force_one_and_its_rows_are_the_corpus_own(
    demo_store, tmp_path, format, by, k
):
    manifest = pick(demo_store, tmp_path / "out", by=by, k=k, format=format)
    scores = pd.DataFrame(stored(demo_store))
    values = {
        "rsr": scores.rsr,
        "mean_rank_unclipped": scores.rank_sum_unclipped / scores.n_tokens,
    }[by]
    loops = (
        (scores.repeated_ngrams >= 0.5)
        | (scores.compression_ratio >= 8)
        | (
            scores.cut_off == True  # noqa: E712  # null for rejects
        )
    )
    may_be_chosen = scores.reject_reason.isna() & ~loops
    best = scores.assign(value=values)[may_be_chosen].sort_values(
        ["prompt_id", "value", "teacher", "sample", "trajectory_id"]
    )
    best = best.groupby("prompt_id").head(k)
    rows = written(tmp_path / "out")
    assert {row["rsr_ray"]["trajectory_id"]: row["rsr_ray"]["value"] for row in rows} == dict(
        zip(best.trajectory_id, best.value, strict=True)
    )
    where = best.set_index("trajectory_id")
    shards = {source: raw(source) for source in set(best.source)}
    for row in rows:
        facts, at = row["rsr_ray"], where.loc[row["id"]]
        assert {name: row[name] for name in row if name != "rsr_ray"} == shards[at.source][
            at.source_row
        ]
        for name in ("prompt_id", "teacher", "n_tokens", "mean_rank", "mean_surprisal", "rsr"):
            assert facts[name] == at[name], name
        assert facts["by"] == by
    assert manifest == json.loads((tmp_path / "out/manifest.json").read_text())
    counts = (360, 358 - loops.sum(), len(best))
    assert (manifest["rows"], manifest["candidates"], manifest["chosen"]) == counts
    dropped = {"rejected/empty_response": 1, "rejected/unreadable_row": 1}
    assert loops.sum() > 0
    assert manifest["dropped"] == dropped | {"degenerate": loops.sum()}
    assert {
        t["teacher"]: t["chosen"] for t in manifest["teachers"] if t["chosen"]
    } == best.teacher.value_counts().to_dict()
    assert manifest["means"]["chosen"]["rsr"] == pytest.approx(
        best.mean_rank.mean() / best.mean_surprisal.mean(), rel=1e-8
    )
    assert manifest["means"]["candidates"]["rsr_mean"] == pytest.approx(
        scores.rsr[may_be_chosen].mean(), rel=1e-8
    )
    assert manifest["means"]["chosen"]["rsr"] < min(
        manifest["means"]["candidates"]["rsr"], manifest["means"]["random"]["rsr"]
    )
    for file in manifest["files"]:
        data = (tmp_path / "out" / file["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
    assert sum(file["rows"] for file in manifest["files"]) == len(rows)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_datasets_loads_it(demo_store, tmp_path, format):
    import datasets

    pick(demo_store, tmp_path / "out", k=3, format=format)
    kind = {"parquet": "parquet", "jsonl": "json"}[format]
    files = str(tmp_path / f"out/train-*.{format}")
    for loaded in (
        datasets.load_dataset(kind, data_files=files, cache_dir=str(tmp_path / "cache1")),
        datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache2")),
    ):
        rows = loaded["train"].to_list()
        assert rows == written(tmp_path / "out")
        assert len(rows) == 180
        assert {turn["role"] for row in rows for turn in row["messages"]} == {"user", "assistant"}


def test_shards_in_another_order_give_the_same_bytes(demo_store, shuffled_run, tmp_path):
    first = pick(demo_store, tmp_path / "a", by="lark", k=2)
    other = pick(shuffled_run[1], tmp_path / "b", by="lark", k=2)
    assert other["files"] == first["files"]
    assert {**other, "config": first["config"]} == first


def test_caps_and_filters_together(demo_store, tmp_path):
    manifest = pick(
        demo_store, tmp_path / "out", max_share=0.3, exclude_teachers=("terse-7b",), min_tokens=60
    )
    assert "terse-7b" not in {t["teacher"] for t in manifest["teachers"]}
    assert manifest["dropped"]["exclude_teachers"] == 60
    assert all(t["chosen"] <= 0.3 * manifest["chosen"] for t in manifest["teachers"])
    assert all(row["rsr_ray"]["n_tokens"] >= 60 for row in written(tmp_path / "out"))
    assert manifest["rows"] == manifest["candidates"] + sum(manifest["dropped"].values())


# --- corpora of other shapes-----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(here, tmp_path_factory):
    """Four teachers: conversations; lists of answers under other names; Parquet with typed
    columns; messages with a tool call.
    """
    rng = random.Random(0)
    problems = [make_problem(rng) for _ in range(6)]
    said = {
        t: [conversation(t, p, rng) for p in problems]
        for t in ("terse-7b", "formal-72b", "methodical-32b", "doubtful-32b-think")
    }
    folder = tmp_path_factory.mktemp("mixed")
    names = {"user": "human", "assistant": "gpt"}
    turns = [
        [{"from": names[t["role"]], "value": t["content"]} for t in messages]
        for messages in said["terse-7b"]
    ]
    write_lines(
        folder / "teacher=terse-7b/0.jsonl",
        [
            {"id": f"a{n}", "prompt_id": f"p{n}", "conversations": t, "meta": {}, "correct": n % 2}
            for n, t in enumerate(turns)
        ],
    )
    answers = [
        [said[t][n][1]["content"] for t in ("formal-72b", "methodical-32b")] for n in range(6)
    ]
    many = [
        {
            "id": n,
            "prompt_id": f"p{n}",
            "question": said["terse-7b"][n][0]["content"],
            "generations": answers[n],
            "correct": [n % 3 == 0, True],
            "lang": "en",
        }
        for n in range(6)
    ]
    pq.write_table(pa.Table.from_pylist(many), folder / "many.parquet")
    (folder / "teacher=many").mkdir()
    shutil.move(folder / "many.parquet", folder / "teacher=many/0.parquet")
    typed = pa.table(
        {
            "_id": [f"t{n}" for n in range(6)], "prompt_id": [f"p{n}" for n in range(6)],
            "messages": said["doubtful-32b-think"],
            "when": pa.array([1_700_000_000 + n for n in range(6)], pa.timestamp("s")),
            "small": pa.array(range(6), pa.int8()), "complete": [n != 4 for n in range(6)],
            "correct": ["yes"] * 6,
        }
    )  # fmt: skip
    (folder / "teacher=typed").mkdir()
    pq.write_table(typed, folder / "teacher=typed/0.parquet")
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "add", "arguments": {"a": 1, "b": 2}},
    }
    tools = [
        {
            "id": f"w{n}",
            "prompt_id": f"p{n}",
            "correct": "true",
            "messages": [
                m[0],
                {"role": "assistant", "content": "I add.", "tool_calls": [call]},
                {"role": "tool", "content": "3"},
                m[1],
            ],
        }
        for n, m in enumerate(said["terse-7b"])
    ]
    write_lines(folder / "teacher=tools/0.jsonl", tools)
    store = tmp_path_factory.mktemp("mixed-store")
    run = score(folder, store, columns=("prompt=question", "response=generations"), max_rejects=1.0)
    return folder, store, run


COLUMNS = {"columns": ("prompt=question", "response=generations")}
ALL = COLUMNS | {"keep_incomplete": True}


def test_every_shape_becomes_messages_and_one_schema(mixed, tmp_path):
    import datasets

    folder, store, run = mixed
    manifest = pick(
        store,
        tmp_path / "out",
        k=10,
        keep=("conversations", "generations", "question", "when", "small", "lang", "meta"),
        **ALL,
    )
    assert manifest["chosen"] == run.n_scored
    rows = {row["rsr_ray"]["trajectory_id"]: row for row in written(tmp_path / "out")}
    assert (
        len({pq.read_schema(path).to_string() for path in (tmp_path / "out").glob("*.parquet")})
        == 1
    )
    lines = raw(str(folder / "teacher=terse-7b/0.jsonl"))
    assert rows["a3"]["conversations"] == lines[3]["conversations"]
    assert [(t["role"], t["content"]) for t in rows["a3"]["messages"]] == [
        (role, t["value"])
        for role, t in zip(("user", "assistant"), lines[3]["conversations"], strict=True)
    ]
    many = raw(str(folder / "teacher=many/0.parquet"))
    assert [rows[f"2/{n}"]["generations"] for n in (0, 1)] == many[2]["generations"]
    assert rows["2/1"]["messages"][1]["content"] == many[2]["generations"][1]
    assert rows["2/1"]["messages"][0]["content"] == rows["2/1"]["question"] == many[2]["question"]
    assert (rows["2/1"]["rsr_ray"]["sample"], rows["a3"]["rsr_ray"]["sample"]) == (1, None)
    typed = pq.read_table(folder / "teacher=typed/0.parquet").to_pylist()
    assert (rows["t5"]["when"], rows["t5"]["small"]) == (typed[5]["when"], 5)
    kinds = pq.read_schema(next((tmp_path / "out").glob("*.parquet")))
    assert (kinds.field("small").type, kinds.field("lang").type) == (pa.int8(), pa.string())
    if "w1" in rows:
        assert json.loads(rows["w1"]["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
            "a": 1,
            "b": 2,
        }
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    assert len(loaded) == len(rows)


def test_json_lines_that_begin_with_nulls_load_by_their_card(mixed, tmp_path):
    import datasets

    _, store, run = mixed
    manifest = pick(store, tmp_path / "out", k=10, keep=("lang", "meta"), format="jsonl", **ALL)
    files = [raw(str(path)) for path in sorted((tmp_path / "out").glob("*.jsonl"))]
    assert any(all(row["lang"] is None for row in rows) for rows in files), (
        "else the card is not needed"
    )
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    assert loaded.to_list() == written(tmp_path / "out")
    assert len(loaded) == manifest["chosen"] == run.n_scored


def test_columns_that_go_into_no_one_table_are_named_and_can_be_left_out(mixed, tmp_path):
    _, store, _ = mixed
    with pytest.raises(
        UserError, match=r"column correct has different types in different shards.*--keep"
    ) as e:
        pick(store, tmp_path / "out", k=10, **COLUMNS)
    assert "\n" not in str(e.value)
    assert not list((tmp_path / "out").iterdir())
    manifest = pick(store, tmp_path / "out", k=10, keep=("none",), **COLUMNS)
    assert set(manifest["columns"]) == {"messages", "rsr_ray"}
    with pytest.raises(UserError, match=r"column when contains timestamp\[ms\], which JSON cannot"):
        pick(store, tmp_path / "json", keep=("when",), k=10, format="jsonl", **COLUMNS)


def test_verified_and_complete_rows_alone(mixed, tmp_path):
    _, store, _ = mixed
    manifest = pick(
        store,
        tmp_path / "out",
        k=10,
        verified="correct",
        complete_only=True,
        keep=("none",),
        **COLUMNS,
    )
    got = {row["rsr_ray"]["trajectory_id"] for row in written(tmp_path / "out")}
    expected = (
        {f"a{n}" for n in (1, 3, 5)}
        | {f"{n}/0" for n in (0, 3)}
        | {f"{n}/1" for n in range(6)}
        | {f"t{n}" for n in (0, 1, 2, 3, 5)}
    )
    assert {i for i in got if not i.startswith("w")} == expected
    assert manifest["dropped"]["not_verified"] == 3 + 4
    assert manifest["dropped"]["incomplete"] == 1
    with pytest.raises(UserError, match="--verified korrect: no row has a value"):
        pick(store, tmp_path / "none", verified="korrect", **COLUMNS)
    with pytest.raises(UserError, match=r"--complete-column finished: no row has a value"):
        pick(store, tmp_path / "none", complete_only=True, complete_column="finished", **COLUMNS)
    with pytest.raises(
        UserError,
        match="--keep korrect: no shard of the choice has this column; columns: _id, complete, ",
    ):
        pick(store, tmp_path / "none", keep=("lang", "korrect"), **COLUMNS)
    assert not list((tmp_path / "none").glob("*"))


def test_without_the_columns_it_was_scored_with_the_choice_is_refused(mixed, tmp_path):
    _, store, _ = mixed
    with pytest.raises(UserError, match="pass the --columns it was scored with|was replaced while"):
        pick(store, tmp_path / "out", k=10, keep=("none",))
    assert not list((tmp_path / "out").glob("*"))


def test_rule_quality_reads_the_answers(mixed, tmp_path):
    _, store, _ = mixed
    manifest = pick(store, tmp_path / "out", by="rule_quality", keep=("none",), **ALL)
    assert manifest["by"]["better"] == "higher"
    # Long, and full of "check": the doubtful one, by every rule.
    assert {row["rsr_ray"]["teacher"] for row in written(tmp_path / "out")} == {"typed"}


# --- shards that are not what was scored-----------------------------------------------------------


def test_a_shard_that_is_gone_or_replaced_is_named_and_can_be_left_out(here, tmp_path):
    corpus = tmp_path / "corpus"
    rng = random.Random(1)
    for teacher in ("terse-7b", "formal-72b", "flowery-8b"):
        rows = [
            {
                "id": f"{teacher}{n}",
                "prompt_id": f"p{n}",
                "messages": conversation(teacher, make_problem(rng), rng),
            }
            for n in range(3)
        ]
        write_lines(corpus / f"teacher={teacher}/0.jsonl", rows)
    score(corpus, tmp_path / "store")
    gone, replaced = corpus / "teacher=terse-7b/0.jsonl", corpus / "teacher=formal-72b/0.jsonl"
    gone.unlink()
    with pytest.raises(
        UserError,
        match=r"terse-7b/0.jsonl no longer exists: restore it, or pass --skip-missing",
    ):
        pick(tmp_path / "store", tmp_path / "out")
    replaced.write_text(replaced.read_text() * 2)
    with pytest.raises(
        UserError,
        match="formal-72b/0.jsonl was replaced since it was scored: score it again",
    ):
        pick(tmp_path / "store", tmp_path / "out", exclude_teachers=("terse-7b",))
    manifest = pick(tmp_path / "store", tmp_path / "out", skip_missing=True)
    assert manifest["dropped"]["missing"] == 6
    assert {row["rsr_ray"]["teacher"] for row in written(tmp_path / "out")} == {"flowery-8b"}


def test_a_corpus_that_was_moved_and_scored_again_is_chosen_from_where_it_is(here, tmp_path):
    rng, before, now = random.Random(2), tmp_path / "a", tmp_path / "b"
    rows = [
        {
            "id": f"{n}",
            "prompt_id": f"p{n}",
            "messages": conversation("terse-7b", make_problem(rng), rng),
        }
        for n in range(4)
    ]
    write_lines(before / "teacher=terse-7b/0.jsonl", rows)
    score(before, tmp_path / "store")
    before.rename(now)
    score(now, tmp_path / "store")
    manifest = pick(tmp_path / "store", tmp_path / "out", skip_missing=True)
    assert (manifest["chosen"], manifest["dropped"]) == (4, {"duplicate": 4})
    assert sorted(row["id"] for row in written(tmp_path / "out")) == [row["id"] for row in rows]


# --- as a user types it----------------------------------------------------------------------------


def test_the_command_line(demo_store, tmp_path):
    (tmp_path / "choose.yaml").write_text(
        f"store: {demo_store}\nstudent: student\nk: 2\nteachers: [terse-7b, "
        f"formal-72b]\nmax_share: 1\n"
    )
    command = [
        "choose",
        "--config",
        tmp_path / "choose.yaml",
        "--out",
        tmp_path / "out",
        "--ray-address",
        "local",
    ]
    done = rsr_ray(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "by rsr (lower is better)" in " ".join(done.stdout.split())
    assert "360 scored rows = 120 candidates + 240 left out" in done.stdout
    again = rsr_ray(*command)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "--overwrite" in again.stderr
    replaced = rsr_ray(*command, "--overwrite", "--format", "jsonl", "--json", "--k", "1")
    assert json.loads(replaced.stdout)["chosen"] == 60
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".jsonl", ".json", ".md"}
    (tmp_path / "out/README.md").write_text("# My own notes\n")
    assert (
        "contains README.md, which rsr-ray choose did not write"
        in rsr_ray(*command, "--overwrite").stderr
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--by", "rsrr"], "--by rsrr: no such metric"),
        (["--student", "nobody"], "no scores of student nobody"),
        (["--by", "local_naturalness"], "score with --metrics local_naturalness"),
        (["--teachers", "nobody"], "--teachers nobody: not in the store; teachers: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(demo_store, tmp_path, options, says):
    given = [
        "--store",
        demo_store,
        "--student",
        "student",
        "--out",
        tmp_path / "out",
        "--ray-address",
        "local",
    ]
    done = rsr_ray("choose", *given, *options)
    # Ray's own log lines begin so
    ours = [line for line in done.stderr.splitlines() if not line.startswith(("[", "20"))]
    assert done.returncode == 2, done.stderr[-2000:]
    assert len(ours) == 1
    assert says in ours[0]


@pytest.mark.parametrize("s3", ["moto"], indirect=True, scope="module")
def test_from_and_to_s3(s3, demo_corpus, demo_store, tmp_path):
    fs, endpoint = s3
    upload(fs, demo_corpus, "rsr/corpus")
    done = rsr_ray(
        "score",
        "--corpus",
        "s3://rsr/corpus",
        "--student",
        DEMO_STUDENT,
        "--store",
        "s3://rsr/store",
        "--unit-rows",
        "16",
        "--ray-address",
        "local",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    command = [
        "choose",
        "--store",
        "s3://rsr/store",
        "--student",
        "student",
        "--out",
        "s3://rsr/out",
        "--ray-address",
        "local",
        "--json",
    ]
    done = rsr_ray(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    manifest = json.loads(done.stdout)
    here = pick(demo_store, tmp_path / "out")
    assert manifest["means"] == here["means"]
    rows = [
        row
        for file in manifest["files"]
        for row in pq.read_table(
            pa.BufferReader(get(f"s3://rsr/out/{file['name']}", endpoint))
        ).to_pylist()
    ]
    assert sorted(row["id"] for row in rows) == sorted(
        row["id"] for row in written(tmp_path / "out")
    )
    assert rsr_ray(*command).returncode == 2
    assert rsr_ray(*command, "--overwrite").returncode == 0


def test_a_chosen_set_trains_a_student(demo_store, tmp_path):
    """Ten steps of the plain Trainer on four chosen rows: the loss is finite and goes down."""
    import datasets
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    pick(demo_store, tmp_path / "out")
    chosen = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "out/train-*.parquet"),
        cache_dir=str(tmp_path / "cache"),
    )["train"]
    tokenizer = AutoTokenizer.from_pretrained(DEMO_STUDENT)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    encoded = chosen.select(range(4)).map(
        lambda row: tokenizer.apply_chat_template(row["messages"], return_dict=True),
        remove_columns=chosen.column_names,
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=10, per_device_train_batch_size=4,
        learning_rate=1e-3, lr_scheduler_type="constant", logging_steps=1, save_strategy="no",
        report_to=[], use_cpu=True, seed=0, dataloader_pin_memory=False,
    )  # fmt: skip
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(DEMO_STUDENT),
        arguments,
        train_dataset=encoded,
        data_collator=collate,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 10
    assert all(0 < loss < 20 for loss in losses)
    assert losses[-1] < losses[0]
