"""audit: written rows, encoded as a trainer encodes them, against the tokens that were scored.

A trainer renders `messages` (and `tools`) by the student's chat template and takes the loss on the
assistant's tokens. So of each row the rendering as it stands is encoded, and the row is encoded as
it was for scoring: the second must be the beginning of the first, and have as many tokens of the
assistant as were scored. End markers, which most trainers train on as well, are not scored.
"""

import dataclasses
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rsr_ray.arms.manifest import Arm, Audit
from rsr_ray.choose.files import read_file
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.config.score import ScoreConfig
from rsr_ray.config.settings import MOST
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.row_faults import Row
from rsr_ray.encode.encode import encode_row
from rsr_ray.encode.how import How
from rsr_ray.encode.rendering import render
from rsr_ray.errors import BadRow, UserError
from rsr_ray.files.objects import InputObject
from rsr_ray.run.datasets import shared_out
from rsr_ray.run.display import at_stage
from rsr_ray.store.store import Store
from rsr_ray.student.tokenizer import load_tokenizer

EXAMPLES = 5
AUDITED = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("prompt_id", pa.string()),
        ("length", pa.int64()),
        ("differs", pa.string()),
    ]
)
READING = Reading(teacher="any")


@dataclass(frozen=True)
class AuditedRow:
    """What a trainer would make of a written row."""

    trajectory_id: str
    prompt_id: str
    length: int | None  # tokens of the whole rendering; None if it cannot be rendered
    differs: str | None  # why its tokens are not those that were scored; None if they are


def audit_arms(
    arms: list[Arm], store: Store, fingerprint: str, config: ArmsConfig
) -> tuple[Audit, list[str]]:
    """The audit of all arms' files, and the prompts with a row that the trainer cuts.

    Raises UserError if the store does not say how the rows were scored, or the student's tokenizer
    is not here.
    """
    import ray.data

    source, how = scored_by(store, fingerprint)
    load_tokenizer(source, how.chat_template)  # raises here, not in a task
    every = [(f"{arm.folder}/{file.name}", file.rows) for arm in arms for file in arm.files]
    files = pa.table({"uri": [uri for uri, _ in every], "size": [rows for _, rows in every]})
    with at_stage(f"checking the tokens of {sum(arm.rows for arm in arms):,} rows"):
        found = (
            ray.data.from_arrow(shared_out(files))
            .map_batches(
                audit_files,
                fn_args=(source, how, config.s3_endpoint),
                batch_size=None,
                batch_format="pyarrow",
            )
            .iter_batches(batch_size=None, batch_format="pyarrow")
        )
        rows = pa.concat_tables(found).sort_by("trajectory_id").to_pylist()
    return summarize([AuditedRow(**row) for row in rows], config.trainer_length)


def summarize(rows: list[AuditedRow], trainer_length: int | None) -> tuple[Audit, list[str]]:
    """The audit of these rows, and the prompts of those longer than `trainer_length`."""
    limit = MOST if trainer_length is None else trainer_length
    reasons = Counter(row.differs for row in rows if row.differs)
    examples = [f"{row.trajectory_id}: {row.differs}" for row in rows if row.differs]
    cut = [row for row in rows if (row.length or 0) > limit]
    audit = Audit(
        rows=len(rows),
        same=len(rows) - len(examples),
        differ=dict(reasons.most_common()),
        examples=examples[:EXAMPLES],
        cut=len(cut),
        longest=max((row.length or 0 for row in rows), default=0),
    )
    return audit, sorted({row.prompt_id for row in cut})


def scored_by(store: Store, fingerprint: str) -> tuple[str, How]:
    """The student's files, and how rows became tokens when they were scored. Raises UserError."""
    run = store.find_run(fingerprint)
    if run is None:
        raise UserError(
            f"store {store.uri}: no record of a run says which tokenizer scored it, so --audit and "
            "--trainer-length cannot be used; leave out long rows with --max-tokens"
        )
    if run.student.sees:
        raise UserError(
            "--audit and --trainer-length do not look at images, so they cannot be used with a "
            "vision-language student; leave out long rows with --max-tokens"
        )
    how = How.of(ScoreConfig.from_json(run.config), run.student)
    # a row is compared whole, whatever was cut of it for scoring
    how = dataclasses.replace(how, max_length=MOST, steps=None, token_text=False)
    return run.student.source, how


def audit_files(files: pa.Table, source: str, how: How, endpoint: str | None) -> pa.Table:
    """Ray Data UDF over URIs of written files: AUDITED rows."""
    tokenizer = load_tokenizer(source, how.chat_template, how.proof)
    rows = [
        dataclasses.asdict(audit_row(row, tokenizer, how))
        for uri in files["uri"].to_pylist()
        for row in read_file(uri, endpoint)
    ]
    return pa.Table.from_pylist(rows, AUDITED)


def audit_row(row: Row, tokenizer: Any, how: How) -> AuditedRow:
    """The audit of a written row."""
    try:
        ids = trainer_ids(row, tokenizer)
        length, differs = len(ids), _differs(row, ids, tokenizer, how)
    except BadRow as e:
        length, differs = None, f"the template cannot render it: {e.detail[:100]}"
    facts = row["rsr_ray"]
    return AuditedRow(facts["trajectory_id"], facts["prompt_id"], length, differs)


def trainer_ids(row: Row, tokenizer: Any) -> list[int]:
    """The tokens of a row as a trainer has them. Raises BadRow."""
    text = render(row["messages"], tokenizer, row.get("tools") or None)
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def _differs(row: Row, ids: list[int], tokenizer: Any, how: How) -> str | None:
    """Why a trainer would train on other tokens than were scored; None if it would not."""
    source = InputObject(uri="written", version="", size=0)
    read = canonical({"messages": row["messages"], "tools": row.get("tools")}, source, 0, READING)
    scored = encode_row(read, tokenizer, how, nullcontext)
    if scored["reject_reason"]:
        return f"the written row is rejected as {scored['reject_reason']}"
    spans = scored["spans"].reshape(-1, 2)
    n = int((spans[:, 1] - spans[:, 0]).sum())
    if n != row["rsr_ray"]["n_tokens"]:
        return f"{'more' if n > row['rsr_ray']['n_tokens'] else 'fewer'} tokens than were scored"
    if ids[: len(scored["input_ids"])] != scored["input_ids"].tolist():
        return "different tokens: it is rendered differently than when it was scored"
    return None
