import contextlib
import gzip
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from rsr_ray.cli import main
from rsr_ray.config.score import ScoreConfig
from rsr_ray.demo.corpus import conversation, make_problem, write_corpus
from rsr_ray.encode.aside import Aside
from rsr_ray.files.filesystems import open_filesystem
from rsr_ray.run import here as run_here
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.ledger import Run
from rsr_ray.run.pipeline import score_corpus

from ..conftest import DEMO_STUDENT, REPOSITORY, S3_KEYS, SHARED
from . import ceph
from .poison import forks

BIN = Path(sys.executable).parent
OWNER = ("rsr-ray-owner", "rsr-ray-owner-secret")  # keys of the gateway's second user
POISON = Path(__file__).parent / "poison"
HEAD = {
    "PYTHONPATH": f"{POISON}:{os.environ.get('PYTHONPATH', '')}",
    "RAY_metrics_report_interval_ms": "500",
    # Workers that hold torch already wait for the next run instead of ending after a second.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_num_workers_soft_limit": "6",
    # Workers have the priority of the tests and servers that wait for them; Ray gives them 15.
    "RAY_worker_niceness": "0",
    # A node that is gone is missed after three seconds instead of fifteen; one that is only slow
    # to answer has as long as before.
    "RAY_health_check_period_ms": "600",
}


@dataclass(frozen=True)
class Head:
    """The Ray of the session: a cluster of one node in processes of its own."""

    address: str
    dashboard: str
    metrics: int
    logs: Path


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def head(request, tmp_path_factory):
    """One head for all tests; its workers are forked, and a poison text crashes their tokenizer.
    It has a dashboard, which takes a dozen processes, where a test submits jobs.
    """
    port, dashboard, temp = free_port(), free_port(), tmp_path_factory.mktemp("ray")
    with_jobs = any("test_job_submit" in item.path.name for item in request.session.items)
    options = [
        f"--port={port}",
        f"--include-dashboard={with_jobs}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--temp-dir={temp}",
    ]
    socket_of = tmp_path_factory.mktemp("forks") / "socket"
    forked = {forks.SOCKET: str(socket_of), f"{forks.SOCKET}_PYTHONPATH": HEAD["PYTHONPATH"]}
    server = process(
        sys.executable,
        POISON / "forks.py",
        socket_of,
        ready=lambda: True,  # it imports while Ray starts; workers wait for it
        env=os.environ | HEAD,
    )
    with server, ray_node("--head", *options, **HEAD, **forked) as (_, metrics):
        wait_for(lambda: socket_of.exists() and (listens(dashboard) or not with_jobs))
        yield Head(
            f"127.0.0.1:{port}",
            f"http://127.0.0.1:{dashboard}",
            metrics,
            temp / "session_latest" / "logs",
        )


@pytest.fixture(scope="session")
def local_ray(head):
    """This process connected to the session's Ray: what runs here starts none of its own."""
    import ray

    ray.init(address=head.address, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def asides():
    """Processes aside, kept for the next that wants the same: the start of each takes seconds."""
    kept: dict[tuple, Aside] = {}

    def kept_or_started(*wanted):
        if wanted not in kept:
            kept[wanted] = Aside(*wanted)
            kept[wanted].close = lambda: None
        return kept[wanted]

    yield kept_or_started
    for one in kept.values():
        Aside.close(one)


@pytest.fixture(scope="module")
def here(asides):
    """Small runs of a module whose point is not Ray do without it, as a user's do; this process
    may be connected to one by now, which alone would send them there. What needs Ray in any case,
    such as choose and rescore, takes `local_ray` as well.
    """
    aside = asides(run_here._ready_to_encode, str(DEMO_STUDENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "is_elsewhere", property(lambda self: self.address != "local"))
        patch.setattr(run_here, "Aside", lambda *_: aside)
        yield


@pytest.fixture(scope="module")
def brief_doctor(asides):
    """A doctor who measures the speed on three small batches instead of for three seconds, and
    renders with the process of the one before, where student and settings are the same.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TIMED_SECONDS", "BATCH_SECONDS"):
            patch.setattr(f"rsr_ray.run.doctor.engine.{name}", 0.0)
        patch.setattr("rsr_ray.run.doctor.student.Aside", asides)
        yield


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo-corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def demo_run(local_ray, demo_corpus, tmp_path_factory):
    """A run over the demo's corpus, and its store: to be read, or copied."""
    store = tmp_path_factory.mktemp("store")
    return score(demo_corpus, store, unit_rows=16, replicas=1), store


@pytest.fixture(scope="session")
def demo_store(demo_run):
    return demo_run[1]


@pytest.fixture(scope="session")
def shuffled_run(local_ray, demo_corpus, tmp_path_factory):
    """The same by two replicas, from shards in another order."""
    store, shards = tmp_path_factory.mktemp("shuffled"), sorted(demo_corpus.rglob("part-*"))
    random.Random(1).shuffle(shards)
    return score(shards, store, unit_rows=16, replicas=2), store


@pytest.fixture(scope="session")
def a_corpus(demo_corpus):
    """A corpus and the settings to score it with: the real one where it is at hand (its short
    rows), else the demo's.
    """
    settings = {"student_name": "s", "replicas": 1, "max_rejects": 1.0}
    if SHARED.is_dir():
        return SHARED / "corpus", settings | {
            "student": str(SHARED / "students" / "tiny-qwen3"),
            "max_length": 300,
        }
    return demo_corpus, settings | {"student": str(DEMO_STUDENT)}


@pytest.fixture(scope="session")
def local_table(a_corpus, tmp_path_factory, local_ray):
    """Its teachers, from a run on local files."""
    corpus, settings = a_corpus
    return score(corpus, tmp_path_factory.mktemp("local"), **settings).teachers.to_pylist(
        maps_as_pydicts="strict"
    )


@pytest.fixture(scope="session")
def moto():
    """The port of an S3 server that is quick."""
    port = free_port()
    with process(
        sys.executable,
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
        ready=lambda: listens(port),
    ):
        yield port


@pytest.fixture(scope="session")
def gateway():
    """The port of an S3 server as sites run it."""
    if not ceph.available():
        if os.environ.get("CI"):
            pytest.fail("CI runs the Ceph part: python tests/cluster/ceph.py --unpack")
        pytest.skip("no Ceph gateway unpacked: python tests/cluster/ceph.py --unpack")
    port = free_port()
    users = {"test": (S3_KEYS["AWS_ACCESS_KEY_ID"], S3_KEYS["AWS_SECRET_ACCESS_KEY"])}
    with ceph.gateway(port, (free_port(), free_port()), users | {"owner": OWNER}):
        yield port


CEPH = pytest.param("ceph", marks=pytest.mark.ceph)
# Every day on one of both servers, where it makes no difference.
on_moto = pytest.mark.parametrize(
    "s3",
    ["moto", pytest.param("ceph", marks=[pytest.mark.ceph, pytest.mark.slow])],
    indirect=True,
    scope="module",
)
on_ceph = pytest.mark.parametrize(
    "s3", [pytest.param("moto", marks=pytest.mark.slow), CEPH], indirect=True, scope="module"
)


@pytest.fixture(scope="module", params=["moto", CEPH])
def s3(request):
    """The endpoint of a server whose bucket `rsr` is empty."""
    port = request.getfixturevalue({"moto": "moto", "ceph": "gateway"}[request.param])
    endpoint = f"http://127.0.0.1:{port}"
    fs = pafs.S3FileSystem(
        endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True
    )
    fs.create_dir("rsr")
    fs.delete_dir_contents("rsr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        yield fs, endpoint


def upload(fs, folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("part-*")):
        with fs.open_output_stream(
            f"{prefix}/{path.relative_to(folder)}", compression=None
        ) as stream:
            stream.write(path.read_bytes())


def write_many(
    folder: Path,
    n_shards: int,
    rows: int,
    teachers=("terse-7b", "formal-72b", "methodical-32b", "flowery-8b"),
    seed: int = 0,
) -> None:
    """A corpus of n_shards x rows trajectories; shards are jsonl, jsonl.gz and parquet by turns."""
    rng = random.Random(seed)
    for n in range(n_shards):
        teacher = teachers[n % len(teachers)]
        many = [
            {
                "id": f"{seed}/{n}/{i}",
                "prompt_id": f"{n}/{i}",
                "messages": conversation(teacher, make_problem(rng), rng),
            }
            for i in range(rows)
        ]
        shard = folder / f"teacher={teacher}" / f"part-{seed}-{n:03d}"
        shard.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in many)
        if n % 3 == 0:
            Path(f"{shard}.jsonl").write_text(text)
        elif n % 3 == 1:
            Path(f"{shard}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            pq.write_table(pa.Table.from_pylist(many), f"{shard}.parquet", row_group_size=rows // 4)


def as_options(settings: dict) -> list[str]:
    return [
        x for name, value in settings.items() for x in (f"--{name.replace('_', '-')}", str(value))
    ]


def score(corpus, store, **changes) -> Run:
    """A run: on the Ray that this process is connected to, or without any (see `here`)."""
    replicas = 1 if Cluster(None).is_elsewhere else None
    corpus = tuple(map(str, corpus)) if isinstance(corpus, (list, tuple)) else (str(corpus),)
    return score_corpus(
        ScoreConfig(
            **(
                {"corpus": corpus, "student": str(DEMO_STUDENT), "store": str(store)}
                | {"replicas": replicas}
                | changes
            )
        )
    )


def stored(store, student: str = "student", endpoint: str | None = None) -> list[dict]:
    """All score rows of a store, sorted by id."""
    fs, path = open_filesystem(f"{store}/scores/student={student}", endpoint)
    rows = pq.read_table(path, filesystem=fs, partitioning=None).to_pylist()
    return sorted(rows, key=lambda row: (row["teacher"], row["trajectory_id"]))


def rsr_ray(*arguments) -> subprocess.CompletedProcess:
    """The command line in this process, on the Ray that it is connected to: what a user would
    see of it, and the exit code.
    """
    command, out, errors = list(map(str, arguments)), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(command)
    return subprocess.CompletedProcess(command, code, out.getvalue(), errors.getvalue())


def in_a_process(*arguments, **environment) -> subprocess.CompletedProcess:
    """The command line in a process of its own; without an address it starts a Ray of its own,
    if it gets so far.
    """
    command = [sys.executable, "-m", "rsr_ray", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | environment,
        timeout=500,
    )


def free_port() -> int:
    """A port that nobody holds, above those of Ray's workers and below those that outgoing
    connections may take meanwhile.
    """
    while True:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return s.getsockname()[1]


@contextlib.contextmanager
def process(*command, ready, seconds: float = 180, **kwargs):
    """A server: started, waited for until `ready()` is true, and ended by its own pid."""
    started = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kwargs
    )
    try:
        wait_for(lambda: started.poll() is not None or ready(), seconds)
        assert started.poll() is None, f"{command[0]} ended with {started.returncode}"
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()


def wait_for(ready, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def ray_node(*options: str, cpus: int = 2, **environment: str):
    """`ray start` in processes of its own, beside any other Ray of this machine: the process,
    and the port of its metrics.
    """
    agent, grpc, metrics = (free_port() for _ in range(3))
    ports = [
        f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={grpc}",
        f"--metrics-export-port={metrics}",
    ]
    command = [
        str(BIN / "ray"),
        "start",
        *options,
        *ports,
        f"--num-cpus={cpus}",
        "--object-store-memory=400000000",
        "--disable-usage-stats",
        "--block",
    ]
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | environment
    with process(*command, ready=lambda: listens(agent), env=env) as node:
        try:
            yield node, metrics
        finally:
            kill(node.pid, *descendants(node.pid))  # asked to end, it takes its time


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    found = []
    for child in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if int(child.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(child.parent.name), *descendants(int(child.parent.name))]
    return found


def replicas() -> list[int]:
    """Processes of this machine that hold a student."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"ray::" in (title := path.read_bytes()) and b"Score" in title:
                found.append(int(path.parent.name))
    return found


def send(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill(*pids: int) -> None:
    send(signal.SIGKILL, *pids)
