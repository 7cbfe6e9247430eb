"""What `import rsr_ray` gives: names that are loaded when they are used, and scores without Ray."""

import json
import sys
from xml.etree import ElementTree

import pytest

import rsr_ray

from .browser.stores import rows_of, write_store
from .conftest import DEMO_STUDENT

CONVERSATION = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
]


@pytest.mark.parametrize("name", rsr_ray.__all__)
def test_every_name_is_there(name):
    assert getattr(rsr_ray, name) is not None
    assert name in dir(rsr_ray)


def test_a_name_that_is_none():
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        _ = rsr_ray.scores


def test_conversations_are_scored_without_ray(monkeypatch):
    """Where Ray cannot be imported; test_imports.py has what the modules bring by themselves."""
    for name in {"ray", *(name for name in sys.modules if name.startswith("ray."))}:
        monkeypatch.setitem(sys.modules, name, None)
    given = [CONVERSATION, {"prompt": "3?", "response": ["3", ""]}]
    rows = rsr_ray.score_conversations(given, str(DEMO_STUDENT), teacher="me", r_max=50)
    assert rows["reject_reason"].to_pylist() == [None, None, "empty_response"]
    assert (rows["teacher"].unique().to_pylist(), rows["rsr"].null_count) == (["me"], 1)


def test_they_are_the_scores_of_a_batch_job_row(tmp_path):
    """Of the definition: ranks and surprisals from the model's own logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = rsr_ray.score_conversations([CONVERSATION], str(DEMO_STUDENT))
    tokenizer, model = (
        AutoTokenizer.from_pretrained(DEMO_STUDENT),
        AutoModelForCausalLM.from_pretrained(DEMO_STUDENT, dtype=torch.float32),
    )
    text = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    answer = CONVERSATION[1]["content"]
    start = text.index(answer)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    scored = [
        n
        for n, (a, b) in enumerate(encoded["offset_mapping"])
        if start <= a and b <= start + len(answer) and b > a
    ]
    with torch.inference_mode():
        logits = model(torch.tensor([encoded["input_ids"]])).logits[0].double()
    rank = surprisal = 0.0
    for n in scored:
        at, token = logits[n - 1], encoded["input_ids"][n]
        rank += min(1 + int((at > at[token]).sum()), 100)
        surprisal += float(at.logsumexp(0) - at[token])
    (row,) = rows.to_pylist()
    assert (row["n_tokens"], row["rank_sum"]) == (len(scored), rank)
    assert row["rsr"] == pytest.approx(rank / surprisal, rel=1e-5)


def test_a_report_is_written_in_one_call(tmp_path):
    store = write_store(tmp_path / "store", rows_of(["A", "B"], 8))
    written = rsr_ray.write_report([store], str(tmp_path / "report"))
    names = ["index.html", "teachers.csv", "teachers.json", "summary.md"]
    assert written == [f"{tmp_path}/report/{name}" for name in names]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(names)
    (student,) = json.loads((tmp_path / "report" / "teachers.json").read_text())["students"]
    scored = rsr_ray.load_scored(store, [rsr_ray.METRICS["rsr"]])
    ranking = rsr_ray.rank_teachers(scored, rsr_ray.METRICS["rsr"])
    assert student["ranking"]["sentence"] == ranking.sentence
    assert ranking.sentence in (tmp_path / "report" / "index.html").read_text()


def test_a_notebook_shows_a_ranking_as_its_sentence_a_table_and_a_chart(tmp_path):
    teachers = ["A", "<b>", "C"]
    store = write_store(tmp_path / "store", rows_of(teachers, 8))
    scored = rsr_ray.load_scored(store, [rsr_ray.METRICS["rsr"]])
    ranking = rsr_ray.rank_teachers(scored, rsr_ray.METRICS["rsr"])
    page = ElementTree.fromstring(ranking._repr_html_().replace("<br>", "<br/>"))
    table = [[cell.text for cell in row] for row in page.iter("tr")]
    assert [row[1] for row in table] == ["teacher", *(t.teacher for t in ranking.teachers)]
    assert page.find("p/b").text == ranking.sentence
    (chart,) = [svg for svg in page.iter("svg") if svg.get("class") == "wide"]
    named = {"".join(text.itertext()).strip() for text in chart.iter("text")}
    assert {f"#{t.place} {t.teacher}" for t in ranking.teachers} <= named


def test_a_report_of_no_student_or_of_an_unknown_teacher(tmp_path):
    store = write_store(tmp_path / "store", rows_of(["A", "B"], 8))
    with pytest.raises(rsr_ray.UserError, match="no student to report on"):
        rsr_ray.write_report([], str(tmp_path / "report"))
    with pytest.raises(rsr_ray.UserError, match="--teachers C: not in the store"):
        rsr_ray.write_report([store], str(tmp_path / "report"), teachers=["C"])
    assert not (tmp_path / "report").exists()
