"""Token scores of a few stored trajectories, by the student itself, where the store has none."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from rsr_ray.config import ScoreConfig
from rsr_ray.encode import How, encode_row
from rsr_ray.errors import UserError
from rsr_ray.objects import InputObject
from rsr_ray.read import Unreadable, canonical, iter_trajectories
from rsr_ray.score import Wanted, Work, score_windows
from rsr_ray.student import Student, inspect_student, load_tokenizer

BATCH_TOKENS = 4096


def score_again(rows: list[dict[str, Any]], run: dict[str, Any], student: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """For rows with source and source_row of a run's scores: each with its tokens as a TOKENS row has them.

    Runs in this process, on a GPU where there is one. A row whose shard is no longer what it was is left out. Raises
    UserError where the student is another than the one that gave the scores.
    """
    import torch

    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in run["config"].items()}
    config = ScoreConfig(**settings | {"student": student, "student_name": settings["student_name"]})
    facts, dtype = inspect_student(student, config.trust_remote_code, config.template_text), run["resources"]["dtype"]
    if config.fingerprint(facts, dtype, run["max_length"]) != run["fingerprint"]:
        raise UserError(f"--tokens-from {student}: not the student that gave the stored scores (another fingerprint)")
    how = dataclasses.replace(How.of(config, facts), token_text=True)
    tokenizer = load_tokenizer(facts.source, how.chat_template, how.proof)
    replica = Student(facts.source, dtype, "cuda" if torch.cuda.is_available() else "cpu", trust_remote_code=config.trust_remote_code, expected=facts)
    wanted = Wanted.of(config, run["max_length"])
    for row, found in _read(rows, config):
        encoded = encode_row(found, tokenizer, how)
        if encoded["reject_reason"] is None and encoded["trajectory_id"] == row["trajectory_id"]:
            (tokens,) = score_windows(replica, [encoded["input_ids"]], [encoded["spans"]], Work(BATCH_TOKENS), wanted.window)
            if tokens is not None:
                lists = {name: np.asarray(values).tolist() for name, values in tokens._asdict().items()}
                yield row, {"text": encoded["token_text"], **lists}


def _read(rows: list[dict[str, Any]], config: ScoreConfig) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The READ_ROWS values of rows, one pass a shard."""
    by_source: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_source.setdefault(row["source"], {})[row["source_row"]] = row
    for source, wanted in by_source.items():
        obj = InputObject(uri=source, version="", size=0)
        last = max(wanted)
        for index, given in enumerate(iter_trajectories(obj, config.s3_endpoint, config.reading)):
            if index in wanted and not isinstance(given, Unreadable):
                yield wanted[index], canonical(given, obj, index, config.reading)
            if index == last:
                break
