"""The rows of a shard as training data."""

import json

import pyarrow as pa

from rsr_ray.choose.columns import CHOSEN
from rsr_ray.choose.whole_rows import whole_rows
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.corpus.shards import SHARDS
from rsr_ray.files.objects import list_objects


def test_a_column_that_comes_late_is_null_before(tmp_path):
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    rows = [{"id": f"{n}", "messages": turns} | ({"late": n} if n > 1 else {}) for n in range(4)]
    (tmp_path / "0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (shard,) = list_objects(str(tmp_path), None, SHARDS)
    chosen = [{"source_row": n, "teacher": "A", "trajectory_id": f"{n}"} for n in (0, 1, 3)]
    config = ChooseConfig(store=str(tmp_path), student="s", out=str(tmp_path / "out"))
    table, columns = whole_rows(shard, pa.Table.from_pylist(chosen, CHOSEN), config)
    assert table.select(["id", "late"]).to_pylist() == [
        {"id": "0", "late": None},
        {"id": "1", "late": None},
        {"id": "3", "late": 3},
    ]
    assert columns == ["id", "late", "messages"]
