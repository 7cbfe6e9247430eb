"""The corpus, and a sample of its rows as the student would see them."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.plan import make_plan
from rsr_ray.corpus.row_faults import Row, Unreadable
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.corpus.shards import PARQUET, find_corpus
from rsr_ray.encode.placed import with_images
from rsr_ray.encode.tokens import tokenize
from rsr_ray.errors import BadRow, counted
from rsr_ray.files.filesystems import open_filesystem
from rsr_ray.files.objects import InputObject
from rsr_ray.run.display import size
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.doctor.student import Renderer
from rsr_ray.student.facts import StudentFacts

SAMPLE = 48  # rows that are encoded
SHARDS = 16  # that they are of, at most
BEGINNING = 65536  # bytes of a shard that are looked at to see how it spells characters
UNPACKED = 1 << 23  # bytes of the text of a packed shard from which its packing is known
PACKED = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class Sample:
    """Rows from shards all over a corpus."""

    rows: list[Row] = field(default_factory=list)  # canonical
    row_bytes: list[float] = field(default_factory=list)  # of each in its shard, about
    files: list[InputObject] = field(default_factory=list)  # of the whole corpus

    @property
    def n_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def n_rows(self) -> float:
        """Of the whole corpus, about."""
        return self.n_bytes / float(np.mean(self.row_bytes)) if self.rows else 0.0


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
    of_rows: list[np.ndarray | None] = field(default_factory=list)  # None: rejected
    ids: list[np.ndarray] = field(default_factory=list)  # int32 [T] a row that is not
    spans: list[np.ndarray] = field(default_factory=list)  # int32 [2S] of it
    images: list[list[bytes]] = field(default_factory=list)  # of it

    def add(self, row: Row, renderer: Renderer) -> None:
        """Raises BadRow."""
        turns = json.loads(row["messages"])
        tools = json.loads(row["tools"]) if row["tools"] else None
        found = with_images(renderer.find(turns, tools), row["images"] or (), renderer.eyes)
        encoded = tokenize(found, renderer.tokenizer, renderer.how)
        ids, spans = encoded.input_ids, encoded.spans
        self.of_rows.append(ids)
        self.ids.append(ids)
        self.spans.append(spans)
        stops = encoded.image_stops
        self.images.append([] if stops is None else row["images"][: len(stops)])
        self.shown.append(Shown(row["trajectory_id"], found.text, found.spans, None))

    def reject(self, row: Row, detail: str) -> None:
        self.of_rows.append(None)
        self.shown.append(Shown(row["trajectory_id"], "", [], detail))


def check_corpus(
    findings: Findings, config: ScoreConfig, student: StudentFacts | None = None
) -> Sample:
    """Whether it can be read, and about how many rows it has. Raises UserError."""
    reading = config.reading_for(student) if student else config.reading
    objects, skipped = find_corpus(config.corpus, config.s3_endpoint, config.store)
    if skipped:
        findings.warn("corpus", skipped)
    plan = make_plan(objects, config.s3_endpoint, config.reading)
    for note in plan.notes:
        findings.warn("corpus", note)
    chosen = [
        objects[i] for i in sorted({int(i) for i in np.linspace(0, len(objects) - 1, SHARDS)})
    ]
    sample = Sample(files=objects)
    endpoint = config.s3_endpoint
    for obj in chosen:
        some = _first_rows(findings, config, obj, -(-SAMPLE // len(chosen)))
        sample.rows.extend(canonical(row, obj, n, reading, endpoint) for n, row in enumerate(some))
        sample.row_bytes.extend(_bytes_of(obj, some, config.s3_endpoint) if some else [])
    rows = sample.rows
    teachers = {row["teacher"] or "none" for row in rows}
    named = (
        f"{counted(len(teachers), 'teacher')} in a sample of {counted(len(rows), 'row')}: "
        f"{', '.join(sorted(teachers)[:8])}"
    )
    findings.ok(
        "corpus",
        f"{counted(len(objects), 'shard')} ({size(sample.n_bytes)}), read as {plan.shape}; {named}",
    )
    return sample


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


def _bytes_of(obj: InputObject, some: list[Any], endpoint: str | None) -> list[float]:
    """About how many bytes of an object each of some of its rows takes.

    In Parquet all take the same, by the footer, because columns are compressed together.
    """
    if obj.uri.lower().endswith(PARQUET):
        fs, path = open_filesystem(obj.uri, endpoint)
        with fs.open_input_file(path) as file:
            n_rows = max(1, pq.ParquetFile(file).metadata.num_rows)
        return [obj.size / n_rows] * len(some)
    is_ascii = _is_ascii(obj, endpoint)
    texts = [json.dumps(row, default=str, ensure_ascii=is_ascii).encode() for row in some]
    packing = _packing(obj, endpoint) if obj.uri.lower().endswith(PACKED) else 1.0
    return [packing * (len(text) + 1) for text in texts]  # and a line break


def _packing(obj: InputObject, endpoint: str | None) -> float:
    """Bytes of a packed shard for each byte of its text, from its beginning."""
    fs, path = open_filesystem(obj.uri, endpoint)
    with fs.open_input_file(path) as file:
        packed = pa.CompressedInputStream(file, pa.Codec.detect(path).name)
        try:
            n_text = len(packed.read(UNPACKED))
        except OSError:  # it breaks off: reading its rows has said so
            n_text = 0
        return file.tell() / n_text if n_text else 1.0


def _is_ascii(obj: InputObject, endpoint: str | None) -> bool:
    """Whether a shard escapes what is not ASCII, as far as its beginning tells."""
    fs, path = open_filesystem(obj.uri, endpoint)
    try:
        with fs.open_input_stream(path) as stream:
            return bool(stream.read(BEGINNING).isascii())
    except OSError:  # a shard that breaks off: reading its rows has said so
        return True


def check_rows(
    findings: Findings,
    renderer: Renderer,
    sample: Sample,
    encoded: EncodedSample,
    max_rejects: float,
) -> None:
    """How many of the sample's rows can be scored; `encoded` gets them."""
    rows = sample.rows
    rejects: Counter[str] = Counter()
    for row in rows:
        reason, detail = row["reject_reason"], row["reject_detail"]
        if not reason:
            try:
                encoded.add(row, renderer)
                continue
            except BadRow as e:
                reason, detail = e.reason, str(e)
        rejects[f"{reason} ({detail})"] += 1
        encoded.reject(row, detail)
    said = f"{len(rows) - rejects.total()} of {len(rows)} sampled rows can be scored"
    if not rejects:
        findings.ok("rows", said)
        return
    common = "; ".join(f"{n} {reason}" for reason, n in rejects.most_common(3))
    is_failure = rejects.total() / len(rows) > max_rejects
    say = findings.fail if is_failure else findings.warn
    say("rows", f"{said}; rejected: {common}")
