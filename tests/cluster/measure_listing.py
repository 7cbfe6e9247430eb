"""How long it takes to find out what is done in a store of a million units: python
tests/cluster/measure_listing.py [1000000]

Once on this machine's disk, with empty files, and once from an S3 server of its own that only
lists, 1,000 keys a page, 50 ms a page.
"""

import hashlib
import os
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rsr_ray.store.store import Store
from rsr_ray.store.units import settle_units, unit_name

PREFIX = "store/scores/student=s/0123456789abcdef"


def units(n: int) -> dict[str, list[str]]:
    """Names of n units, ten a shard, by their first digit."""
    found = defaultdict(list)
    for shard in range(n // 10):
        key = hashlib.sha256(str(shard).encode()).hexdigest()
        for part in range(10):
            unit = {
                "key": key[:16],
                "version": key[16:28],
                "start": part * 256,
                "stop": part * 256 + 256,
                "last": part == 9,
            }
            found[key[0]].append(unit_name(unit))
    return {digit: sorted(names) for digit, names in found.items()}


def measure(store: Store, n: int, where: str) -> None:
    begun = time.monotonic()
    (names,) = store.units().values()
    listed = time.monotonic()
    done, repeated = settle_units(names)
    assert sum(state.whole for state in done.values()) == n // 10
    assert len(names) == n
    assert not repeated
    print(
        (
            f"{n:,} units {where}: listed in {listed - begun:.1f} s, sorted out in "
            f"{time.monotonic() - listed:.1f} s"
        ),
        flush=True,
    )


def serve(names: dict[str, list[str]]) -> str:
    when = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    entry = f"<Contents><Key>{{}}</Key>{when}<ETag>&quot;0&quot;</ETag><Size>9</Size></Contents>"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(0.05)
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            below = query.get("prefix", "").removeprefix(PREFIX).strip("/")
            if query.get("prefix", "").startswith(f"{PREFIX}/") and below:
                some = names.get(below, [])  # there are no parts
                first = int(query.get("continuation-token", "0"))
                page = "".join(
                    entry.format(f"{PREFIX}/{below}/{name}") for name in some[first : first + 1000]
                )
                if first + 1000 < len(some):
                    token = f"{first + 1000}</NextContinuationToken>"
                    page += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}"
            elif query.get("prefix", "").startswith(PREFIX):
                page = "".join(
                    f"<CommonPrefixes><Prefix>{PREFIX}/{digit}/</Prefix></CommonPrefixes>"
                    for digit in names
                )
            else:
                page = f"<CommonPrefixes><Prefix>{PREFIX}/</Prefix></CommonPrefixes>"
            listing = f"<ListBucketResult><Name>b</Name>{page}</ListBucketResult>"
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


def main(n: int) -> None:
    names = units(n)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }
    measure(Store("s3://b/store", "s", serve(names)), n, "on S3 at 50 ms a page")
    with tempfile.TemporaryDirectory() as folder:
        for digit, some in names.items():
            os.makedirs(f"{folder}/{PREFIX}/{digit}")
            for name in some:
                os.close(os.open(f"{folder}/{PREFIX}/{digit}/{name}", os.O_CREAT | os.O_WRONLY))
        measure(Store(f"{folder}/store", "s", None), n, "on a local disk")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1_000_000)
