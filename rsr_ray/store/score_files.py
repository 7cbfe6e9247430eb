"""score_files: the files that hold the score rows of a student, and the rows in them.

This is the one way to many rows: whoever reads them neither knows nor asks whether a file is of one
unit or of many.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.store.scores import Scores
from rsr_ray.store.units import n_rows

HASHED = {  # of which columns each is a hash; null counts as empty
    "prompt_hash": ("prompt_id",),
    "row_hash": ("teacher", "trajectory_id", "content"),
}


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """A file with score rows."""

    place: str  # below the store
    units: tuple[str, ...]  # names of those whose rows in it count
    n_rows: int  # at most, rejects included
    is_part: bool  # whether it is of many units, sorted by prompt_hash


class ScoreFiles(Scores):
    """The score rows of one student in a store."""

    def score_files(self, fingerprint: str, names: Iterable[str] | None = None) -> list[ScoreFile]:
        """The files whose rows are those of a fingerprint's units that count, or of some of these.

        Opens none of them.
        """
        counted = self.counted(fingerprint)
        wanted = counted.keys() if names is None else counted.keys() & {*names}
        return [
            ScoreFile(
                place=self._unit_place("scores", fingerprint, name),
                units=(name,),
                n_rows=n_rows([name]),
                is_part=False,
            )
            for name in sorted(wanted)
        ]

    def read_score_file(
        self,
        fingerprint: str,
        file: ScoreFile,
        columns: list[str],
        prompts: tuple[int, int] | None = None,
    ) -> pa.Table:
        """Columns of the rows of a file that count, as `read_unit` has them.

        There are also prompt_hash and row_hash, int64 (`hashes`), and the name of its unit, a
        dictionary. `prompts` (low, high): only rows with low <= prompt_hash < high. Raises as
        `read_unit`.
        """
        (name,) = file.units
        asked = [*columns, *(["prompt_hash"] if prompts else [])]
        needed = dict.fromkeys(n for c in asked for n in HASHED.get(c, (c,)) if n != "unit")
        rows = self.read_unit(fingerprint, name, list(needed))
        for column in {*asked} & HASHED.keys():
            rows = rows.append_column(column, hashes([rows[n] for n in HASHED[column]]))
        if "unit" in columns:
            rows = rows.append_column("unit", units_column(name, rows.num_rows))
        if prompts:
            rows = rows.filter(_within(rows["prompt_hash"].to_numpy(), prompts))
        return rows.select(columns)


def hashes(columns: list[pa.ChunkedArray]) -> pa.Array:
    """Of each row of text columns an int64: its texts, with a zero byte between them, by BLAKE2b
    with a digest of 8 bytes, little-endian.
    """
    texts = [pc.fill_null(column.cast(pa.string()), "") for column in columns]
    joined = pc.binary_join_element_wise(*texts, "\0") if len(texts) > 1 else texts[0]
    found = (blake2b(text, digest_size=8).digest() for text in joined.cast(pa.binary()).to_pylist())
    return pa.array(np.frombuffer(b"".join(found), "<i8"))


def units_column(name: str, n: int) -> pa.Array:
    """The name of a unit for each of its rows: a dictionary."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([name]))


def _within(values: np.ndarray, bounds: tuple[int, int]) -> pa.Array:
    low, high = bounds  # high may be 2**63
    return pa.array((values >= low) & (values <= high - 1))
