"""here: what a small run of this machine's files needs in place of Ray, whose start takes longer
than the run.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from glob import glob
from typing import Self

import pyarrow as pa

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.row_faults import Row
from rsr_ray.encode.aside import Aside, Ended, time_limit
from rsr_ray.encode.encode import Encode, encode_rows, with_rows
from rsr_ray.encode.how import How
from rsr_ray.files.filesystems import protocol_of
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.resources import (
    AUTO_DTYPES,
    BATCH_TOKENS,
    FLOPS,
    WORTHWHILE_SECONDS,
    Resources,
    flops_of,
)
from rsr_ray.student.tokenizer import load_tokenizer

GPUS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # asking torch would cost seconds


def fits_here(config: ScoreConfig, cluster: Cluster, uris: Iterable[str], n_bytes: int) -> bool:
    """Whether shards `uris` of `n_bytes` in all are scored without Ray: they and the store lie on
    this machine, it has no GPU, no cluster is named, and one replica has work for seconds only."""
    if cluster.is_elsewhere or config.replicas or config.gpus_per_replica:
        return False
    if any(protocol_of(uri) != "file" for uri in (config.store, *uris)):
        return False
    is_small = flops_of(config.student, n_bytes) <= FLOPS["cpu"] * WORTHWHILE_SECONDS
    return is_small and not any(glob(pattern) for pattern in GPUS)


def resources_here(config: ScoreConfig) -> Resources:
    """What a run in this process takes of its machine."""
    return Resources(
        replicas=1,
        gpus_per_replica=0,
        dtype=AUTO_DTYPES["cpu"] if config.dtype == "auto" else config.dtype,
        batch_tokens=config.batch_tokens or BATCH_TOKENS["cpu"],
    )


class Encoder:
    """Encodes the rows of units in a process aside, which one of them may end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._aside: Future[Aside] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._aside is not None:
            self._aside.add_done_callback(_close)  # who ends while it starts does not wait for it
        self._pool.shutdown(wait=False, cancel_futures=True)

    def start(self, student: str) -> None:
        """Start the process, in the background, unless it was started."""
        if self._aside is None:
            self._aside = self._pool.submit(Aside, _ready_to_encode, student)

    def encoded(self, units: Iterable[pa.Table], source: str, how: How) -> Iterator[pa.Table]:
        """What `Encode` gives for units, each encoded while the caller has the one before."""
        self.start(source)
        coming: Future[pa.Table] | None = None
        for unit in units:
            ready, coming = coming, self._pool.submit(self._encode, unit, source, how)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()

    def _encode(self, unit: pa.Table, source: str, how: How) -> pa.Table:
        assert self._aside is not None
        (rows,) = unit["rows"].to_pylist()
        try:
            encoded = self._aside.result().ask((rows, source, how))
        except Ended:  # over one of the rows: `encode_aside` finds out which
            encoded = Encode(source, how).encode_aside(rows)
        return with_rows(unit, encoded)


def _close(started: Future[Aside]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().close()


def _ready_to_encode(student: str) -> Callable[[tuple[list[Row], str, How]], list[Row]]:
    with contextlib.suppress(Exception):  # whoever inspects the student says what is wrong with it
        load_tokenizer(student)  # what it imports takes seconds
    return lambda asked: encode_rows(*asked, limit=time_limit)
