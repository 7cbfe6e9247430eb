"""local: conversations that are at hand -> their scores, in this process, without Ray and
without a store.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from rsr_ray.config.score import PreviewConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import trajectories
from rsr_ray.corpus.row_faults import Row
from rsr_ray.encode.encode import encode_rows
from rsr_ray.encode.how import How
from rsr_ray.files.objects import InputObject
from rsr_ray.run.resources import AUTO_DTYPES, BATCH_TOKENS
from rsr_ray.run.score import Scorer, Wanted
from rsr_ray.student.facts import StudentFacts, inspect_student
from rsr_ray.student.model import Student
from rsr_ray.unit_rows import ENCODED_ROWS

HERE = "conversations"  # where the rows come from, in the column `source`


def score_conversations(
    conversations: Iterable[Row | list[dict[str, str]]],
    student: str,
    *,
    teacher: str = HERE,
    **settings: Any,
) -> pa.Table:
    """Score conversations under a student.

    Each conversation is a list of turns (`role`, `content`), or a row of any shape that a corpus
    may have; a row with several answers is several. `settings` are those of ScoreConfig: r_max,
    max_length, render, dtype, ... A GPU is used if there is one.

    Returns SCORES rows (rsr_ray.schema: columns with their units), in order. A row that cannot be
    scored has null scores and a `reject_reason`. Raises UserError for a student or a setting that
    cannot be used.
    """
    import torch

    config = PreviewConfig(corpus=(HERE,), student=student, teacher=teacher, **settings)
    facts = inspect_student(student, config.trust_remote_code, config.template_text)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = AUTO_DTYPES[device] if config.dtype == "auto" else config.dtype
    limit = config.length_limit(facts)
    rows = _encoded(conversations, config, facts)
    model = Student(
        facts.source,
        dtype,
        device,
        trust_remote_code=config.trust_remote_code,
        quantize=config.quantize,
        expected=facts,
    )
    batch_tokens = config.batch_tokens or BATCH_TOKENS[device]
    fingerprint = config.fingerprint(facts, dtype, limit)
    scorer = Scorer(model, Wanted.of(config, limit), batch_tokens, fingerprint)
    scores, _ = scorer.score(rows)
    return pa.Table.from_batches([scores])


def _encoded(
    conversations: Iterable[Row | list[dict[str, str]]],
    config: PreviewConfig,
    facts: StudentFacts,
) -> pa.RecordBatch:
    """ENCODED_ROWS rows of conversations, in order."""
    whole = (one if isinstance(one, dict) else {"messages": one} for one in conversations)
    reading = config.reading_for(facts)
    rows = [one for row in whole for one, _ in trajectories(row, reading)]
    source = InputObject(uri=HERE, version="", size=0)
    read = [canonical(row, source, n, reading, config.s3_endpoint) for n, row in enumerate(rows)]
    encoded = encode_rows(read, facts.source, How.of(config, facts))
    return pa.RecordBatch.from_struct_array(pa.array(encoded, ENCODED_ROWS))
