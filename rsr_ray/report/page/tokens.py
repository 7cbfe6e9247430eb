"""Token scores of a few stored trajectories, by the student itself, where the store has none."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.row_faults import Row
from rsr_ray.encode.encode import encode_row
from rsr_ray.encode.how import How
from rsr_ray.engine.scoring import Work
from rsr_ray.engine.windows import score_windows
from rsr_ray.errors import UserError
from rsr_ray.run.score import Wanted
from rsr_ray.store.run_record import RunRecord
from rsr_ray.student.facts import StudentFacts, inspect_student
from rsr_ray.student.model import Student
from rsr_ray.student.tokenizer import load_tokenizer

BATCH_TOKENS = 4096


def score_again(rows: Mapping[int, Row], run: RunRecord, student: str) -> Iterator[tuple[int, Row]]:
    """Of READ_ROWS values that a run has scored, by i: i, and the tokens as a TOKENS row has them.

    Runs in this process, on a GPU if there is one. Raises UserError if the student is another than
    the one that gave the scores.
    """
    config = ScoreConfig.from_json(run.config | {"student": student})  # from another place
    facts = inspect_student(student, config.trust_remote_code, config.template_text)
    dtype = run.resources.dtype
    if not config.has_made(run, facts, dtype, run.max_length):
        raise UserError(
            f"--tokens-from {student}: not the student that the stored scores come from "
            "(different fingerprint)"
        )
    how = dataclasses.replace(How.of(config, facts), token_text=True)
    tokenizer = load_tokenizer(facts.source, how.chat_template, how.proof)
    replica = _load(facts, dtype, config)
    window = Wanted.of(config, run.max_length).window
    for i, row in rows.items():
        encoded = encode_row(row, tokenizer, how, eyes=replica.eyes)
        if encoded["reject_reason"] is not None:
            continue
        images = [encoded["images"] or ()]
        (tokens,) = score_windows(
            replica, [encoded["input_ids"]], [encoded["spans"]], Work(BATCH_TOKENS), window, images
        )
        if tokens is not None:
            lists = {name: np.asarray(some).tolist() for name, some in tokens._asdict().items()}
            yield i, {"text": encoded["token_text"], **lists}


def _load(facts: StudentFacts, dtype: str, config: ScoreConfig) -> Student:
    import torch

    return Student(
        facts.source,
        dtype,
        "cuda" if torch.cuda.is_available() else "cpu",
        trust_remote_code=config.trust_remote_code,
        expected=facts,
    )
