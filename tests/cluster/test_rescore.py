"""Token scores kept beside the scores, and every metric computed from them again."""

import io
import json
import shutil

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rsr_ray.choose.choose import choose_trajectories
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.errors import UserError
from rsr_ray.metrics import RSR
from rsr_ray.report.page.report import make_report
from rsr_ray.report.terminal.choice import print_choice
from rsr_ray.store.store import Store

from ..conftest import DEMO_STUDENT
from .conftest import rsr_ray, score, stored, write_many

WANTED = {
    "token_scores": True,
    "per_turn": True,
    "metrics": "rsr,local_naturalness",
    "unit_rows": 7,
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory, local_ray, here):
    folder = tmp_path_factory.mktemp("kept")
    write_many(folder / "corpus", 3, 10)
    (folder / "corpus" / "teacher=bad").mkdir()
    (folder / "corpus" / "teacher=bad" / "part-0.jsonl").write_text('{"messages": []}\n')
    score(folder / "corpus", folder / "store", max_rejects=1.0, **WANTED)
    return folder


def test_the_tokens_are_those_of_the_scores(kept):
    rows = {row["trajectory_id"]: row for row in stored(kept / "store")}
    tokens = pq.read_table(kept / "store" / "tokens", partitioning=None).to_pylist()
    assert len(tokens) == 30
    for token in tokens:
        row = rows[token["trajectory_id"]]
        assert {
            len(token[name]) for name in ("text", "rank", "surprisal", "entropy", "square")
        } == {row["n_tokens"]}
        assert sum(min(rank, 100) for rank in token["rank"]) == row["rank_sum"]
        assert sum(token["surprisal"]) == pytest.approx(row["surprisal_sum"])
        assert row["n_steps"] > 1
        assert row["local_naturalness"] == pytest.approx(
            -row["step_surprisal_sum"] / row["n_steps"]
        )
    text = "".join(
        next(t["text"] for t in tokens if "methodical" in t["teacher"] or "<think>" in t["text"][0])
    )
    assert "answer is" in text


def test_plain_sql_reads_them(kept):
    query = (
        f"select avg(list_sum(surprisal) / len(surprisal)) from '{kept}/store/tokens/**/*.parquet'"
    )
    want = f"select avg(mean_surprisal) from '{kept}/store/scores/**/*.parquet'"
    assert duckdb.sql(query).fetchall()[0] == pytest.approx(duckdb.sql(want).fetchall()[0])


def test_rescore_equals_what_was_stored_and_what_another_run_gives(kept, tmp_path):
    said = rsr_ray("rescore", "--store", kept / "store", "--student", "student", "--json")
    assert said.returncode == 0, said.stderr
    told = json.loads(said.stdout)
    assert (told["n_rows"], told["difference"], told["r_max"]) == (31, 0.0, 100)

    said = rsr_ray(
        "rescore",
        "--store",
        kept / "store",
        "--student",
        "student",
        "--r-max",
        20,
        "--out",
        tmp_path / "again",
    )
    assert said.returncode == 0, said.stderr
    score(kept / "corpus", tmp_path / "direct", max_rejects=1.0, r_max=20, **WANTED)
    again, direct = stored(tmp_path / "again"), stored(tmp_path / "direct")
    assert [row.pop("fingerprint") for row in again] != [row.pop("fingerprint") for row in direct]
    assert again == direct
    # carried over
    assert all(
        row["local_naturalness"] is not None for row in again if row["reject_reason"] is None
    )
    old = {row["trajectory_id"]: row["rank_sum"] for row in stored(kept / "store")}
    assert any(row["rank_sum"] != old[row["trajectory_id"]] for row in again)


def test_a_store_that_its_tokens_do_not_bear_out(kept, tmp_path):
    score(kept / "corpus", tmp_path / "store", max_rejects=1.0, **WANTED)
    path = next(
        path
        for path in (tmp_path / "store" / "scores").rglob("*.parquet")
        if pq.read_table(path, columns=["rsr"])["rsr"].null_count == 0
    )
    table = pq.ParquetFile(path).read()
    at = table.schema.get_field_index("rank_sum_50")
    altered = table.set_column(
        at, table.schema.field(at), [[n + 1 for n in table["rank_sum_50"].to_pylist()]]
    )
    Store(str(tmp_path / "store"), "student", None).write_scores(path.parts[-3], path.name, altered)
    said = rsr_ray("rescore", "--store", tmp_path / "store", "--student", "student")
    assert said.returncode == 1
    assert "does not match its token scores: rank_sum_50" in said.stderr


def test_the_report_has_the_student_score_the_tokens_it_shows(kept, tmp_path):
    score(kept / "corpus", tmp_path / "store", max_rejects=1.0)
    with_tokens, without, asked = (
        make_report([Store(str(store), "student", None)], RSR, tokens_from=student).students[0]
        for store, student in (
            (kept / "store", None),
            (tmp_path / "store", None),
            (tmp_path / "store", str(DEMO_STUDENT)),
        )
    )
    assert len(with_tokens.trajectories) == 18  # three best and three worst of three teachers
    assert not without.contents.tokens
    assert len(without.contents.texts) == 18
    for i, row in enumerate(with_tokens.trajectories):
        assert row.trajectory_id == asked.trajectories[i].trajectory_id
        stored_tokens, again = with_tokens.contents.tokens[i], asked.contents.tokens[i]
        assert stored_tokens.text == again.text
        assert stored_tokens.rank == again.rank
        # two digits are shown
        assert stored_tokens.surprisal == pytest.approx(again.surprisal, abs=0.011)
        assert len(stored_tokens.rank) == row.n_tokens
    other = shutil.copytree(DEMO_STUDENT, tmp_path / "other")
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + " ")
    with pytest.raises(UserError, match="not the student that the stored scores come from"):
        make_report([Store(str(tmp_path / "store"), "student", None)], RSR, tokens_from=str(other))


def test_teachers_by_local_naturalness(kept):
    said = rsr_ray(
        "teachers", "--store", kept / "store", "--student", "student", "--by", "local_naturalness"
    )
    assert said.returncode == 0, said.stderr
    assert "higher" in said.stdout
    assert (
        " ".join(said.stdout.split()).count(
            "rank correlation with global naturalness over 30 trajectories"
        )
        == 1
    )
    assert naturalness_shown(said.stdout) == of_teachers(kept / "store")


def of_teachers(store) -> list[list[str]]:
    """Each teacher's local and global naturalness; prompts have one answer each here."""
    rows = pd.DataFrame([row for row in stored(store) if row["reject_reason"] is None])
    means = (
        rows.assign(far=-rows.mean_surprisal)
        .groupby("teacher")[["local_naturalness", "far"]]
        .mean()
    )
    means = means.sort_values("local_naturalness", ascending=False)
    return [[teacher, f"{near:.3f}", f"{far:.3f}"] for teacher, near, far in means.itertuples()]


def naturalness_shown(text: str) -> list[list[str]]:
    """The rows of the table of `print_naturalness`."""
    _, _, below = text.partition("Local and global naturalness")
    rows = (line.split() for line in below.splitlines()[1:])
    return [
        row for row in rows if len(row) == 3 and row[1].startswith("-") and row[2].startswith("-")
    ]


def test_a_run_ends_with_local_beside_global_naturalness(kept):
    wanted = (
        "--token-scores",
        "--per-turn",
        "--metrics",
        "rsr,local_naturalness",
        "--unit-rows",
        7,
        "--max-rejects",
        1,
    )
    said = rsr_ray(
        "score",
        "--corpus",
        kept / "corpus",
        "--student",
        DEMO_STUDENT,
        "--store",
        kept / "store",
        *wanted,
    )
    assert said.returncode == 0, said.stderr
    assert "already scored 31" in said.stdout
    assert naturalness_shown(said.stdout) == of_teachers(kept / "store")
    assert "rank correlation with global naturalness over 30 trajectories" in " ".join(
        said.stdout.split()
    )


def test_a_choice_by_local_naturalness_says_whether_it_is_another_thing(kept, tmp_path):
    config = ChooseConfig(
        store=str(kept / "store"),
        student="student",
        out=str(tmp_path / "out"),
        by="local_naturalness",
    )
    manifest = choose_trajectories(config)
    assert manifest.chosen == 30
    assert manifest.to_json() == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest.notes[1].startswith(
        "local naturalness: rank correlation with global naturalness over 30 trajectories"
    )
    shown = io.StringIO()
    print_choice(manifest, Console(file=shown, width=200))
    assert f"note: {manifest.notes[0]}" in shown.getvalue()


def test_mistakes(kept, tmp_path):
    score(kept / "corpus", tmp_path / "store", max_rejects=1.0)
    store = ("rescore", "--student", "student", "--store")
    for arguments, message in (
        ((*store, tmp_path / "store"), "no token scores"),
        ((*store, kept / "store", "--r-max", 50), "--out"),
        ((*store, kept / "store", "--r-max", 50, "--out", kept / "store"), "the store itself"),
        ((*store, tmp_path / "none"), "no teachers"),
    ):
        said = rsr_ray(*arguments)
        assert (said.returncode, len(said.stderr.splitlines())) == (2, 1), said.stderr
        assert message in said.stderr
