"""How a command ends that is told to: by Ctrl-C, by SIGTERM, by a reader that leaves.

And one that has nothing to do.
"""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from .conftest import DEMO_STUDENT, REPOSITORY, in_a_process, rsr_ray, stored, wait_for
from .test_nights import config_file, write_shard

SIGNALS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, "before Ray"),
        (signal.SIGINT, "before a unit"),
        (signal.SIGTERM, "after a unit"),
        (signal.SIGTERM, "after Ray"),
    ],
    ids=["SIGTERM before Ray", "SIGINT before a unit", "SIGTERM after a unit", "SIGTERM after Ray"],
)
def test_a_night_that_is_ended_lets_its_lease_go_and_keeps_what_is_finished(
    local_ray, head, tmp_path, number, moment
):
    """`python -m tests.cluster.measure_sigterm` does it at 20 random times."""
    n_rows = 100 if moment == "after a unit" else 20  # of which some are left when it is ended
    for n, teacher in enumerate("AB"):
        write_shard(
            tmp_path / "corpus" / f"{teacher}.jsonl", teacher, range(n, n_rows + n), "terse-7b"
        )
    store = tmp_path / "store"
    students = [{"student": str(DEMO_STUDENT), "student_name": "one"}]
    path = config_file(
        tmp_path,
        tmp_path / "corpus",
        store,
        students=students,
        unit_rows=4,
        replicas=1,
        ray_address=head.address,
    )
    command = [sys.executable, "-m", "rsr_ray", "nightly", "--config", str(path), "--night"]
    # also where these tests run in the background
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    night = subprocess.Popen(
        [*command, "1"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **heard,
    )
    looked_for = {
        "before Ray": "nightly/lease/*.json",
        "before a unit": "claims/**/*.json",
        "after a unit": "scores/**/*.parquet",
        "after Ray": "nightly/1.json",  # its report is drawn
    }
    wait_for(lambda: night.poll() is not None or any(store.glob(looked_for[moment])))
    night.send_signal(number)
    _, said = night.communicate(timeout=120)
    code, word = SIGNALS[number]
    assert night.returncode == code, said
    assert (
        said.splitlines()[-1]
        == f"rsr-ray: {word}; finished units are kept; rerun the same command to resume"
    )
    assert not [
        line for line in said.splitlines() if line.startswith(("[", "*", "Traceback", "  File"))
    ]
    kept = len(list((store / "scores").rglob("*.parquet")))
    assert (kept > 0) == moment.startswith("after") or moment == "before a unit"
    again = rsr_ray(*command[3:], "2", "--json")
    assert again.returncode == 0, again.stderr
    equation = json.loads(again.stdout)["students"]["one"]["equation"]
    assert equation["scored"] + equation["already_scored"] == 2 * n_rows
    assert (equation["already_scored"] > 0) == (kept > 0)
    rows = stored(store, "one")
    assert len(rows) == len({(row["source"], row["source_row"]) for row in rows}) == 2 * n_rows


def test_nothing_new_starts_no_ray(demo_store, demo_corpus, tmp_path):
    """Nor does it look for one: there is none at this address."""
    shutil.copytree(demo_store, tmp_path / "store")
    options = [
        "--corpus",
        demo_corpus,
        "--student",
        DEMO_STUDENT,
        "--store",
        tmp_path / "store",
        "--ray-address",
        "127.0.0.1:1",
    ]
    done = in_a_process("score", *options)
    assert done.returncode == 0, done.stderr
    assert "read 360 = scored 0 + rejected 0 + already scored 360" in done.stdout


def test_a_reader_that_leaves_is_no_failure(demo_store):
    for command in (["metrics"], ["teachers", "--store", str(demo_store), "--student", "student"]):
        told = subprocess.Popen(
            [sys.executable, "-m", "rsr_ray", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        told.stdout.close()
        assert told.wait() == 0
        assert told.stderr.read() == b""


def test_piped_output_keeps_to_columns(demo_store):
    command = ["teachers", "--store", demo_store, "--student", "student"]
    for columns in (80, 100):
        shown = in_a_process(*command, COLUMNS=str(columns)).stdout
        # a command to copy is not broken
        lines = [line for line in shown.splitlines() if not line.startswith("next ")]
        assert max(map(len, lines)) <= columns
        assert "methodical-32b" in shown
