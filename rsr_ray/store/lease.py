"""Who is at work on a store: leases, of which one is held at a time, and claims, of which many are.

Leases are numbered objects under one folder, `<folder>/000000000001.json` and so on; the highest
number counts. One is taken by creating the next number, which a store lets only one of many do. Its
holder writes it again and again while it works; one that was released, or not written for as long
as it says, may be followed by the next. A store's own clock tells its age, by what it says of a
probe written beside it, so the clocks of machines do not matter. A time that lies as far ahead of
the probe's is as old: no holder that lives leaves one there. A lease that cannot be read is one by
its age alone.

A claim is such an object under a name of its own. `at_work` claims a student for the settings of a
run: runs under the same fingerprint work side by side, one under another is refused.
"""

import datetime
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rsr_ray.errors import UserError
from rsr_ray.files.objects import create, delete, get, list_files, put
from rsr_ray.store.records import read_as, warn_once
from rsr_ray.store.seal import BrokenError, read_record, write_record
from rsr_ray.watch import log

if TYPE_CHECKING:
    from rsr_ray.store.store import Store

NUMBERED = re.compile(r"\d{12}\.json")
CLAIM = re.compile(r"(?P<fingerprint>[0-9a-f]+)/[0-9a-f]{32}\.json")
SECONDS = 60  # for which a claim, or the lock of a student, is heard of after its holder died
LONGEST = 86_400  # seconds that a lease may say it lasts
PATIENCE = 2.0  # seconds between looks at a lock


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What the holder of a lease or a claim writes there."""

    holder: str  # its machine and process
    id: str
    seconds: int  # for which it is heard of
    since: str | None = None  # ISO 8601, by its machine's clock; earlier versions do not have it
    released: bool = False

    def to_json(self) -> dict[str, Any]:
        wrote = asdict(self)
        return wrote if self.released else {k: v for k, v in wrote.items() if k != "released"}


@dataclass(frozen=True)
class Held:
    """A lease or a claim that is another's."""

    by: Holder | None  # None while it is created or deleted, or where it cannot be read
    age: float  # seconds, by the store's clock
    fingerprint: str | None = None  # of a claim

    @property
    def holder(self) -> str | None:
        return self.by.holder if self.by else None

    def to_json(self) -> dict[str, Any]:
        return (self.by.to_json() if self.by else {}) | {"age": self.age}


def read_holder(folder: str, name: str, endpoint: str | None) -> Holder | None:
    """What a holder wrote; None while it is created or deleted, or where it is broken."""
    try:
        found = read_record(get(f"{folder}/{name}", endpoint), name)
    except (FileNotFoundError, BrokenError):
        return None
    lasts = found.get("seconds")
    return read_as(Holder, found) if type(lasts) is int and 0 < lasts <= LONGEST else None


HELD: set["Renewed"] = set()  # of this process


def release_held() -> None:
    """Let go what this process holds: it ends, and may have been interrupted anywhere."""
    for held in [*HELD]:
        wrote = held._read(held.name)
        if wrote is not None and wrote.id == held.me.id:
            held.release()


class Renewed:
    """An object that a thread writes three times per `seconds`, from `_start` to `_stop`."""

    def __init__(self, folder: str, seconds: int, endpoint: str | None):
        self.folder, self.seconds, self.endpoint = folder, seconds, endpoint
        self.me = Holder(
            holder=f"{socket.gethostname()}, process {os.getpid()}",
            id=uuid.uuid4().hex,
            seconds=seconds,
            since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        self.name = ""
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def release(self) -> None:
        """Let the next one have it at once."""
        raise NotImplementedError

    def _hold(self, name: str) -> None:
        """From before it is written: nobody knows when this process is told to end."""
        self.name = name
        HELD.add(self)

    def _stop(self) -> None:
        self._ended.set()
        if self._renewing.is_alive():
            self._renewing.join()

    def _renew(self) -> None:
        while not self._ended.wait(self.seconds / 3):
            self._write(self.me)

    def _write(self, content: Holder) -> None:
        record = write_record(content.to_json(), self.name)
        try:
            put(f"{self.folder}/{self.name}", record, self.endpoint)
        except OSError as e:
            # The next try may go well. If none does, another run may start: work lost, no result.
            log.warning("the lease %s could not be written: %s", f"{self.folder}/{self.name}", e)

    def _ages(self) -> dict[str, float]:
        """Every file under the folder, and its age in seconds by the store's clock."""
        probe = f".{self.me.id}.probe"
        put(f"{self.folder}/{probe}", b"", self.endpoint)
        files = list_files(self.folder, self.endpoint)
        delete(f"{self.folder}/{probe}", self.endpoint)
        now = files.pop(probe)
        return {
            name: abs((now - written).total_seconds()) if now and written else 0.0
            for name, written in files.items()
        }

    def _read(self, name: str) -> Holder | None:
        return read_holder(self.folder, name, self.endpoint)


class Lease(Renewed):
    """`take` it, work, `release` it."""

    def take(self) -> Held | None:
        """Take the lease; None, or who has it."""
        ages = self._ages()
        leases = sorted(name for name in ages if NUMBERED.fullmatch(name))
        number = 1
        if leases:
            last, age = self._read(leases[-1]), ages[leases[-1]]
            if not (last and last.released) and age < (last or self.me).seconds:
                return Held(last, age)
            if last is None:
                warn_once(
                    f"lease {self.folder}/{leases[-1]} is broken and {age:,.0f} s old: taking it "
                    "over"
                )
            number = int(leases[-1].removesuffix(".json")) + 1
        name = f"{number:012d}.json"
        self._hold(name)
        if not create(
            f"{self.folder}/{name}", write_record(self.me.to_json(), name), self.endpoint
        ):
            HELD.discard(self)
            return Held(self._read(name), 0.0)
        newest = max(
            other for other in list_files(self.folder, self.endpoint) if NUMBERED.fullmatch(other)
        )
        if newest > name:  # while this one looked, others came and went and cleared the number away
            HELD.discard(self)
            delete(f"{self.folder}/{name}", self.endpoint)
            return Held(self._read(newest), 0.0)
        self._renewing.start()
        for old in leases:
            delete(f"{self.folder}/{old}", self.endpoint)
        return None

    def release(self) -> None:
        self._stop()
        self._write(replace(self.me, released=True))
        HELD.discard(self)


class Claim(Renewed):
    """That a run is at work on a student under a fingerprint."""

    def others(self, fingerprint: str) -> list[Held]:
        """Who is at work under other fingerprints."""
        found = []
        for name, age in self._ages().items():
            at = CLAIM.fullmatch(name)
            if not at or at["fingerprint"] == fingerprint:
                continue
            wrote = self._read(name)
            if age < (wrote or self.me).seconds:
                found.append(Held(wrote, age, at["fingerprint"]))
            elif age > 10 * SECONDS:  # of a run that died
                delete(f"{self.folder}/{name}", self.endpoint)
        return found

    def is_only_one(self) -> bool:
        """Whether no other process is at work."""
        mine = {held.me.id for held in HELD}
        for name, age in self._ages().items():
            if CLAIM.fullmatch(name) and name[-37:-5] not in mine:
                wrote = self._read(name)
                if age < (wrote or self.me).seconds:
                    return False
        return True

    def take(self, fingerprint: str) -> None:
        name = f"{fingerprint}/{self.me.id}.json"
        self._hold(name)
        put(f"{self.folder}/{name}", write_record(self.me.to_json(), name), self.endpoint)
        self._renewing.start()

    def release(self) -> None:
        self._stop()
        delete(f"{self.folder}/{self.name}", self.endpoint)
        HELD.discard(self)


def alone(store: "Store") -> AbstractContextManager[None]:
    """Of all that do so for a student of a store, one at a time; the others wait."""
    folder = f"{store.uri}/claims/student={store.student_name}/lock"
    return one_at_a_time(folder, store.endpoint, f"student {store.student_name} of {store.uri}")


def is_alone_at_work(store: "Store") -> bool:
    """Whether no run of another process is at work on the student."""
    return _claim(store).is_only_one()


def _claim(store: "Store") -> Claim:
    return Claim(f"{store.uri}/claims/student={store.student_name}", SECONDS, store.endpoint)


@contextmanager
def one_at_a_time(folder: str, endpoint: str | None, what: str) -> Iterator[None]:
    """Hold the lease of a folder; the others that do so wait. `what` it is about is told them."""
    lock = Lease(folder, SECONDS, endpoint)
    begun = time.monotonic()
    while held := lock.take():
        if time.monotonic() - begun > 3 * PATIENCE:
            warn_once(f"waiting for {held.holder or 'another run'}, which is working on {what}")
        time.sleep(min(PATIENCE, 0.1 + (time.monotonic() - begun) / 4))
    try:
        yield
    finally:
        lock.release()


@contextmanager
def at_work(store: "Store", fingerprint: str) -> Iterator[None]:
    """A claim on the student for runs under a fingerprint.

    Raises UserError where a run under another one is at work.
    """
    claim = _claim(store)
    with alone(store):
        if others := claim.others(fingerprint):
            other = others[0]
            who = (
                f"{other.holder or 'a run whose claim cannot be read'}, last seen "
                f"{other.age:.0f} s ago, fingerprint {other.fingerprint}"
            )
            raise UserError(
                f"store {store.uri}: another run is working on student {store.student_name} "
                f"under other settings or weights ({who}; this run: {fingerprint}). Wait until "
                f"it ends, or {SECONDS} s if it died, or use another --student-name or --store."
            )
        claim.take(fingerprint)
    try:
        yield
    finally:
        claim.release()
