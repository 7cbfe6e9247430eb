"""`ray job submit` to a head started with `ray start --head`, by the README's own command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import REPOSITORY
from .conftest import as_options, free_port, listens, process, rsr_ray

BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address of the dashboard of a real cluster of one node, in processes of its own."""
    gcs, dashboard, agent, grpc, metrics = (free_port() for _ in range(5))  # another Ray may hold the usual ones
    options = {
        "port": gcs, "dashboard-host": "127.0.0.1", "dashboard-port": dashboard, "num-cpus": 2, "object-store-memory": 300_000_000,
        "dashboard-agent-listen-port": agent, "dashboard-agent-grpc-port": grpc, "metrics-export-port": metrics,
        "temp-dir": tmp_path_factory.mktemp("ray"), "disable-usage-stats": None, "block": None,
    }  # fmt: skip
    flags = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    with process(str(BIN / "ray"), "start", "--head", *flags, ready=lambda: listens(dashboard) and listens(agent), env=ENVIRONMENT):
        yield f"http://127.0.0.1:{dashboard}"


def submit(head: str, *command) -> subprocess.CompletedProcess:
    """The README's command line."""
    return subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", head, "--working-dir", ".", "--", "python", "jobs/score.py", *map(str, command)],
        cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def test_the_same_table_as_a_submitted_job(head, a_corpus, local_table, tmp_path):
    corpus, settings = a_corpus
    done = submit(head, "--corpus", corpus, "--store", tmp_path / "store", *as_options(settings))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    shown = rsr_ray("teachers", "--store", tmp_path / "store", "--student", "s", "--json")
    assert json.loads(shown.stdout) == local_table


def test_a_job_with_a_mistake_fails(head):
    done = submit(head, "--corpus", "/nowhere", "--student", "rsr_ray/demo/student", "--store", "/nowhere/store")
    assert done.returncode != 0
    assert "there is no such file or folder" in done.stdout + done.stderr
