"""What is kept beside the scores, asked for later: it is added to what lacks it, and no score
changes.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.corpus.shards import list_corpus
from rsr_ray.errors import RunError
from rsr_ray.files.objects import list_files
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.doctor.room import check_store
from rsr_ray.run.here import resources_here
from rsr_ray.run.ledger import Run
from rsr_ray.store.beside import Beside
from rsr_ray.store.store import Store
from rsr_ray.student.facts import inspect_student

from ..conftest import DEMO_STUDENT
from .conftest import on_moto, rsr_ray, score, stored, upload
from .test_nights import write_shard

SUMS = {"per_turn": True, "segment": (r"number=\d+",)}
EVERYTHING = SUMS | {"token_scores": True}
REJECTS = {"max_rejects": 1.0, "unit_rows": 8}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, here):
    """A corpus of four units, with one row that is rejected, and its scores."""
    folder = tmp_path_factory.mktemp("plain")
    for teacher in "AB":
        write_shard(folder / "corpus" / f"{teacher}.jsonl", teacher, range(12), "terse-7b")
    with (folder / "corpus" / "B.jsonl").open("a") as shard:
        shard.write(json.dumps({"id": "bad", "teacher": "B", "messages": []}) + "\n")
    score(folder / "corpus", folder / "store", **REJECTS)
    return folder


@pytest.fixture(scope="module")
def fresh(plain):
    """What a run writes that asks for everything at once."""
    score(plain / "corpus", plain / "fresh", **REJECTS, **EVERYTHING)
    return plain / "fresh"


@pytest.fixture
def store(plain, tmp_path) -> Path:
    return shutil.copytree(plain / "store", tmp_path / "store")


def files(store: Path, kind: str) -> dict[str, bytes]:
    """The content of all units by their place."""
    return {str(p.relative_to(store)): p.read_bytes() for p in (store / kind).rglob("*.parquet")}


def test_token_scores_are_added_to_what_lacks_them(plain, fresh, store, capsys):
    scores, teachers = files(store, "scores"), files(store, "teachers")
    run = score(plain / "corpus", store, unit_rows=3, token_scores=True, max_rejects=1.0)
    assert (run.n_scored, run.n_already) == (0, 25)
    assert run.counts.added.trajectories == 24
    said = "Adding token scores to 25 of 25 trajectories in the store; their scores stay as they"
    assert said in capsys.readouterr().err
    assert run.notes == ["Added token scores to 24 scored trajectories; their scores are unchanged"]
    assert run.record.added["trajectories"] == 24
    assert files(store, "tokens") == files(fresh, "tokens")
    again = score(plain / "corpus", store, token_scores=True, max_rejects=1.0)
    assert (again.counts.n_units, again.notes, again.record.added) == (0, [], None)
    assert "Adding" not in capsys.readouterr().err
    without = score(plain / "corpus", store, max_rejects=1.0)
    assert without.counts.n_units == 0
    assert files(store, "tokens") == files(fresh, "tokens")
    assert files(store, "scores") == scores
    assert files(store, "teachers") == teachers


def test_sums_are_added_beside_the_columns_that_were_there(plain, fresh, store):
    before = stored(store)
    run = score(plain / "corpus", store, max_rejects=1.0, **SUMS)
    assert run.counts.added.trajectories == 24
    assert run.notes[0].startswith("Added sums per turn and sums per segment to 24 scored")
    after, want = stored(store), stored(fresh)
    for row, was, of_fresh in zip(after, before, want, strict=True):
        assert row == was | {name: of_fresh[name] for name in ("turns", "segments")}
    scores = files(store, "scores")
    assert scores == files(fresh, "scores")
    again = score(plain / "corpus", store, max_rejects=1.0, **SUMS)
    assert again.counts.n_units == 0
    # of a part that is there already only what lacks it: token scores now
    tokens = score(plain / "corpus", store, max_rejects=1.0, **EVERYTHING)
    assert tokens.notes[0].startswith("Added token scores to 24")
    assert (files(store, "scores"), files(store, "tokens")) == (scores, files(fresh, "tokens"))
    # other segments share the tokens out differently, and replace them: no student is needed
    parts = score(plain / "corpus", store, max_rejects=1.0, segments=True)
    assert parts.counts.n_all_tokens == 0
    row = next(row for row in stored(store) if row["segments"])
    assert {part["segment"] for part in row["segments"]} <= {"reasoning", "answer", "tool_calls"}
    assert row["turns"]
    shown = rsr_ray("teachers", "--store", store, "--student", "student", "--segment", "number")
    assert shown.returncode == 2
    assert "no trajectory has a value" in shown.stderr or "not all rows" in shown.stderr
    assert rsr_ray("check", "--store", store).returncode == 0


@pytest.mark.parametrize("at", ["write_tokens", "write_scores"])
def test_a_run_that_is_killed_goes_on_where_it_was(plain, fresh, store, monkeypatch, at):
    """Before, and between, the files of a unit."""
    write, n = getattr(Store, at), []

    def killed(*args, **more):
        n.append(1)
        if len(n) == 3:
            raise RuntimeError("killed")
        return write(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, at, killed)
        with pytest.raises(RunError, match="killed"):
            score(plain / "corpus", store, max_rejects=1.0, **EVERYTHING)
    assert rsr_ray("check", "--store", store).returncode <= 1  # the table is not made yet
    whole = score(plain / "corpus", store, max_rejects=1.0, **EVERYTHING)
    left = whole.counts.added.trajectories
    assert 0 < left < 24
    assert files(store, "tokens") == files(fresh, "tokens")
    assert files(store, "scores") == files(fresh, "scores")
    assert rsr_ray("check", "--store", store).returncode == 0


def test_new_rows_and_old_ones_in_one_run(plain, store, tmp_path):
    corpus = shutil.copytree(plain / "corpus", tmp_path / "corpus", copy_function=shutil.copy2)
    moved = tmp_path / "moved"
    score(corpus, moved, **REJECTS)
    write_shard(corpus / "C.jsonl", "C", range(5), "terse-7b")
    run = score(corpus, moved, max_rejects=1.0, token_scores=True)
    assert (run.n_scored, run.n_already, run.counts.added.trajectories) == (5, 25, 24)
    assert run.equation == "read 30 = scored 5 + rejected 0 + already scored 25"
    assert len(files(moved, "tokens")) == len(files(moved, "scores")) == 5
    # and without it again: what is new has none, which a later run adds
    write_shard(corpus / "D.jsonl", "D", range(2), "terse-7b")
    score(corpus, moved, max_rejects=1.0)
    said = rsr_ray("rescore", "--store", moved, "--student", "student")
    assert said.returncode == 2
    assert "2 of 32 trajectories of student student have no token scores" in said.stderr
    assert score(corpus, moved, token_scores=True).counts.added.trajectories == 2


def as_an_earlier_version(plain: Path, store: Path, **had) -> Run:
    """The scores as the version before wrote them, with this beside them: what it keeps is in the
    fingerprint, and no unit says what it has.
    """
    run = score(plain / "corpus", store, **REJECTS, **had)
    old = Store(str(store), "student")
    was = run.fingerprint
    hash_of = run.config.hash_of(run.student, run.resources.dtype, run.max_length)
    named = hash_of(run.config.beside)
    assert named != was
    for name in old.units()[was]:
        scores = old.read_unit(was, name)
        at = scores.schema.get_field_index("fingerprint")
        names = pa.array([named] * len(scores), pa.string())
        old.write_scores(named, name, scores.set_column(at, "fingerprint", names))
        if run.config.token_scores:
            tokens, facts = old.read_tokens(was, name)
            old.write_tokens(named, name, tokens, facts.r_max)
    old.drop(was, old.units()[was])
    for kind in ("scores", "tokens"):
        shutil.rmtree(store / kind / "student=student" / was, ignore_errors=True)
    at = run.teachers.schema.get_field_index("fingerprint")
    names = pa.array([named] * len(run.teachers), pa.string())
    old.write_teachers(run.teachers.set_column(at, "fingerprint", names), old.counted(named))
    record = replace(run.record, fingerprint=named, kept=None, added=None)
    old.write_run(record)
    run.record = record
    return run


@pytest.mark.parametrize("had", [{"token_scores": True}, SUMS], ids=["tokens", "sums"])
def test_a_store_of_the_version_before_is_added_to_and_not_scored_again(
    plain, fresh, tmp_path, had, monkeypatch
):
    store = tmp_path / "store"
    old = as_an_earlier_version(plain, store, **had)
    before = files(store, "scores") | files(store, "tokens")
    plainly = score(plain / "corpus", store, max_rejects=1.0)
    same = score(plain / "corpus", store, max_rejects=1.0, **had)
    for run in (plainly, same):
        assert (run.fingerprint, run.counts.n_units) == (old.record.fingerprint, 0)
        assert Beside.from_json(run.record.kept) == old.config.beside
    assert files(store, "scores") | files(store, "tokens") == before
    with monkeypatch.context() as patch:  # the table says by now what units have
        patch.setattr(Store, "read_mark", None)
        assert score(plain / "corpus", store, max_rejects=1.0, **had).counts.n_units == 0
    more = score(plain / "corpus", store, max_rejects=1.0, **EVERYTHING)
    assert (more.fingerprint, more.counts.added.trajectories) == (old.record.fingerprint, 24)

    def but_the_fingerprint(folder):
        return [row | {"fingerprint": None} for row in stored(folder)]

    assert but_the_fingerprint(store) == but_the_fingerprint(fresh)
    assert score(plain / "corpus", store, max_rejects=1.0, **EVERYTHING).counts.n_units == 0
    assert rsr_ray("check", "--store", store).returncode == 0


def test_what_other_batches_round_differently_is_measured_and_the_scores_stay(
    plain, store, local_ray, monkeypatch
):
    unit = next(path for path in (store / "scores").rglob("*.parquet"))
    table = pq.ParquetFile(unit).read()
    at = table.schema.get_field_index("surprisal_sum")
    sums = [value and value * (1 + 1e-7) for value in table["surprisal_sum"].to_pylist()]
    moved = table.set_column(at, table.schema.field(at), [sums])
    mine = Store(str(store), "student")
    mine.write_scores(unit.parts[-3], unit.name, moved, Beside().mark)
    before = files(store, "scores")
    options = ["--corpus", plain / "corpus", "--student", DEMO_STUDENT, "--store", store]
    said = rsr_ray("score", *options, "--token-scores", "--max-rejects", 1)
    n = sum(value is not None for value in sums)
    note = f"The token scores of {n} of them add up to sums that differ from the stored ones by up"
    assert f"{note} to 1e-07" in " ".join(said.stdout.split())
    assert "ATTENTION" not in said.stdout
    assert files(store, "scores") == before
    again = rsr_ray("rescore", "--store", store, "--student", "student")
    assert again.returncode == 0, again.stderr
    assert "as the run measured that added them" in " ".join(again.stdout.split())
    # more than that is still refused
    sums = [value and value * (1 + 1e-5) for value in sums]
    worse = table.set_column(at, table.schema.field(at), [sums])
    mine.write_scores(unit.parts[-3], unit.name, worse, Beside().mark)
    assert rsr_ray("rescore", "--store", store, "--student", "student").returncode == 1


def test_doctor_counts_what_would_be_added(plain, store):
    config = replace(score(plain / "corpus", store, max_rejects=1.0).config, token_scores=True)
    student = inspect_student(str(DEMO_STUDENT), False)
    corpus = list_corpus(config.corpus, None)

    def look() -> tuple[str, float]:
        found = Findings()
        left = check_store(found, config, student, resources_here(config), corpus)
        return found.all[0].says, sum(file.size for file in left)

    says, n_bytes = look()
    assert says.endswith(
        "; 0 of 2 shards to score; adds token scores to 25 of 25 trajectories in the store"
    )
    assert n_bytes == sum(file.size for file in corpus)
    run = score(plain / "corpus", store, max_rejects=1.0, token_scores=True)
    for name in run.units.added_to[1:]:
        Path(Store(str(store), "student").tokens_uri(run.fingerprint, name)).unlink()
    says, n_bytes = look()
    assert "adds token scores to " in says
    assert 0 < n_bytes < sum(file.size for file in corpus)
    score(plain / "corpus", store, max_rejects=1.0, token_scores=True)
    says, n_bytes = look()
    assert "adds" not in says
    assert n_bytes == 0


def test_a_night_adds_to_the_nights_before(plain, store, tmp_path):
    student = {"student": str(DEMO_STUDENT), "token_scores": True, "max_rejects": 1.0}
    night = {"corpus": str(plain / "corpus"), "store": str(store), "students": [student]}
    (tmp_path / "nightly.yaml").write_text(json.dumps(night))
    before = files(store, "scores")
    done = rsr_ray("nightly", "--config", tmp_path / "nightly.yaml")
    assert done.returncode == 0, done.stderr
    assert files(store, "scores") == before
    assert len(files(store, "tokens")) == len(before)
    page = (store / "report" / "index.html").read_text()
    assert "has no token scores" not in page


@on_moto
def test_on_ray_and_s3(s3, local_ray, plain, tmp_path):
    fs, endpoint = s3
    corpus = tmp_path / "corpus"
    for path in (plain / "corpus").iterdir():
        corpus.mkdir(exist_ok=True)
        shutil.copy(path, corpus / f"part-{path.name}")
    upload(fs, corpus, "rsr/corpus")
    there = "s3://rsr/store"
    first = score("s3://rsr/corpus", there, s3_endpoint=endpoint, **REJECTS)
    names = [name for name in list_files(f"{there}/scores", endpoint) if "parquet" in name]
    before = stored(there, endpoint=endpoint)
    more = {"s3_endpoint": endpoint, "max_rejects": 1.0, **EVERYTHING}
    run = score("s3://rsr/corpus", there, **more)
    assert (first.n_scored, run.n_scored, run.counts.added.trajectories) == (24, 0, 24)
    assert {*list_files(f"{there}/tokens", endpoint)} == {*names}
    sums = ("turns", "segments")
    after = stored(there, endpoint=endpoint)
    assert [row | dict.fromkeys(sums) for row in after] == before
    assert all(row[name] for row in after for name in sums if row["rsr"])
    assert score("s3://rsr/corpus", there, **more).counts.n_units == 0
