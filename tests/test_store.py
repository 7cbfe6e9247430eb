import dataclasses
import json
import typing
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject, create, list_files, put
from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow, teacher_rows
from rsr_ray.store.units import settle_units, stale_units, unit_name

KEY, VERSION = "0" * 16, "a" * 12


def unit(
    start: int, stop: int, *, last: bool = False, key: str = KEY, version: str = VERSION
) -> pa.Table:
    rows = [
        {
            "trajectory_id": f"t{i}",
            "teacher": "T",
            "source": "s",
            "source_row": i,
            "n_tokens": 2,
            "fingerprint": "f",
        }
        for i in range(start, stop)
    ]
    if rows:
        rows[0] |= {"reject_reason": "not_text", "reject_detail": "why", "n_tokens": None}
    scores = pa.array([rows], pa.list_(pa.struct(list(SCORES))))
    facts = {
        "key": [key],
        "version": [version],
        "start": [start],
        "stop": [stop],
        "last": [last],
        "seconds": [0.5],
    }
    return pa.table({**facts, "rows": scores})


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path), "demo", None)


def done(store):
    return settle_units(store.units().get("f", []))[0]


def test_a_unit_is_one_file_and_done_when_it_is_there(store):
    assert store.units() == {}
    (facts,) = store.write_unit(unit(0, 4), "f").to_pylist()
    assert (facts["n_rows"], facts["n_scored"], facts["n_tokens"]) == (4, 3, 6)
    assert json.loads(facts["rejected"]) == {"not_text": {"n": 1, "example": "t0 (s row 0): why"}}
    assert (done(store)[KEY, VERSION].ranges, done(store)[KEY, VERSION].whole) == ([(0, 4)], False)
    store.write_unit(unit(4, 6, last=True), "f")
    assert done(store)[KEY, VERSION].whole
    store.write_unit(unit(4, 6, last=True), "f")  # done twice overwrites itself
    assert len(list_files(store.scores_uri, None)) == 2
    assert list(store.units()) == ["f"]


def test_an_end_without_its_middle_is_not_whole(store):
    store.write_unit(unit(0, 2), "f")
    store.write_unit(unit(4, 6, last=True), "f")
    assert not done(store)[KEY, VERSION].whole


def name(start: int, stop: int, *, last: bool = False) -> str:
    return unit_name({"key": KEY, "version": VERSION, "start": start, "stop": stop, "last": last})


@given(
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    rows=st.integers(0, 25),
    lost=st.sets(st.integers(0, 40)),
)
def test_units_of_runs_with_different_sizes_never_hold_a_row_twice(cuts, rows, lost):
    every = {
        name(start, min(start + cut, rows), last=start + cut >= rows)
        for cut in cuts
        for start in range(0, max(rows, 1), cut)
    }
    names = [n for i, n in enumerate(sorted(every)) if i not in lost]
    found, repeated = settle_units(names)
    ranges = found[KEY, VERSION].ranges if found else []
    covered = [row for start, stop in ranges for row in range(start, stop)]
    assert len(covered) == len({*covered})
    assert len(ranges) + len(repeated) == len(names)
    assert settle_units([n for n in names if n not in repeated]) == (found, [])
    if found and found[KEY, VERSION].whole:
        assert covered == list(range(rows))


def test_files_open_without_this_package(store):
    store.write_unit(unit(0, 4, last=True), "f")
    (rows,) = duckdb.sql(
        f"select count(*), count(reject_reason), any_value(student) from "
        f"'{store.scores_uri}/**/*.parquet'"
    ).fetchall()
    assert rows == (4, 1, "demo")


def test_a_write_that_fails_leaves_nothing(store, monkeypatch):
    monkeypatch.setattr(
        "os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        store.write_unit(unit(0, 4), "f")
    assert list_files(store.scores_uri, None) == {}


def test_scores_of_a_replaced_object_retire_once_the_new_ones_are_whole(store):
    new = InputObject(uri="/x", version="b" * 12, size=1)
    store.write_unit(unit(0, 4, last=True, key=new.key), "f")
    store.write_unit(unit(0, 2, key=new.key, version=new.version), "f")
    assert stale_units(store.units()["f"], [new]) == []
    store.write_unit(unit(2, 4, last=True, key=new.key, version=new.version), "f")
    stale = stale_units(store.units()["f"], [new])
    assert len(stale) == 1
    store.drop("f", stale)
    assert list(done(store)) == [(new.key, new.version)]


def test_the_table_is_current_only_for_the_units_it_was_made_of(store):
    assert store.current_teachers(["a"]) is None
    store.write_teachers(pa.Table.from_pylist([], schema=TEACHERS), ["a", "b"])
    assert store.current_teachers(["b", "a"]).num_rows == 0
    assert store.current_teachers(["a"]) is None


def test_of_many_creators_one_wins(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        won = list(
            pool.map(lambda n: create(f"{tmp_path}/new/lease", str(n).encode(), None), range(8))
        )
    assert sum(won) == 1
    assert (tmp_path / "new" / "lease").read_text() == str(won.index(True))


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a b"])
def test_a_student_name_is_a_folder_name(tmp_path, name):
    with pytest.raises(UserError, match="--student-name"):
        Store(str(tmp_path), name, None)


def test_teachers_of_an_unknown_student_names_the_known_ones(store):
    with pytest.raises(UserError, match="none yet"):
        store.read_teachers()
    Store(store.uri, "other", None).write_teachers(pa.Table.from_pylist([], schema=TEACHERS), [])
    with pytest.raises(UserError, match="students in the store: other"):
        store.read_teachers()


def test_units_and_definitions_are_in_the_stored_schema(store):
    store.write_teachers(pa.Table.from_pylist([], schema=TEACHERS), [])
    schema = store.read_teachers().schema
    assert b"lower is better" in schema.field("rsr").metadata[b"description"]
    assert b"nats" in schema.field("mean_surprisal").metadata[b"description"]


def test_a_teacher_row_has_the_columns_of_the_table():
    columns = {"string": str, "int64": int, "double": float, "map<string, int64>": dict[str, int]}
    kinds = typing.get_type_hints(TeacherRow)
    assert [field.name for field in dataclasses.fields(TeacherRow)] == TEACHERS.names
    for column in TEACHERS:
        assert kinds[column.name] in (
            kind := columns[str(column.type)],
            kind | None,
        ), column.name


def test_teacher_rows_are_those_of_the_table():
    row = dict.fromkeys(TEACHERS.names) | {
        "teacher": "T",
        "n_trajectories": 2,
        "rejects": {"not_text": 3, "over_length": 1},
        "rsr": 0.1,
        "place": 1,
    }
    (found,) = teacher_rows(pa.Table.from_pylist([row], schema=TEACHERS))
    assert json.dumps(found.to_json()) == json.dumps(row)
    assert (found.rejects, found.rsr) == (row["rejects"], 0.1)
    (earlier,) = teacher_rows(pa.table({"teacher": ["T"], "n_trajectories": [2]}))
    assert (earlier.n_trajectories, earlier.n_repeated_ids, earlier.rsr) == (2, None, None)


def test_a_store_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    put(f"{tmp_path}/file", b"", None)
    with pytest.raises(UserError, match="cannot be written"):
        Store(f"{tmp_path}/file/below", "demo", None).check_access("run")


def test_rejects_are_found_and_their_units_can_be_dropped(store, capsys):
    from rsr_ray.cli import main

    store.write_unit(unit(0, 4), "f")
    store.write_unit(unit(4, 4, last=True), "f")
    ((where, rows),) = store.find_rejects(None).items()
    assert (where, [row.trajectory_id for row in rows]) == (("f", name(0, 4)), ["t0"])
    assert store.find_rejects("over_length") == {}
    options = ["rejects", "--store", store.uri, "--student", "demo"]
    assert main(options) == 0
    assert "1 not_text" in (shown := capsys.readouterr().out)
    assert "t0  s row 0: why" in shown
    assert main([*options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reject_reason"] == "not_text"
    assert main([*options, "--retry"]) == 0
    assert [len(names) for names in store.units().values()] == [1]
    assert main(["rejects", "--store", store.uri, "--student", "nobody"]) == 2
