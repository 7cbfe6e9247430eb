"""The files of a student's units, scores and tokens: listed, written, read, deleted."""

import datetime
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute
from rsr_ray.files.objects import delete, get, list_folders, list_versions, put
from rsr_ray.schema import SCORES, TOKENS
from rsr_ray.store import seal
from rsr_ray.store.beside import KEY, Beside
from rsr_ray.store.manifest import FOLDER, Folder, Laid
from rsr_ray.store.records import broken
from rsr_ray.store.rejects import rejects_of
from rsr_ray.store.units import (
    FINGERPRINT,
    UNIT_NAME,
    Listing,
    settle_units,
    unit_name,
    written_ns,
)

# In the metadata of tokens: the clip of the scores beside them; how far these are from their sums.
R_MAX_KEY, OFF_KEY = "r_max", "off"
STUDENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class TokenFacts(NamedTuple):
    """What a file of token scores says of itself."""

    r_max: int  # of the unit's scores
    off: float  # how far their sums are from the scores, relatively: they were added later


class Scores:
    """The units of one student in a store."""

    def __init__(self, uri: str, student_name: str, endpoint: str | None = None):
        if not STUDENT_NAME.fullmatch(student_name):
            raise UserError(
                f"--student-name {student_name!r}: use letters, digits, '.', '_' and '-'; it is "
                "used as a folder name"
            )
        self.uri, self.student_name, self.endpoint = absolute(uri), student_name, endpoint

    @property
    def scores_uri(self) -> str:
        return f"{self.uri}/scores/student={self.student_name}"

    def listing(self) -> Listing:
        """The student's units, and what else lies among them. Opens no file but manifests."""
        listed = Listing.of(list_versions(self.scores_uri, self.endpoint))
        names = {*listed.units, *self._fingerprints()}
        laid = {name: self._laid(name, listed.units.get(name, {})).units for name in sorted(names)}
        return Listing({name: units for name, units in laid.items() if units}, listed.strays)

    def units(self) -> dict[str, list[str]]:
        """Names of this student's units by fingerprint, sorted. Opens no file but manifests."""
        return {fingerprint: list(units) for fingerprint, units in self.listing().units.items()}

    def laid(self, fingerprint: str) -> Laid:
        """Where the units of a fingerprint lie."""
        return self._laid(fingerprint, self.unit_files(fingerprint))

    def _laid(self, fingerprint: str, files: Mapping[str, str]) -> Laid:
        """`files` were listed before: a unit whose file is not among them, because it went into a
        part, is in the manifest by now.
        """
        return Laid(files, *self.parts(fingerprint).read())

    def parts(self, fingerprint: str) -> Folder:
        """The folder of parts of a fingerprint."""
        place = f"scores/student={self.student_name}/{fingerprint}/{FOLDER}"
        return Folder(self.uri, place, self.endpoint)

    def unit_files(self, fingerprint: str) -> dict[str, str]:
        """Names of the units that have a file of their own, with its version."""
        return self._files("scores", fingerprint)

    def _files(self, kind: str, fingerprint: str) -> dict[str, str]:
        """Names of the units that have a file of a kind, with its version."""
        folder = f"{self.uri}/{kind}/student={self.student_name}/{fingerprint}"
        files = list_versions(folder, self.endpoint)
        found = Listing.of({f"{fingerprint}/{path}": v for path, v in files.items()})
        return found.units.get(fingerprint, {})

    def _fingerprints(self) -> list[str]:
        """Those that a folder of scores is named by, whether units lie there or not."""
        return [n for n in list_folders(self.scores_uri, self.endpoint) if FINGERPRINT.fullmatch(n)]

    def counted(self, fingerprint: str) -> dict[str, str]:
        """The units of a fingerprint that count, none repeating rows, with file versions."""
        found = self.laid(fingerprint).units
        repeated = {*settle_units(list(found))[1]}
        return {name: version for name, version in found.items() if name not in repeated}

    def units_until(self, fingerprint: str, moment: datetime.datetime) -> list[str]:
        """Units of a fingerprint last written no later than that, by the store's clock, sorted."""
        latest = round(moment.timestamp() * 1e6)
        units = self.laid(fingerprint).units
        return [n for n, v in units.items() if 0 < written_ns(v) // 1000 <= latest]

    def write_scores(
        self, fingerprint: str, name: str, scores: pa.Table, mark: str | None = None
    ) -> None:
        """Write the SCORES rows of a unit; `mark` says what it has beside them, if it says it."""
        place = self._unit_place("scores", fingerprint, name)
        facts = {KEY: mark} if mark else {}
        data = seal.write_parquet(scores.cast(SCORES), place, facts)
        put(f"{self.uri}/{place}", data, self.endpoint)

    def write_unit(
        self, unit: pa.Table, fingerprint: str, beside: Beside | None = None
    ) -> pa.Table:
        """Units of SCORES rows in, their file written, one line of bookkeeping out.

        `beside` is what they have beside their scores.
        """
        (unit_facts,) = unit.drop_columns(["rows"]).to_pylist()
        rows = pa.RecordBatch.from_struct_array(unit["rows"].combine_chunks().flatten())
        scores = pa.Table.from_batches([rows]).cast(SCORES)
        name = unit_name(unit_facts)
        self.write_scores(fingerprint, name, scores, beside.mark if beside is not None else None)
        rejects = {reason: asdict(reject) for reason, reject in rejects_of(scores).items()}
        return pa.table(
            {
                **{key: [value] for key, value in unit_facts.items()},
                "file": [name],
                "n_rows": [scores.num_rows],
                "n_scored": [scores["reject_reason"].null_count],
                "n_tokens": pa.array([pc.sum(scores["n_tokens"]).as_py() or 0], pa.int64()),
                "n_prompt_tokens": pa.array(
                    [pc.sum(scores["n_prompt_tokens"]).as_py() or 0], pa.int64()
                ),
                "rejected": [json.dumps(rejects)],
            }
        )

    def write_tokens(
        self, fingerprint: str, name: str, tokens: pa.Table, r_max: int, off: float = 0.0
    ) -> None:
        """Write the TOKENS rows of a unit.

        `off` is how far their sums are from those of the scores, relatively.
        """
        # Mantissas of floats compress badly as they stand, and well with the bytes of one place
        # side by side.
        floats = ["surprisal", "entropy", "square"] if tokens.num_rows else []
        split = {
            "use_byte_stream_split": [f"{name}.list.element" for name in floats],
            "use_dictionary": ["text.list.element", "teacher", "source"],
        }
        place = self._unit_place("tokens", fingerprint, name)
        facts = {R_MAX_KEY: str(r_max)} | ({OFF_KEY: repr(off)} if off else {})
        data = seal.write_parquet(tokens, place, facts, **split)
        put(f"{self.uri}/{place}", data, self.endpoint)

    def token_units(self, fingerprint: str) -> set[str]:
        """Names of the units that have token scores. Opens no file."""
        return {*self._files("tokens", fingerprint)}

    def read_tokens(self, fingerprint: str, name: str) -> tuple[pa.Table, TokenFacts]:
        """The TOKENS rows of a unit, and what goes with them.

        Raises FileNotFoundError where --token-scores did not ask for them, StoreError where they
        are not what was written.
        """
        place = self._unit_place("tokens", fingerprint, name)
        opened = self._open(place, None, TOKENS)
        r_max = opened.facts.get(R_MAX_KEY.encode(), b"")
        if not r_max.isdigit() or len(opened.table.schema) < len(TOKENS):
            raise broken(self.uri, place, "not the token scores of a unit")
        off = float(opened.facts.get(OFF_KEY.encode(), b"0"))
        return opened.table, TokenFacts(int(r_max), off)

    def _open(self, place: str, columns: list[str] | None, schema: pa.Schema) -> seal.Opened:
        """Every Parquet file of the store is opened here. Raises FileNotFoundError, StoreError."""
        try:
            return seal.read_parquet(
                get(f"{self.uri}/{place}", self.endpoint), place, columns, schema
            )
        except seal.BrokenError as e:
            # Ray's text of a chain of errors begins with the first.
            raise broken(self.uri, place, e) from None

    def _unit_place(self, kind: str, fingerprint: str, name: str) -> str:
        return f"{kind}/student={self.student_name}/{fingerprint}/{name[0]}/{name}"

    def unit_uri(self, fingerprint: str, name: str) -> str:
        return f"{self.uri}/{self._unit_place('scores', fingerprint, name)}"

    def tokens_uri(self, fingerprint: str, name: str) -> str:
        return f"{self.uri}/{self._unit_place('tokens', fingerprint, name)}"

    def drop(self, fingerprint: str, names: Collection[str]) -> None:
        """Delete units, and their tokens. In parts their rows no longer count."""
        for name in names:
            assert UNIT_NAME.fullmatch(name)
            delete(self.unit_uri(fingerprint, name), self.endpoint)
            delete(self.tokens_uri(fingerprint, name), self.endpoint)
        if names:  # after the files: a compaction that read these looks whether they are there
            self.parts(fingerprint).change(lambda manifest: manifest.without(names))
