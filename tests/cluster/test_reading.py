"""How rows are read is part of what was scored, in whole runs."""

import json

import pytest

from rsr_ray.units import reading_of

from .conftest import score

ROWS = [
    {"q": "2+2?", "g_thought": "Two and two.", "g": "It is 4.", "d_thought": "Count: 3, 4.", "d": "4, then.", "x": "no"},
    {"q": "3+3?", "g_thought": "Three twice.", "g": "It is 6.", "d_thought": "Count: 5, 6.", "d": "6, then.", "x": "no"},
]


def columns(answer, thought):
    return ("prompt=q", f"response={answer}", f"thinking={thought}")


@pytest.mark.usefixtures("local_ray")
def test_two_teachers_of_one_shard_in_two_runs_and_a_mapping_put_right(tmp_path):
    corpus, store = tmp_path / "corpus", tmp_path / "store"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    wrong = score(corpus, store, teacher="g", columns=columns("x", "g_thought"))
    right = score(corpus, store, teacher="g", columns=columns("g", "g_thought"))
    assert (right.n_scored, right.n_already) == (2, 0)
    assert right.teachers["n_trajectories"].to_pylist() == [2]
    assert right.teachers["rsr"].to_pylist() != wrong.teachers["rsr"].to_pylist()
    both = score(corpus, store, teacher="d", columns=columns("d", "d_thought"))
    assert {t["teacher"]: t["n_trajectories"] for t in both.teachers.to_pylist()} == {"g": 2, "d": 2}
    assert any("2 rows of these shards were read under another --teacher" in note for note in both.notes)
    again = score(corpus, store, teacher="d", columns=columns("d", "d_thought"))
    assert (again.n_scored, again.n_already) == (0, 2)
    assert again.record["plan"]["columns"]["response"] == "d"
    assert len({reading_of(path.name) for path in (store / "scores").rglob("*.parquet")}) == 2
