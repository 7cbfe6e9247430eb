"""A student from the hub: a machine fetches its weights once, for all its replicas."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ..conftest import DEMO_STUDENT
from .conftest import free_port, in_a_process, ray_node, stored, write_many

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub():
    """A server that speaks as much of the hub's protocol as its client needs for one model;
    `fetched` counts what was fetched.
    """
    files = {path.name: path.read_bytes() for path in DEMO_STUDENT.iterdir()}
    fetched: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/api/models/org/demo/revision/"):
                return self.answer(
                    json.dumps(
                        {
                            "id": "org/demo",
                            "sha": COMMIT,
                            "siblings": [{"rfilename": name} for name in files],
                        }
                    ).encode()
                )
            if self.path.startswith("/api/models/org/demo/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in files.items()
                ]
                return self.answer(json.dumps(tree).encode())
            name = self.path.rpartition("/")[2]
            if name not in files:
                return self.answer(b"", 404)
            if self.command == "GET":
                fetched[name] += 1
            return self.answer(files[name])

        do_HEAD = do_GET  # noqa: N815

        def answer(self, content: bytes, status: int = 200) -> None:
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.send_response(status)
            for name, value in {
                "ETag": etag,
                "X-Linked-Etag": etag,
                "X-Linked-Size": len(content),
                "X-Repo-Commit": COMMIT,
            }.items():
                self.send_header(name, str(value))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", fetched
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once_a_machine(hub, tmp_path, tmp_path_factory):
    """The driver's machine, which holds no replica, and one with three."""
    endpoint, fetched = hub
    write_many(tmp_path / "corpus", 6, 20)
    here, there = (
        {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": f"{tmp_path}/{name}"}
        for name in ("here", "there")
    )
    address = f"127.0.0.1:{free_port()}"
    head = (
        "--head",
        f"--port={address.rpartition(':')[2]}",
        "--include-dashboard=false",
        f"--temp-dir={tmp_path_factory.mktemp('ray')}",
    )
    with ray_node(*head, cpus=0, **here), ray_node(f"--address={address}", **there):
        options = [
            "--corpus",
            tmp_path / "corpus",
            "--store",
            tmp_path / "store",
            "--replicas",
            3,
            "--ray-address",
            address,
        ]
        done = in_a_process("score", "--student", "org/demo", *options, **here)
    assert done.returncode == 0, done.stderr[-3000:]
    assert fetched["model.safetensors"] == 2
    assert len(stored(tmp_path / "store", "demo")) == 120
    (record,) = (
        json.loads(path.read_text()) for path in (tmp_path / "store" / "runs").glob("*.json")
    )
    assert record["student"]["source"] == f"org/demo@{COMMIT}"
