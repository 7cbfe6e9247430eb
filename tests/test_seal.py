"""Every bit of a file of the store counts, and so does its name."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.store import seal

PLACE = "scores/student=s/f/0/unit.parquet"


@pytest.fixture(scope="module")
def parquet() -> bytes:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "teacher": [f"t{n % 3}" for n in range(40)],
            "rsr": rng.normal(size=40),
            "n": [None, *range(39)],
        }
    )
    return seal.write_parquet(table, PLACE, {"r_max": "100"})


@pytest.fixture(scope="module")
def record() -> bytes:
    return seal.write_record({"run_id": "r", "config": {"a": [1, "é"]}}, PLACE)


def refused(data: bytes, place: str = PLACE) -> bool:
    try:
        seal.read_record(data, place) if data[:1] == b"{" else seal.read_parquet(data, place)
    except seal.BrokenError:
        return True
    return False


@pytest.mark.parametrize("kind", ["parquet", "record"])
def test_every_flipped_bit_is_found(kind, request):
    data = request.getfixturevalue(kind)
    assert not refused(data)
    for at in range(len(data)):
        for bit in range(8) if kind == "record" else (at % 8,):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            assert refused(bytes(flipped)), (at, bit)


@pytest.mark.parametrize("kind", ["parquet", "record"])
def test_every_cut_and_every_blank_is_found(kind, request):
    data = request.getfixturevalue(kind)
    assert all(refused(data[:stop]) for stop in range(len(data)))
    for n in (1, 16, 64, 256):
        for at in range(0, len(data) - n, 7):
            blank = data[:at] + bytes(n) + data[at + n :]
            assert blank == data or refused(blank), (at, n)


@pytest.mark.parametrize(
    "place",
    [
        PLACE + "x",
        PLACE[:-1],
        "scores/student=s/f/0/other.parquet",
        "tokens/student=s/f/0/unit.parquet",
    ],
)
def test_a_whole_file_at_another_place_is_not_what_was_written_there(parquet, record, place):
    assert refused(parquet, place)
    assert refused(record, place)


def test_what_is_sealed_is_read_back_as_it_was(parquet, record):
    opened = seal.read_parquet(parquet, PLACE, ["rsr", "teacher", "no such"])
    assert opened.table.column_names == ["rsr", "teacher"]
    assert (opened.facts[b"r_max"], opened.is_sealed) == (b"100", True)
    assert seal.read_record(record, PLACE) == {"run_id": "r", "config": {"a": [1, "é"]}}
    assert json.loads(record)["run_id"] == "r"


def test_pages_carry_checksums_that_any_reader_may_check(parquet):
    at = parquet.index(b"\x28\xb5\x2f\xfd")  # the first compressed page
    flipped = bytearray(parquet)
    flipped[at + 20] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(pa.BufferReader(bytes(flipped)), page_checksum_verification=True)


def test_files_without_a_seal_are_read_and_are_known_for_it():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    assert not seal.read_parquet(sink.getvalue().to_pybytes(), PLACE).is_sealed
    assert seal.read_record(b'{"run_id": "r"}', PLACE) == {"run_id": "r"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PAR1",
        b"PAR1" * 9,
        b"\0" * 99,
        b"[1]",
        b"null",
        b'{"a": ',
        b'{"a": 1}',
        b"\xff\xfe{",
        b"[" * 100_000,
    ],
)
def test_anything_else_is_named_in_a_few_words(data):
    for read in (
        lambda: seal.read_parquet(data, PLACE),
        lambda: seal.read_record(data, PLACE, ("run_id",)),
    ):
        with pytest.raises(seal.BrokenError) as found:
            read()
        assert str(found.value).count("\n") == 0
        assert len(str(found.value)) < 300


def test_a_column_of_another_type_is_refused(parquet):
    with pytest.raises(seal.BrokenError, match="column rsr is not int64"):
        seal.read_parquet(parquet, PLACE, None, pa.schema([("rsr", pa.int64())]))
