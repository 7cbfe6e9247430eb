"""The corpus, and a sample of its rows as the student would see them."""

import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.plan import make_plan
from rsr_ray.corpus.row_faults import Unreadable
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.corpus.shards import PARQUET, find_corpus
from rsr_ray.encode.tokens import tokenize
from rsr_ray.errors import BadRow, counted
from rsr_ray.files.objects import InputObject, open_filesystem
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.doctor.student import Renderer

SAMPLE = 10  # rows that are encoded and shown
PACKED = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class Sample:
    """Rows from shards all over a corpus."""

    rows: list[dict[str, Any]]  # canonical
    n_rows: float  # of the whole corpus, about


@dataclass(frozen=True)
class Shown:
    """A row of the sample: its rendered text and the [start, stop) in characters of what is
    scored, or why it is rejected.
    """

    trajectory_id: str
    text: str
    spans: list[tuple[int, int]]
    reject: str | None


@dataclass
class EncodedSample:
    """The sample as it is shown, and the tokens of those rows that can be scored."""

    shown: list[Shown] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)  # int32 [T] a row
    spans: list[np.ndarray] = field(default_factory=list)  # int32 [2S] a row

    def add(self, row: dict[str, Any], renderer: Renderer) -> None:
        """Raises BadRow."""
        turns = json.loads(row["messages"])
        tools = json.loads(row["tools"]) if row["tools"] else None
        found = renderer.find(turns, tools)
        ids, spans, *_ = tokenize(found, renderer.tokenizer, renderer.how)
        self.ids.append(ids)
        self.spans.append(spans)
        self.shown.append(Shown(row["trajectory_id"], found.text, found.spans, None))


def check_corpus(findings: Findings, config: ScoreConfig) -> Sample:
    """Whether it can be read, and about how many rows it has. Raises UserError."""
    objects, skipped = find_corpus(config.corpus, config.s3_endpoint, config.store)
    if skipped:
        findings.warn("corpus", skipped)
    plan = make_plan(objects, config.s3_endpoint, config.reading)
    for note in plan.notes:
        findings.warn("corpus", note)
    chosen = [
        objects[i] for i in sorted({int(i) for i in np.linspace(0, len(objects) - 1, SAMPLE)})
    ]
    rows: list[dict[str, Any]] = []
    bytes_a_row = []
    for obj in chosen:
        some = _first_rows(findings, config, obj, -(-SAMPLE // len(chosen)))
        rows += [canonical(row, obj, n, config.reading) for n, row in enumerate(some)]
        if some:
            bytes_a_row.append(obj.size / _rows_of(obj, some, config.s3_endpoint))
    size = sum(obj.size for obj in objects)
    n_rows = size / (sum(bytes_a_row) / len(bytes_a_row)) if bytes_a_row else 0.0
    teachers = {row["teacher"] or "none" for row in rows}
    named = (
        f"{counted(len(teachers), 'teacher')} in a sample of {counted(len(rows), 'row')}: "
        f"{', '.join(sorted(teachers)[:8])}"
    )
    findings.ok(
        "corpus",
        f"{counted(len(objects), 'shard')} ({size / 1e6:,.1f} MB), read as {plan.shape}; {named}",
    )
    return Sample(rows, n_rows)


def _first_rows(findings: Findings, config: ScoreConfig, obj: InputObject, most: int) -> list[Any]:
    """Its first rows as they are read; a shard that cannot be read that far is a failure."""
    some: list[Any] = []
    for row in iter_trajectories(obj, config.s3_endpoint, config.reading):
        if isinstance(row, Unreadable) and row.shard:
            findings.fail(
                "corpus",
                f"{obj.uri}: {row.detail}; fix or remove it, or its unreadable rows are rejected",
            )
        if len(some) == most:
            break
        some.append(row)
    return some


def _rows_of(obj: InputObject, some: list[Any], endpoint: str | None) -> float:
    """About how many rows an object has, from its footer or from what some of its rows take."""
    if obj.uri.lower().endswith(PARQUET):
        fs, path = open_filesystem(obj.uri, endpoint)
        with fs.open_input_file(path) as file:
            return max(1.0, pq.ParquetFile(file).metadata.num_rows)
    text = "".join(json.dumps(row, default=str) for row in some).encode()
    is_packed = obj.uri.lower().endswith(PACKED)
    taken = len(zlib.compress(text)) if is_packed else len(text)
    return max(1.0, obj.size / (taken / len(some)))


def check_rows(
    findings: Findings,
    renderer: Renderer,
    rows: list[dict[str, Any]],
    sample: EncodedSample,
    max_rejects: float,
) -> None:
    """How many of the rows, canonical, can be scored; `sample` gets them encoded."""
    rejects: Counter[str] = Counter()
    for row in rows:
        reason, detail = row["reject_reason"], row["reject_detail"]
        if not reason:
            try:
                sample.add(row, renderer)
                continue
            except BadRow as e:
                reason, detail = e.reason, str(e)
        rejects[f"{reason} ({detail})"] += 1
        sample.shown.append(Shown(row["trajectory_id"], "", [], detail))
    said = f"{len(rows) - rejects.total()} of {len(rows)} sampled rows can be scored"
    if not rejects:
        findings.ok("rows", said)
        return
    common = "; ".join(f"{n} {reason}" for reason, n in rejects.most_common(3))
    is_failure = rejects.total() / len(rows) > max_rejects
    say = findings.fail if is_failure else findings.warn
    say("rows", f"{said}; rejected: {common}")
