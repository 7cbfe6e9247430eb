"""Shards of every format, what is broken in them, and the work units they are cut into."""

import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.first_rows import check_readable
from rsr_ray.corpus.reading import Reading, teacher_of_path
from rsr_ray.corpus.row_faults import Unreadable
from rsr_ray.corpus.rows import iter_rows
from rsr_ray.corpus.shards import list_corpus
from rsr_ray.corpus.units import iter_units
from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject
from rsr_ray.schema import REJECT_REASONS


def rows(n: int) -> list[dict]:
    return [
        {
            "id": f"r{i}",
            "messages": [
                {"role": "user", "content": f"q{i}"},
                {"role": "assistant", "content": f"a{i}"},
            ],
        }
        for i in range(n)
    ]


def lines(n: int) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(n)).encode()


WRITERS = {
    "part.jsonl": lambda path: path.write_bytes(lines(10)),
    "part.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(10))),
    "part.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(lines(10))),
    "part.json": lambda path: path.write_text(json.dumps(rows(10), indent=1)),
    "lines.json": lambda path: path.write_bytes(lines(10)),
    "part.parquet": lambda path: pq.write_table(
        pa.Table.from_pylist(rows(10)), path, row_group_size=3
    ),
}


def read(path) -> list:
    (obj,) = list_corpus((str(path),), None)
    return list(iter_rows(obj, None, {}))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert read(tmp_path / name) == rows(10)


def test_a_folder_a_glob_and_a_file_and_each_shard_once(tmp_path):
    for teacher in ("a", "b"):
        (tmp_path / f"teacher={teacher}").mkdir()
        for n in range(3):
            (tmp_path / f"teacher={teacher}" / f"{n}.jsonl").write_bytes(lines(1))
    (tmp_path / "README.md").write_text("no shard")
    (tmp_path / ".hidden.jsonl").write_bytes(lines(1))
    (tmp_path / "_tmp").mkdir()
    (tmp_path / "_tmp" / "0.jsonl").write_bytes(lines(1))
    assert len(list_corpus((str(tmp_path),), None)) == 6
    assert len(list_corpus((f"{tmp_path}/teacher=a/*.jsonl",), None)) == 3
    assert len(list_corpus((f"{tmp_path}/*/0.jsonl", str(tmp_path / "teacher=a")), None)) == 4


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/*.jsonl"])
def test_a_missing_path_is_named(tmp_path, missing):
    with pytest.raises(UserError, match="nowhere"):
        list_corpus((f"{tmp_path}/{missing}",), None)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no shards found; shards end with \.parquet"):
        list_corpus((str(tmp_path),), None)


def test_a_replaced_shard_has_another_version(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(1))
    (before,) = list_corpus((str(path),), None)
    path.write_bytes(lines(2))
    (after,) = list_corpus((str(path),), None)
    assert before.key == after.key
    assert before.version != after.version


@pytest.mark.parametrize(
    ("name", "content", "readable"),
    [
        ("garbage.parquet", b"this is not parquet" * 50, 0),
        ("cut.jsonl.gz", gzip.compress(lines(40_000))[:-20_000], 1),
        ("garbage.jsonl.gz", b"not gzip at all", 0),
        ("half.json", json.dumps(rows(3)).encode()[:-20], 1),
        ("latin.json", b"[\xff\xfe]", 0),
    ],
)
def test_a_broken_shard_ends_with_one_mark_after_its_readable_rows(
    tmp_path, name, content, readable
):
    (tmp_path / name).write_bytes(content)
    got = read(tmp_path / name)
    assert isinstance(got[-1], Unreadable)
    assert got[-1].shard
    assert all(isinstance(row, dict) for row in got[:-1])
    assert bool(got[:-1]) == bool(readable)


def test_a_corrupt_page_in_the_middle_of_a_parquet_shard(tmp_path):
    many = [
        {"id": f"r{i}", "messages": [{"role": "assistant", "content": f"{i} " * 200}]}
        for i in range(600)
    ]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(many), path, row_group_size=100, compression="zstd")
    group = pq.ParquetFile(path).metadata.row_group(3)
    content = bytearray(path.read_bytes())
    for column in range(group.num_columns):
        start = group.column(column).data_page_offset
        content[start : start + 200] = b"\xff" * 200
    path.write_bytes(content)
    got = read(path)
    assert 0 < len(got) - 1 <= 300
    assert isinstance(got[-1], Unreadable)
    assert got[-1].shard


def test_a_broken_line_is_one_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1}\nnot json\n[1]\n\n' + b"\xff\xfe\n" + lines(1))
    assert [isinstance(row, Unreadable) for row in read(path)] == [False, True, True, True, False]
    assert not any(row.shard for row in read(path) if isinstance(row, Unreadable))


def test_a_corpus_without_one_usable_shard_is_a_mistake(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"a\.parquet: unreadable from here on"):
        check_readable(list_corpus((str(tmp_path),), None), None, {})
    (tmp_path / "b.jsonl").write_text('{"question": "x", "text": "y"}\n')
    with pytest.raises(
        UserError, match="A row needs messages; or conversations; or prompt and response"
    ):
        check_readable(list_corpus((str(tmp_path / "b.jsonl"),), None), None, {})
    (tmp_path / "c.jsonl").write_bytes(lines(1))
    assert check_readable(list_corpus((str(tmp_path),), None), None, {}) == "messages"


def one(row, path="/corpus/teacher=T%2F1/a.jsonl", teacher=None) -> dict:
    from rsr_ray.files.objects import InputObject

    return canonical(row, InputObject(uri=path, version="v", size=1), 5, Reading(teacher))


TURNS = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


def test_the_same_conversation_in_three_shapes_is_the_same_trajectory():
    shapes = [
        {"messages": TURNS},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"prompt": "2+2?", "response": "4"},
        {"messages": None, "conversations": None, "prompt": "2+2?", "response": "4"},
    ]
    got = [one(shape) for shape in shapes]
    assert len({row["trajectory_id"] for row in got}) == 1
    assert len({row["prompt_id"] for row in got}) == 1
    assert {row["messages"] for row in got} == {json.dumps(TURNS)}


def test_identity_comes_from_the_data_or_from_the_content():
    assert one({"id": 7, "messages": TURNS})["trajectory_id"] == "7"
    assert one({"_id": "x", "messages": TURNS})["trajectory_id"] == "x"
    assert (
        one({"messages": TURNS})["trajectory_id"]
        == one({"messages": TURNS}, "/elsewhere/teacher=T%2F1/b.jsonl")["trajectory_id"]
    )
    assert (
        one({"messages": TURNS})["trajectory_id"]
        != one({"messages": TURNS}, teacher="other")["trajectory_id"]
    )
    assert (
        one({"messages": TURNS, "sample": 1})["trajectory_id"]
        != one({"messages": TURNS, "sample": 2})["trajectory_id"]
    )


def test_the_teacher_comes_from_the_option_the_column_or_the_path():
    assert one({"messages": TURNS, "teacher": "C"}, teacher="O")["teacher"] == "O"
    assert one({"messages": TURNS, "teacher": "C"})["teacher"] == "C"
    assert one({"messages": TURNS})["teacher"] == "T/1"
    assert teacher_of_path("s3://bucket/corpus/QwQ-32b/a.parquet") == "QwQ-32b"
    assert one({"messages": TURNS}, "a.jsonl")["reject_reason"] == "no_teacher"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Unreadable("x"), "unreadable_row"),
        (Unreadable("x", shard=True), "unreadable_shard"),
        ({"text": "x"}, "unreadable_row"),
        ({"messages": []}, "unreadable_row"),
        ({"messages": "hello"}, "unreadable_row"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "unknown_role"),
        ({"messages": [{"content": "x"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": 3}]}, "not_text"),
        ({"messages": [{"role": "user", "content": None}]}, "not_text"),
        ({"messages": [{"role": "assistant", "content": "\ud800"}]}, "not_text"),
        ({"messages": TURNS[:1]}, "no_assistant_turn"),
        ({"prompt": "x", "response": " \n"}, "empty_response"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "x", "tool_calls": [{"arguments": {}}]}
                ]
            },
            "tool_calls",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": "x",
                        "tool_calls": [{"name": "f", "arguments": "{"}],
                    }
                ]
            },
            "tool_calls",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image", "url": "x"}]}]},
            "not_text",
        ),
        ({"conversations": [{"from": "function_call", "value": "f(x)"}]}, "tool_calls"),
        ({"prompt": "x"}, "unreadable_row"),
    ],
)
def test_bad_rows_are_rejected_with_a_reason(row, reason):
    got = one(row)
    assert got["reject_reason"] == reason
    assert got["reject_reason"] in REJECT_REASONS
    assert got["reject_detail"]
    assert got["messages"] is None
    assert got["trajectory_id"]


# --- work units------------------------------------------------------------------------------------


def units(path, unit_rows, done=()):
    (obj,) = list_corpus((str(path),), None)
    out = [
        unit.to_pylist()[0] for unit in iter_units(obj, None, unit_rows, list(done), Reading("T"))
    ]
    assert [u["last"] for u in out] == [False] * (len(out) - 1) + [True]
    for u in out:
        assert [row["source_row"] for row in u["rows"]] == list(range(u["start"], u["stop"]))
    return [(u["start"], u["stop"]) for u in out]


def test_units_cover_an_object_on_a_fixed_grid(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(10))
    assert units(path, 4) == [(0, 4), (4, 8), (8, 10)]
    assert units(path, 5) == [(0, 5), (5, 10)]
    assert units(path, 100) == [(0, 10)]
    assert units(path, 4, [(4, 8)]) == [(0, 4), (8, 10)]
    assert units(path, 4, [(0, 4), (5, 6)]) == [(4, 5), (6, 8), (8, 10)]
    assert units(path, 4, [(4, 10)]) == [(0, 4), (10, 10)]
    assert units(path, 4, [(0, 10)]) == [(10, 10)]


def test_an_empty_object_is_one_empty_unit(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n")
    assert units(path, 4) == [(0, 0)]


def test_a_cut_off_arrow_shard_ends_with_one_mark(tmp_path):
    """Whatever a reader knows of its place in a file must outlive the file."""
    path, table = (
        tmp_path / "a.arrow",
        pa.table({"prompt": [f"p{n}" for n in range(2000)], "response": ["r" * 300] * 2000}),
    )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    obj = InputObject(uri=str(path), version="v", size=path.stat().st_size)
    units = [unit.to_pylist()[0] for unit in iter_units(obj, None, 300, [], Reading("T"))]
    reasons = [row["reject_reason"] for unit in units for row in unit["rows"]]
    assert len(reasons) > 500
    assert reasons == [None] * (len(reasons) - 1) + ["unreadable_shard"]
    shares = [unit["share"] for unit in units]
    assert shares == sorted(shares)
    assert shares[-1] == 1
