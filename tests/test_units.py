"""A unit is what lies at exactly a unit's place; a table knows what it was made of."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_ray.corpus.shards import list_corpus
from rsr_ray.decide.loading import load_files, load_scored
from rsr_ray.errors import StoreError
from rsr_ray.metrics import RSR
from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store.records import warn_once
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store
from rsr_ray.store.units import Listing, MadeOf, n_rows, store_of, unit_at, unit_name

KEY, VERSION = "0" * 16, "a" * 12


def name(start: int, stop: int, *, last: bool = False, key: str = KEY) -> str:
    return unit_name({"key": key, "version": VERSION, "start": start, "stop": stop, "last": last})


def write_unit(store: Store, start: int, stop: int, *, rank: int = 4, last: bool = False) -> str:
    rows = [
        {
            "trajectory_id": f"t{n}", "prompt_id": f"p{n // 2}", "teacher": "AB"[n % 2],
            "source": "s", "source_row": n, "fingerprint": "f", "n_tokens": 2, "rank_sum": rank + n,
            "surprisal_sum": 1.5, "mean_rank": (rank + n) / 2, "mean_surprisal": 0.75,
            "rsr": (rank + n) / 1.5,
        }
        for n in range(start, stop)
    ]  # fmt: skip
    facts = {"key": [KEY], "version": [VERSION], "start": [start], "stop": [stop], "last": [last]}
    store.write_unit(
        pa.table({**facts, "rows": pa.array([rows], pa.list_(pa.struct(list(SCORES))))}), "f"
    )
    return name(start, stop, last=last)


def write_table(store: Store) -> None:
    """The TEACHERS rows of what is there, as far as they are compared."""
    units = store.counted("f")
    scored = load_files(store, "f", store.score_files("f"), [RSR])
    every = scored.matrices(RSR)
    table = [
        {"teacher": teacher, "fingerprint": "f", "n_trajectories": int(n), "rsr": float(value)}
        for teacher, n, value in zip(scored.teachers, every.n.sum(0), every.values(), strict=True)
    ]
    store.write_teachers(pa.Table.from_pylist(table, schema=TEACHERS), units)


def a_run(run_id: str) -> RunRecord:
    """What a record has at least."""
    config = {"student_name": "s"}
    return RunRecord.from_json(
        {"run_id": run_id, "fingerprint": "f", "config": config, "student": {}}
    )


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(str(tmp_path / "store"), "s", None)
    write_unit(store, 0, 4)
    write_unit(store, 4, 8, last=True)
    write_table(store)
    return store


GOOD = f"f0/0/{name(0, 4)}"


@given(
    st.lists(
        st.sampled_from(
            [*GOOD.split("/"), "copy", "f1", "1", "", ".", "..", "F0", name(0, 4, key="1" * 16)]
        ),
        max_size=5,
    )
)
def test_only_the_exact_place_is_a_units(parts):
    at = unit_at("/".join(parts))
    if at is None:
        return
    fingerprint, digit, unit = parts
    assert at == (fingerprint, unit)
    assert digit == unit[0]
    assert fingerprint in ("f0", "f1", "1", "0")


@pytest.mark.parametrize(
    "path",
    [
        f"f0/0/copy/{name(0, 4)}",
        f"f0/{name(0, 4)}",
        f"f0/1/{name(0, 4)}",
        f"f0/0/{name(0, 4)}.bak",
        f"f0/0/ {name(0, 4)}",
        f"old f0/0/{name(0, 4)}",
    ],
)
def test_a_stray_copy_is_never_read_and_never_deleted(store, path):
    fingerprint, digit, good = next(iter(Path(store.scores_uri).rglob("*.parquet"))).parts[-3:]
    stray = Path(store.scores_uri) / path.replace("f0", fingerprint)
    stray.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(store.scores_uri) / fingerprint / digit / good, stray)
    before = {unit: store.read_unit("f", unit) for unit in store.units()["f"]}
    assert sorted(before) == [name(0, 4), name(4, 8, last=True)]
    scored = load_scored(store)
    assert len(scored.teacher) == 8
    assert [note for note in scored.notes if "are not work units" in note and stray.name in note]
    store.drop("f", list(before))
    assert stray.is_file()
    assert Listing.of({path.replace("f0", fingerprint): ""}).units == {}


def test_a_table_is_made_again_when_a_unit_has_other_content_under_the_same_name(store):
    units = store.counted("f")
    assert store.current_teachers(units) is not None
    write_unit(store, 0, 4, rank=9)
    assert store.counted("f").keys() == units.keys()
    assert store.current_teachers(store.counted("f")) is None
    (said,) = load_scored(store).notes
    assert "does not match the scores in the store" in said
    write_table(store)
    assert store.current_teachers(store.counted("f")) is not None
    assert load_scored(store).notes == ()


def test_a_unit_that_is_gone_or_new_is_named(store):
    write_unit(store, 8, 10)
    (said, _) = load_scored(store).notes
    assert (
        "1 units in the store are not in the teachers table yet, up to 2 rows: " + name(8, 10)
        in said
    )
    store.drop("f", [name(8, 10), name(0, 4)])
    said = load_scored(store).notes[0]
    assert (
        "1 of the 2 units that the teachers table was made from are missing from the store, and "
        "with them up to 4 rows: "
    ) + name(0, 4) in said


@given(
    st.dictionaries(
        st.builds(name, st.integers(0, 99), st.integers(100, 999)),
        st.sampled_from(["1:2", "77:1700000000000000000", ""]),
    )
)
def test_what_a_table_was_made_of_survives_the_packing(units):
    made_of = MadeOf.of(units)
    assert MadeOf.unpacked(made_of.packed().encode()) == made_of
    assert made_of.differences(list(units)) == []
    assert n_rows(units) == sum(int(n[41:51]) - int(n[30:40]) for n in units)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\0" * 200, b"{}", None])
def test_a_broken_file_is_one_line_that_names_it(store, content, capsys, tmp_path):
    from rsr_ray.cli import main

    unit = Path(store.unit_uri("f", name(0, 4)))
    unit.write_bytes(unit.read_bytes()[:-30] if content is None else content)
    with pytest.raises(
        StoreError, match=f"{unit.name} is broken: .*rsr-ray check --store {store.uri} --repair"
    ):
        store.read_unit("f", unit.name)
    for command in (["teachers"], ["report", "--out", str(tmp_path / "out")], ["rejects"]):
        assert main([*command, "--store", store.uri, "--student", "s"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(unit) in error
    assert list(store.find_broken("f", store.units()["f"], tokens=False)) == [unit.name]


def test_a_good_unit_under_its_neighbours_name_is_not_its_neighbour(store):
    one, two = (Path(store.unit_uri("f", unit)) for unit in store.units()["f"])
    shutil.copy(one, two)
    with pytest.raises(StoreError, match="written as another file and moved here"):
        load_scored(store)


def test_check_names_what_is_wrong_and_repair_removes_that_and_no_more(store, capsys):
    from rsr_ray.cli import main

    command = ["check", "--store", store.uri]
    assert main(command) == 0
    assert "Read 3 files of " in capsys.readouterr().out
    unit, stray = (
        Path(store.unit_uri("f", name(0, 4))),
        Path(store.scores_uri) / "f" / "copy.parquet",
    )
    run = Path(store.uri) / "runs" / "r.json"
    store.write_run(a_run("r"))
    data = bytearray(unit.read_bytes())
    data[len(data) // 2] ^= 4
    unit.write_bytes(data)
    shutil.copy(Path(store.unit_uri("f", name(4, 8, last=True))), stray)
    run.write_text(run.read_text().replace('"s"', '"t"'))
    assert main(command) == 1
    out = capsys.readouterr().out
    for path in (unit, run, stray):
        assert f"{path.relative_to(store.uri)}: " in out
    assert main([*command, "--repair"]) == 0
    assert "Removed 2 files" in capsys.readouterr().out
    assert (unit.exists(), run.exists(), stray.exists(), len(store.units()["f"])) == (
        False,
        False,
        True,
        1,
    )
    assert main(command) == 1, "the table was made of a unit that is gone"
    assert "are missing from the store" in capsys.readouterr().out
    write_table(store)
    assert main([*command, "--json"]) == 0
    assert main(["check", "--store", store.uri + "/nothing"]) == 2


def test_a_broken_record_is_named_and_the_one_before_it_counts(store, logged):
    for run_id in ("1", "2"):
        store.write_run(a_run(run_id))
    assert store.find_run("f").run_id == "2"
    for content in (
        "",
        "{",
        "[]",
        "{}",
        '{"fingerprint": "f"}',
        (Path(store.uri) / "runs" / "1.json").read_text(),
    ):
        (Path(store.uri) / "runs" / "2.json").write_text(content)
        logged.records.clear()
        warn_once.cache_clear()
        assert store.find_run("f").run_id == "1"
        assert "runs/2.json is broken" in logged.text


def test_what_a_store_keeps_is_no_corpus(store, tmp_path, logged):
    corpus = tmp_path
    (tmp_path / "a.jsonl").write_text("{}\n")
    found = list_corpus((str(corpus),), None, store.uri)
    assert [obj.uri for obj in found] == [str(tmp_path / "a.jsonl")]
    assert f"3 of its files belong to the store {store.uri}" in logged.text
    other = shutil.copytree(store.uri, tmp_path / "other")
    store.write_run(a_run("1"))
    found = list_corpus((str(corpus),), None, None)
    assert [obj.uri for obj in found if not obj.uri.startswith(store.uri)] == [
        str(tmp_path / "a.jsonl")
    ]
    assert store_of(f"{other}/tokens/student=s/f/0/{name(0, 4)}") == str(other)
    below = tmp_path / "store" / "races" / "r" / "round-01"
    below.mkdir(parents=True)
    (below / "part.jsonl").write_text("{}\n")
    assert len(list_corpus((str(below),), None, str(tmp_path / "store" / "races" / "r"))) == 1, (
        "a race's own shards are meant"
    )
    with pytest.raises(ValueError, match="and there are no others"):
        list_corpus((store.uri,), None, store.uri)
    assert os.path.exists(store.uri)
