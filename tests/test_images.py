"""Images: what the student reads of them, against its own full logits; and what is refused."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.encode.encode import encode_rows
from rsr_ray.encode.how import How
from rsr_ray.engine.lm_head_reference import token_stats_reference
from rsr_ray.engine.scoring import Work, score_tokens
from rsr_ray.files.objects import InputObject
from rsr_ray.student.facts import inspect_student
from rsr_ray.student.model import Student
from rsr_ray.student.vision import Eyes, auto_model, decode
from tests.seeing import KINDS, make_student

SOURCE = InputObject(uri="corpus.jsonl", version="", size=0)


def picture(width: int, height: int, seed: int = 0, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def shown(*parts) -> list[dict]:
    """Content of texts and of images, which are bytes."""
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in parts
    ]


CHART, PHOTO, SCREEN = picture(60, 40), picture(33, 90, 1), picture(80, 80, 2)
CONVERSATIONS = {
    "no image": [
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "It is 5, the sum of both."},
    ],
    "one image": [
        {"role": "user", "content": shown("How high is the bar in ", CHART, "?")},
        {"role": "assistant", "content": "<think>\nI look.\n</think>\n\nThe bar is 7 high."},
    ],
    "three images, two turns": [
        {"role": "user", "content": shown(CHART, "and", PHOTO, "differ how?")},
        {"role": "assistant", "content": "The first is wider."},
        {"role": "user", "content": shown("And this? ", SCREEN)},
        {"role": "assistant", "content": "A square of 80 pixels."},
    ],
    "an agent's screenshots": [
        {"role": "user", "content": "Open the menu."},
        {"role": "assistant", "content": "I click at 10, 12."},
        {"role": "tool", "content": shown("clicked ", SCREEN)},
        {"role": "assistant", "content": "It is open."},
        {"role": "tool", "content": shown(PHOTO)},
        {"role": "assistant", "content": "Done, I stop here."},
    ],
}


@pytest.fixture(scope="session")
def students(tmp_path_factory):
    """The folder of a student of a kind."""
    made = {}

    def folder(kind: str) -> str:
        if kind not in made:
            made[kind] = str(make_student(kind, tmp_path_factory.mktemp("seeing") / kind))
        return made[kind]

    return folder


def encoded(student: str, rows: list[dict], **how) -> list[dict]:
    facts = inspect_student(student, trust_remote_code=False)
    how = How(max_length=4096, sees=facts.sees, proof=facts.text_hash, **how)
    reading = Reading(teacher="t", sees=facts.sees)
    read = [canonical(row, SOURCE, n, reading) for n, row in enumerate(rows)]
    return encode_rows(read, student, how)


def tokens_of(student: Student, rows: list[dict], batch_tokens: int) -> list:
    ids, spans = ([row[name] for row in rows] for name in ("input_ids", "spans"))
    images = [row["images"] or () for row in rows]
    return score_tokens(student, ids, spans, Work(batch_tokens), images)


def full_logits(folder: str, rows: list[dict]) -> list:
    """What the model itself says of each row, by its own processor and its own forward."""
    model = auto_model(seeing=True).from_pretrained(folder).eval()
    processor = Eyes(folder).processor
    found = []
    for row, turns in zip(rows, CONVERSATIONS.values(), strict=True):
        text, images = "", []
        for turn in turns:
            content = turn["content"]
            if isinstance(content, list):
                parts = [
                    {"type": "image"} if part["type"] == "image_url" else part for part in content
                ]
                urls = [part["image_url"]["url"] for part in content if "image_url" in part]
                images += [decode(base64.b64decode(url.partition(",")[2])) for url in urls]
            else:
                parts = [{"type": "text", "text": content}]
            text += processor.tokenizer.apply_chat_template(
                [{**turn, "content": parts}], tokenize=False
            )
        given = processor(text=[text], images=[images] if images else None, return_tensors="pt")
        ids = given["input_ids"][0]
        assert ids[: len(row["input_ids"])].tolist() == row["input_ids"].tolist()
        with torch.inference_mode():
            logits = model(**given).logits[0]
        at = np.concatenate([np.arange(a, b) for a, b in row["spans"].reshape(-1, 2)])
        found.append(token_stats_reference(logits[at - 1], ids[at]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_full_logits(students, kind):
    folder = students(kind)
    rows = encoded(folder, [{"messages": turns} for turns in CONVERSATIONS.values()])
    assert [row["reject_reason"] for row in rows] == [None] * len(rows), rows
    want = full_logits(folder, rows)
    student = Student(folder, "float32", "cpu")
    for batch_tokens in (1, 100, 100_000):
        for got, (rank, surprisal, *_) in zip(
            tokens_of(student, rows, batch_tokens), want, strict=True
        ):
            assert got.rank.tolist() == rank.tolist()
            assert np.allclose(got.surprisal, surprisal, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_read_and_not_scored(students, kind):
    folder = students(kind)
    turns = CONVERSATIONS["three images, two turns"]
    (row,) = encoded(folder, [{"messages": turns}])
    eyes = Eyes(folder)
    at = np.concatenate([np.arange(a, b) for a, b in row["spans"].reshape(-1, 2)])
    assert not np.isin(row["input_ids"][at], eyes.processor.image_token_ids).any()
    tokenizer = eyes.processor.tokenizer
    said = tokenizer.decode(row["input_ids"][at])
    assert said == "The first is wider.A square of 80 pixels."
    # another image of the same size changes what is scored, and nothing else
    other = json.loads(json.dumps(turns).replace(data_url(SCREEN), data_url(picture(80, 80, 9))))
    (changed,) = encoded(folder, [{"messages": other}])
    assert changed["input_ids"].tolist() == row["input_ids"].tolist()
    assert changed["trajectory_id"] != row["trajectory_id"]
    student = Student(folder, "float32", "cpu")
    before, after = (tokens_of(student, [some], 4096)[0] for some in (row, changed))
    n_first = int(np.diff(row["spans"])[0])
    assert np.allclose(before.surprisal[:n_first], after.surprisal[:n_first], atol=1e-5)
    assert not np.allclose(before.surprisal[n_first:], after.surprisal[n_first:], atol=1e-4)
