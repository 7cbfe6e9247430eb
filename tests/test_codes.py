"""Columns of texts as numbers, however they lie in memory."""

import pyarrow as pa
import pytest

from rsr_ray.codes import codes_of, sorted_codes_of

TEXTS = [["b", "a"], [], ["c", "a", "b"]]
COLUMNS = {
    "texts": pa.chunked_array(TEXTS, pa.string()),
    "encoded together": pa.chunked_array(TEXTS, pa.string()).dictionary_encode(),
    "encoded apart": pa.chunked_array(
        [pa.array(some, pa.string()).dictionary_encode() for some in TEXTS]
    ),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_each_text_has_one_number(column):
    codes, texts = codes_of(column)
    assert texts.take(pa.array(codes)).to_pylist() == column.to_pylist()
    assert sorted(texts.to_pylist()) == ["a", "b", "c"]
    codes, texts = sorted_codes_of(column)
    assert (codes.tolist(), texts.to_pylist()) == ([1, 0, 2, 0, 1], ["a", "b", "c"])


def test_null_has_none_and_no_rows_are_no_texts():
    codes, texts = codes_of(pa.chunked_array([["b", None], [None, "b"]]))
    assert (codes.tolist(), texts.to_pylist()) == ([0, -1, -1, 0], ["b"])
    for kind in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
        codes, texts = codes_of(pa.chunked_array([], kind))
        assert (len(codes), len(texts)) == (0, 0)
