"""What is kept beside the scores is added to units that lack it, and the scores stay."""

import dataclasses
import itertools
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.units import read_units
from rsr_ray.encode.encode import encode_rows
from rsr_ray.encode.how import How
from rsr_ray.encode.segments import PARTS
from rsr_ray.files.objects import InputObject, list_objects
from rsr_ray.run.adding import Adder
from rsr_ray.run.counts import Added
from rsr_ray.run.ledger import TODO, Run
from rsr_ray.run.score import Scorer, Wanted
from rsr_ray.schema import SCORES, TEACHERS, TOKENS
from rsr_ray.store.beside import NOTHING, Beside, Generation, kept_under
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name
from rsr_ray.student.facts import inspect_student
from rsr_ray.unit_rows import ENCODED_ROWS

from .conftest import DEMO_STUDENT, few

CODE = (("number", r"\d+"),)
ASKED = [
    Beside(token_scores=tokens, per_turn=turns, segments=segments)
    for tokens, turns, segments in itertools.product((False, True), (False, True), (None, (), CODE))
]
EVERYTHING = Beside(token_scores=True, per_turn=True, segments=CODE)
F = "f"
OF_UNIT = {"key": "0" * 16, "version": "a" * 12, "last": False}
NAMES = [unit_name(OF_UNIT | {"start": n, "stop": n + 2}) for n in (0, 2)]
SUMS = {"turns", "segments"}
SAYS = ["<think>2+2</think>4", "It is 5.", "<think>Hm.", "17 or 18"]


@pytest.fixture(scope="module")
def rows(tokenizer):
    """ENCODED_ROWS values of two units of two rows; the last one is rejected."""
    read = []
    for n, said in enumerate(SAYS):
        turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": said}]
        row = dict.fromkeys(f.name for f in ENCODED_ROWS)
        row |= {"trajectory_id": f"t{n}", "teacher": "T", "source": "s", "source_row": n}
        read.append(row | {"messages": json.dumps(turns * (1 + n % 2)), "tools": None})
    read[-1] |= {"reject_reason": "not_text", "reject_detail": "why"}
    how = How(max_length=999, segments=CODE, token_text=True)
    encoded = encode_rows(read, str(DEMO_STUDENT), how)
    whole = pa.RecordBatch.from_pylist(encoded, pa.schema(list(ENCODED_ROWS)))
    return [whole.slice(0, 2), whole.slice(2, 2)]


def scorer(student, asked: Beside, batch_tokens: int = 4096) -> Scorer:
    names = None
    if asked.segments is not None:
        names = (*(name for name, _ in asked.segments), *PARTS)
    wanted = Wanted(
        r_max=100, per_turn=asked.per_turn, segments=names, token_scores=asked.token_scores
    )
    return Scorer(student, wanted, batch_tokens, F)


def with_segments(rows: pa.RecordBatch, asked: Beside) -> pa.RecordBatch:
    """Rows encoded for these segments: without names the places among them are others."""
    if asked.segments != ():
        return rows
    column = [of and [0] * len(of) for of in rows["token_segments"].to_pylist()]
    at = rows.schema.get_field_index("token_segments")
    return rows.set_column(at, rows.schema.field(at), pa.array(column, pa.list_(pa.uint8())))


def write(store: Store, name: str, rows: pa.RecordBatch, student, asked: Beside) -> None:
    """A unit as a run writes it that asks for this."""
    scores, tokens = scorer(student, asked).score(with_segments(rows, asked))
    if tokens is not None:
        store.write_tokens(F, name, tokens, 100)
    store.write_scores(F, name, pa.Table.from_batches([scores]), asked.mark)


def adder(store: Store, student, asked: Beside, kept: Beside = NOTHING, **how) -> Adder:
    generation = Generation(fingerprint=F, kept=kept, same=frozenset([F]))
    return Adder(scorer(student, asked, **how), store, generation, asked)


def has_of(store: Store, name: str) -> Beside:
    mark = store.read_mark(F, name)
    return Beside.of_mark(mark, token_scores=name in store.token_units(F))


def the_rest(table: pa.Table) -> pa.Table:
    return table.select([name for name in SCORES.names if name not in SUMS])


@settings(max_examples=few(300, 15))
@given(st.lists(st.sampled_from(ASKED), min_size=2, max_size=2), st.sampled_from(ASKED))
def test_whatever_units_have_all_of_them_have_what_was_asked_for(
    tmp_path_factory, rows, student, had, asked
):
    store = Store(str(tmp_path_factory.mktemp("store")), "s", None)
    for name, some, has in zip(NAMES, rows, had, strict=True):
        write(store, name, some, student, has)
    before = {name: store.read_unit(F, name) for name in NAMES}
    fresh = Store(str(tmp_path_factory.mktemp("fresh")), "s", None)
    for name, some, has in zip(NAMES, rows, had, strict=True):
        add = adder(store, student, asked)
        added, passed = add.add_to(name, with_segments(some, asked))
        missing = asked.missing(has)
        scored = 2 - len(some["reject_reason"].drop_null())
        assert (added.trajectories, added.problems) == (scored if missing else 0, ())
        assert bool(passed["n_tokens"]) == bool(missing and not has.token_scores)
        after = store.read_unit(F, name)
        assert the_rest(after).equals(the_rest(before[name]))
        write(fresh, name, some, student, asked)
        want = fresh.read_unit(F, name)
        for column, is_asked in (("turns", asked.per_turn), ("segments", asked.segments)):
            kept = before[name] if is_asked in (False, None) else want
            assert after[column].equals(kept[column]), column
        if asked.token_scores:
            assert store.read_tokens(F, name) == fresh.read_tokens(F, name)
        assert has_of(store, name) == has | asked
        # the same once more, and what no other one has any more: nothing is done
        assert add.add_to(name, with_segments(some, asked)) == (
            Added(),
            {"n_tokens": 0, "n_prompt_tokens": 0},
        )


def test_token_scores_of_other_batches_leave_the_scores_and_what_differs_is_said(
    tmp_path, rows, student
):
    store = Store(str(tmp_path), "s", None)
    write(store, NAMES[0], rows[0], student, NOTHING)
    stored = store.read_unit(F, NAMES[0])
    # as another machine would have rounded it, and one near tie that fell differently
    moved = stored.set_column(
        stored.schema.get_field_index("surprisal_sum"),
        "surprisal_sum",
        pa.array([value * (1 + 1e-7) for value in stored["surprisal_sum"].to_pylist()]),
    )
    ranks = [value + (n == 0) for n, value in enumerate(stored["rank_sum"].to_pylist())]
    moved = moved.set_column(moved.schema.get_field_index("rank_sum"), "rank_sum", pa.array(ranks))
    store.write_scores(F, NAMES[0], moved, NOTHING.mark)
    added, _ = adder(store, student, EVERYTHING).add_to(NAMES[0], rows[0])
    assert (added.trajectories, added.other_sums, added.other_ranks) == (2, 2, 1)
    assert added.off == pytest.approx(1 / ranks[0], rel=1e-3)
    assert the_rest(store.read_unit(F, NAMES[0])).equals(the_rest(moved))
    tokens, facts = store.read_tokens(F, NAMES[0])
    assert facts.off == added.off
    assert len(tokens) == 2


def test_batches_of_one_row_round_within_what_is_said(tmp_path, rows, student):
    store = Store(str(tmp_path), "s", None)
    write(store, NAMES[0], rows[0], student, NOTHING)
    added, _ = adder(store, student, EVERYTHING, batch_tokens=1).add_to(NAMES[0], rows[0])
    assert added.other_ranks == 0
    assert added.off < 1e-5
    assert bool(added.off) == bool(added.other_sums)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.slice(0, 1), "not read as they were"),
        (lambda rows: rows.take(pa.array([1, 0])), "not read as they were"),
        (lambda rows: replaced(rows, "content", ["other", None]), "not read as they were"),
        (lambda rows: replaced(rows, "reject_reason", [None, "over_length"]), "now rejected: over"),
    ],
    ids=["fewer", "another order", "other content", "now rejected"],
)
def test_rows_that_are_read_otherwise_now_get_nothing(tmp_path, rows, student, change, says):
    store = Store(str(tmp_path), "s", None)
    write(store, NAMES[0], rows[0], student, NOTHING)
    before = store.read_unit(F, NAMES[0])
    added, _ = adder(store, student, EVERYTHING).add_to(NAMES[0], change(rows[0]))
    assert added.trajectories == 0
    assert NAMES[0] in added.problems[0]
    assert says in added.problems[0]
    assert store.token_units(F) == set()
    assert store.read_unit(F, NAMES[0]).equals(before)
    gone, _ = adder(store, student, EVERYTHING).add_to(NAMES[1], rows[1])
    assert "has removed it" in gone.problems[0]


def replaced(rows: pa.RecordBatch, name: str, values: list) -> pa.RecordBatch:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), pa.array(values, pa.string()))


def test_a_row_that_no_longer_fits_into_memory_gets_nothing(tmp_path, rows, student, monkeypatch):
    store = Store(str(tmp_path), "s", None)
    write(store, NAMES[0], rows[0], student, NOTHING)
    monkeypatch.setattr("rsr_ray.run.score.score_windows", lambda _, ids, *__: [None] * len(ids))
    added, _ = adder(store, student, EVERYTHING).add_to(NAMES[0], rows[0])
    assert "is now too_large_for_memory" in added.problems[0]
    assert store.token_units(F) == set()


def test_the_sums_of_token_scores_need_no_student(tmp_path, rows, student):
    store = Store(str(tmp_path), "s", None)
    write(store, NAMES[0], rows[0], student, Beside(token_scores=True))
    added, passed = adder(store, None, EVERYTHING).add_to(NAMES[0], rows[0])
    assert (added.trajectories, passed["n_tokens"]) == (2, 0)
    assert has_of(store, NAMES[0]) == EVERYTHING


# --- what a run finds that is missing -------------------------------------------------------------


@settings(max_examples=few(300, 20))
@given(st.data())
def test_a_run_reads_again_what_lacks_something_and_no_more(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("corpus")
    n_of = {n: data.draw(st.integers(1, 9)) for n in range(2)}
    for n, n_rows in n_of.items():
        lines = (json.dumps({"prompt": f"{n} {i}?", "response": "4"}) for i in range(n_rows))
        (folder / f"{n}.jsonl").write_text("".join(line + "\n" for line in lines))
    store = Store(str(tmp_path_factory.mktemp("store")), "s", None)
    has, sizes = {}, {}
    for obj in list_objects(str(folder), None, (".jsonl",)):
        unit_rows = data.draw(st.integers(1, 4))
        row = dataclasses.asdict(obj) | {"members": [], "done": [], "again": []}
        for unit in read_units(table_of([row]), None, unit_rows, Reading()):
            (facts,) = unit.drop_columns(["rows"]).to_pylist()
            if not data.draw(st.booleans()):
                continue
            name = unit_name(facts)
            has[name] = data.draw(st.sampled_from(ASKED))
            sizes[name] = facts["stop"] - facts["start"]
            is_marked = data.draw(st.booleans()) or has[name].has_sums
            store.write_scores(F, name, SCORES.empty_table(), has[name].mark if is_marked else None)
            if has[name].token_scores:
                store.write_tokens(F, name, TOKENS.empty_table(), 100)
    asked = data.draw(st.sampled_from(ASKED))
    run = run_of(folder, store, asked)
    todo = run.plan(run.units.find(store, run.generation, run_files(folder)))
    again = Counter()
    for unit in read_units(todo, None, 3, Reading()):
        (facts,) = unit.drop_columns(["rows"]).to_pylist()
        if facts["again"]:
            again[unit_name(facts)] += 1
            assert len(unit["rows"][0]) == facts["stop"] - facts["start"]
            assert [r["source_row"] for r in unit["rows"][0].as_py()] == list(
                range(facts["start"], facts["stop"])
            )
        else:
            assert unit_name(facts) not in has
    want = {name for name, some in has.items() if asked.missing(some) and sizes[name]}
    assert again == dict.fromkeys(want, 1)
    assert run.units.lacking.units.keys() == want


def table_of(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TODO)


def run_files(folder) -> list[InputObject]:
    return list_objects(str(folder), None, (".jsonl",))


def run_of(folder, store: Store, asked: Beside) -> Run:
    run = Run(
        ScoreConfig(
            corpus=(str(folder),),
            student="s",
            store=store.uri,
            log="json",
            token_scores=asked.token_scores,
            per_turn=asked.per_turn,
            segments=asked.segments == (),
            segment=tuple(f"{name}={some}" for name, some in asked.segments or ()),
        )
    )
    assert run.config.beside == asked
    run.generation = Generation(fingerprint=F, same=frozenset([F]))
    return run


def test_what_the_teachers_table_knows_of_units_is_not_read_again(tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "0.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    store = Store(str(tmp_path / "store"), "s", None)
    (obj,) = run_files(tmp_path / "corpus")
    facts = {"key": obj.key, "version": obj.version, "start": 0, "stop": 1, "last": True}
    name = unit_name(facts)
    store.write_scores(F, name, SCORES.empty_table(), Beside(per_turn=True).mark)
    run = run_of(tmp_path / "corpus", store, Beside(per_turn=True))
    run.units.find(store, run.generation, [obj])
    assert run.units.marks == {name: Beside(per_turn=True).mark}
    store.write_teachers(TEACHERS.empty_table(), store.counted(F), run.units.marks)
    monkeypatch.setattr(Store, "read_mark", None)
    run = run_of(tmp_path / "corpus", store, Beside(per_turn=True))
    run.units.find(store, run.generation, [obj])
    assert run.units.lacking.units == {}
    monkeypatch.undo()
    # a unit that another run has written again since is looked at
    store.write_scores(F, name, SCORES.empty_table(), Beside(segments=CODE).mark)
    assert store.made_of().known_marks(store.counted(F)) == {}
    run = run_of(tmp_path / "corpus", store, Beside(per_turn=True))
    run.units.find(store, run.generation, [obj])
    assert run.units.lacking.units == {name: Beside(per_turn=True)}


# --- where the scores lie -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def facts():
    return inspect_student(str(DEMO_STUDENT), False)


def config(**changes) -> ScoreConfig:
    return ScoreConfig(corpus=("c",), student="s", store="st", **changes)


def earlier_store(folder, hash_of, had: Beside, *, has_record: bool = True) -> Store:
    """A store with a unit whose fingerprint an earlier version has made."""
    store = Store(str(folder), "s", None)
    fingerprint = hash_of(had)
    store.write_scores(fingerprint, NAMES[0], SCORES.empty_table())
    if has_record:
        settings = {"student_name": "s", "token_scores": had.token_scores}
        settings |= {"per_turn": had.per_turn, "segments": had.segments == ()}
        settings |= {"segment": [f"{name}={some}" for name, some in had.segments or ()]}
        found = {"run_id": "r", "fingerprint": fingerprint, "config": settings, "student": {}}
        store.write_run(RunRecord.from_json(found))
    return store


@pytest.mark.parametrize("had", ASKED)
def test_scores_of_an_earlier_version_are_the_same_whatever_is_asked_for(tmp_path, facts, had):
    hash_of = config().hash_of(facts, "float32", 100)
    store = earlier_store(tmp_path, hash_of, had)
    for asked in ASKED:
        found = store.find_generation(hash_of, asked)
        assert (found.fingerprint, found.kept) == (hash_of(had), had)
        assert list(store.find_under(found, new_generation=False)) == [NAMES[0]]
        # once a run of this version has written its record, which may ask for other things
        later = {"run_id": "s", "fingerprint": found.fingerprint, "kept": found.kept.to_json()}
        config_of = {"student_name": "s", "per_turn": True}
        store.write_run(RunRecord.from_json(later | {"config": config_of, "student": {}}))
    run = store.last_run()
    assert config().has_made(run, facts, "float32", 100)
    assert not config().has_made(run, facts, "bfloat16", 100)
    other = config(r_max=7).hash_of(facts, "float32", 100)
    assert store.find_generation(other, had).fingerprint == other(NOTHING)


def test_scores_without_a_record_are_found_but_for_segments_that_nobody_names(tmp_path, facts):
    hash_of = config().hash_of(facts, "float32", 100)
    had = Beside(token_scores=True, per_turn=True)
    store = earlier_store(tmp_path / "a", hash_of, had, has_record=False)
    assert store.find_generation(hash_of, NOTHING).kept == had
    store = earlier_store(tmp_path / "b", hash_of, EVERYTHING, has_record=False)
    assert store.find_generation(hash_of, NOTHING).fingerprint == hash_of(NOTHING)
    assert store.find_generation(hash_of, EVERYTHING).kept == EVERYTHING


def test_of_the_same_scores_twice_those_that_are_ranked_count(tmp_path, facts):
    """An earlier version scored everything again to get token scores."""
    hash_of = config().hash_of(facts, "float32", 100)
    store = earlier_store(tmp_path, hash_of, NOTHING)
    earlier_store(tmp_path, hash_of, EVERYTHING)
    found = store.find_generation(hash_of, NOTHING)
    assert found.fingerprint == hash_of(NOTHING)
    tokens = Beside(token_scores=True)
    earlier_store(tmp_path, hash_of, tokens)
    row = dict.fromkeys(TEACHERS.names) | {"fingerprint": hash_of(tokens)}
    table = pa.Table.from_pylist([row], schema=TEACHERS)
    store.write_teachers(table, [])
    found = store.find_generation(hash_of, NOTHING)
    assert (found.fingerprint, found.kept) == (hash_of(tokens), tokens)


@given(st.sampled_from(ASKED), st.sampled_from(ASKED))
def test_what_is_missing_is_what_is_needed_to_have_both(asked, has):
    assert asked.missing(has | asked) == NOTHING
    assert (has | asked.missing(has)) == (has | asked)
    assert Beside.from_json(json.loads(json.dumps(asked.to_json()))) == asked
    assert Beside.of_mark(asked.mark, token_scores=asked.token_scores) == asked
    assert kept_under("x", lambda some: "x" if some == asked else "", [asked]) == asked


def test_a_segment_that_a_unit_was_not_asked_for_is_null_there(tmp_path):
    store = Store(str(tmp_path), "s", None)
    row = dict.fromkeys(SCORES.names) | {"segments": [{"segment": "answer", "n_tokens": 3}]}
    table = pa.Table.from_pylist([row], schema=SCORES)
    columns = ["answer/n_tokens", "reasoning/n_tokens", "number/n_tokens"]
    for mark, want in (
        (None, [3, 0, 0]),
        (Beside(segments=()).mark, [3, 0, None]),
        (Beside(segments=CODE).mark, [3, 0, 0]),
        (NOTHING.mark, [None, None, None]),
    ):
        store.write_scores(F, NAMES[0], table, mark)
        (read,) = store.read_unit(F, NAMES[0], columns).to_pylist()
        assert [*read.values()] == want


def test_added_up():
    some = Added(trajectories=2, other_sums=1, off=1e-7, problems=("a",), mark="m")
    both = some + Added(trajectories=3, other_ranks=1, off=1e-6, problems=("b",))
    want = Added(trajectories=5, other_sums=1, other_ranks=1, off=1e-6, problems=("a", "b"))
    assert both == want
    assert Added.from_json(json.loads(json.dumps(both.to_json()))) == both
    assert np.isfinite(both.off)
