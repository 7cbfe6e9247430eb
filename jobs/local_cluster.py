"""A whole cluster on loopback: a Ray head and a worker, an S3 server, a Pushgateway and Prometheus.

    python jobs/local_cluster.py [--s3-endpoint URL] [--bucket NAME]

It runs two nights of the demo's corpus and student, each by the command of
kubernetes/standing/cronjob.yaml, and asks Prometheus every query of monitoring/dashboard.json. Exit
code 1 where a night fails or a query returns no number. Needs `pip install '.[test]'`, and Debian's
prometheus and prometheus-pushgateway. The S3 server is moto's, or the one at --s3-endpoint.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import yaml

# the package beside this file, where it is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rsr_ray.demo.corpus import write_corpus

JOBS = Path(__file__).resolve().parent
STUDENT = JOBS.parent / "rsr_ray" / "demo" / "student"
NEW = "teacher=looping-3b"  # the teacher whose trajectories come in the second night
BIN = str(Path(sys.executable).parent)
RAY = {
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "PYTHONPATH": f"{JOBS.parent}:{os.environ.get('PYTHONPATH', '')}",
    "RAY_metrics_report_interval_ms": "500",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # a node that is told to end ends at once
}


@dataclass(frozen=True)
class Local:
    """Where the parts of the cluster listen, and a folder for their files."""

    folder: Path
    s3: str
    bucket: str
    dashboard: str  # Ray's, for jobs
    pushgateway: str
    prometheus: str


def free_port() -> int:
    while True:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return int(s.getsockname()[1])


@contextlib.contextmanager
def running(name: str, port: int, folder: Path, *command: str) -> Iterator[int]:
    """A server on a port of loopback, up before the body runs and gone after it."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | RAY)

    def is_up() -> bool:
        if started.poll() is not None:
            sys.exit(f"{name} ended with code {started.returncode}: {log.read_text()[-500:]}")
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(is_up, name)
        yield port
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(8)
        except subprocess.TimeoutExpired:
            started.kill()


def wait_for(ready: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not come up in {seconds:.0f} s")
        time.sleep(0.1)


@contextlib.contextmanager
def ray_node(name: str, folder: Path, *options: str) -> Iterator[int]:
    """A node of Ray with one CPU; the port of its metrics."""
    agent, grpc, metrics = free_port(), free_port(), free_port()
    ports = [
        f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={grpc}",
        f"--metrics-export-port={metrics}",
    ]
    sizes = ["--num-cpus=1", "--object-store-memory=200000000"]
    command = [f"{BIN}/ray", "start", *options, *ports, *sizes, "--block"]
    with running(name, agent, folder, *command):
        yield metrics


@contextlib.contextmanager
def cluster(s3: str | None, bucket: str) -> Iterator[Local]:
    """All parts, up."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsr-local-")))

        def up(name: str, port: int, *command: str) -> str:
            stack.enter_context(running(name, port, folder, *command))
            return f"http://127.0.0.1:{port}"

        if s3 is None:
            port = free_port()
            s3 = up("s3", port, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", f"-p{port}")
            os.environ |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
        os.environ |= {"AWS_ENDPOINT_URL": s3, "AWS_REGION": "us-east-1"}
        push, gcs, dashboard, prometheus = (free_port() for _ in range(4))
        at = f"--web.listen-address=127.0.0.1:{push}"
        nothing_kept = "--persistence.file="  # Debian's keeps what was pushed for the next one
        pushgateway = up("pushgateway", push, "prometheus-pushgateway", at, nothing_kept)
        where = ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}"]
        head = stack.enter_context(
            ray_node("head", folder, "--head", *where, f"--temp-dir={folder}/ray")
        )
        worker = stack.enter_context(ray_node("worker", folder, f"--address=127.0.0.1:{gcs}"))
        settings = write_prometheus(folder, push, head, worker)
        at = f"--web.listen-address=127.0.0.1:{prometheus}"
        data = f"--storage.tsdb.path={folder}/prometheus"
        watching = up("prometheus", prometheus, "prometheus", f"--config.file={settings}", at, data)
        yield Local(folder, s3, bucket, f"http://127.0.0.1:{dashboard}", pushgateway, watching)


def write_prometheus(folder: Path, push: int, *nodes: int) -> Path:
    """Prometheus' settings, as jobs/README.md asks for them, but for how often it looks."""
    scraped = {"rsr_ray": [push], "ray": nodes}
    settings = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(JOBS / "monitoring" / "alerts.yaml")],
        "scrape_configs": [
            {
                "job_name": name,
                "honor_labels": name == "rsr_ray",
                "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
            }
            for name, ports in scraped.items()
        ],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def upload(local: Local, corpus: Path, *, new: bool) -> None:
    """The demo's shards, without or with those of the teacher who is new in the second night."""
    fs = pafs.S3FileSystem(
        endpoint_override=local.s3, region="us-east-1", allow_bucket_creation=True
    )
    fs.create_dir(local.bucket)
    for path in sorted(corpus.rglob("part-*")):
        name = str(path.relative_to(corpus))
        if name.startswith(NEW) == new:
            with fs.open_output_stream(
                f"{local.bucket}/trajectories/{name}", compression=None
            ) as stream:
                stream.write(path.read_bytes())


def run_night(local: Local, night: str) -> None:
    """By the command of the CronJob, with a folder in place of its ConfigMap."""
    cron = yaml.safe_load_all((JOBS / "kubernetes" / "standing" / "cronjob.yaml").read_text())
    (job,) = [one["spec"]["jobTemplate"] for one in cron if one["kind"] == "CronJob"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    config = local.folder / "config"
    settings = {
        "corpus": [f"s3://{local.bucket}/trajectories"],
        "store": f"s3://{local.bucket}/rsr",
        "students": [{"student": str(STUDENT), "student_name": "demo"}],
        "replicas": 1,
        "unit_rows": 16,
        "pushgateway": local.pushgateway,
    }
    config.mkdir(exist_ok=True)
    (config / "nightly.yaml").write_text(yaml.safe_dump(settings))
    here = {"http://rsr-head-svc:8265": local.dashboard, "/etc/rsr": str(config)}
    command = [here.get(word, word) for word in container["command"]]
    done = subprocess.run(
        [*command, "--night", night], env=os.environ | RAY, capture_output=True, text=True
    )
    print(f"night {night}: exit code {done.returncode}", flush=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-1000:])


def ask(local: Local, path: str, **values: str) -> Any:
    """The data of Prometheus' answer. Exits where it refuses the query."""
    url = f"{local.prometheus}/api/v1/{path}?{urllib.parse.urlencode(values)}"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as e:
        sys.exit(f"{values}: {e.read().decode()}")


def answers(local: Local, since: float) -> dict[str, str]:
    """The dashboard's queries, by title, with their last values; "" for those without a number."""
    dashboard = json.loads((JOBS / "monitoring" / "dashboard.json").read_text())
    found = {}
    over = {"start": str(since), "end": str(time.time()), "step": "1"}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$store", ".+").replace("$student", ".+")
            series = ask(local, "query_range", query=query, **over)["result"]
            found[panel["title"]] = ", ".join(one["values"][-1][1] for one in series)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            series_of, label = variable["query"][len("label_values(") : -1].split(", ")
            there = ask(local, f"label/{label}/values", **{"match[]": series_of})
            found[f"${variable['name']}"] = ", ".join(there)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--s3-endpoint")
    parser.add_argument("--bucket", default="local")
    args = parser.parse_args()
    for program in ("prometheus", "prometheus-pushgateway"):
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install {program}")
    since = time.time()
    with cluster(args.s3_endpoint, args.bucket) as local:
        corpus = local.folder / "corpus"
        write_corpus(corpus)
        for night, new in (("1", False), ("2", True)):
            upload(local, corpus, new=new)
            run_night(local, night)
        pushed = f'rsr_run_new_trajectories{{store="s3://{local.bucket}/rsr"}}'
        wait_for(lambda: bool(ask(local, "query", query=pushed)["result"]), "what was pushed")
        found = answers(local, since)
        rules = [rule for group in ask(local, "rules")["groups"] for rule in group["rules"]]
    for title, value in found.items():
        print(f"{title:<55} {value or 'NO NUMBER'}")
    n_answered = sum(map(bool, found.values()))
    print(f"{n_answered} of {len(found)} queries of the dashboard have numbers")
    wrong = [
        rule["name"] for rule in rules if (rule["health"], rule["state"]) != ("ok", "inactive")
    ]
    print(f"{len(rules) - len(wrong)} of {len(rules)} alerts are evaluated and silent", *wrong)
    return int(not all(found.values()) or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
