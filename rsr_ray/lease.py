"""A lease on a store: one holder at a time, and a holder that died does not block the next one.

Leases are numbered objects under one folder, `<folder>/000000000001.json` and so on; the highest number counts. One is taken by
creating the next number, which a store lets only one of many do. Its holder writes it again and again while it works; one
that was released, or not written for as long as it says, may be followed by the next. A store's own clock tells its age,
by what it says of a probe written beside it, so the clocks of machines do not matter.
"""

import json
import os
import socket
import threading
import uuid
from typing import Any

from rsr_ray.objects import create, delete, get, list_files, put
from rsr_ray.watch import log


class Lease:
    """`take` it, work, `release` it. While it is held a thread of its own renews it three times per `seconds`."""

    def __init__(self, folder: str, seconds: int, endpoint: str | None):
        self.folder, self.seconds, self.endpoint = folder, seconds, endpoint
        self.me = {"holder": f"{socket.gethostname()}, process {os.getpid()}", "id": uuid.uuid4().hex, "seconds": seconds}
        self.uri = ""
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> dict[str, Any] | None:
        """Take the lease; returns None, or what its present holder wrote, with `age` in seconds, where there is one."""
        probe = f".{self.me['id']}.probe"
        put(f"{self.folder}/{probe}", b"", self.endpoint)
        files = list_files(self.folder, self.endpoint)
        delete(f"{self.folder}/{probe}", self.endpoint)
        now = files[probe]
        leases = sorted(name for name in files if name.endswith(".json"))
        number = 1
        if leases:
            last = self._read(f"{self.folder}/{leases[-1]}")
            written = files[leases[-1]]
            age = (now - written).total_seconds() if now and written else 0.0
            if not last.get("released") and age < last.get("seconds", self.seconds):
                return last | {"age": age}
            number = int(leases[-1].removesuffix(".json")) + 1
        uri = f"{self.folder}/{number:012d}.json"
        if not create(uri, json.dumps(self.me).encode(), self.endpoint):
            return self._read(uri) | {"age": 0.0}
        newest = max(name for name in list_files(self.folder, self.endpoint) if name.endswith(".json"))
        if newest > f"{number:012d}.json":  # while this one looked, others came and went and cleared the number away
            delete(uri, self.endpoint)
            return self._read(f"{self.folder}/{newest}") | {"age": 0.0}
        self.uri = uri
        self._renewing.start()
        for name in leases:
            delete(f"{self.folder}/{name}", self.endpoint)
        return None

    def release(self) -> None:
        """Let the next one have it at once."""
        self._ended.set()
        self._renewing.join()
        self._write(self.me | {"released": True})

    def _renew(self) -> None:
        while not self._ended.wait(self.seconds / 3):
            self._write(self.me)

    def _write(self, content: dict[str, Any]) -> None:
        try:
            put(self.uri, json.dumps(content).encode(), self.endpoint)
        except OSError as e:  # the next try may go well; if none does, another run may start, which costs work and no result
            log.warning("the lease %s could not be written: %s", self.uri, e)

    def _read(self, uri: str) -> dict[str, Any]:
        """What a holder wrote; nothing where it is being created or deleted at this moment."""
        try:
            return json.loads(get(uri, self.endpoint))
        except (FileNotFoundError, ValueError):
            return {}
