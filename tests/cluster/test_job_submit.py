"""`ray job submit` to a head started with `ray start --head`, by the README's own command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import REPOSITORY
from .conftest import free_port, listens, process, score
from .test_s3 import corpus_under_test

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address of the dashboard of a real cluster of one node, in processes of its own."""
    gcs, dashboard = free_port(), free_port()
    options = {
        "port": gcs, "dashboard-host": "127.0.0.1", "dashboard-port": dashboard, "num-cpus": 2, "object-store-memory": 300_000_000,
        "temp-dir": tmp_path_factory.mktemp("ray"), "disable-usage-stats": None, "block": None,
    }  # fmt: skip
    flags = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    with process(str(BIN / "ray"), "start", "--head", *flags, ready=lambda: listens(dashboard), env=environment):
        yield f"http://127.0.0.1:{dashboard}"


def test_the_same_table_as_a_submitted_job(head, demo_corpus, tmp_path, local_ray):
    corpus, settings = corpus_under_test(demo_corpus)
    local = score(corpus, tmp_path / "local", **(settings | {"replicas": 2}))
    settings.setdefault("student", "rsr_ray/demo/student")
    options = [x for name, value in settings.items() for x in (f"--{name.replace('_', '-')}", str(value))]
    command = ["python", "jobs/score.py", "--corpus", str(corpus), "--store", str(tmp_path / "store"), "--replicas", "2", *options]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", head, "--working-dir", ".", "--", *command],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    shown = subprocess.run(
        [sys.executable, "-m", "rsr_ray", "teachers", "--store", str(tmp_path / "store"), "--student", "s", "--json"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(shown.stdout) == local.teachers.to_pylist()


def test_a_job_with_a_mistake_fails(head):
    done = subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", head, "--working-dir", ".", "--", "python", "jobs/score.py", "--corpus", "/nowhere",
         "--student", "rsr_ray/demo/student", "--store", "/tmp/never"],
        cwd=REPOSITORY, env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode != 0
    assert "there is no such file or folder" in done.stdout + done.stderr
