"""A corpus of many shards: python -m tests.cluster.measure_shards [100000] [packed]

Writes so many JSON Lines files of a short row each, too big for packs (70 KB, most of it a hole in
the file) or, with `packed`, small ones. Prints, of steps that follow each other in one process,
seconds and the peak memory of that process so far: finding the files, looking at the first rows,
asking the store, planning, and the time until the first unit is written; then of a whole command
that finds nothing new. Last, of finding as many objects on an S3 server of its own that only lists.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.plan import make_plan
from rsr_ray.corpus.shards import find_corpus
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.datasets import one_block_a_row
from rsr_ray.run.ledger import Run
from rsr_ray.run.pipeline import build_scores, score_corpus
from rsr_ray.run.resources import take
from rsr_ray.store.packs import pack_up
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name
from rsr_ray.student.facts import identify, inspect_identified

from ..conftest import DEMO_STUDENT, S3_KEYS

BIG = 70_000  # bytes of a file, more than a pack takes


def write(folder: Path, first: int, stop: int, *, packed: bool) -> None:
    for n in range(first, stop):
        path = folder / f"teacher=t{n % 40:02}" / f"{n:06}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"id": f"r{n}", "prompt": f"{n} and 2?", "response": f"It is {n + 2}."}
        with path.open("w") as file:
            file.write(json.dumps(row) + "\n")
            if not packed:
                file.truncate(BIG)


@contextmanager
def step(name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:24} {time.monotonic() - begun:6.1f} s, peak {peak:6,.0f} MiB", flush=True)


def config_of(folder: str, **more: object) -> ScoreConfig:
    return ScoreConfig(
        corpus=(f"{folder}/corpus",), store=f"{folder}/store", student=str(DEMO_STUDENT),
        max_rejects=1.0, **more,
    )  # fmt: skip


def plan(folder: str) -> None:
    """Up to the first unit."""
    config = config_of(folder, replicas=1)
    run, store = Run(config), Store(config.store, str(config.student_name), None)
    with step("imports"):
        pass
    with step("finding the files"):
        files, _ = find_corpus(config.corpus, None, config.store)
    with step("the first rows"):
        run.reading = make_plan(files, None, config.reading)
    identity = identify(config.student, False, None)
    student = inspect_identified(identity, config.student, False, None)
    with step("the student"):
        run.settle(store, student, "float32")
    with step("asking the store"):
        objects = run.units.find(store, run.generation, files)
    with step("planning"):
        todo = run.plan(objects)
    print(f"{todo.num_rows:,} objects, {todo.nbytes / 2**20:.0f} MiB")
    with Cluster(None) as cluster:
        with step("starting Ray"):
            cluster.connect()
            run.use(take(config))
        with step("the first unit"), one_block_a_row():
            written = build_scores(todo, run, student, store).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
            next(iter(written))


def find_on_s3(endpoint: str) -> None:
    with step("finding them on S3"):
        files, _ = find_corpus(("s3://rsr/corpus",), endpoint, None)
    print(f"{len(files):,} objects")


def serve(n: int) -> str:
    """The endpoint of a server that lists so many shards, 1,000 a page, 50 ms a page."""
    when = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    facts = f"{when}<ETag>&quot;0&quot;</ETag><Size>70000</Size>"
    entry = f"<Contents><Key>{{}}</Key>{facts}</Contents>"
    keys = sorted(f"corpus/teacher=t{shard % 40:02}/{shard:06}.jsonl" for shard in range(n))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            time.sleep(0.05)
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            first = int(query.get("continuation-token", "0"))
            page = "".join(entry.format(key) for key in keys[first : first + 1000])
            if first + 1000 < n:
                token = f"{first + 1000}</NextContinuationToken>"
                page += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}"
            listing = f"<ListBucketResult><Name>rsr</Name>{page}</ListBucketResult>"
            content = f'<?xml version="1.0"?>{listing}'.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.send_header("content-type", "application/xml")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def fill(folder: str, n: int) -> None:
    """Give the store a unit of each shard, as if all were scored: by their names and the teachers
    table, which is all that a run with nothing new looks at.
    """
    config = config_of(folder)
    store = Store(config.store, str(config.student_name), None)
    ((fingerprint, names),) = store.units().items()
    mark = store.read_mark(fingerprint, names[0]) or ""
    store.drop(fingerprint, names)
    files, _ = find_corpus(config.corpus, None, config.store)
    assert len(files) == n
    for obj in pack_up(files, store, [])[0]:
        facts = {"key": obj.key, "version": obj.version + config.reading.label}
        facts |= {"start": 0, "stop": 1, "last": True}
        path = Path(store.unit_uri(fingerprint, unit_name(facts)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    units = store.counted(fingerprint)
    store.write_teachers(store.read_teachers(), units, dict.fromkeys(units, mark))


def again(folder: str) -> None:
    with step("a run with nothing new"):
        run = score_corpus(config_of(folder))
    print(run.equation)


def main(n: int, *, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "corpus")
        write(folder, 0, n, packed=packed)
        command = [sys.executable, "-m", "tests.cluster.measure_shards"]
        subprocess.run([*command, "plan", name], check=True)
        for path in Path(name, "store").rglob("*"):
            if path.is_file():
                path.unlink()
        alone = Path(name, "alone")
        os.rename(folder, alone)
        write(folder, 0, 1, packed=packed)
        score_corpus(config_of(name))
        folder.rename(Path(name, "first"))
        os.rename(alone, folder)
        subprocess.run([*command, "fill", name, str(n)], check=True)
        subprocess.run([*command, "again", name], check=True)
    subprocess.run([*command, "s3", serve(n)], check=True, env=os.environ | S3_KEYS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["plan"]:
        plan(sys.argv[2])
    elif sys.argv[1:2] == ["fill"]:
        fill(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["again"]:
        again(sys.argv[2])
    elif sys.argv[1:2] == ["s3"]:
        find_on_s3(sys.argv[2])
    else:
        numbers = [int(given) for given in sys.argv[1:] if given.isdigit()]
        main(numbers[0] if numbers else 100_000, packed="packed" in sys.argv)
