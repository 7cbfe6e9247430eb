"""The records of a store, JSON files with a seal: runs, nights, races, leases and claims."""

import functools
import re
from typing import Any

from rsr_ray.credentials import scrubbed
from rsr_ray.errors import StoreError, safe
from rsr_ray.files.objects import get, put
from rsr_ray.store.seal import BrokenError, read_record, write_record
from rsr_ray.watch import log

NIGHT_FILE = re.compile(r"[^/.][^/]*\.json")
NIGHT_KEYS = ("night", "students")


def night_place(night: str) -> str:
    """Of a night's record, below the store."""
    return f"nightly/{night}.json"


def put_record(store: str, place: str, record: dict[str, Any], endpoint: str | None) -> None:
    """Write the record below the store, without credentials that a message may quote."""
    put(f"{store}/{place}", write_record(scrubbed(record), place), endpoint)


def get_record(
    store: str, place: str, keys: tuple[str, ...], endpoint: str | None
) -> dict[str, Any]:
    """The record there, which has these keys.

    Raises FileNotFoundError, and StoreError where it is not what was written.
    """
    try:
        return read_record(get(f"{store}/{place}", endpoint), place, keys)
    except BrokenError as e:
        raise broken(store, place, e) from e


def find_record(
    store: str, place: str, keys: tuple[str, ...], endpoint: str | None
) -> dict[str, Any] | None:
    """The record there; None where there is none, or where it is broken, which is said once."""
    try:
        return get_record(store, place, keys, endpoint)
    except FileNotFoundError:
        return None
    except StoreError as e:
        warn_once(f"{e}; skipped")
        return None


def broken(store: str, place: str, why: BrokenError | str) -> StoreError:
    """The error of a file that is not what was written there."""
    return StoreError(
        f"store file {store}/{place} is broken: {why}; rsr-ray check --store {store} --repair "
        "removes broken files, and the next run recreates what it can"
    )


@functools.lru_cache(maxsize=1000)
def warn_once(line: str) -> None:
    log.warning("rsr-ray: %s", safe(line))
