import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rsr_ray.config import ScoreConfig
from rsr_ray.demo.corpus import write_corpus
from rsr_ray.pipeline import score_corpus
from rsr_ray.run import Run

from ..conftest import DEMO_STUDENT, REPOSITORY, SHARED


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo-corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def a_corpus(demo_corpus):
    """A corpus and the settings to score it with: the real one where it is at hand (its short rows), else the demo's."""
    settings = {"student_name": "s", "replicas": 2}
    if SHARED.is_dir():
        return SHARED / "corpus", settings | {"student": str(SHARED / "students" / "tiny-qwen3"), "max_length": 1024}
    return demo_corpus, settings | {"student": str(DEMO_STUDENT)}


@pytest.fixture(scope="session")
def local_table(a_corpus, tmp_path_factory, local_ray):
    """Its teachers, from a run on local files."""
    corpus, settings = a_corpus
    return score(corpus, tmp_path_factory.mktemp("local"), **settings).teachers.to_pylist()


def as_options(settings: dict) -> list[str]:
    return [x for name, value in settings.items() for x in (f"--{name.replace('_', '-')}", str(value))]


def score(corpus, store, **changes) -> Run:
    corpus = tuple(map(str, corpus)) if isinstance(corpus, (list, tuple)) else (str(corpus),)
    return score_corpus(ScoreConfig(**({"corpus": corpus, "student": str(DEMO_STUDENT), "store": str(store), "replicas": 1} | changes)))


def stored(store, student: str = "student") -> list[dict]:
    """All score rows of a store, sorted by id."""
    rows = pq.read_table(f"{store}/scores/student={student}", partitioning=None).to_pylist()
    return sorted(rows, key=lambda row: (row["teacher"], row["trajectory_id"]))


def rsr_ray(*arguments, **environment) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "rsr_ray", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | environment, timeout=500)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def process(*command, ready, seconds: float = 60, **kwargs):
    """A server: started, waited for until `ready()` is true, and ended by its own pid."""
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kwargs)
    try:
        deadline = time.monotonic() + seconds
        while not ready():
            assert started.poll() is None, f"{command[0]} ended with {started.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} was not ready after {seconds} s"
            time.sleep(0.2)
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()


def listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0
