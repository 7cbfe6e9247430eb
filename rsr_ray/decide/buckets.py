"""buckets: score rows of any number -> buckets of prompts, each with all answers to its prompts.

Rows are read once, as numbers alone, and laid into files of a temporary folder by the hash of their
prompt; then one bucket at a time is in memory. Which bucket a prompt is in, and the order of rows
in it, come from hashes: not from how the rows lie in the store. Legend: N rows of a bucket.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.recfunctions import repack_fields

from rsr_ray.codes import codes_of
from rsr_ray.errors import UserError
from rsr_ray.guard import as_numbers
from rsr_ray.store.parts import Prompts
from rsr_ray.store.score_files import ScoreFile
from rsr_ray.store.store import Store

READERS, READERS_OF_PARTS = 4, 2  # files read at once; a part's columns are read side by side
BUCKET_ROWS = 200_000
TASK_ROWS = 10_000  # of small files that are read by one task
FLUSHED_ROWS = 400_000  # that are laid into files at once
BLOCK_BITS = 12  # prompts are in 4,096 blocks by the first bits of their hash; no bucket cuts one
CODED = ("teacher", "source", "unit")
OF_ROWS = ("unit", "stratum")  # which rows that repeat others are not told by


@dataclass(frozen=True)
class Bucket:
    """All rows with its prompts, sorted by these."""

    prompt: np.ndarray  # int64 [N]: the prompt's hash
    # structured [N]: `teacher`, `source`, `unit`, `stratum`, `reject_reason` index into names, -1
    # for null
    rows: np.ndarray
    is_first: np.ndarray  # bool [N]: of the rows of a trajectory

    @property
    def block(self) -> np.ndarray:
        """Of prompts, int64 [N]."""
        return first_bits(self.prompt, BLOCK_BITS)

    def each_once(self) -> "Bucket":
        """Without rows that repeat another one."""
        return self if self.is_first.all() else self.where(self.is_first)

    def where(self, keep: np.ndarray) -> "Bucket":
        """The rows of a mask, bool [N]."""
        if keep.all():
            return self
        return Bucket(self.prompt[keep], self.rows[keep], self.is_first[keep])

    def columns(self) -> dict[str, np.ndarray]:
        return {name: self.rows[name] for name in self.rows.dtype.names or ()}


class Buckets:
    """The rows of some files, by prompt: those that were scored or, with `rejects`, all. Use as a
    context: its folder goes with it. `known` names are numbered with those that are found.
    """

    def __init__(
        self,
        store: Store,
        fingerprint: str,
        numbers: list[str],
        *,
        stratum: str | None = None,
        rejects: bool = False,
        known: Mapping[str, list[str]] | None = None,
    ):
        self.store, self.fingerprint, self.numbers = store, fingerprint, numbers
        more = {"stratum": stratum is not None, "reject_reason": rejects}
        self.coded = (*CODED, *(name for name, is_there in more.items() if is_there))
        self.stratum, self.rejects = stratum, rejects
        self.known = known or {}
        self.names: dict[str, list[str]] = {}
        # what repeats another row has the same row_hash, and what has the same id this hash
        self.by_id = "id_hash" if rejects else "row_hash"
        hashed = dict.fromkeys(["prompt_hash", "row_hash", self.by_id])
        self.plain = (*hashed, "source_row")
        fields = [(name, "i8") for name in self.plain]
        fields += [(name, "i4") for name in self.coded] + [(name, "f8") for name in numbers]
        self.dtype = np.dtype(fields)
        self._placed = [*self.plain, *(n for n in self.coded if n not in OF_ROWS)]
        self._place_dtype = np.dtype([(name, self.dtype[name]) for name in self._placed])

    def __enter__(self) -> "Buckets":
        self._folder = tempfile.TemporaryDirectory(prefix="rsr_ray-")
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def fill(self, files: list[ScoreFile], prompts: Prompts | None = None) -> None:
        """Read the files, or their rows of some prompts.

        Raises as `Store.read_score_file`, and UserError without room for it.
        """
        n_rows = sum(file.n_rows for file in files)
        if prompts is None:
            self._check_room(n_rows)
        self.bits = min(BLOCK_BITS, max(0, -(-n_rows // BUCKET_ROWS) - 1).bit_length())
        codes = {name: _Codes(self.known.get(name, ())) for name in self.coded}
        pending: list[np.ndarray] = []
        readers = READERS_OF_PARTS if any(file.is_part for file in files) else READERS
        with ThreadPoolExecutor(readers) as pool:
            waiting = (pool.submit(self._read, some, prompts) for some in _together(files))
            ahead = list(islice(waiting, readers + 1))
            while ahead:
                pending.append(self._numbered(ahead.pop(0).result(), codes))
                ahead += islice(waiting, 1)
                if sum(map(len, pending)) >= FLUSHED_ROWS:
                    self._flush(pending)
        self._flush(pending)
        self.names = {name: sorted(code.names) for name, code in codes.items()}
        self._places = {name: code.places() for name, code in codes.items()}
        self.repeats = self._find_repeats()

    def _check_room(self, n_rows: int) -> None:
        needed = n_rows * (self.dtype.itemsize + self._place_dtype.itemsize)
        free = shutil.disk_usage(self._folder.name).free
        if needed > free:
            raise UserError(
                f"{n_rows:,} rows need up to {needed / 1e9:.1f} GB in "
                f"{Path(self._folder.name).parent}, which has {free / 1e9:.1f} GB left: set TMPDIR "
                "to a folder with more"
            )

    def __iter__(self) -> Iterator[Bucket]:
        """The buckets, in the order of hashes."""
        return self.each(self.repeats)

    def each(self, repeats: np.ndarray, units: Collection[str] | None = None) -> Iterator[Bucket]:
        """The buckets, or what is in them of some units; `repeats` is what does not count because
        it repeats a row of another prompt, as the field of this name.
        """
        is_wanted = np.array([units is None or name in units for name in self.names["unit"]])
        repeats = repeats[np.argsort(repeats["prompt_hash"])]
        for bucket in range(1 << self.bits):
            rows = self._load("rows", bucket, self.dtype)
            if units is not None:
                rows = rows[is_wanted[rows["unit"]]]
            if len(rows):
                yield self._bucket(rows, repeats)

    def _read(self, files: list[ScoreFile], prompts: Prompts | None) -> pa.Table:
        """The rows of some files."""
        return pa.concat_tables(self._read_file(file, prompts) for file in files)

    def _read_file(self, file: ScoreFile, prompts: Prompts | None) -> pa.Table:
        wanted = [*CODED, *self.plain, "reject_reason", *self.numbers]
        wanted += ["strata"] if self.stratum else []
        table = self.store.read_score_file(self.fingerprint, file, wanted, prompts)
        if not self.rejects:
            table = table.filter(table["reject_reason"].is_null())
        if self.stratum:
            said = values_of(table["strata"], self.stratum)
            table = table.append_column("stratum", said)
        return table

    def _numbered(self, table: pa.Table, codes: dict[str, "_Codes"]) -> np.ndarray:
        rows = np.empty(len(table), self.dtype)
        for name in self.plain:
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
        self._lay("places", repack_fields(rows[self._placed]), rows[self.by_id])

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
        for name in {*self.coded} & {*(dtype.names or ())}:
            rows[name] = self._places[name][rows[name]]
        return rows

    def _find_repeats(self) -> np.ndarray:
        """(row_hash, prompt_hash) of rows that repeat one of another prompt that counts; counts
        what else has the same id.
        """
        found = []
        self.n_repeated_ids = np.zeros(len(self.names["teacher"]), np.int64)
        for bucket in range(1 << self.bits):
            rows = self._load("places", bucket, self._place_dtype)
            rows, is_first = self._sorted(rows, "row_hash", self.by_id)
            first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1] if len(rows) else []
            others = rows[rows["prompt_hash"] != rows["prompt_hash"][first]]
            found.append(repack_fields(others[["row_hash", "prompt_hash"]]))
            if self.rejects:
                counts = rows[is_first & (rows["reject_reason"] < 0)]
                again = counts["teacher"][~_changes(counts["id_hash"])]
                self.n_repeated_ids += np.bincount(again, minlength=len(self.n_repeated_ids))
            self._path("places", bucket).unlink(missing_ok=True)
        return np.concatenate(found)

    def _bucket(self, rows: np.ndarray, repeats: np.ndarray) -> Bucket:
        """Of a trajectory that a teacher has twice the first by source and row counts, and one that
        was scored before those that were not.
        """
        rows, is_first = self._sorted(rows, "row_hash", "prompt_hash")
        prompt = rows["prompt_hash"].copy()
        low = np.searchsorted(repeats["prompt_hash"], prompt[0])
        high = np.searchsorted(repeats["prompt_hash"], prompt[-1], side="right")
        for row, of in repeats[low:high].tolist():
            start, stop = (np.searchsorted(prompt, of, side=side) for side in ("left", "right"))
            is_first[start:stop] &= rows["row_hash"][start:stop] != row
        return Bucket(prompt, rows, is_first)

    def _sorted(self, rows: np.ndarray, *by: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows by hashes, the last first, and which of them is the first with its own."""
        order = np.argsort(np.ascontiguousarray(rows[by[0]]))
        for name in by[1:]:
            order = order[np.argsort(rows[name][order], kind="stable")]
        is_first: np.ndarray = np.logical_or.reduce([_changes(rows[name][order]) for name in by])
        if not is_first.all():  # those with the same hashes, in their own order
            again = ~is_first
            again[:-1] |= again[1:]
            some = rows[order[again]]
            keys = [some["source_row"], some["source"]]
            keys += [some["reject_reason"] >= 0] if self.rejects else []
            order[again] = order[again][np.lexsort([*keys, *(some[name] for name in by)])]
        return rows[order], is_first


def _together(files: list[ScoreFile]) -> Iterator[list[ScoreFile]]:
    """Files that are read by one task: small ones by the dozen."""
    some: list[ScoreFile] = []
    for file in files:
        some.append(file)
        if sum(one.n_rows for one in some) >= TASK_ROWS:
            yield some
            some = []
    if some:
        yield some


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


class _Codes:
    """Names as numbers, in the order in which they came."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names: dict[str, int] = {name: i for i, name in enumerate(names)}

    def of(self, column: pa.ChunkedArray) -> np.ndarray:
        """int [N]; -1 for null."""
        of_column, names = codes_of(column)
        own = [self.names.setdefault(name, len(self.names)) for name in names.to_pylist()]
        codes: np.ndarray = np.array([*own, -1])[of_column]
        return codes

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
