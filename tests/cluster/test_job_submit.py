"""`ray job submit` to a head started with `ray start --head`, by the README's own command."""

import json
import os
import subprocess

import pytest

from ..conftest import REPOSITORY
from .conftest import BIN, as_options, free_port, listens, ray_node, rsr_ray, wait_for

ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address of the dashboard of a real cluster of one node, in processes of its own."""
    dashboard = free_port()  # another Ray may hold the usual one
    options = [f"--port={free_port()}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={tmp_path_factory.mktemp('ray')}"]
    with ray_node("--head", *options):
        wait_for(lambda: listens(dashboard))
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
