"""A store under load: a proxy that answers some of the requests with 500 or 503, or drops their
connection, and passes on the rest.
"""

import contextlib
import http.client
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>try again</Message></Error>'
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


class Flaky:
    """`share` of the requests fails from now on, in one of `ways`; `seen` counts them."""

    def __init__(self, url: str):
        self.url, self.share, self.ways, self.seen = url, 0.0, ("500",), Counter()
        self.sent = 0  # bytes of answers
        self.random, self.lock = random.Random(7), threading.Lock()

    def way(self) -> str:
        """What to do with the next request."""
        with self.lock:
            way = self.random.choice(self.ways) if self.random.random() < self.share else "pass"
            self.seen[way] += 1
        return way


@contextlib.contextmanager
def flaky(port: int) -> Iterator[Flaky]:
    """A proxy on loopback in front of a server on `port`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            way = proxy.way()
            if way == "drop before":
                return self.drop()
            if way in ("500", "503"):
                code = "InternalError" if way == "500" else "SlowDown"
                return self.answer(
                    int(way), [("content-type", "application/xml")], ERROR.format(code).encode()
                )
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in (*HOP_BY_HOP, "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            response = upstream.getresponse()
            content = response.read()
            with proxy.lock:
                proxy.sent += len(content)
            headers = [
                (name, value)
                for name, value in response.getheaders()
                if name.lower() not in HOP_BY_HOP
            ]
            if way == "drop after":  # the work is done, and nobody hears of it
                return self.drop()
            return self.answer(
                response.status,
                headers,
                content,
                stop_at=len(content) // 2 if way == "drop within" else None,
            )

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

        def answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            content: bytes,
            stop_at: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() != "content-length":
                    self.send_header(name, value)
            length = next(
                (v for n, v in headers if n.lower() == "content-length"), str(len(content))
            )
            if status not in (204, 304):
                self.send_header(
                    "content-length", length if self.command == "HEAD" else str(len(content))
                )
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:stop_at])
            if stop_at is not None:
                self.drop()

        def drop(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:  # a client that went away
            pass

    server = Server(("127.0.0.1", 0), Handler)
    proxy = Flaky(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
