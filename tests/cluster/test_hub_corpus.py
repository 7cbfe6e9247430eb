"""A corpus on the Hugging Face hub, hf://datasets/org/name@revision/..., from a server that
speaks as much of its protocol.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from ..conftest import DEMO_STUDENT
from .conftest import in_a_process, stored

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
REPO, FILES = "org/traces", {}
for teacher in ("QwQ", "R1"):
    rows = [
        {"prompt": f"{n} and 2?", "response": f"It is {n + 2}, says {teacher}.", "id": n}
        for n in range(5)
    ]
    FILES[f"data/{teacher}/train-00000.jsonl"] = "".join(
        json.dumps(row) + "\n" for row in rows
    ).encode()
FILES["README.md"] = b"# traces\n"


@pytest.fixture
def hub():
    """One dataset, with a branch and a commit; a private one answers 401."""
    files = dict(FILES)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if "org/private" in path:
                return self.answer(
                    b"",
                    401,
                    {
                        "X-Error-Code": "GatedRepo",
                        "X-Error-Message": "Access to dataset org/private is restricted.",
                    },
                )
            api, resolve = f"/api/datasets/{REPO}", f"/datasets/{REPO}/resolve/"
            for revision in ("main", COMMIT):
                if path in (api, f"{api}/revision/{revision}"):
                    return self.answer(
                        json.dumps(
                            {
                                "id": REPO,
                                "sha": COMMIT,
                                "siblings": [{"rfilename": f} for f in files],
                            }
                        ).encode()
                    )
                if path.startswith(f"{api}/tree/{revision}"):
                    return self.tree(
                        path.removeprefix(f"{api}/tree/{revision}").strip("/"),
                        "recursive=true" in self.path.lower(),
                    )
                if (
                    path.startswith(resolve + revision)
                    and (name := path.removeprefix(f"{resolve}{revision}/")) in files
                ):
                    return self.file(files[name])
            return self.answer(
                b"", 404, {"X-Error-Code": "RepoNotFound" if REPO not in path else "EntryNotFound"}
            )

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            if f"/api/datasets/{REPO}/paths-info/" not in self.path:
                return self.answer(b"", 404, {"X-Error-Code": "RepoNotFound"})
            found = [entry for path in asked for entry in self.entries() if entry["path"] == path]
            return self.answer(json.dumps(found).encode())

        def entries(self) -> list[dict]:
            folders = {
                "/".join(name.split("/")[:n])
                for name in files
                for n in range(1, name.count("/") + 1)
            }
            told = [
                {"type": "directory", "path": folder, "oid": "1" * 40, "size": 0}
                for folder in sorted(folders)
            ]
            blobs = [(name, data, hashlib.sha1(data).hexdigest()) for name, data in files.items()]
            return told + [
                {"type": "file", "path": name, "oid": blob, "size": len(data)}
                for name, data, blob in blobs
            ]

        def tree(self, folder: str, recursive: bool) -> None:
            inside = [
                e for e in self.entries() if e["path"].startswith(f"{folder}/" if folder else "")
            ]
            if not recursive:
                inside = [e for e in inside if "/" not in e["path"].removeprefix(folder).strip("/")]
            if folder and not inside:
                return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return self.answer(json.dumps(inside).encode())

        def file(self, data: bytes) -> None:
            total, status, more = len(data), 200, {}
            if self.headers.get("Range"):
                start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
                last = min(int(end or total - 1), total - 1)
                data, status, more = (
                    data[int(start) : last + 1],
                    206,
                    {"Content-Range": f"bytes {start}-{last}/{total}"},
                )
            return self.answer(data, status, more)

        def answer(self, content: bytes, status: int = 200, more: dict | None = None) -> None:
            self.send_response(status)
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            for name, value in {
                "ETag": etag,
                "X-Repo-Commit": COMMIT,
                "Content-Length": len(content),
                **(more or {}),
            }.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()


def test_a_dataset_of_the_hub_is_scored_and_a_file_that_changes_is_scored_anew(hub, tmp_path):
    endpoint, files = hub
    here = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    options = ["--student", DEMO_STUDENT, "--store", tmp_path / "store", "--replicas", "1"]
    done = in_a_process("score", "--corpus", f"hf://datasets/{REPO}@main/data", *options, **here)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "read 10 = scored 10 + rejected 0 + already scored 0" in done.stdout
    rows = stored(tmp_path / "store")
    assert {row["teacher"] for row in rows} == {"QwQ", "R1"}
    assert {row["source"] for row in rows} == {
        f"hf://datasets/{REPO}@main/data/{t}/train-00000.jsonl" for t in ("QwQ", "R1")
    }
    files["data/R1/train-00000.jsonl"] += (
        b'{"prompt": "9 and 2?", "response": "It is 11.", "id": 9}\n'
    )
    done = in_a_process(
        "score", "--corpus", f"hf://datasets/{REPO}@main/data/**/*.jsonl", *options, **here
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "read 11 = scored 6 + rejected 0 + already scored 5" in done.stdout


@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        (f"hf://datasets/{REPO}@main/nothing", "no such file or folder"),
        (f"hf://datasets/{REPO}@other/data", "no such file or folder"),
        ("hf://datasets/org/nobody/data", "no such file or folder"),
        ("hf://datasets/org/private/data", "HF_TOKEN"),
    ],
)
def test_what_is_not_there_or_not_allowed_is_one_line(hub, tmp_path, corpus, says):
    endpoint, _ = hub
    here = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = in_a_process("preview", "--corpus", corpus, "--student", DEMO_STUDENT, **here)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1
    assert corpus in done.stderr
    assert says in done.stderr
