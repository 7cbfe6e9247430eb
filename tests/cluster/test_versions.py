"""A store that an earlier version wrote, under every command: each works, or says in one line what
it cannot do.

`tests/golden/version_2` is a corpus of twelve rows and the store that the last release of
SCORES_VERSION 2 made of it.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from ..conftest import DEMO_STUDENT
from .conftest import rsr_ray

GOLDEN = Path(__file__).parents[1] / "golden" / "version_2"
HOME = Path("/tmp/rsr_ray-version-2")  # the paths that the store's rows name
WRITTEN = 1_700_000_000_000_000_000  # ns; with the size it is the version of a shard


@pytest.fixture(scope="module")
def store(local_ray, here):
    if tempfile.gettempdir() != "/tmp":
        pytest.skip("the store names shards below /tmp")
    shutil.rmtree(HOME, ignore_errors=True)
    shutil.copytree(GOLDEN, HOME)
    shutil.copytree(DEMO_STUDENT, HOME / "student")
    for shard in (HOME / "corpus").rglob("*.jsonl"):
        os.utime(shard, ns=(WRITTEN, WRITTEN))
    yield HOME / "store"
    shutil.rmtree(HOME)


EARLIER = "an earlier version of rsr_ray wrote"


@pytest.mark.parametrize(
    "command",
    [
        ["teachers", "--store", "{store}", "--student", "s"],
        ["choose", "--store", "{store}", "--student", "s", "--out", "{out}"],
        ["report", "--store", "{store}", "--out", "{out}"],
    ],
)
def test_what_ranks_says_what_is_not_known(store, tmp_path, command):
    done = rsr_ray(*(word.format(store=store, out=tmp_path / "out") for word in command))
    assert done.returncode == 0, done.stderr
    page = tmp_path / "out" / "index.html"
    assert EARLIER in done.stdout + (page.read_text() if page.exists() else "")


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "{store}", "{store}"],
        ["check", "--store", "{store}"],
        ["rejects", "--store", "{store}", "--student", "s"],
        ["rescore", "--store", "{store}", "--student", "s"],
    ],
)
def test_what_needs_no_more_than_is_there_works(store, tmp_path, command):
    done = rsr_ray(*(word.format(store=store, out=tmp_path / "out") for word in command))
    assert done.returncode == 0, done.stderr
    assert not done.stderr or EARLIER in done.stderr


@pytest.mark.parametrize("command", ["score", "nightly"])
def test_nothing_is_added_to_it(store, tmp_path, command):
    settings = {"corpus": f"{HOME}/corpus", "store": str(store)}
    student = {"student": f"{HOME}/student", "student_name": "s"}
    file = tmp_path / "run.yaml"
    file.write_text(
        json.dumps(settings | (student if command == "score" else {"students": [student]}))
    )
    before = sorted(path for path in store.rglob("*.parquet"))
    done = rsr_ray(command, "--config", file)
    assert done.returncode in (1, 2)
    assert EARLIER in done.stderr + done.stdout
    assert "--new-generation" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert sorted(path for path in store.rglob("*.parquet")) == before


def test_a_race_and_doctor_say_so_in_a_line(store):
    options = [
        "--corpus",
        f"{HOME}/corpus",
        "--student",
        f"{HOME}/student",
        "--student-name",
        "s",
        "--store",
        store,
    ]
    race = rsr_ray("race", *options, "--json")
    assert race.returncode == 2
    assert EARLIER in race.stderr
    assert race.stderr.count("\n") == 1
    doctor = rsr_ray("doctor", *options)
    assert doctor.returncode == 1, doctor.stdout
    assert EARLIER in doctor.stdout


def test_a_new_generation_stands_beside_it(store, tmp_path):
    copy = shutil.copytree(store, tmp_path / "store")
    options = [
        "--corpus",
        f"{HOME}/corpus",
        "--student",
        f"{HOME}/student",
        "--student-name",
        "s",
        "--store",
        copy,
    ]
    done = rsr_ray("score", *options, "--token-scores", "--new-generation")
    assert done.returncode == 0, done.stderr
    assert "Answers that the corpus marks as cut off: a 16.7%, b 16.7%" in done.stdout
    chosen = rsr_ray("choose", "--store", copy, "--student", "s", "--out", tmp_path / "out")
    assert chosen.returncode == 2
    assert "--fingerprint" in chosen.stderr


def test_correlate_takes_its_values(store, tmp_path):
    table = tmp_path / "accuracies.csv"
    table.write_text("student,teacher,accuracy\ns,a,40\ns,b,50\n")
    done = rsr_ray("correlate", "--store", store, "--accuracies", table, "--permutations", "50")
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or (
        done.returncode == 2 and done.stderr.count("\n") == 1 and "teachers" in done.stderr
    )
