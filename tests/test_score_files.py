import hashlib

import pyarrow as pa
import pytest

from rsr_ray.schema import SCORES
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name

FINGERPRINT = "f" * 16


def rows(start: int, stop: int, key: str = "0" * 16, **more) -> list[dict]:
    """SCORES rows of an object; every seventh is rejected."""
    return [
        {
            "trajectory_id": f"{key[:2]}/{i}",
            "prompt_id": f"p{i % 5}",
            "teacher": f"T{i % 3}",
            "source": key,
            "source_row": i,
            "content": f"c{i}",
            "n_tokens": 2 + i,
            "rank_sum": 3 + i,
            "surprisal_sum": 1.0 + i,
            "fingerprint": FINGERPRINT,
        }
        | ({"reject_reason": "not_text", "reject_detail": "why"} if i % 7 == 6 else {})
        | more
        for i in range(start, stop)
    ]


def write(
    store: Store, start: int, stop: int, key: str = "0" * 16, mark: str | None = None, **more
) -> str:
    """A unit of such rows; its name."""
    facts = {"key": key, "version": "a" * 12, "start": start, "stop": stop, "last": False}
    table = pa.Table.from_pylist(rows(start, stop, key, **more), SCORES)
    store.write_scores(FINGERPRINT, unit_name(facts), table, mark)
    return unit_name(facts)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path), "demo", None)


def digest(text: str) -> int:
    found = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(found, "little", signed=True)


def test_files_are_the_units_that_count(store):
    names = [write(store, 0, 4), write(store, 4, 9), write(store, 0, 3, "1" * 16)]
    repeated = write(store, 5, 8)
    files = store.score_files(FINGERPRINT)
    assert [file.units for file in files] == [(name,) for name in sorted(names)]
    assert repeated not in names
    assert sum(file.n_rows for file in files) == 12
    assert [f.units for f in store.score_files(FINGERPRINT, names[:1])] == [(names[0],)]


def test_hashes_and_the_unit_are_columns(store):
    name = write(store, 0, 20, content=None)
    (file,) = store.score_files(FINGERPRINT)
    columns = ["prompt_hash", "n_tokens", "unit", "row_hash"]
    read = store.read_score_file(FINGERPRINT, file, columns)
    assert read.column_names == columns
    made = rows(0, 20, content=None)
    assert read["prompt_hash"].to_pylist() == [digest(row["prompt_id"]) for row in made]
    assert read["row_hash"].to_pylist() == [
        digest(f"{row['teacher']}\0{row['trajectory_id']}\0") for row in made
    ]
    assert read["unit"].to_pylist() == [name] * 20
    assert read["n_tokens"].to_pylist() == [row["n_tokens"] for row in made]


@pytest.mark.parametrize("low", [-(2**63), 0])
@pytest.mark.parametrize("high", [0, 2**62, 2**63])
def test_of_some_prompts_only_their_rows(store, low, high):
    write(store, 0, 40)
    (file,) = store.score_files(FINGERPRINT)
    read = store.read_score_file(FINGERPRINT, file, ["trajectory_id"], (low, high))
    assert read["trajectory_id"].to_pylist() == [
        row["trajectory_id"] for row in rows(0, 40) if low <= digest(row["prompt_id"]) < high
    ]
