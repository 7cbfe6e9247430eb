"""Mutated rows through read and encode: python tests/fuzz_rows.py FOLDER [100000]

Takes rows from the shards of a folder, changes each at random (bytes of a line, values, types,
keys, roles, lengths, unicode), and counts what becomes of them. Ends with an error if anything is
raised, if a row takes longer than ten seconds, or if one is neither encoded nor rejected.
"""

import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.row_faults import Unreadable
from rsr_ray.corpus.rows import iter_rows
from rsr_ray.corpus.shapes import COLUMNS, samples
from rsr_ray.corpus.shards import list_corpus
from rsr_ray.corpus.turns import ROLES
from rsr_ray.encode.encode import encode_row
from rsr_ray.encode.how import How
from rsr_ray.files.objects import InputObject
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.student.tokenizer import load_tokenizer
from rsr_ray.unit_rows import ENCODED_ROWS, READ_ROWS

STUDENT = Path(__file__).resolve().parents[1] / "rsr_ray" / "demo" / "student"
STRANGE = [
    None, True, 0, -1, 2**70, 1.5, float("nan"), "", " ", "\n", "\x00", "\ud800", "\u202e",
    "🤖" * 50, "<think>", "</think>", "<|im_end|>", "{{ 7*7 }}", "{% raise %}", "../../x", "=cmd()",
    "<script>", [], {}, [[]], [{}], [None], {"role": "user"}, {"content": {}}, ["a", "b"],
    "a" * 20_000, "\ue000" * 3,
]  # fmt: skip
SHAPES = ("messages", "conversations", "prompt", "instruction")


def reshaped(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The row in one of the shapes."""
    turns, rest = row.get("messages") or [], {k: v for k, v in row.items() if k != "messages"}
    shape = rng.choice(SHAPES)
    if shape == "messages" or len(turns) < 2:
        return row
    if shape == "conversations":
        return {
            **rest,
            "conversations": [
                {
                    "from": {"user": "human", "assistant": "gpt"}.get(t["role"], t["role"]),
                    "value": t["content"],
                }
                for t in turns
            ],
        }
    names = ("prompt", "response") if shape == "prompt" else ("instruction", "output")
    return {**rest, **dict(zip(names, (turns[0]["content"], turns[-1]["content"]), strict=True))}


def mutated(value: Any, rng: random.Random) -> Any:
    """The value with one thing in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        how = rng.random()
        if how < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.2:
            names = [
                *COLUMNS,
                "role",
                "content",
                "tool_calls",
                "from",
                "value",
                "function",
                "name",
                "arguments",
            ]
            return {**value, rng.choice(names): rng.choice([*STRANGE, *ROLES, value[key]])}
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        i, how = rng.randrange(len(value)), rng.random()
        if how < 0.15:
            return value[:i] + value[i + 1 :]
        if how < 0.3:
            return [*value, value[i]]
        return [*value[:i], mutated(value[i], rng), *value[i + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.7:
        i = rng.randrange(len(value))
        part = rng.choice([s for s in STRANGE if isinstance(s, str)])
        return rng.choice(
            [
                value[:i] + part + value[i:],
                value[:i],
                value[i:],
                value[:i] + value[i + 1 :],
                value[::-1],
            ]
        )
    return rng.choice([*STRANGE, *ROLES])


def main(folder: str, n: int) -> None:
    rng = random.Random(1)
    rows = [
        row
        for obj in list_corpus((folder,), None)
        for row in iter_rows(obj, None, {})
        if isinstance(row, dict)
    ]
    rows = [row for row in rows if len(json.dumps(row)) < 6000]
    obj = InputObject(uri="/corpus/teacher=T/a.jsonl", version="v", size=1)
    templates = [
        None,
        *(
            p.read_text()
            for p in sorted(Path(folder).resolve().parent.glob("chat_templates/*.jinja"))
        ),
    ]
    line_file = Path(tempfile.mkdtemp()) / "line.jsonl"
    outcome: Counter[str] = Counter()
    done = 0
    try:
        while done < n:
            how = How(
                max_length=rng.choice([50, 4096]),
                verbatim=rng.random() < 0.3,
                over_length=rng.choice(["reject", "truncate", "window"]),
            )
            tokenizer = load_tokenizer(str(STUDENT), rng.choice(templates))
            for _ in range(200):
                row: Any = reshaped(rng.choice(rows), rng)
                for _ in range(rng.choice([1, 1, 2, 5])):
                    row = mutated(row, rng)
                if rng.random() < 0.2:  # as a damaged line
                    line = bytearray(json.dumps(row).encode())
                    line[rng.randrange(len(line))] = rng.randrange(256)
                    line_file.write_bytes(bytes(line) + b"\n")
                    read = list(
                        iter_rows(InputObject(uri=str(line_file), version="v", size=1), None, {})
                    )
                else:
                    read = [row] if isinstance(row, dict) else [Unreadable("not an object")]
                for one in [
                    s for r in read for s in ([r] if isinstance(r, Unreadable) else samples(r))
                ]:
                    signal.alarm(10)
                    read_row = canonical(one, obj, done, Reading())
                    pa.array([read_row], READ_ROWS)  # what goes from stage to stage in a run
                    out = encode_row(read_row, tokenizer, how)
                    pa.array([out], ENCODED_ROWS)
                    signal.alarm(0)
                    reason = out["reject_reason"]
                    assert (
                        reason in REJECT_REASONS
                        if reason
                        else len(out["input_ids"]) > 0 and len(out["spans"]) > 0
                    ), (one, out)
                    outcome[reason or "encoded"] += 1
                done += 1
    finally:
        shutil.rmtree(line_file.parent)
    print(
        f"{done:,} mutated rows, {outcome.total():,} trajectories: "
        + ", ".join(f"{k} {v:,}" for k, v in outcome.most_common())
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 100_000)
