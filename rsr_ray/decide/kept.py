"""kept: what very many score rows came to, kept beside them, so that of the same units few rows
have to be read again, and of more units little but those that are new (run/summary.py).

It is of one question, that of a night: all teachers by rsr. Legend: T teachers.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa

from rsr_ray.decide.buckets import BLOCK_BITS, Buckets
from rsr_ray.decide.ends import SHOWN, Ends
from rsr_ray.decide.views import CELLS, Asked
from rsr_ray.decide.whole import Sums, Whole, columns_of
from rsr_ray.errors import StoreError
from rsr_ray.guard import JUDGED_BY, LIMITS
from rsr_ray.metrics import RSR
from rsr_ray.store.records import warn_once
from rsr_ray.store.rejects import Reject
from rsr_ray.store.score_files import ScoreFile, units_of
from rsr_ray.store.store import Store
from rsr_ray.store.units import MadeOf

VERSION = 1  # raised whenever the same rows would come to something else
NUMBERS = columns_of([RSR], JUDGED_BY)
# What a summary has to be of, beside its units.
DEFINITION = hashlib.sha256(
    json.dumps([VERSION, NUMBERS, LIMITS, BLOCK_BITS, CELLS, SHOWN, RSR.formula]).encode()
).hexdigest()
# The one that was read or written last in this process: what units come to does not change while
# their versions are the same.
_latest: dict[tuple[str | None, ...], "Kept"] = {}
NAMED = ("teacher", "source", "unit")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the rows of some units came to."""

    fingerprint: str
    units: Mapping[str, str]  # with the versions of their files
    names: Mapping[str, list[str]]  # all teachers; sources and units of `ends`
    sums: Mapping[str, np.ndarray]  # of Sums
    table: Mapping[str, np.ndarray]  # what the teachers table is made of (run/summary.py)
    repeats: np.ndarray  # Buckets.repeats
    ends: np.ndarray  # Ends.rows
    rejects: Mapping[str, Reject]

    @property
    def teachers(self) -> list[str]:
        return self.names["teacher"]

    def sums_of(self, sample_share: float = 0.0) -> Sums:
        """The sums, to go on with."""
        return Sums.of_arrays(asked(sample_share), len(self.teachers), self.sums)

    def whole(self, store: Store, files: list[ScoreFile], sample_share: float) -> Whole:
        """What a pass over all rows tells; of these a sample of prompts is read."""
        n_blocks = math.ceil(sample_share * (1 << BLOCK_BITS))
        low = -(2**63)
        prompts = low, low + (n_blocks << (64 - BLOCK_BITS))
        sums = self.sums_of(sample_share)
        sample = sums.empty()
        with Buckets(store, self.fingerprint, NUMBERS, known=self.names) as buckets:
            buckets.fill(files, prompts)
            for bucket in buckets.each(self.repeats):
                sample.add(bucket.each_once())
            ends = Ends.of(RSR, renumbered(self.ends, self.names, buckets.names))
            return sums.with_sample(sample, ends).whole(buckets)


def asked(sample_share: float = 0.0) -> Asked:
    """The question of a night."""
    return Asked([RSR], sample_share=sample_share)


def renumbered(
    rows: np.ndarray, before: Mapping[str, list[str]], after: Mapping[str, list[str]]
) -> np.ndarray:
    """Structured rows with the numbers of other lists of names, which have all of these."""
    rows = rows.copy()
    for name in NAMED:
        place = {text: i for i, text in enumerate(after[name])}
        rows[name] = np.array([place[text] for text in before[name]], int)[rows[name]]
    return rows


def named_by(rows: np.ndarray, names: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """All teachers, and of the other names those of some structured rows."""
    used = {name: sorted({names[name][i] for i in rows[name]}) for name in ("source", "unit")}
    return {"teacher": names["teacher"], **used}


def count_rejects(store: Store) -> Mapping[str, Reject]:
    """The rejected rows of the scores behind the teachers table, by reason."""
    fingerprint = store.generation()
    files = store.score_files(fingerprint)
    kept = find_kept(store, fingerprint, units_of(files))
    return kept.rejects if kept else store.count_rejects(fingerprint, files)


# --- in the store ---------------------------------------------------------------------------------


def write_kept(store: Store, kept: Kept) -> None:
    arrays = {f"sums/{name}": values for name, values in kept.sums.items()}
    arrays |= {f"table/{name}": values for name, values in kept.table.items()}
    arrays |= {"repeats": kept.repeats, "ends": kept.ends}
    table = pa.table(
        {
            "name": pa.array([*arrays], pa.string()),
            "values": pa.array(map(_packed, arrays.values()), pa.large_binary()),
        }
    )
    rejects = {reason: vars(some) for reason, some in kept.rejects.items()}
    facts = {
        "definition": DEFINITION,
        "fingerprint": kept.fingerprint,
        "units": MadeOf.of(kept.units).packed(),
        "names": json.dumps(kept.names),
        "rejects": json.dumps(rejects),
    }
    store.write_summary(table, facts)
    _latest.clear()
    _latest[_key(store)] = kept


def find_kept(
    store: Store, fingerprint: str, units: Mapping[str, str] | None = None
) -> Kept | None:
    """What is kept of a fingerprint, or None: of just these units, if they are given."""
    latest = _latest.get(_key(store))
    if latest and latest.fingerprint == fingerprint and latest.units == units:
        return latest
    try:
        table, facts = store.read_summary()
    except FileNotFoundError:
        return None
    except StoreError as e:
        warn_once(f"{e}; made anew")
        return None
    if facts.get("definition") != DEFINITION or facts.get("fingerprint") != fingerprint:
        return None
    made_of = MadeOf.unpacked(facts["units"].encode()).units
    if units is not None and units != made_of:
        return None
    arrays = dict(zip(table["name"].to_pylist(), map(_unpacked, table["values"]), strict=True))
    rejects = {reason: Reject(**some) for reason, some in json.loads(facts["rejects"]).items()}
    kept = Kept(
        fingerprint=fingerprint,
        units=made_of,
        names=json.loads(facts["names"]),
        sums=_below("sums/", arrays),
        table=_below("table/", arrays),
        repeats=arrays["repeats"],
        ends=arrays["ends"],
        rejects=rejects,
    )
    _latest.clear()
    _latest[_key(store)] = kept
    return kept


def _key(store: Store) -> tuple[str | None, ...]:
    return store.uri, store.student_name, store.endpoint


def _below(folder: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n.removeprefix(folder): some for n, some in arrays.items() if n.startswith(folder)}


def _packed(values: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def _unpacked(values: pa.LargeBinaryScalar) -> np.ndarray:
    found: np.ndarray = np.load(BytesIO(values.as_py()), allow_pickle=False)
    return found
