"""drawn: the charts of a report; what the store's report before drew of the same values is kept.

Drawing takes most of the time of a night with nothing new.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rsr_ray.errors import StoreError
from rsr_ray.files.objects import put
from rsr_ray.store.records import get_record
from rsr_ray.store.seal import write_record

PLACE = "report/charts.json"  # below the store


class Charts:
    """Draws charts. With `store`, a folder or URI, those of its last report are taken from there,
    and `keep` writes those of this one.
    """

    def __init__(self, store: str | None = None, endpoint: str | None = None):
        self._store, self._endpoint = store, endpoint
        self._before: dict[str, str] = {}
        self._drawn: dict[str, str] = {}
        if store:
            with contextlib.suppress(FileNotFoundError, StoreError):  # it is written anew
                self._before = get_record(store, PLACE, ("drawn",), endpoint)["drawn"]

    def draw(self, chart: Callable[..., str], *values: object) -> str:
        """What `chart` draws of these values, as SVG."""
        given = json.dumps([_code(), chart.__name__, *values], default=_plain)
        digest = hashlib.sha256(given.encode()).hexdigest()
        self._drawn[digest] = self._before.get(digest) or chart(*values)
        return self._drawn[digest]

    def keep(self) -> None:
        """Write the charts for the store's next report, unless they are there. Raises OSError."""
        if self._store and self._drawn != self._before:
            record = write_record({"drawn": self._drawn}, PLACE)
            put(f"{self._store}/{PLACE}", record, self._endpoint)


@functools.cache
def _code() -> str:
    """What draws, apart from the values: this package's source and matplotlib's version."""
    digest = hashlib.sha256(version("matplotlib").encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A dataclass or an array, as JSON has it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else vars(value)
