"""Images: what the student reads of them, against its own full logits; and what is refused."""

import base64
import functools
import io
import json
import os
import subprocess
import sys
import threading
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.images import Media, _read_in_time, _uri_below
from rsr_ray.corpus.plan import make_plan
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.units import iter_units
from rsr_ray.encode.encode import encode_rows
from rsr_ray.encode.how import How
from rsr_ray.encode.segments import segment_names
from rsr_ray.engine.lm_head_reference import token_stats_reference
from rsr_ray.engine.scoring import Work, score_tokens
from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject
from rsr_ray.race.round_shards import _shard_row
from rsr_ray.run.score import Scorer, Wanted
from rsr_ray.student.facts import inspect_student
from rsr_ray.student.model import Student
from rsr_ray.student.vision import Eyes, auto_model, decode
from rsr_ray.unit_rows import ENCODED_ROWS
from tests.conftest import DEMO_STUDENT, REPOSITORY
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


@pytest.mark.parametrize("kind", ["Qwen2.5-VL", "Gemma-3", "Idefics3"])
def test_what_is_kept_beside_scores_is_of_the_same_tokens(students, kind):
    folder = students(kind)
    turns = [{"messages": turns} for turns in CONVERSATIONS.values()]
    rows = encoded(folder, turns, steps="sentence", segments=(), token_text=True)
    batch = pa.RecordBatch.from_struct_array(pa.array(rows, ENCODED_ROWS))
    names = tuple(segment_names(()))
    wanted = Wanted(r_max=100, per_turn=True, segments=names, step_window=99, token_scores=True)
    scorer = Scorer(Student(folder, "float32", "cpu"), wanted, 4096, "f")
    scores, tokens = scorer.score(batch)
    for row, score, of_row in zip(rows, scores.to_pylist(), tokens.to_pylist(), strict=True):
        surprisal = np.array(of_row["surprisal"])
        assert score["surprisal_sum"] == pytest.approx(surprisal.sum(), rel=1e-6)
        for parts in (score["turns"], score["segments"]):
            total = sum(part["surprisal_sum"] for part in parts)
            assert total == pytest.approx(score["surprisal_sum"], rel=1e-6)
        # with all steps before it as its context, a step is scored as in the whole row
        at = np.concatenate([np.arange(a, b) for a, b in row["spans"].reshape(-1, 2)])
        means = [surprisal[(a <= at) & (at < b)].mean() for a, b in row["steps"].reshape(-1, 2)]
        assert score["n_steps"] == len(means)
        assert score["step_surprisal_sum"] == pytest.approx(sum(means), rel=1e-4)


@pytest.mark.parametrize("how", [{"verbatim": True}, {"system_prompt": "Be brief."}], ids=str)
def test_ways_of_rendering_keep_images_and_answers(students, how):
    folder = students("LLaVA")
    tokenizer = Eyes(folder).processor.tokenizer
    for turns in CONVERSATIONS.values():
        (row,) = encoded(folder, [{"messages": turns}], **how)
        assert row["reject_reason"] is None, row["reject_detail"]
        at = np.concatenate([np.arange(a, b) for a, b in row["spans"].reshape(-1, 2)])
        said = "".join(turn["content"] for turn in turns if turn["role"] == "assistant")
        assert tokenizer.decode(row["input_ids"][at]) == said
        assert len(row["images"] or ()) == json.dumps(turns).count('image_url": {')


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """A folder of images, with one beside it that must not be opened."""
    folder = tmp_path_factory.mktemp("media")
    root = folder / "root"
    (root / "charts").mkdir(parents=True)
    (root / "charts" / "one.png").write_bytes(CHART)
    (root / "two.jpg").write_bytes(picture(20, 20, 3, "JPEG"))
    (root / "cut.jpg").write_bytes(picture(200, 200, 3, "JPEG")[:900])
    (folder / "secret.png").write_bytes(PHOTO)
    (root / "link.png").symlink_to(folder / "secret.png")
    (root / "within.png").symlink_to(root / "charts" / "one.png")
    os.mkfifo(root / "pipe.png")
    return root


def asked(*parts) -> list[dict]:
    return [
        {"role": "user", "content": [*parts, {"type": "text", "text": "How high?"}]},
        {"role": "assistant", "content": "Seven."},
    ]


PLACE = {"type": "image"}
IN_TEXT = [
    {"from": "human", "value": "<image>How high?"},
    {"from": "gpt", "value": "Seven."},
]
FORMS = {
    "a data URL": {"messages": asked({"type": "image_url", "image_url": {"url": data_url(CHART)}})},
    "a data URL as it is": {
        "messages": asked({"type": "input_image", "image_url": data_url(CHART)})
    },
    "base64": {"messages": asked({"type": "image", "base64": base64.b64encode(CHART).decode()})},
    "a source": {
        "messages": asked(
            {
                "type": "image",
                "source": {
                    "type": "base64",
                    "media_type": "image/png",
                    "data": base64.b64encode(CHART).decode(),
                },
            }
        )
    },
    "a path": {"messages": asked({"type": "image", "image": "charts/one.png"})},
    "a path with a dot": {"messages": asked({"type": "image", "path": "./charts/one.png"})},
    "a link within": {"messages": asked({"type": "image", "url": "within.png"})},
    "a column of bytes": {"messages": asked(PLACE), "images": [CHART]},
    "a column as datasets writes it": {
        "messages": asked(PLACE),
        "images": [{"bytes": CHART, "path": "elsewhere.png"}],
    },
    "a column of one image": {"messages": asked(PLACE), "image": {"bytes": CHART, "path": None}},
    "a column of paths": {"messages": asked(PLACE), "images": ["charts/one.png"]},
    "a placeholder in text": {"conversations": IN_TEXT, "image": "charts/one.png"},
    "nulls that Parquet fills in": {
        "messages": asked({"type": "image", "text": None, "image_url": None, "image": None}),
        "images": [CHART],
        "image": None,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_is_the_same_in_every_form(media, form):
    reading = Reading(teacher="t", media=Media(str(media)))
    first = canonical(FORMS["a data URL"], SOURCE, 0, reading)
    row = canonical(FORMS[form], SOURCE, 0, reading)
    assert row["reject_reason"] is None, row["reject_detail"]
    assert row == first
    assert row["images"] == [CHART]


def test_absolute_paths_below_the_root(media):
    reading = Reading(teacher="t", media=Media(str(media)))
    whole = {"type": "image", "image": f"{media}/charts/one.png"}
    url = {"type": "image_url", "image_url": {"url": f"file://{media}/charts/one.png"}}
    for part in (whole, url):
        row = canonical({"messages": asked(part)}, SOURCE, 0, reading)
        assert row["images"] == [CHART], row


def images_of(part: dict, **more) -> dict:
    return {"messages": asked(part), **more}


def animated() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in (0, 99, 200)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def bomb(side: int) -> bytes:
    """A few KB that would be hundreds of MB."""
    out = io.BytesIO()
    Image.new("1", (side, side)).save(out, "PNG")
    return out.getvalue()


REFUSED = {
    "missing": (images_of({"type": "image", "image": "none.png"}), "not found below"),
    "a folder": (images_of({"type": "image", "image": "charts"}), "not a file"),
    "a pipe": (images_of({"type": "image", "image": "pipe.png"}), "not a file"),
    "up": (images_of({"type": "image", "image": "../secret.png"}), "leads out"),
    "up and down": (images_of({"type": "image", "image": "charts/../../secret.png"}), "leads out"),
    "backslashes": (images_of({"type": "image", "image": "..\\secret.png"}), "leads out"),
    "absolute": (images_of({"type": "image", "image": "/etc/hostname"}), "outside --media-root"),
    "another bucket": (
        images_of({"type": "image", "image": "s3://b/x.png"}),
        "outside --media-root",
    ),
    "a file URL": (images_of({"type": "image", "url": "file:///etc/hostname"}), "outside"),
    "an escaped file URL": (
        images_of({"type": "image", "url": "file:charts/%2e%2e/%2e%2e/secret.png"}),
        "not found",
    ),
    "a link out": (images_of({"type": "image", "image": "link.png"}), "a link that leads out"),
    "http": (images_of({"type": "image", "url": "http://127.0.0.1:9/x.png"}), "--allow-http-media"),
    "https": (images_of({"type": "image", "url": "https://h/x.png"}), "--allow-http-media"),
    "no base64": (images_of({"type": "image", "base64": "*"}), "not valid base64"),
    "another data URL": (
        images_of({"type": "image", "url": "data:image/svg+xml,<svg/>"}),
        "base64",
    ),
    "nothing": (images_of({"type": "image", "base64": ""}), "0 bytes"),
    "two ways": (images_of({"type": "image", "url": "a.png", "path": "b.png"}), "given twice"),
    "no image for a place": (images_of(PLACE), "0 images in the row's columns, 1 places"),
    "an image without a place": (
        {"messages": asked(), "images": [CHART]},
        "1 images in the row's columns, 0 places",
    ),
    "images twice": (
        images_of({"type": "image", "image": "charts/one.png"}, images=[CHART]),
        "1 images in the row's columns, 0 places",
    ),
    "two columns": (
        {"messages": asked(PLACE), "images": [CHART], "image": PHOTO},
        "different images",
    ),
    "no ASCII": (images_of({"type": "image", "base64": "\u00e9"}), "not valid base64"),
    "a long path": (images_of({"type": "image", "image": "\u00e9" * 600}), "a path of 1,2"),
    "a turn's own": (
        {"messages": [{"role": "user", "content": "?", "images": [CHART]}, *asked()[1:]]},
        "beside its content",
    ),
    "the mark in the text": (
        {"messages": [{"role": "user", "content": shown("\ufffc", CHART)}, *asked()[1:]]},
        "U+FFFC",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_opened(media, what):
    row, why = REFUSED[what]
    reading = Reading(teacher="t", media=Media(str(media)), sees=True)
    read = canonical(row, SOURCE, 0, reading)
    assert (read["reject_reason"], read["images"]) == ("media", None), read
    assert why in read["reject_detail"]


def test_no_more_of_a_row_is_read_than_may_be(media, monkeypatch):
    monkeypatch.setattr("rsr_ray.corpus.canonical.MAX_ROW_BYTES", 2 * len(CHART))
    opened = []

    def read(reference, *_):
        opened.append(reference)
        return CHART

    monkeypatch.setattr("rsr_ray.corpus.canonical.read_image", read)
    parts = [{"type": "image", "image": "charts/one.png"}] * 9
    row = canonical({"messages": asked(*parts)}, SOURCE, 0, Reading(teacher="t"))
    assert (row["reject_reason"], len(opened)) == ("media", 3)


def test_paths_in_a_bucket_have_no_dots_and_no_empty_names():
    for path in ("charts/one.png", "./charts//one.png", "s3://b/m/charts/./one.png"):
        assert _uri_below(path, "s3://b/m") == "s3://b/m/charts/one.png"


def test_a_column_without_places_is_for_students_that_see():
    row = {"id": "a", "messages": CONVERSATIONS["no image"], "image": "https://h/cover.png"}
    alone = {name: value for name, value in row.items() if name != "image"}
    for sees in (None, False):
        reading = Reading(teacher="t", sees=sees)
        read = canonical(row, SOURCE, 0, reading)
        assert read["reject_reason"] is None
        assert read == canonical(alone, SOURCE, 0, reading)
    assert canonical(row, SOURCE, 0, Reading("t", sees=True))["reject_reason"] == "media"


def test_a_root_that_is_not_there(media, tmp_path):
    shard = tmp_path / "part.jsonl"
    shard.write_text(json.dumps({"messages": CONVERSATIONS["no image"]}) + "\n")
    files = [InputObject(uri=str(shard), version="", size=shard.stat().st_size)]
    for root in (media / "none", media / "two.jpg"):
        with pytest.raises(UserError, match=f"--media-root {root}: no such folder"):
            make_plan(files, None, Reading(teacher="t", media=Media(str(root))))
    make_plan(files, None, Reading(teacher="t", media=Media(str(media))))


def test_without_a_root_nothing_is_opened(media):
    part = {"type": "image", "image": str(media / "charts" / "one.png")}
    read = canonical(images_of(part), SOURCE, 0, Reading(teacher="t"))
    assert read["reject_reason"] == "media"
    assert "--media-root" in read["reject_detail"]


def test_broken_images(students, media):
    folder = students("Qwen2.5-VL")
    cases = {
        "truncated": (picture(200, 200, 3, "JPEG")[:900], "cannot be decoded"),
        "no image": (b"GET / HTTP/1.1", "cannot be decoded"),
        "a bomb": (bomb(20_000), "decompression bomb"),
        "too many pixels": (bomb(9000), "9,000 x 9,000 pixels, more than"),
        "animated": (animated(), "3 frames"),
        "far too wide": (picture(2000, 2), "refuses an image"),
    }
    rows = [{"messages": asked(PLACE), "images": [data]} for data, _ in cases.values()]
    for row, (name, (_, why)) in zip(encoded(folder, rows), cases.items(), strict=True):
        assert row["reject_reason"] == "media", (name, row["reject_reason"], row["reject_detail"])
        assert why in row["reject_detail"], name
        assert row["images"] is None


def test_no_more_of_a_row_is_decoded_than_may_be(students, monkeypatch):
    folder = students("Qwen2.5-VL")
    monkeypatch.setattr("rsr_ray.student.vision.MAX_ROW_PIXELS", 2 * 60 * 40)
    rows = [{"messages": asked(*[PLACE] * n), "images": [CHART] * n} for n in (2, 3)]
    two, three = encoded(folder, rows)
    assert (two["reject_reason"], three["reject_reason"]) == (None, "media")


def test_the_first_of_a_phones_pictures_is_read():
    out = io.BytesIO()
    first, second = (Image.new("RGB", (side, side)) for side in (16, 8))
    first.save(out, "MPO", save_all=True, append_images=[second])
    assert decode(out.getvalue()).size == (16, 16)


def test_text_that_looks_like_an_image(students):
    folder = students("Qwen2.5-VL")
    said = [{"role": "user", "content": "<|image_pad|>?"}, {"role": "assistant", "content": "No."}]
    with_image = [{"role": "user", "content": shown("<|image_pad|>", CHART)}, said[1]]
    for row in encoded(folder, [{"messages": said}, {"messages": with_image}]):
        assert row["reject_reason"] == "media"
        assert "<|image_pad|>" in row["reject_detail"]


def test_text_that_looks_like_part_of_an_image(students):
    own = "<image_soft_token>"  # the model would look for an image in its place
    for said in (shown(own, CHART), own):
        turns = [{"role": "user", "content": said}, {"role": "assistant", "content": "No."}]
        (row,) = encoded(students("Gemma-3"), [{"messages": turns}])
        assert row["reject_reason"] == "media"
        assert own in row["reject_detail"]


def test_a_student_of_text_says_what_is_needed():
    (row,) = encoded(str(DEMO_STUDENT), [{"messages": CONVERSATIONS["one image"]}])
    assert row["reject_reason"] == "not_text"
    assert "only a vision-language student" in row["reject_detail"]
    for bad, _ in REFUSED.values():
        read = canonical(bad, SOURCE, 0, Reading(teacher="t", sees=False))
        assert read["reject_reason"] in ("not_text", None)


def test_limits_never_cut_an_image(students):
    folder = students("Gemma-3")
    turns = CONVERSATIONS["three images, two turns"]
    (whole,) = encoded(folder, [{"messages": turns}])
    n, stops = len(whole["input_ids"]), whole["image_stops"].tolist()
    facts = inspect_student(folder, trust_remote_code=False)
    for limit in range(1, n + 1):
        how = How(max_length=limit, sees=True, proof=facts.text_hash, over_length="truncate")
        (row,) = encode_rows([canonical({"messages": turns}, SOURCE, 0, Reading("t"))], folder, how)
        if row["reject_reason"]:
            assert row["reject_reason"] == "over_length"
            continue
        there = [stop for stop in stops if stop <= limit]
        assert row["image_stops"].tolist() == there
        assert len(row["images"]) == len(there)
        assert len(row["input_ids"]) == limit
    how = How(max_length=n - 1, sees=True, proof=facts.text_hash, over_length="window")
    (row,) = encode_rows([canonical({"messages": turns}, SOURCE, 0, Reading("t"))], folder, how)
    assert (row["reject_reason"], row["images"]) == ("over_length", None)


def test_images_behind_the_last_answer_are_left_out(students):
    turns = [
        *CONVERSATIONS["one image"],
        {"role": "user", "content": shown(PHOTO)},
    ]
    (row,) = encoded(students("InternVL"), [{"messages": turns}])
    assert len(row["images"]) == len(row["image_stops"]) == 1


def test_a_shard_as_datasets_writes_it(tmp_path):
    part = pa.struct({"type": pa.string(), "text": pa.string()})
    turn = pa.struct({"role": pa.string(), "content": pa.list_(part)})
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [
        {"messages": asked(PLACE), "images": [{"bytes": CHART, "path": None}]},
        {"messages": asked(), "images": []},
    ]
    for row in rows:
        said = [{"type": "text", "text": row["messages"][1]["content"]}]
        row["messages"] = [row["messages"][0], {"role": "assistant", "content": said}]
    path = str(tmp_path / "part-0.parquet")
    schema = pa.schema({"messages": pa.list_(turn), "images": pa.list_(image)})
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    obj = InputObject(uri=path, version="", size=os.path.getsize(path))
    (unit,) = iter_units(obj, None, 256, [], Reading(teacher="t"))
    seen, text = unit["rows"].to_pylist()[0]
    assert (seen["reject_reason"], text["reject_reason"]) == (None, None)
    assert (seen["images"], text["images"]) == ([CHART], None)
    assert seen["content"] == canonical(FORMS["base64"], SOURCE, 0, Reading(teacher="t"))["content"]


def test_images_over_http_where_that_is_allowed(media, monkeypatch):
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(media))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reading = Reading(teacher="t", media=Media(allow_http=True))
        url = f"http://127.0.0.1:{server.server_port}"
        part = {"type": "image_url", "image_url": {"url": f"{url}/charts/one.png"}}
        row = canonical(images_of(part), SOURCE, 0, reading)
        assert row["images"] == [CHART]
        gone = canonical(images_of({"type": "image", "url": f"{url}/none.png"}), SOURCE, 0, reading)
        assert (gone["reject_reason"], "HTTP 404" in gone["reject_detail"]) == ("media", True)
        spaced = canonical(images_of({"type": "image", "url": f"{url}/a b"}), SOURCE, 0, reading)
        assert (spaced["reject_reason"], "fetched" in spaced["reject_detail"]) == ("media", True)
        monkeypatch.setattr("rsr_ray.corpus.images.SECONDS", 0.0)
        answer = urllib.request.urlopen(f"{url}/charts/one.png")
        with answer, pytest.raises(TimeoutError, match="not whole"):
            _read_in_time(answer)
        server.shutdown()


def test_a_round_of_a_race_has_the_images_in_its_rows(media):
    row = canonical(FORMS["a path"], SOURCE, 0, Reading("t", media=Media(str(media))))
    line = json.loads(json.dumps(_shard_row(row, "id")))
    again = canonical(line, SOURCE, 0, Reading("t"))
    for name in ("content", "prompt_id", "images", "messages"):
        assert again[name] == row[name]


REFERENCES = st.one_of(
    st.none(),
    st.text(max_size=30),
    st.binary(max_size=9),
    st.integers(),
    st.sampled_from(["a" * 300, "a" * 2000, "charts/one.png/x", "data:image/png;base64,/", "."]),
    st.dictionaries(st.sampled_from(["url", "bytes", "path", "source"]), st.text(max_size=5)),
)


@given(st.lists(REFERENCES, max_size=3), st.one_of(REFERENCES, st.lists(REFERENCES, max_size=3)))
def test_whatever_a_row_has_as_images_is_read_or_refused(media, given_here, column):
    parts = [{"type": "image", "image": one} for one in given_here]
    reading = Reading(teacher="t", media=Media(str(media)))
    row = canonical({"messages": asked(*parts), "images": column}, SOURCE, 0, reading)
    there = list(row["images"] or ())
    assert (row["reject_reason"] is None) == (row["messages"] is not None)
    assert len(there) <= len(parts)
    assert row["reject_reason"] or len(there) == len(parts)


LARGE = """
import sys
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from rsr_ray.config.score import ScoreConfig
from rsr_ray.run.pipeline import score_corpus
corpus, student, store = sys.argv[1:]
score_corpus(ScoreConfig(corpus=corpus, student=student, store=store, batch_tokens=256))
print(*(getrusage(whose).ru_maxrss for whose in (RUSAGE_SELF, RUSAGE_CHILDREN)))
"""


def peaks(student: str, folder: Path, n_images: int) -> list[int]:
    """KiB that scoring, and the process that encodes, take at most for one unit of 50 rows."""
    rows = [
        {
            "messages": asked(PLACE) if i < n_images else asked(),
            "images": [large(i)][: i < n_images],
        }
        for i in range(50)
    ]
    for row in rows:
        row["messages"][1]["content"] = [{"type": "text", "text": "Seven."}]
    (folder / "teacher=t").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "teacher=t" / "part-0.parquet")
    command = [sys.executable, "-c", LARGE, str(folder), student, str(folder / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return [int(n) for n in done.stdout.split()[-2:]]


def large(seed: int) -> bytes:
    """4,000 x 3,000 pixels, 1 MB."""
    small = Image.open(io.BytesIO(picture(80, 60, seed)))
    out = io.BytesIO()
    small.resize((4000, 3000)).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.mark.slow
def test_fifty_large_images_in_a_unit_are_never_decoded_at_once(students, tmp_path):
    folder = students("Qwen2.5-VL")
    few, many = (peaks(folder, tmp_path / str(n), n) for n in (1, 50))
    stored = 50 * len(large(0)) / 1024
    print(f"peaks in KiB with 1 image {few}, with 50 {many}; stored {stored:.0f}")
    for one, all_of_them in zip(few, many, strict=True):
        assert all_of_them - one < 8 * stored + 100_000  # 50 decoded ones are 1,758,000 KiB
