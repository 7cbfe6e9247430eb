"""One id is one whatever type it comes as; what is no id is none; what cannot be told apart is
refused.
"""

import datetime
import decimal
import fractions
import json
import math
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rsr_ray.corpus.identity import EXACT, INT64, name_of, numbered, sample_of
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.shards import list_corpus
from rsr_ray.corpus.units import iter_units
from rsr_ray.errors import BadRow

COLUMNS = ("trajectory_id", "prompt_id", "teacher", "sample")


def spellings(n: int) -> list[object]:
    """A whole number in every type that holds it."""
    found: list[object] = [
        n,
        str(n),
        str(n).encode(),
        bytearray(str(n).encode()),
        memoryview(str(n).encode()),
    ]
    found += [decimal.Decimal(n), decimal.Decimal(f"{n}.0"), decimal.Decimal(f"{n}.000")]
    if abs(n) < EXACT:
        found += [float(n), np.float64(n)]
    if abs(n) < 2**24:
        found += [np.float32(n)]
    kinds = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
    found += [kind(n) for kind in kinds if np.iinfo(kind).min <= n <= np.iinfo(kind).max]
    return found


NONE = [
    None,
    "",
    b"",
    float("nan"),
    -float("nan"),
    float("inf"),
    -float("inf"),
    np.float64("nan"),
    np.float32("nan"),
    np.float16("inf"),
    np.datetime64("NaT"),
    decimal.Decimal("NaN"),
    decimal.Decimal("sNaN"),
    decimal.Decimal("-Infinity"),
    True,
    False,
    np.bool_(True),
    {},
    [],
    {"a": 1},
    [1],
]
REFUSED = [
    float(EXACT),
    -float(EXACT),
    float(EXACT) + 2,
    1e23,
    1e300,
    np.float64(2**60),
    np.float32(2**53),
    "\ud800",
    "a\udfffb",
    b"\xff",
    bytearray(b"\xc3("),
    object(),
    int,
    1j,
    fractions.Fraction(1, 2),
    datetime.datetime(2026, 11, 25),
    datetime.timedelta(1),
    {1},
    (1,),
    np.zeros(2),
]


@given(st.integers())
@example(0)
@example(1)
@example(EXACT)
@example(-(2**63))
@example(2**63)
def test_a_whole_number_is_one_id_in_every_type(n):
    assert {name_of(value, "id") for value in spellings(n)} == {str(n)}
    assert {sample_of(value) for value in spellings(n)} == {n if n in INT64 else None}
    assert {numbered(value, 2) for value in spellings(n)} == {f"{n}/2"}


@given(st.integers(), st.integers())
def test_two_numbers_are_two_ids(a, b):
    assert (name_of(a, "id") == name_of(b, "id")) == (a == b)


@given(st.floats())
@example(-0.0)
@example(EXACT - 1.0)
@example(5e-324)
def test_a_float_is_none_refused_or_the_number_that_it_is(value):
    if not math.isfinite(value):
        assert name_of(value, "id") is None
    elif value == int(value) and abs(value) >= EXACT:
        with pytest.raises(BadRow, match="too large to stand for one whole number"):
            name_of(value, "id")
    else:
        name = name_of(value, "id")
        assert float(name) == value
        assert "e" not in name
        assert name == (
            str(int(value)) if value == int(value) else format(decimal.Decimal(repr(value)), "f")
        )


@given(st.decimals(-(10**15), 10**15, places=4))
@example(decimal.Decimal("1.50"))
@example(decimal.Decimal("1E+3"))
@example(decimal.Decimal("-0"))
def test_decimals_of_one_value_are_one_id(value):
    name = name_of(value, "id")
    assert decimal.Decimal(name) == value
    assert {
        name_of(value.normalize(), "id"),
        name_of(value.quantize(decimal.Decimal("0.000001")), "id"),
    } == {name}


@pytest.mark.parametrize("text", ["1.5", "0.1", "0.0000001", "123456.75", "-2.5"])
def test_a_broken_number_is_one_id_as_float_and_as_decimal_and_as_its_text(text):
    assert {
        name_of(value, "id")
        for value in (text, float(text), decimal.Decimal(text), decimal.Decimal(text + "00"))
    } == {text}


@given(st.text(min_size=1))
def test_a_text_is_itself_and_so_are_its_bytes(text):
    assert name_of(text, "id") == text
    assert name_of(text.encode(), "id") == name_of(memoryview(text.encode()), "id") == text


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_what_is_no_id_is_none(value):
    assert name_of(value, "id") is None
    assert sample_of(value) is None
    assert numbered(value, 1) is None


@pytest.mark.parametrize(
    "value", REFUSED, ids=lambda value: f"{type(value).__name__} {value!r:.20}"
)
def test_what_cannot_be_told_from_others_is_refused_in_one_line(value):
    for ask in (lambda: name_of(value, "prompt_id"), lambda: sample_of(value)):
        with pytest.raises(BadRow) as refused:
            ask()
        assert refused.value.reason == "identity"
        assert len(refused.value.detail) < 200
        refused.value.detail.encode()
    assert numbered(value, 1) is value


@settings(max_examples=300)
@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.uuids()
    | st.complex_numbers()
    | st.timedeltas()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.text())
    | st.characters()
)
def test_any_value_is_a_text_that_a_file_can_hold_or_none_or_refused(value):
    name = number = None
    try:
        name = name_of(value, "id")
        number = sample_of(value)
    except BadRow as e:
        refused = e.reason
    else:
        refused = None
    assert refused in (None, "identity")
    assert name is None or (type(name) is str and name and name.encode().decode() == name)
    assert number is None or (type(number) is int and number in INT64)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("7", 7),
        ("-7", -7),
        (7.0, 7),
        (0, 0),
        ("0", 0),
        (-0.0, 0),
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        (-(2**63), -(2**63)),
        ("07", None),
        ("-0", 0),
        (7.5, None),
        ("7.0", None),
        ("seven", None),
        ("7 ", None),
        ("٧", None),
        ("7\n", None),
        ("+7", None),
        ("1e3", None),
        ("9" * 19, None),
        (datetime.date(2026, 11, 25), None),
        (uuid.UUID(int=7), None),
    ],
)
def test_a_sample_is_a_whole_number_of_64_bits_or_none(value, number):
    assert sample_of(value) == number


def test_a_number_of_any_length_is_its_digits():
    assert name_of(10**9999, "id") == "1" + "0" * 9999  # str() alone refuses it
    assert name_of(decimal.Decimal("1" + "0" * 39 + "1"), "id") == "1" + "0" * 39 + "1"


# --- through real files----------------------------------------------------------------------------

N = 24
NUMBERED = [{"id": 100 + n, "prompt_id": n // 4, "sample": n % 4, "teacher": 7} for n in range(N)]


def with_text(rows: list[dict]) -> list[dict]:
    return [
        {**row, "prompt": f"{n // 4} + 1?", "response": f"it is {n}"} for n, row in enumerate(rows)
    ]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path, rows):
    path.write_text(json.dumps(rows, indent=1))


def write_text(path, rows):
    write_jsonl(path, [{key: str(value) for key, value in row.items()} for row in rows])


def write_arrow(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def writer(**types):
    def write(path, rows):
        table = pa.Table.from_pylist(rows)
        for name, kind in types.items():
            if kind in (pa.binary(), pa.large_string()):
                column = pa.array([str(value) for value in table[name].to_pylist()]).cast(kind)
            else:
                column = table[name].cast(kind) if kind else table[name].dictionary_encode()
            table = table.set_column(table.schema.names.index(name), name, column)
        pq.write_table(table, path)

    return write


def pandas_writer(change):
    def write(path, rows):
        change(pd.DataFrame(rows)).to_parquet(path)

    return write


def all_as(kind):
    return writer(id=kind, prompt_id=kind, sample=kind, teacher=kind)


def beside_a_gap(frame):
    """What pandas makes of whole numbers beside a missing one: floats; the row of the gap is
    dropped again.
    """
    gap = pd.DataFrame([{"prompt": "x", "response": "y"}])
    joined = pd.concat([frame, gap], ignore_index=True)
    assert joined["id"].dtype == np.float64
    return joined.iloc[:-1]


FILES = {
    "numbers.jsonl": write_jsonl,
    "numbers.json": write_json,
    "text.jsonl": write_text,
    "numbers.arrow": write_arrow,
    "int64.parquet": all_as(pa.int64()),
    "int8.parquet": all_as(pa.int8()),
    "uint64.parquet": all_as(pa.uint64()),
    "float64.parquet": all_as(pa.float64()),
    "float32.parquet": all_as(pa.float32()),
    "decimal.parquet": all_as(pa.decimal128(30, 4)),
    "large_string.parquet": all_as(pa.large_string()),
    "binary.parquet": all_as(pa.binary()),
    "dictionary.parquet": all_as(None),
    "nullable.parquet": pandas_writer(lambda frame: frame.convert_dtypes()),
    "gap.parquet": pandas_writer(beside_a_gap),
    "objects.parquet": pandas_writer(
        lambda frame: frame.astype(dict.fromkeys(("id", "prompt_id", "sample", "teacher"), str))
    ),
    "category.parquet": pandas_writer(
        lambda frame: frame.astype(dict.fromkeys(("id", "prompt_id", "teacher"), "category"))
    ),
}


def read(path, teacher: str | None = None) -> list[dict]:
    """The canonical rows of a file, as a run reads them."""
    (obj,) = list_corpus((str(path),), None)
    return [
        row
        for unit in iter_units(obj, None, 5, [], Reading(teacher))
        for row in unit["rows"].to_pylist()[0]
    ]


def identities(rows: list[dict]) -> list[tuple]:
    return [tuple(row[name] for name in COLUMNS) for row in rows]


@pytest.mark.parametrize("name", FILES)
def test_the_same_corpus_in_any_file_has_the_same_ids(name, tmp_path):
    path = tmp_path / name
    FILES[name](path, with_text(NUMBERED))
    rows = read(path)
    assert [row["reject_detail"] for row in rows] == [None] * N
    assert identities(rows) == [(str(100 + n), str(n // 4), "7", n % 4) for n in range(N)]


GAPS = {
    "null.jsonl": lambda path, rows: write_jsonl(path, [{**row, "id": None} for row in rows]),
    "nan.jsonl": lambda path, rows: write_jsonl(
        path, [{**row, "id": float("nan")} for row in rows]
    ),
    "empty.jsonl": lambda path, rows: write_jsonl(path, [{**row, "id": ""} for row in rows]),
    "inf.jsonl": lambda path, rows: write_jsonl(
        path, [{**row, "id": float("-inf")} for row in rows]
    ),
    "none.jsonl": write_jsonl,
    "nan.parquet": pandas_writer(lambda frame: frame.assign(id=np.nan)),
    "real nan.parquet": lambda path, rows: pq.write_table(
        pa.Table.from_pylist(rows).append_column(
            "id", pa.array([math.nan] * len(rows), pa.float64())
        ),
        path,
    ),
    "float32 nan.parquet": lambda path, rows: pq.write_table(
        pa.Table.from_pylist(rows).append_column(
            "id", pa.array([math.nan] * len(rows), pa.float32())
        ),
        path,
    ),
    "half nan.parquet": lambda path, rows: pq.write_table(
        pa.Table.from_pylist(rows).append_column(
            "id", pa.array(np.full(len(rows), np.nan, np.float16))
        ),
        path,
    ),
    "nullable.parquet": pandas_writer(
        lambda frame: frame.assign(id=pd.array([pd.NA] * len(frame), "Int64"))
    ),
    "null.parquet": pandas_writer(lambda frame: frame.assign(id=None)),
    "empty bytes.parquet": pandas_writer(lambda frame: frame.assign(id=b"")),
    "lists.parquet": pandas_writer(lambda frame: frame.assign(id=[[1]] * len(frame))),
    "bool.parquet": pandas_writer(lambda frame: frame.assign(id=True)),
}


@pytest.mark.parametrize("name", GAPS)
def test_rows_whose_id_is_none_are_each_their_own_and_the_same_in_every_file(name, tmp_path):
    rows = with_text([{"teacher": "QwQ"} for _ in range(N)])
    GAPS[name](tmp_path / name, rows)
    write_jsonl(tmp_path / "plain.jsonl", rows)
    found = read(tmp_path / name)
    assert [row["reject_detail"] for row in found] == [None] * N
    assert len({row["trajectory_id"] for row in found}) == N
    assert len({row["prompt_id"] for row in found}) == N // 4
    assert identities(found) == identities(read(tmp_path / "plain.jsonl"))


def test_an_id_that_is_none_leaves_the_next_column_its_turn(tmp_path):
    write_jsonl(
        tmp_path / "a.jsonl",
        with_text(
            [{"trajectory_id": math.nan, "id": "", "_id": n, "teacher": "T"} for n in range(3)]
        ),
    )
    assert [row["trajectory_id"] for row in read(tmp_path / "a.jsonl")] == ["0", "1", "2"]


@pytest.mark.parametrize("column", ["id", "trajectory_id", "prompt_id", "teacher", "sample"])
def test_floats_that_stand_for_several_numbers_are_rejects_that_say_so(column, tmp_path):
    rows = with_text([{"teacher": "T"} for _ in range(3)])
    table = pa.Table.from_pylist(rows)
    big = pa.array([2.0**53, 2.0**60, 1e300])
    table = table.drop_columns([column]) if column in table.schema.names else table
    pq.write_table(table.append_column(column, big), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert [row["reject_reason"] for row in found] == ["identity"] * 3
    assert all(row["reject_detail"].startswith(f"{column}: ") for row in found)
    assert len({row["trajectory_id"] for row in found}) == 3


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        pa.binary(3),
        pa.string(),
        pa.dictionary(pa.int8(), pa.binary()),
    ],
    ids=str,
)
def test_a_teacher_in_bytes_is_its_name(kind, tmp_path):
    table = pa.Table.from_pylist(with_text([{} for _ in range(3)]))
    plain = pa.array([b"QwQ"] * 3, pa.binary())
    teachers = (
        plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain.cast(kind)
    )
    pq.write_table(table.append_column("teacher", teachers), tmp_path / "a.parquet")
    assert {row["teacher"] for row in read(tmp_path / "a.parquet")} == {"QwQ"}


def test_a_teacher_that_is_none_is_the_folders(tmp_path):
    (tmp_path / "teacher=QwQ").mkdir()
    write_jsonl(
        tmp_path / "teacher=QwQ" / "a.jsonl",
        with_text(
            [{"teacher": one} for one in (None, "", math.nan, math.inf, True, [], "own", 7.0)]
        ),
    )
    assert [row["teacher"] for row in read(tmp_path / "teacher=QwQ" / "a.jsonl")] == ["QwQ"] * 6 + [
        "own",
        "7",
    ]


@pytest.mark.parametrize("one", [7, "7", 7.0])
def test_several_answers_of_a_row_are_numbered_below_its_id(one, tmp_path):
    write_jsonl(
        tmp_path / "a.jsonl",
        [{"id": one, "teacher": "T", "prompt": "1 + 1?", "response": ["a", "b", "c"]}],
    )
    found = read(tmp_path / "a.jsonl")
    assert [(row["trajectory_id"], row["sample"]) for row in found] == [
        ("7/0", 0),
        ("7/1", 1),
        ("7/2", 2),
    ]


def test_several_answers_of_a_row_without_an_id_are_each_their_own(tmp_path):
    write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"id": math.nan, "teacher": "T", "prompt": f"{n}?", "response": ["a", "b"]}
            for n in range(N // 2)
        ],
    )
    assert len({row["trajectory_id"] for row in read(tmp_path / "a.jsonl")}) == N


def test_several_answers_under_a_refused_id_are_each_a_reject(tmp_path):
    write_jsonl(
        tmp_path / "a.jsonl", [{"id": 1e23, "teacher": "T", "prompt": "?", "response": ["a", "b"]}]
    )
    assert [row["reject_reason"] for row in read(tmp_path / "a.jsonl")] == ["identity"] * 2
