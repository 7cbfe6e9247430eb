"""The store: plain Parquet under one folder or bucket prefix.

    scores/student=<name>/<fingerprint>/<unit>.parquet   one row a trajectory, rejects included; one file a work unit
    teachers/student=<name>.parquet                      one row a teacher
    runs/<run_id>.json                                   settings, versions, the row equation, tokens, seconds

A unit's file name is a function of the input object and the row range: a unit that is done twice overwrites itself, and
a unit whose file is there is done. A file is there whole or not at all.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsr_ray.errors import UserError
from rsr_ray.objects import InputObject, absolute, delete, get, list_names, open_filesystem, put
from rsr_ray.schema import SCORES, TEACHERS

if TYPE_CHECKING:
    import ray.data

UNIT_NAME = re.compile(r"(?P<key>[0-9a-f]{16})-(?P<version>[0-9a-f]{12})-(?P<start>\d{10})-(?P<stop>\d{10})(?P<last>-last)?\.parquet")
STUDENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class Done:
    """What the store holds of one version of one input object."""

    ranges: list[tuple[int, int]] = field(default_factory=list)  # of rows, disjoint
    n_rows: int | None = None  # rows of the whole object, once the unit that ends it is there

    @property
    def n_done(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    @property
    def whole(self) -> bool:
        return self.n_rows is not None and self.n_done == self.n_rows


class Store:
    """One student's part of a store. Small and picklable: it travels to the tasks that write."""

    def __init__(self, uri: str, student_name: str, endpoint: str | None):
        if not STUDENT_NAME.fullmatch(student_name):
            raise UserError(f"--student-name {student_name!r}: use letters, digits, '.', '_' and '-'; it becomes a folder's name")
        self.uri, self.student_name, self.endpoint = absolute(uri), student_name, endpoint

    @property
    def scores_uri(self) -> str:
        return f"{self.uri}/scores/student={self.student_name}"

    @property
    def teachers_uri(self) -> str:
        return f"{self.uri}/teachers/student={self.student_name}.parquet"

    def check_writable(self, run_id: str) -> None:
        """Write and delete one small object. Raises UserError."""
        probe = f"{self.uri}/runs/.{run_id}.probe"
        try:
            put(probe, b"rsr_ray", self.endpoint)
            delete(probe, self.endpoint)
        except OSError as e:
            raise UserError(f"store {self.uri}: cannot be written: {e}") from e

    # --- scores -------------------------------------------------------------------------------------------------------

    def fingerprints(self) -> list[str]:
        """Fingerprints of the scores this student has in the store."""
        return sorted({name.split("/")[0] for name in list_names(self.scores_uri, self.endpoint) if "/" in name})

    def done(self, fingerprint: str) -> dict[tuple[str, str], Done]:
        """What is scored already under a fingerprint, by (key, version) of the input object. Opens no file."""
        return _done(self._unit_names(fingerprint))

    def _unit_names(self, fingerprint: str) -> list[str]:
        return [name for name in list_names(f"{self.scores_uri}/{fingerprint}", self.endpoint) if UNIT_NAME.fullmatch(name)]

    def write_unit(self, unit: pa.Table, fingerprint: str) -> pa.Table:
        """Ray Data UDF over units: SCORES rows in, their file written, one line of bookkeeping out."""
        (unit_facts,) = unit.drop_columns(["rows"]).to_pylist()
        rows = pa.RecordBatch.from_struct_array(unit["rows"].combine_chunks().flatten())
        scores = pa.Table.from_batches([rows]).cast(SCORES)
        put(self.unit_uri(fingerprint, unit_facts), _parquet(scores), self.endpoint)
        rejects: dict[str, dict[str, Any]] = {}
        for row in scores.filter(pc.is_valid(scores["reject_reason"])).to_pylist():
            example = f"{row['source']} row {row['source_row']}: {row['reject_detail']}"
            rejects.setdefault(row["reject_reason"], {"n": 0, "example": example})["n"] += 1
        return pa.table(
            {
                **{name: [value] for name, value in unit_facts.items()},
                "n_rows": [scores.num_rows],
                "n_scored": [scores["reject_reason"].null_count],
                "n_tokens": pa.array([pc.sum(scores["n_tokens"]).as_py() or 0], pa.int64()),
                "n_prompt_tokens": pa.array([pc.sum(scores["n_prompt_tokens"]).as_py() or 0], pa.int64()),
                "rejected": [json.dumps(rejects)],
            }
        )

    def unit_uri(self, fingerprint: str, unit: dict[str, Any]) -> str:
        last = "-last" if unit["last"] else ""
        return f"{self.scores_uri}/{fingerprint}/{unit['key']}-{unit['version']}-{unit['start']:010d}-{unit['stop']:010d}{last}.parquet"

    def retire(self, fingerprint: str, objects: list[InputObject]) -> int:
        """Delete the scores of earlier versions of objects whose present version is scored whole; returns how many files."""
        current = {obj.key: obj.version for obj in objects}
        names = self._unit_names(fingerprint)
        whole = {key for (key, version), done in _done(names).items() if current.get(key) == version and done.whole}
        stale = [n for n in names if n[:16] in whole and n[17:29] != current[n[:16]]]
        for name in stale:
            delete(f"{self.scores_uri}/{fingerprint}/{name}", self.endpoint)
        return len(stale)

    def read_scores(self, fingerprint: str) -> "ray.data.Dataset":
        """All scores under a fingerprint as a Ray Data dataset."""
        import ray

        fs, path = open_filesystem(f"{self.scores_uri}/{fingerprint}", self.endpoint)
        return ray.data.read_parquet(path, filesystem=fs, partitioning=None, num_cpus=0.25)

    # --- what is made of them -----------------------------------------------------------------------------------------

    def write_teachers(self, teachers: pa.Table) -> None:
        put(self.teachers_uri, _parquet(teachers.cast(TEACHERS)), self.endpoint)

    def read_teachers(self) -> pa.Table:
        """The TEACHERS table. Raises UserError where the student has none."""
        try:
            return pq.read_table(pa.BufferReader(get(self.teachers_uri, self.endpoint)))
        except (FileNotFoundError, NotADirectoryError) as e:
            prefix, suffix = "student=", ".parquet"
            names = [n for n in list_names(f"{self.uri}/teachers", self.endpoint) if n.startswith(prefix) and n.endswith(suffix)]
            known = ", ".join(n.removeprefix(prefix).removesuffix(suffix) for n in names) or "none yet: run rsr-ray score"
            raise UserError(f"store {self.uri}: no teachers of student {self.student_name}; students there: {known}") from e

    def write_run(self, run: dict[str, Any]) -> None:
        put(f"{self.uri}/runs/{run['run_id']}.json", json.dumps(run, indent=1).encode(), self.endpoint)


def _done(names: list[str]) -> dict[tuple[str, str], Done]:
    found: dict[tuple[str, str], Done] = defaultdict(Done)
    for name in names:
        if unit := UNIT_NAME.fullmatch(name):
            done = found[unit["key"], unit["version"]]
            done.ranges.append((int(unit["start"]), int(unit["stop"])))
            if unit["last"]:
                done.n_rows = int(unit["stop"])
    return dict(found)


def _parquet(table: pa.Table) -> pa.Buffer:
    """The file's bytes in memory: what is then written is all there or nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
