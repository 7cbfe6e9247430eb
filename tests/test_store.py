import json

import duckdb
import pyarrow as pa
import pytest

from rsr_ray.errors import UserError
from rsr_ray.objects import InputObject, list_names, put
from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store import Store

KEY, VERSION = "0" * 16, "a" * 12


def unit(start: int, stop: int, *, last: bool = False, key: str = KEY, version: str = VERSION) -> pa.Table:
    rows = [{"trajectory_id": f"t{i}", "teacher": "T", "source": "s", "source_row": i, "n_tokens": 2, "fingerprint": "f"} for i in range(start, stop)]
    if rows:
        rows[0] |= {"reject_reason": "not_text", "reject_detail": "why", "n_tokens": None}
    scores = pa.array([rows], pa.list_(pa.struct(list(SCORES))))
    facts = {"key": [key], "version": [version], "start": [start], "stop": [stop], "last": [last], "seconds": [0.5]}
    return pa.table({**facts, "rows": scores})


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path), "demo", None)


def test_a_unit_is_one_file_and_done_when_it_is_there(store):
    assert store.done("f") == {}
    (facts,) = store.write_unit(unit(0, 4), "f").to_pylist()
    assert (facts["n_rows"], facts["n_scored"], facts["n_tokens"]) == (4, 3, 6)
    assert json.loads(facts["rejected"]) == {"not_text": {"n": 1, "example": "s row 0: why"}}
    done = store.done("f")[KEY, VERSION]
    assert (done.ranges, done.whole) == ([(0, 4)], False)
    store.write_unit(unit(4, 6, last=True), "f")
    assert store.done("f")[KEY, VERSION].whole
    store.write_unit(unit(4, 6, last=True), "f")  # done twice overwrites itself
    assert len(list_names(store.scores_uri, None)) == 2
    assert store.fingerprints() == ["f"]


def test_an_end_without_its_middle_is_not_whole(store):
    store.write_unit(unit(0, 2), "f")
    store.write_unit(unit(4, 6, last=True), "f")
    assert not store.done("f")[KEY, VERSION].whole


def test_files_open_without_this_package(store):
    store.write_unit(unit(0, 4, last=True), "f")
    (rows,) = duckdb.sql(f"select count(*), count(reject_reason), any_value(student) from '{store.scores_uri}/**/*.parquet'").fetchall()
    assert rows == (4, 1, "demo")


def test_a_write_that_fails_leaves_nothing(store, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        store.write_unit(unit(0, 4), "f")
    assert list_names(store.scores_uri, None) == []


def test_scores_of_a_replaced_object_retire_once_the_new_ones_are_whole(store):
    new = InputObject(uri="/x", version="b" * 12, size=1)
    store.write_unit(unit(0, 4, last=True, key=new.key), "f")
    store.write_unit(unit(0, 2, key=new.key, version=new.version), "f")
    assert store.retire("f", [new]) == 0
    store.write_unit(unit(2, 4, last=True, key=new.key, version=new.version), "f")
    assert store.retire("f", [new]) == 1
    assert list(store.done("f")) == [(new.key, new.version)]


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a b"])
def test_a_student_name_is_a_folder_name(tmp_path, name):
    with pytest.raises(UserError, match="--student-name"):
        Store(str(tmp_path), name, None)


def test_teachers_of_an_unknown_student_names_the_known_ones(store):
    with pytest.raises(UserError, match="none yet"):
        store.read_teachers()
    Store(store.uri, "other", None).write_teachers(pa.Table.from_pylist([], schema=TEACHERS))
    with pytest.raises(UserError, match="students there: other"):
        store.read_teachers()


def test_units_and_definitions_are_in_the_stored_schema(store):
    store.write_teachers(pa.Table.from_pylist([], schema=TEACHERS))
    schema = store.read_teachers().schema
    assert b"lower is better" in schema.field("rsr").metadata[b"description"]
    assert b"nats" in schema.field("mean_surprisal").metadata[b"description"]


def test_a_store_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    put(f"{tmp_path}/file", b"", None)
    with pytest.raises(UserError, match="cannot be written"):
        Store(f"{tmp_path}/file/below", "demo", None).check_writable("run")
