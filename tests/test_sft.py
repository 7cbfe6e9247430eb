"""The rows of a shard as training data."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.choose import whole_rows
from rsr_ray.choose.columns import CHOSEN
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.rows import is_row_each
from rsr_ray.corpus.shards import SHARDS
from rsr_ray.files.objects import InputObject, list_objects


def turns(n: int) -> list[dict]:
    return [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": f"{n + 1}"}]


SHAPES = {  # columns of 500 rows, and how many trajectories each is
    "turns": ({"messages": [turns(n) for n in range(500)]}, 1),
    "texts": ({"prompt": ["1?"] * 500, "response": [f"{n}" for n in range(500)]}, 1),
    "answers": ({"prompt": ["1?"] * 500, "response": [["1", f"{n}"] for n in range(500)]}, 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_found_whatever_lies_between_them(shape, tmp_path, monkeypatch):
    """By their place in a Parquet shard, where its columns say that each row is one trajectory."""
    columns, n_each = SHAPES[shape]
    ids = [f"{n}" for n in range(500)]
    path = str(tmp_path / "0.parquet")
    pq.write_table(pa.table({"id": ids, "other": range(500), **columns}), path, row_group_size=130)
    (shard,) = list_objects(str(tmp_path), None, SHARDS)
    places = sorted(random.Random(0).sample(range(500 * n_each), 40))
    chosen = [
        {
            "source_row": place,
            "teacher": "A",
            "trajectory_id": ids[place // n_each] + (f"/{place % n_each}" if n_each > 1 else ""),
        }
        for place in places
    ]
    config = ChooseConfig(store=str(tmp_path), student="s", out=str(tmp_path / "out"))
    asked = (shard, pa.Table.from_pylist(chosen, CHOSEN), config)
    table, names = whole_rows.whole_rows(*asked)
    assert table["other"].to_pylist() == [place // n_each for place in places]
    monkeypatch.setattr(whole_rows, "is_row_each", lambda *_: False)
    slow, slow_names = whole_rows.whole_rows(*asked)
    assert (slow, slow_names) == (table, names)


def test_a_shard_says_whether_each_row_is_one_trajectory():
    def says(kind: pa.DataType, uri: str = "a.parquet", **how) -> bool:
        schema = pa.schema([("prompt", pa.string()), ("response", kind), ("raw", kind)])
        return is_row_each(InputObject(uri=uri, version="v", size=1), schema, Reading(**how))

    assert says(pa.string())
    assert says(pa.large_string(), columns={"response": "raw"})
    assert not says(pa.list_(pa.string()))
    assert not says(pa.string(), uri="a.jsonl.gz")
    assert not says(pa.string(), columns={"response": "raw.0"})
    assert not says(pa.string(), columns={"response": "{teacher}_answer"})
    assert not says(pa.string(), roles={"critic": "assistant"})
    other = pa.schema([("prompt", pa.string()), ("mine", pa.list_(pa.string()))])
    shard = InputObject(uri="a.parquet", version="v", size=1)
    assert not is_row_each(shard, other, Reading(columns={"response": "mine"}))


def test_a_column_that_comes_late_is_null_before(tmp_path):
    rows = [{"id": f"{n}", "messages": turns(1)} | ({"late": n} if n > 1 else {}) for n in range(4)]
    (tmp_path / "0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (shard,) = list_objects(str(tmp_path), None, SHARDS)
    chosen = [{"source_row": n, "teacher": "A", "trajectory_id": f"{n}"} for n in (0, 1, 3)]
    config = ChooseConfig(store=str(tmp_path), student="s", out=str(tmp_path / "out"))
    table, columns = whole_rows.whole_rows(shard, pa.Table.from_pylist(chosen, CHOSEN), config)
    assert table.select(["id", "late"]).to_pylist() == [
        {"id": "0", "late": None},
        {"id": "1", "late": None},
        {"id": "3", "late": 3},
    ]
    assert columns == ["id", "late", "messages"]
