"""Listing and reading score rows as units and as parts: python -m tests.cluster.measure_parts
[1000000] [FOLDER]

FOLDER may hold a store of tests/big_store.py that is not compacted. Once on this machine's disk,
and once from moto, behind a proxy that counts requests and the bytes of answers.
"""

import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rsr_ray.files.objects import list_infos, put
from rsr_ray.store.compaction import compact_once
from rsr_ray.store.store import Store

from ..big_store import FINGERPRINT, make_store
from .conftest import free_port, listens, process
from .flaky import flaky

COLUMNS = ["teacher", "prompt_hash", "row_hash", "reject_reason", "rank_sum", "surprisal_sum"]


def measure(store: Store) -> tuple[float, float, int]:
    """Seconds to list, seconds to read some columns of all rows, and these rows."""
    begun = time.monotonic()
    files = store.score_files(FINGERPRINT)
    listed = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        rows = sum(pool.map(lambda f: len(store.read_score_file(FINGERPRINT, f, COLUMNS)), files))
    return listed - begun, time.monotonic() - listed, rows


def told(what: str, store: Store, proxy=None) -> None:
    before = (sum(proxy.seen.values()), proxy.sent) if proxy else (0, 0)
    listed, read, rows = measure(store)
    line = f"{what}: {rows:,} rows, listed in {listed:.2f} s, read in {read:.1f} s"
    if proxy:
        n, sent = sum(proxy.seen.values()) - before[0], proxy.sent - before[1]
        line += f", {n:,} requests, {sent / 1e6:,.0f} MB"
    print(line, flush=True)


def said(store: Store) -> None:
    infos = list_infos(store.scores_uri, store.endpoint)
    size = sum(info.size for info in infos.values())
    print(f"  {len(infos):,} objects, {size / 1e6:,.0f} MB", flush=True)


def upload(store: Store, uri: str, endpoint: str) -> Store:
    root = Path(store.uri)
    files = [path for path in (root / "scores").rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda p: put(f"{uri}/{p.relative_to(root)}", p.read_bytes(), endpoint), files)
        )
    return Store(uri, "s", endpoint)


def main(n_rows: int, folder: str | None) -> None:
    with tempfile.TemporaryDirectory() as own:
        units = Store(folder, "s", None) if folder else make_store(f"{own}/units", n_rows)
        shutil.copytree(units.uri, f"{own}/parts")
        parts = Store(f"{own}/parts", "s", None)
        begun = time.monotonic()
        compact_once(parts, FINGERPRINT)
        print(f"compacted in {time.monotonic() - begun:.1f} s", flush=True)
        for what, store in (("units", units), ("parts", parts)) * 2:
            told(f"disk, {what}", store)
        said(units)
        said(parts)
        port = free_port()
        moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with process(*moto, ready=lambda: listens(port)), flaky(port) as proxy:
            endpoint = f"http://127.0.0.1:{port}"
            os.environ["AWS_ENDPOINT_URL"] = endpoint
            import pyarrow.fs as pafs

            fs = pafs.S3FileSystem(
                endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True
            )
            fs.create_dir("rsr")
            for what, store in (("units", units), ("parts", parts)):
                upload(store, f"s3://rsr/{what}", endpoint)
            for what in ("units", "parts"):
                told(f"S3, {what}", Store(f"s3://rsr/{what}", "s", proxy.url), proxy)


if __name__ == "__main__":
    main(int((sys.argv[1:] or [1_000_000])[0]), (sys.argv[2:] or [None])[0])
