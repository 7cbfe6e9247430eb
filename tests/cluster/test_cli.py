"""The command line as a user types it: the demo, and every mistake in one clear line."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..conftest import DEMO_STUDENT
from .conftest import in_a_process, rsr_ray
from .test_runs import conversation, write_lines

pytestmark = pytest.mark.usefixtures("here")


def test_the_demo(tmp_path):
    done = in_a_process("demo", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "lower is better" in done.stdout
    assert "read 360 = scored 358 + rejected 2 + already scored 0" in done.stdout
    assert "Progress" not in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith(("[", "20"))], (
        "Ray's own messages stay in its files"
    )
    shown = rsr_ray(
        "teachers", "--store", tmp_path / "demo/store", "--student", "demo-student", "--json"
    )
    places = {t["teacher"]: t["place"] for t in json.loads(shown.stdout)["teachers"]}
    assert len(places) == 6
    assert places["flowery-8b"] == 6


@pytest.fixture
def corpus(tmp_path):
    write_lines(
        tmp_path / "corpus/teacher=A/0.jsonl",
        [{"id": f"{n}", "messages": conversation(n)} for n in range(4)],
    )
    return tmp_path / "corpus"


def untemplated(tmp_path) -> Path:
    student = shutil.copytree(DEMO_STUDENT, tmp_path / "student")
    (student / "chat_template.jinja").unlink()
    return student


def not_parquet(tmp_path) -> Path:
    (tmp_path / "teacher=B").mkdir()
    (tmp_path / "teacher=B" / "a.parquet").write_bytes(b"PAR1 this is not parquet")
    return tmp_path / "teacher=B"


def empty(tmp_path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


MISTAKES = {
    "a missing path": (
        {"corpus": lambda t: t / "nowhere"},
        "nowhere: no such file or folder",
    ),
    "an empty folder": ({"corpus": empty}, "no shards found; shards end with .parquet"),
    "a shard that is not parquet": ({"corpus": not_parquet}, "a.parquet: unreadable from here on"),
    "a student without chat template": (
        {"student": untemplated},
        "has no chat template; add a chat_template.jinja to",
    ),
    "no student there": ({"student": lambda t: t / "nobody"}, "nobody"),
    "a store below a file": (
        {"store": lambda t: t / "corpus/teacher=A/0.jsonl/store"},
        "cannot be written",
    ),
    "a wrong option": ({"dtype": lambda _: "int3"}, "--dtype int3: choose auto, float32"),
    "a wrong student name": ({"student-name": lambda _: "a/b"}, "--student-name 'a/b'"),
    "no such cluster": ({"ray-address": lambda _: "127.0.0.1:1"}, "no Ray cluster at 127.0.0.1:1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(corpus, tmp_path, mistake):
    changes, says = MISTAKES[mistake]
    options = {"corpus": corpus, "student": DEMO_STUDENT, "store": tmp_path / "store"} | {
        name: make(tmp_path) for name, make in changes.items()
    }
    typed = in_a_process if "ray-address" in options else rsr_ray
    done = typed("score", *(x for name, value in options.items() for x in (f"--{name}", value)))
    # Ray's own log lines begin so
    ours = [line for line in done.stderr.splitlines() if not line.startswith(("[", "20"))]
    assert done.returncode == 2, done.stderr[-2000:]
    assert len(ours) == 1
    assert ours[0].startswith("rsr-ray: ")
    assert says in ours[0]
    assert not list((tmp_path / "store").rglob("*.*")) if (tmp_path / "store").exists() else True


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_read_only_store_is_exit_code_2(corpus, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", store], check=True)
    try:
        done = rsr_ray("score", "--corpus", corpus, "--student", DEMO_STUDENT, "--store", store)
    finally:
        subprocess.run(["umount", store], check=True)
    assert done.returncode == 2
    assert "Read-only file system" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unreadable_shard_beside_good_ones_is_named_and_the_rest_scored(corpus, tmp_path):
    shutil.move(not_parquet(tmp_path), corpus / "teacher=B")
    done = rsr_ray(
        "score", "--corpus", corpus, "--student", DEMO_STUDENT, "--store", tmp_path / "store"
    )
    assert done.returncode == 1
    assert "read 5 = scored 4 + rejected 1" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("rsr-ray: 1 shard could not be read to the end")
    assert "teacher=B/a.parquet" in done.stderr.splitlines()[-1]


def test_nothing_scored_is_no_success(tmp_path):
    write_lines(tmp_path / "corpus/teacher=A/0.jsonl", [{"messages": conversation(1)[:1]}])
    done = rsr_ray(
        "score",
        "--corpus",
        tmp_path / "corpus",
        "--student",
        DEMO_STUDENT,
        "--store",
        tmp_path / "store",
    )
    assert done.returncode == 1
    assert "nothing was scored" in done.stderr


def test_teachers_of_nobody():
    done = rsr_ray("teachers", "--store", "/nowhere", "--student", "x")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_too_many_rejects_are_no_success_and_can_be_listed_and_retried(corpus, tmp_path):
    write_lines(
        corpus / "teacher=A/1.jsonl",
        [{"id": f"x{n}", "question": "2+2?", "answer": "It is 4."} for n in range(3)],
    )
    command = [
        "score",
        "--corpus",
        corpus,
        "--student",
        DEMO_STUDENT,
        "--store",
        tmp_path / "store",
    ]
    done = rsr_ray(*command)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "3 of 7 rows were rejected, more than --max-rejects 0.05 allows: " in last
    assert "unreadable_row 3, e.g. x0 (" in last
    assert "rsr-ray rejects" in last
    assert "Found 2 shards (" in done.stderr
    listed = rsr_ray(
        "rejects",
        "--store",
        tmp_path / "store",
        "--student",
        "student",
        "--reason",
        "unreadable_row",
    )
    assert listed.stdout.count("--columns maps other names") == 3
    assert (
        "Deleted 1 work unit with 3 rejected rows"
        in rsr_ray(
            "rejects", "--store", tmp_path / "store", "--student", "student", "--retry"
        ).stdout
    )
    again = rsr_ray(*command, "--columns", "prompt=question", "response=answer")
    assert again.returncode == 0, again.stderr[-2000:]
    # how rows are read is part of what was scored
    assert "read 7 = scored 7 + rejected 0 + already scored 0" in again.stdout
