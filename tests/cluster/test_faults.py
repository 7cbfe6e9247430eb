"""Faults at random times in runs of 24 work units: the store ends up as if nothing had happened.

Corpus and store lie on a real S3 server, the runs that are disturbed are processes of their own.
"""

import contextlib
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.files.objects import get, list_files, put

from ..conftest import DEMO_STUDENT, REPOSITORY, few
from .conftest import (
    HEAD,
    descendants,
    kill,
    on_moto,
    ray_node,
    replicas,
    rsr_ray,
    send,
    stored,
    upload,
    wait_for,
    write_many,
)
from .flaky import flaky
from .poison.sitecustomize import POISON

N_SHARDS, ROWS, UNIT = few(16, 8), 30, 12  # 48 units with RSR_RAY_WHOLE=1
N_UNITS = N_SHARDS * 3
CORPUS = "s3://rsr/corpus"

# not on the Ceph gateway as well
everyday = pytest.mark.parametrize("s3", ["moto"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def corpus(s3, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_many(folder, N_SHARDS, ROWS)
    upload(s3[0], folder, "rsr/corpus")
    return folder


@pytest.fixture(scope="module")
def undisturbed(s3, head, local_ray, corpus):
    """All rows, and the teachers, of a run without a fault."""
    done = rsr_ray(*command(head, "s3://rsr/undisturbed"))
    assert done.returncode == 0, done.stderr[-3000:]
    return stored("s3://rsr/undisturbed", endpoint=s3[1]), teachers("s3://rsr/undisturbed", s3[1])


def command(head, store: str, **changes) -> list[str]:
    options = {
        "corpus": CORPUS, "student": DEMO_STUDENT, "store": store, "unit-rows": UNIT, "replicas": 2,
        "ray-address": head.address, "dtype": "float32",
    } | changes  # fmt: skip
    return [
        "score",
        "--json",
        *(str(x) for name, value in options.items() for x in (f"--{name}", value)),
    ]


def teachers(store: str, endpoint: str) -> list[dict]:
    return pq.read_table(
        pa.BufferReader(get(f"{store}/teachers/student=student.parquet", endpoint))
    ).to_pylist()


def units(store: str, endpoint: str) -> int:
    return sum(name.endswith(".parquet") for name in list_files(f"{store}/scores", endpoint))


@contextlib.contextmanager
def started(arguments: list[str], store: str, endpoint: str, share: float, **environment):
    """A run in a process of its own, once so large a share of its units is written."""
    with tempfile.TemporaryFile("w+") as errors:
        run = subprocess.Popen(
            [sys.executable, "-m", "rsr_ray", *arguments], stdout=subprocess.PIPE, stderr=errors,
            text=True, cwd=REPOSITORY, env=os.environ | environment,
        )  # fmt: skip
        try:
            wait_for(
                lambda: run.poll() is not None or units(store, endpoint) >= max(1, share * N_UNITS),
                240,
            )
            assert run.poll() is None, f"the run ended with {run.returncode} before the fault"
            yield run
        finally:
            run.kill()
            run.wait()
            errors.seek(0)
            print(errors.read()[-4000:])


def ended(run: subprocess.Popen) -> dict:
    """The record of a run that ends well."""
    out, _ = run.communicate(timeout=400)
    assert run.returncode == 0
    return json.loads(out.splitlines()[-1])


def check(store: str, s3, undisturbed) -> None:
    rows, table = undisturbed
    assert stored(store, endpoint=s3[1]) == rows
    assert teachers(store, s3[1]) == table
    assert len({row["trajectory_id"] for row in rows}) == len(rows) == N_SHARDS * ROWS


@pytest.fixture
def moment(request):
    """When the fault comes: the share of the units that is written by then."""
    share = random.uniform(0.02, 0.6)
    print(f"{request.node.name}: the fault comes after {share:.0%} of the units")
    return share


@everyday
def test_two_runs_at_once_that_cut_units_of_different_sizes(head, s3, undisturbed):
    """Without a lease, and with units that overlap: work is done twice, and the next run leaves
    every row there once.
    """
    store = "s3://rsr/both"
    other = command(head, store, **{"unit-rows": 8, "replicas": 1})
    with started(command(head, store, replicas=1), store, s3[1], 0.02) as one:
        again = rsr_ray(*other)
        ended(one)
    assert again.returncode == 0, again.stderr[-3000:]
    done = rsr_ray(*command(head, store))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = stored(store, endpoint=s3[1])
    assert [(r["trajectory_id"], r["n_tokens"], r["rank_sum"]) for r in rows] == [
        (r["trajectory_id"], r["n_tokens"], r["rank_sum"]) for r in undisturbed[0]
    ]
    assert {t["n_duplicates"] for t in teachers(store, s3[1])} == {0}


@everyday
def test_a_killed_replica(head, s3, undisturbed, moment):
    with started(command(head, "s3://rsr/replica"), "s3://rsr/replica", s3[1], moment) as run:
        victims = replicas()
        assert len(victims) == 2
        kill(random.choice(victims))
        record = ended(run)
    assert record["equation"]["scored"] == N_SHARDS * ROWS
    check("s3://rsr/replica", s3, undisturbed)


@on_moto
def test_a_killed_driver_loses_at_most_a_unit_a_replica(head, s3, undisturbed, moment):
    store = "s3://rsr/driver"
    with started(command(head, store), store, s3[1], moment) as run:
        kill(run.pid)
    wait_for(lambda: not replicas())  # what was in their hands may still be written
    there = len(stored(store, endpoint=s3[1]))
    done = rsr_ray(*command(head, store))
    assert done.returncode == 0, done.stderr[-3000:]
    equation = json.loads(done.stdout.splitlines()[-1])["equation"]
    assert equation["already_scored"] == there > 0
    assert equation["scored"] == N_SHARDS * ROWS - there
    check(store, s3, undisturbed)


@on_moto
def test_a_quarter_of_the_requests_fails(head, s3, undisturbed, moment):
    store, ways = "s3://rsr/flaky", ("500", "503", "drop before", "drop within", "drop after")
    port = int(s3[1].rpartition(":")[2])
    with flaky(port) as proxy:
        arguments = command(head, store, **{"s3-endpoint": proxy.url})
        with started(arguments, store, s3[1], moment, AWS_ENDPOINT_URL=proxy.url) as run:
            proxy.ways, proxy.share = ways, 0.25
            record = ended(run)
        assert all(proxy.seen[way] for way in ways), proxy.seen
        assert sum(proxy.seen[way] for way in ways) > 20, proxy.seen
    assert record["equation"]["scored"] == N_SHARDS * ROWS
    check(store, s3, undisturbed)


@everyday
def test_a_shard_cut_off_while_the_run_reads(head, s3, undisturbed, corpus, moment):
    endpoint = s3[1]
    store = "s3://rsr/cut"
    shards = sorted(corpus.rglob("part-*.jsonl.gz"))
    shard = random.choice(shards)
    uri = f"{CORPUS}/{shard.relative_to(corpus)}"
    with started(command(head, store), store, endpoint, moment) as run:
        put(uri, shard.read_bytes()[: shard.stat().st_size // 2], endpoint)
        run.communicate(timeout=400)
    assert run.returncode in (0, 1)  # 0 where the shard had been scored before
    cut = rsr_ray(*command(head, store))
    assert cut.returncode == 1, "a shard that cannot be read to its end is no success"
    assert uri in cut.stderr.splitlines()[-1]
    rejects = [row for row in stored(store, endpoint=endpoint) if row["reject_reason"]]
    assert [(row["reject_reason"], row["source"]) for row in rejects] == [("unreadable_shard", uri)]
    put(uri, shard.read_bytes(), endpoint)
    mended = rsr_ray(*command(head, store))
    assert mended.returncode == 0, mended.stderr[-3000:]
    check(store, s3, undisturbed)


@everyday
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_disk_that_is_full_for_a_while(head, s3, undisturbed, moment, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", store], check=True)
    try:
        with started(command(head, str(store)), str(store), s3[1], moment) as run:
            with (
                contextlib.suppress(OSError),
                open(store / "ballast", "wb", buffering=0) as ballast,
            ):
                while True:
                    ballast.write(b"\0" * 4096)
            run.communicate(timeout=400)
        assert run.returncode == 1
        assert not [
            p.name for p in (store / "scores").rglob("*") if p.is_file() and p.suffix != ".parquet"
        ]
        (store / "ballast").unlink()
        done = rsr_ray(*command(head, str(store)))
        assert done.returncode == 0, done.stderr[-3000:]
        check(str(store), s3, undisturbed)
    finally:
        subprocess.run(["umount", store], check=True)


@everyday
def test_a_row_that_crashes_the_tokenizer(head, s3, undisturbed, corpus):
    """The same corpus with one row more: a conversation on which native code dies."""
    store, extra = "s3://rsr/poison", "s3://rsr/extra/teacher=terse-7b/part-x.jsonl"
    lines = (
        gzip.decompress(sorted(corpus.rglob("teacher=terse-7b/*.gz"))[0].read_bytes())
        .decode()
        .splitlines()
    )
    rows = [json.loads(line) | {"id": f"extra/{n}"} for n, line in enumerate(lines)]
    rows[random.randrange(len(rows))] |= {
        "id": "poison",
        "messages": [
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": POISON},
        ],
    }
    put(extra, "".join(json.dumps(row) + "\n" for row in rows).encode(), s3[1])
    arguments = command(head, store)
    arguments[arguments.index("--corpus") + 1 : arguments.index("--corpus") + 2] = [
        CORPUS,
        "s3://rsr/extra",
    ]
    done = rsr_ray(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    got = stored(store, endpoint=s3[1])
    added = [row for row in got if "/extra/" in row["source"]]
    assert [
        (row["trajectory_id"], row["reject_reason"]) for row in added if row["reject_reason"]
    ] == [("poison", "tokenizer_error")]
    assert len(added) == len(rows)
    assert [row for row in got if "/extra/" not in row["source"]] == undisturbed[0]


@everyday
def test_a_lost_node(head, s3, undisturbed):
    store = "s3://rsr/node"
    with ray_node(f"--address={head.address}", **HEAD) as (worker, _):
        paused: set[int] = set()

        def is_used() -> bool:
            """Whether a replica is on the worker. Those on the head pause until then: they would
            do all the work before it is there.
            """
            found, of_worker = {*replicas()}, {*descendants(worker.pid)}
            send(signal.SIGSTOP, *found - of_worker - paused)
            paused.update(found - of_worker)
            return bool(found & of_worker)

        # The head has room for four replicas, so two are on the worker wherever Ray begins.
        with started(command(head, store, replicas=6), store, s3[1], share=0) as run:
            try:
                wait_for(lambda: is_used() or run.poll() is not None)
                assert run.poll() is None, "the run ended before a replica started on the worker"
                kill(*descendants(worker.pid), worker.pid)
            finally:
                send(signal.SIGCONT, *paused)
            record = ended(run)
    assert record["equation"]["scored"] == N_SHARDS * ROWS
    check(store, s3, undisturbed)


@everyday
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_driver_killed_at_twenty_random_times(head, s3, undisturbed):
    """The same command again and again, killed 0 to 30 s after its start; a store that is whole
    is checked, and a new one begun.
    """
    kills = finished = 0
    there, store = 0, "s3://rsr/soak-0"
    while kills < 20 or there:
        run = subprocess.Popen(
            [sys.executable, "-m", "rsr_ray", *command(head, store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            out, _ = run.communicate(timeout=random.uniform(0, 30) if kills < 20 else 400)
        except subprocess.TimeoutExpired:
            kill(run.pid)
            run.communicate()
            kills += 1
            wait_for(lambda: not replicas())
            there = units(store, s3[1])
            print(f"kill {kills}: {there} of {N_UNITS} units are there")
            continue
        assert run.returncode == 0
        equation = json.loads(out.splitlines()[-1])["equation"]
        assert equation["already_scored"] + equation["scored"] == N_SHARDS * ROWS
        check(store, s3, undisturbed)
        finished += 1
        there, store = 0, f"s3://rsr/soak-{finished}"
    print(f"{kills} kills, {finished} stores made whole and equal to the undisturbed one")
