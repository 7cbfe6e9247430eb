"""What goes wrong with one row, at any stage of its way, is one reject; the other rows are as
without it.
"""

import builtins
import json
import struct
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import jinja2.exceptions
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

import rsr_ray.corpus.canonical
import rsr_ray.corpus.reading
import rsr_ray.encode.encode
import rsr_ray.encode.locate
import rsr_ray.encode.texts
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.row_faults import MAX_CHARS, MAX_DEPTH, PASS, one_line
from rsr_ray.corpus.shards import list_corpus
from rsr_ray.corpus.units import iter_units
from rsr_ray.encode.encode import Encode
from rsr_ray.encode.how import How
from rsr_ray.errors import RunError, UserError
from rsr_ray.schema import REJECT_REASONS

from .conftest import DEMO_STUDENT, by_turns

POISON = "the poisonous row"
NOT_AN_ERROR = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Unspeakable(Exception):
    """An exception of which not even the text can be had."""

    def __str__(self) -> str:
        raise ValueError("no words")


def subclasses(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


def constructed(kind: type[BaseException]) -> BaseException | None:
    """An exception of a class, with the first arguments that it takes."""
    unicode_error = ("utf-8", b"\xff", 0, 1, "planted"), ("utf-8", "\ud800", 0, 1, "planted")
    for arguments in (
        ("planted\nhere",),
        *unicode_error,
        ("planted", [ValueError("one")]),
        ("planted", "doc", 0),
        (),
    ):
        try:
            return kind(*arguments)
        except Exception:
            continue
    return None


def panic() -> BaseException:
    """What a panic in the tokenizer's own code raises: of BaseException alone."""
    try:
        Tokenizer.from_str(
            '{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]}}'
        ).decode([2**40])
    except BaseException as e:
        return e
    raise AssertionError("it did not raise")


def every_error() -> list[BaseException]:
    """One of each class that Python, Arrow, Jinja, JSON and tokenizers raise."""
    roots = [BaseException, pa.ArrowException, jinja2.exceptions.TemplateError]
    modules = {
        "builtins",
        "pyarrow.lib",
        "jinja2.exceptions",
        "json.decoder",
        "decimal",
        "struct",
        "binascii",
        "zoneinfo",
    }
    kinds = {kind for root in roots for kind in subclasses(root) if kind.__module__ in modules}
    kinds |= {
        kind
        for kind in vars(builtins).values()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    made = [
        constructed(kind)
        for kind in sorted(kinds, key=lambda k: (k.__module__, k.__name__))
        if not issubclass(kind, NOT_AN_ERROR)
    ]
    return [e for e in made if e is not None] + [Unspeakable(), panic(), struct.error("planted")]


ERRORS = every_error()


def test_there_are_errors_of_every_library():
    names = {type(e).__name__ for e in ERRORS}
    assert len(ERRORS) > 90
    assert names >= {
        "RecursionError",
        "MemoryError",
        "OverflowError",
        "UnicodeDecodeError",
        "ArrowInvalid",
        "ArrowNotImplementedError",
    }
    assert names >= {
        "JSONDecodeError",
        "UndefinedError",
        "ExceptionGroup",
        "OSError",
        "StopIteration",
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Five rows, of which the third is the poisonous one."""
    folder = tmp_path_factory.mktemp("corpus")
    write_rows(folder, ["2+2?", "3+3?", POISON, "4+4?", "5+5?"])
    return folder


def write_rows(folder: Path, texts: list[str]) -> None:
    """A shard of conversations that begin with these texts."""
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    rows = [
        {
            "id": f"r{n}",
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": f"{n}.", "tool_calls": calls},
            ],
        }
        for n, text in enumerate(texts)
    ]
    (folder / "teacher=t").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "teacher=t" / "a.jsonl").write_text(lines)


def encoded(corpus: Path, encode: Encode) -> list[dict]:
    """All rows of a corpus on their way up to the student."""
    units = [
        unit
        for obj in list_corpus((str(corpus),), None)
        for unit in iter_units(obj, None, 64, [], Reading())
    ]
    return [
        row
        for unit in units
        if unit["stop"][0].as_py() > unit["start"][0].as_py()
        for row in encode(unit)["rows"].to_pylist()[0]
    ]


@pytest.fixture(scope="module")
def encode(template_with_calls) -> Encode:
    return Encode(str(DEMO_STUDENT), How(max_length=4096, chat_template=template_with_calls))


@pytest.fixture(scope="module")
def template_with_calls() -> str:
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}"
    calls = (
        "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | "
        "tojson }}</call>{% endfor %}"
    )
    return f"{{% for m in messages %}}{turn}{calls}<|im_end|>\n{{% endfor %}}"


def poisonous(errors: list[BaseException]) -> tuple[dict[str, BaseException], list[str]]:
    """Each error by the text of a row of its own, and all texts: behind two of these there is one
    in which nothing is wrong.
    """
    error_of = {f"{POISON} {n}.": error for n, error in enumerate(errors)}
    texts = [
        text
        for n, poison in enumerate(error_of)
        for text in (poison, *([f"{n}+{n}?"] if n % 2 else []))
    ]
    return error_of, texts


def raising(function, error_of: dict[str, BaseException]):
    """The function, which raises on what speaks of one of these texts the error of that text."""

    def planted(*args, **named):
        said = repr(args)
        for text, error in error_of.items() if POISON in said else ():
            if text in said:
                raise error
        return function(*args, **named)

    return planted


STAGES = {
    "the answers of a row": (rsr_ray.corpus.reading, "samples"),
    "the names of its columns": (rsr_ray.corpus.reading, "mapped"),
    "its conversation": (rsr_ray.corpus.canonical, "conversation"),
    "the digest of its prompt": (rsr_ray.corpus.canonical, "_digest"),
    "what is in it": (rsr_ray.corpus.canonical, "check_size"),
    "its rendering": (rsr_ray.encode.locate, "render"),
    "its text": (rsr_ray.encode.locate, "find_turns"),
    "its marks": (rsr_ray.encode.texts, "make_marks"),
    "its calls": (rsr_ray.encode.locate, "find_calls"),
    "its tokens": (rsr_ray.encode.encode, "tokenize"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_any_error_at_any_stage_is_one_reject(stage, tmp_path, encode):
    """The errors by turns."""
    module, name = STAGES[stage]
    errors = [e for e in by_turns(ERRORS, [*STAGES].index(stage)) if not isinstance(e, PASS)]
    error_of, texts = poisonous(errors)
    write_rows(tmp_path, texts)
    undisturbed = encoded(tmp_path, encode)
    assert not any(row["reject_reason"] for row in undisturbed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, raising(getattr(module, name), error_of))
        rows = encoded(tmp_path, encode)
    for text, row, sound in zip(texts, rows, undisturbed, strict=True):
        if error := error_of.get(text):
            assert row["reject_reason"] in REJECT_REASONS, repr(error)[:80]
            assert type(error).__name__ in row["reject_detail"]
            assert "\n" not in row["reject_detail"]
        else:
            assert row == sound


@pytest.mark.parametrize(
    "error", [UserError("a setting"), RunError("the run"), KeyboardInterrupt(), SystemExit(3)]
)
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_not_a_rows_fault_passes(stage, error, corpus, encode):
    module, name = STAGES[stage]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, raising(getattr(module, name), {POISON: error}))
        with pytest.raises(type(error)):
            encoded(corpus, encode)


def test_the_tokenizers_own_errors_are_rejects(tmp_path, encode, template_with_calls):
    loaded = rsr_ray.encode.encode.load_tokenizer(str(DEMO_STUDENT), template_with_calls, None)
    error_of, texts = poisonous(ERRORS)
    write_rows(tmp_path, texts)
    undisturbed = encoded(tmp_path, encode)

    class Backend:
        encode = staticmethod(raising(loaded.backend_tokenizer.encode, error_of))

    class Loaded:
        backend_tokenizer = Backend()

        def __getattr__(self, name):
            return getattr(loaded, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsr_ray.encode.encode, "load_tokenizer", lambda *_: Loaded())
        rows = encoded(tmp_path, encode)
    for text, row, sound in zip(texts, rows, undisturbed, strict=True):
        if text in error_of:
            assert row["reject_reason"] == "tokenizer_error", text
        else:
            assert row == sound


def parquet_tables() -> dict[str, pa.Table]:
    """Tables of three rows, of which the second has tools that JSON, or Python, does not have."""
    text = [[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4."}]] * 3
    not_utf8 = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.py_buffer(struct.pack("4i", 0, 2, 3, 5)), pa.py_buffer(b"[]\xff[]")],
    )
    kinds = {
        "a date beyond Python's": pa.array([None, 2**62, None], pa.timestamp("us")),
        "text that is not UTF-8": not_utf8,
        "a decimal": pa.array([None, Decimal("1.50"), None], pa.decimal128(8, 2)),
        "bytes": pa.array([None, b"\xff\x00", None], pa.binary()),
        "a moment": pa.array([None, 10**9, None], pa.timestamp("s")),
        "a span of time": pa.array([None, 10**9, None], pa.duration("ns")),
    }
    return {
        kind: pa.table({"id": ["r0", "r1", "r2"], "messages": text, "tools": column})
        for kind, column in kinds.items()
    }


@pytest.mark.parametrize("kind", parquet_tables())
def test_values_that_only_arrow_has_are_one_reject(kind, tmp_path, encode):
    (tmp_path / "teacher=t").mkdir()
    pq.write_table(parquet_tables()[kind], tmp_path / "teacher=t" / "a.parquet")
    rows = encoded(tmp_path, encode)
    assert [row["trajectory_id"] for row in rows if not row["reject_reason"]] == ["r0", "r2"]
    (reject,) = [row for row in rows if row["reject_reason"]]
    assert reject["source_row"] == 1
    assert "tools" in reject["reject_detail"]


def deep(n: int) -> str:
    return "[" * n + "]" * n


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 5_000, 200_000])
@pytest.mark.parametrize(
    "where",
    [
        "tools",
        "tools as text",
        "arguments",
        "arguments as text",
        "a column nobody reads",
        "the content",
    ],
)
def test_depth_is_one_reject_or_none_of_its_business(where, depth, tmp_path, encode):
    call = '[{"type": "function", "function": {"name": "f", "arguments": %s}}]'
    many = {
        "tools": (f'"tools": {deep(depth)},', ""),
        "tools as text": (f'"tools": "{deep(depth)}",', ""),
        "arguments": ("", ', "tool_calls": ' + call % deep(depth)),
        "arguments as text": ("", ', "tool_calls": ' + call % f'"{deep(depth)}"'),
        "a column nobody reads": (f'"notes": {deep(depth)},', ""),
        "the content": ("", f', "note": {deep(depth)}'),
    }
    in_row, in_turn = many[where]
    line = (
        '{"id": "r%d", %s "messages": [{"role": "user", "content": "2?"}, {"role": "assistant", '
        '"content": "4."%s}]}\n'
    )
    (tmp_path / "teacher=t").mkdir()
    (tmp_path / "teacher=t" / "a.jsonl").write_text(
        line % (0, "", "") + line % (1, in_row, in_turn) + line % (2, "", "")
    )
    rows = encoded(tmp_path, encode)
    assert [row["trajectory_id"] for row in rows if not row["reject_reason"]][:1] == ["r0"]
    assert [row["source_row"] for row in rows] == [0, 1, 2]
    assert rows[2]["reject_reason"] is None
    if where.startswith(("tools", "arguments")):
        assert rows[1]["reject_reason"] in ("tool_calls", "unreadable_row")


def test_a_row_beyond_all_size_is_one_reject(tmp_path, encode):
    row = {"messages": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "4."}]}
    large = {"messages": [row["messages"][0], {"role": "assistant", "content": "4" * MAX_CHARS}]}
    (tmp_path / "teacher=t").mkdir()
    (tmp_path / "teacher=t" / "a.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in (row, large, row))
    )
    assert [row["reject_reason"] for row in encoded(tmp_path, encode)] == [None, "row_error", None]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_every_error_has_a_line(error):
    line = one_line(error)
    assert type(error).__name__ in line
    assert len(line) <= 300
    assert "\n" not in line
