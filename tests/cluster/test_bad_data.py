"""Whole runs with rows that once stopped them: each is one reject that names itself, and the
others are scored.
"""

import datetime
import gzip
import json
import os
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ..conftest import DEMO_STUDENT
from .conftest import rsr_ray, score, stored
from .poison.sitecustomize import LIMIT

pytestmark = pytest.mark.usefixtures("local_ray")

ENDLESS = "The template never ends over this row."
TEMPLATE = (
    "{% for m in messages %}"
    f"{{% if '{ENDLESS}' in m.content %}}{{% for i in range(99999) %}}{{% for j in "
    f"range(99999) %}}{{% endfor %}}{{% endfor %}}{{% endif %}}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}</call>{% endfor "
    "%}<|im_end|>\n{% endfor %}"
)
NESTED = "[" * 100_000 + "]" * 100_000


def turns(question: str = "2+2?", **more) -> list[dict]:
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "It is 4."} | more,
    ]


def call(arguments) -> list[dict]:
    return [{"type": "function", "function": {"name": "add", "arguments": arguments}}]


def poisonous_lines() -> dict[str, str]:
    """Lines of a JSONL shard, by the ids of their rows."""
    line = '{"id": "%s", %s "messages": %s}'
    plain, marked = json.dumps(turns()), json.dumps(turns(tool_calls=call("HERE")))
    return {
        "deep-tools": line % ("deep-tools", f'"tools": {NESTED},', plain),
        "deep-tools-text": line % ("deep-tools-text", f'"tools": "{NESTED}",', plain),
        "deep-arguments": line % ("deep-arguments", "", marked.replace('"HERE"', NESTED)),
        "deep-arguments-text": line % ("deep-arguments-text", "", marked.replace("HERE", NESTED)),
        "endless": line % ("endless", "", json.dumps(turns(ENDLESS))),
    }


VALUES = {"moment": datetime.datetime(2026, 1, 2), "decimal": Decimal("1.5"), "bytes": b"\xff\x00"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Good rows around each poisonous one."""
    folder = tmp_path_factory.mktemp("poisonous") / "teacher=t"
    folder.mkdir()
    good = iter(json.dumps({"id": f"good-{n}", "messages": turns(f"{n}+{n}?")}) for n in range(100))
    lines = [next(good)]
    for poison in poisonous_lines().values():
        lines += [poison, next(good)]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "b.json").write_text(
        f"[{next(good)}, "
        f"{poisonous_lines()['deep-tools'].replace('deep-tools', 'deep-in-array')}, "
        f"{next(good)}]"
    )
    for kind, value in VALUES.items():
        rows = [
            {"id": f"{kind}-{n}", "messages": turns(), "tools": [{"x": None if n != 1 else value}]}
            for n in range(3)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"tools-{kind}.parquet")
        calls = [
            {
                "id": f"{kind}-call-{n}",
                "messages": turns(tool_calls=call({"x": None if n != 1 else value})),
            }
            for n in range(3)
        ]
        pq.write_table(pa.Table.from_pylist(calls), folder / f"calls-{kind}.parquet")
    template = folder.parent / "template.jinja"
    template.write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run over all of it, and its store."""
    store = tmp_path_factory.mktemp("all")
    return score(
        corpus,
        store,
        chat_template=str(corpus.parent / "template.jinja"),
        max_rejects=1.0,
        unit_rows=4,
    ), store


def test_poisonous_rows_are_rejects_and_the_others_are_scored(run):
    run, store = run
    rows = {(Path(row["source"]).name, row["source_row"]): row for row in stored(store)}
    found = {
        (row["trajectory_id"], row["reject_reason"])
        for row in rows.values()
        if row["reject_reason"]
    }
    named = {
        ("endless", "template_error"),
        ("deep-tools-text", "tool_calls"),
        ("deep-arguments-text", "tool_calls"),
    }
    named |= {(f"{kind}{call}-1", "tool_calls") for kind in VALUES for call in ("", "-call")}
    assert named <= found
    assert (
        rows["a.jsonl", 9]["reject_detail"]
        == f"the chat template took over {LIMIT:g} s of processor time for the row"
    )
    # A line that Python's own reader cannot hold has no id that could be read: it is named by its
    # place.
    unread = {place for place, row in rows.items() if row["reject_reason"] == "unreadable_row"}
    assert unread == {("a.jsonl", 1), ("a.jsonl", 5), ("b.json", 1)}
    assert len(found) == len(named) + len(unread) == 12
    assert run.equation == "read 32 = scored 20 + rejected 12 + already scored 0"


def test_the_others_are_scored_as_without_them(run, here, corpus, tmp_path):
    alone = tmp_path / "teacher=t"
    alone.mkdir()
    lines = [line for line in (corpus / "a.jsonl").read_text().splitlines() if '"good-' in line]
    (alone / "a.jsonl").write_text("\n".join(lines) + "\n")
    score(alone, tmp_path / "alone", chat_template=str(corpus.parent / "template.jinja"))
    want, got = (
        {row["trajectory_id"]: (row["rank_sum"], row["surprisal_sum"]) for row in stored(store)}
        for store in (tmp_path / "alone", run[1])
    )
    assert len([sums for sums in want.values() if None not in sums]) == 6
    assert {name: got[name] for name in want} == want


@pytest.fixture
def little_patience(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "poison"), prepend=":")


def test_doctor_ends_where_the_template_does_not(corpus, tmp_path, little_patience):
    (tmp_path / "endless.jinja").write_text(
        f"{{% set m = messages[0] %}}{TEMPLATE.replace(ENDLESS, '')}"
    )
    options = [
        "--corpus",
        corpus,
        "--student",
        DEMO_STUDENT,
        "--store",
        tmp_path / "store",
        "--chat-template",
        tmp_path / "endless.jinja",
    ]
    done = rsr_ray("doctor", *options)
    assert done.returncode == 1
    (failure,) = [line for line in done.stdout.splitlines() if line.startswith("failure")]
    assert failure.startswith("failure  template: the chat template took over ")


# --- files-----------------------------------------------------------------------------------------


def lines(*ids: str) -> str:
    return "".join(json.dumps({"id": name, "messages": turns()}) + "\n" for name in ids)


def write_files(folder: Path) -> None:
    """Shards that once ended a run, took all memory, or were passed over; and one that is good."""
    (folder / "good.jsonl").write_text(lines("good-0", "good-1"))
    (folder / "bom.json").write_bytes(
        b"\xef\xbb\xbf[" + lines("bom-0").encode() + b"," + lines("bom-1").encode() + b"]"
    )
    (folder / "zero.jsonl").write_bytes(b"")
    (folder / "zero.parquet").write_bytes(b"")
    (folder / "blank.jsonl").write_bytes(bytes(4096))
    with gzip.open(folder / "endless.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(b"a" * (1 << 20))
    rows = [{"id": f"binary-{n}", "teacher": b"QwQ", "messages": turns()} for n in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "binary.parquet")
    twice = pa.table([["t-0"], [turns()], [turns()]], names=["id", "messages", "messages"])
    pq.write_table(twice, folder / "twice.parquet")
    whole = (folder / "binary.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])


def test_broken_files_are_named_and_the_others_scored(here, tmp_path):
    folder = tmp_path / "teacher=t"
    folder.mkdir()
    write_files(folder)
    done = rsr_ray(
        "score",
        "--corpus",
        folder,
        "--student",
        DEMO_STUDENT,
        "--store",
        tmp_path / "store",
        "--max-rejects",
        "1",
    )
    assert done.returncode == 1  # shards that cannot be read are no success
    rows = stored(tmp_path / "store")
    assert {row["trajectory_id"] for row in rows if not row["reject_reason"]} == {
        "good-0",
        "good-1",
        "bom-0",
        "bom-1",
        "binary-0",
        "binary-1",
    }
    broken = {
        Path(row["source"]).name: row["reject_reason"] for row in rows if row["reject_reason"]
    }
    names = (
        "zero.jsonl",
        "zero.parquet",
        "blank.jsonl",
        "endless.jsonl.gz",
        "twice.parquet",
        "cut.parquet",
    )
    assert broken == dict.fromkeys(names, "unreadable_shard")
    assert {row["teacher"] for row in rows if row["trajectory_id"].startswith("binary")} == {"QwQ"}
    assert "Traceback" not in done.stderr
    assert "6 shards could not be read to the end" in done.stderr.splitlines()[-1]


def test_what_of_a_corpus_cannot_be_read_is_one_line_before_anything_starts(tmp_path):
    command = ["score", "--student", DEMO_STUDENT, "--store", tmp_path / "store", "--corpus"]
    for name in (b"gone.jsonl", b"\xff.jsonl"):
        folder = tmp_path / name.hex() / "teacher=t"
        folder.mkdir(parents=True)
        (folder / "good.jsonl").write_text(lines("good"))
        path = os.fsencode(folder) + b"/" + name
        if name == b"gone.jsonl":
            os.symlink(b"nowhere", path)
        else:
            with open(path, "w") as file:
                file.write(lines("other"))
        done = rsr_ray(*command, folder)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert name.decode(errors="backslashreplace") in done.stderr
    assert not (tmp_path / "store" / "scores").exists()
