"""buckets: score rows of any number -> buckets of prompts, each with all answers to its prompts.

Rows are read once, as numbers alone, and laid into files of a temporary folder by the hash of their
prompt; then one bucket at a time is in memory. Which bucket a prompt is in, and the order of rows
in it, come from hashes: not from how the rows lie in the store. Legend: N rows of a bucket.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.recfunctions import repack_fields

from rsr_ray.errors import UserError
from rsr_ray.guard import as_numbers
from rsr_ray.store.score_files import ScoreFile
from rsr_ray.store.store import Store

READERS = 4  # files read at once
BUCKET_ROWS = 200_000
FLUSHED_ROWS = 400_000  # that are laid into files at once
BLOCK_BITS = 12  # prompts are in 4,096 blocks by the first bits of their hash; no bucket cuts one
CODED = ("teacher", "source", "unit")


@dataclass(frozen=True)
class Bucket:
    """Scored trajectories, each once, sorted by prompt: all that answer its prompts."""

    prompt: np.ndarray  # int64 [N]: the prompt's hash
    rows: np.ndarray  # structured [N]: `teacher`, `source`, `unit`, `stratum` index into names

    @property
    def block(self) -> np.ndarray:
        """Of prompts, int64 [N]."""
        return first_bits(self.prompt, BLOCK_BITS)

    def columns(self) -> dict[str, np.ndarray]:
        return {name: self.rows[name] for name in self.rows.dtype.names or ()}


class Buckets:
    """The scored rows of some files, by prompt. Use as a context: its folder goes with it."""

    def __init__(
        self, store: Store, fingerprint: str, numbers: list[str], *, stratum: str | None = None
    ):
        self.store, self.fingerprint, self.numbers = store, fingerprint, numbers
        self.coded = (*CODED, *(["stratum"] if stratum else []))
        self.stratum = stratum
        self.names: dict[str, list[str]] = {}
        fields = [("prompt_hash", "i8"), ("row_hash", "i8"), ("source_row", "i8")]
        fields += [(name, "i4") for name in self.coded] + [(name, "f8") for name in numbers]
        self.dtype = np.dtype(fields)

    def __enter__(self) -> "Buckets":
        self._folder = tempfile.TemporaryDirectory(prefix="rsr_ray-")
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def fill(self, files: list[ScoreFile]) -> None:
        """Read the files. Raises as `Store.read_score_file`."""
        n_rows = sum(file.n_rows for file in files)
        self.bits = min(BLOCK_BITS, max(0, -(-n_rows // BUCKET_ROWS) - 1).bit_length())
        codes = {name: _Codes() for name in self.coded}
        pending: list[np.ndarray] = []
        with ThreadPoolExecutor(READERS) as pool:
            waiting = (pool.submit(self._read, file) for file in files)
            ahead = list(islice(waiting, 2 * READERS))
            while ahead:
                pending.append(self._numbered(ahead.pop(0).result(), codes))
                ahead += islice(waiting, 1)
                if sum(map(len, pending)) >= FLUSHED_ROWS:
                    self._flush(pending)
        self._flush(pending)
        self.names = {name: sorted(code.names) for name, code in codes.items()}
        self._places = {name: code.places() for name, code in codes.items()}
        self._repeats = self._find_repeats()

    def __iter__(self) -> Iterator[Bucket]:
        """The buckets, in the order of hashes."""
        for bucket in range(1 << self.bits):
            rows = self._load("rows", bucket, self.dtype)
            if len(rows):
                yield self._each_once(rows)

    def _read(self, file: ScoreFile) -> pa.Table:
        """The scored rows of a file."""
        hashed = ["prompt_hash", "row_hash", "source_row", "reject_reason"]
        wanted = [*CODED, *hashed, *self.numbers, *(["strata"] if self.stratum else [])]
        table = self.store.read_score_file(self.fingerprint, file, wanted)
        table = table.filter(table["reject_reason"].is_null())
        if self.stratum:
            said = values_of(table["strata"], self.stratum)
            table = table.append_column("stratum", said)
        return table

    def _numbered(self, table: pa.Table, codes: dict[str, "_Codes"]) -> np.ndarray:
        rows = np.empty(len(table), self.dtype)
        for name in ("prompt_hash", "row_hash", "source_row"):
            rows[name] = table[name].to_numpy()
        for name in self.coded:
            rows[name] = codes[name].of(table[name])
        for name in self.numbers:
            rows[name] = as_numbers(table[name])
        return rows

    def _flush(self, pending: list[np.ndarray]) -> None:
        """Lay rows into the files of their buckets, and their places by the hash of the row."""
        if not pending:
            return
        rows = np.concatenate(pending)
        pending.clear()
        self._lay("rows", rows, rows["prompt_hash"])
        self._lay("places", repack_fields(rows[_PLACES]), rows["row_hash"])

    def _lay(self, kind: str, rows: np.ndarray, hashes: np.ndarray) -> None:
        bucket = first_bits(hashes, self.bits).astype(np.uint16)
        rows = rows[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket, minlength=1 << self.bits))
        for b, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
            if stop > start:
                with self._path(kind, b).open("ab") as file:
                    rows[start:stop].tofile(file)

    def _path(self, kind: str, bucket: int) -> Path:
        return Path(self._folder.name) / f"{kind}-{bucket}"

    def _load(self, kind: str, bucket: int, dtype: np.dtype) -> np.ndarray:
        path = self._path(kind, bucket)
        rows = np.fromfile(path, dtype) if path.exists() else np.empty(0, dtype)
        for name in {*self.coded} & {*dtype.names}:
            rows[name] = self._places[name][rows[name]]
        return rows

    def _find_repeats(self) -> np.ndarray:
        """(row_hash, prompt_hash) of rows that repeat one of another prompt that counts."""
        found = []
        dtype = np.dtype([(name, self.dtype[name]) for name in _PLACES])
        for bucket in range(1 << self.bits):
            rows = self._load("places", bucket, dtype)
            rows = rows[np.lexsort([rows[n] for n in ("source_row", "source", "row_hash")])]
            is_first = _changes(rows["row_hash"])
            first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1] if len(rows) else []
            others = rows[rows["prompt_hash"] != rows["prompt_hash"][first]]
            found.append(repack_fields(others[["row_hash", "prompt_hash"]]))
            self._path("places", bucket).unlink(missing_ok=True)
        return np.concatenate(found)

    def _each_once(self, rows: np.ndarray) -> Bucket:
        """Of a trajectory that a teacher has twice the first by source and row."""
        keys = [rows[name] for name in ("source_row", "source", "row_hash", "prompt_hash")]
        rows = rows[np.lexsort(keys)]
        counts = _changes(rows["row_hash"]) | _changes(rows["prompt_hash"])
        some = np.flatnonzero(np.isin(rows["row_hash"], self._repeats["row_hash"]))
        gone = {*self._repeats.tolist()} if len(some) else set()
        for i in some.tolist():
            counts[i] &= (int(rows["row_hash"][i]), int(rows["prompt_hash"][i])) not in gone
        rows = rows[counts]
        return Bucket(rows["prompt_hash"].copy(), rows)


def values_of(strata: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    """What rows say in a column of --stratum. Raises UserError where they were scored without."""
    kept = pc.map_lookup(strata, pa.scalar(column), "all")
    if len(kept) and kept.null_count == len(kept):
        others = sorted({name for row in strata.to_pylist() for name, _ in row or ()})
        there = f"without it, and with {', '.join(others)}" if others else "without --stratum"
        raise UserError(
            f"--by-stratum {column}: the store was scored {there}: score again with --stratum "
            f"{' '.join([column, *others])} --new-generation"
        )
    return pc.map_lookup(strata, pa.scalar(column), "first")


_PLACES = ["row_hash", "prompt_hash", "source_row", "source"]


class _Codes:
    """Names as numbers, in the order in which they came."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def of(self, column: pa.ChunkedArray) -> np.ndarray:
        """int [N]; -1 for null."""
        if not len(column):
            return np.empty(0, np.int64)
        is_encoded = pa.types.is_dictionary(column.type)
        encoded = (column if is_encoded else column.dictionary_encode()).unify_dictionaries()
        encoded = encoded.combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0)
        own = [self.names.setdefault(n, len(self.names)) for n in encoded.dictionary.to_pylist()]
        indices = encoded.indices.fill_null(len(own)).to_numpy()
        return np.array([*own, -1])[indices]

    def places(self) -> np.ndarray:
        """Of each number the place of its name among all, sorted; -1 for that of null."""
        place = {name: i for i, name in enumerate(sorted(self.names))}
        return np.array([*(place[name] for name in self.names), -1])


def first_bits(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Of int64 [N], as numbers from 0 that keep their order."""
    if not bits:
        return np.zeros(len(hashes), np.int64)
    found: np.ndarray = (hashes >> (64 - bits)) + (1 << (bits - 1))
    return found


def _changes(values: np.ndarray) -> np.ndarray:
    """Whether each of some values [N] differs from the one before."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes
