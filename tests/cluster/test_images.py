"""A corpus of texts and images end to end: under students that see and that do not, from S3 too."""

import json

import pytest

from rsr_ray.choose.choose import choose_trajectories
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.run.local import score_conversations

from ..seeing import make_student
from ..test_images import CHART, PHOTO, SCREEN, data_url
from .conftest import as_options, on_moto, rsr_ray, score, stored, upload

ANSWERS = {"terse": "It is 7.", "wordy": "Let me look at the picture: it is 7, I think."}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return str(make_student("Qwen2.5-VL", tmp_path_factory.mktemp("seeing") / "eyes"))


def turns(question, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def part(image: str) -> list[dict]:
    return [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "What?"}]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two teachers' answers to six prompts: texts, images of all kinds, and broken ones."""
    folder = tmp_path_factory.mktemp("images")
    media = folder / "media"
    media.mkdir()
    for name, data in {"chart": CHART, "photo": PHOTO}.items():
        (media / f"part-{name}.png").write_bytes(data)
    for teacher, says in ANSWERS.items():
        rows = [
            {"id": "text", "messages": turns("What is 2 + 5?", says)},
            {"id": "path", "messages": turns(part("part-chart.png"), says)},
            {"id": "data", "messages": turns(part(data_url(SCREEN)), says)},
            {
                "id": "column",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat?"},
                    {"from": "gpt", "value": says},
                ],
                "image": "part-photo.png",
            },
            {"id": "missing", "messages": turns(part("part-none.png"), says)},
            {"id": "broken", "messages": turns(part(data_url(CHART[:200])), says)},
        ]
        shard = folder / "corpus" / f"teacher={teacher}" / "part-0.jsonl"
        shard.parent.mkdir(parents=True)
        shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def by_id(rows: list[dict]) -> dict:
    return {(row["teacher"], row["trajectory_id"]): row for row in rows}


@pytest.fixture(scope="module")
def scored(corpus, seeing, here, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "s"
    media = str(corpus / "media")
    score(corpus / "corpus", store, student=seeing, media_root=media, max_rejects=0.4)
    return store


def test_all_that_can_be_seen_is_scored(scored):
    reasons = {key[1]: row["reject_reason"] for key, row in by_id(stored(scored, "eyes")).items()}
    good = dict.fromkeys(("text", "path", "data", "column"))
    assert reasons == good | {"missing": "media", "broken": "media"}


def test_a_student_of_text_rejects_images_and_says_what_they_need(corpus, here, tmp_path):
    score(corpus / "corpus", tmp_path / "s", max_rejects=1)
    rows = stored(tmp_path / "s")
    assert {row["trajectory_id"] for row in rows if row["reject_reason"] is None} == {"text"}
    for row in rows:
        if row["reject_reason"]:
            assert row["reject_reason"] == "not_text"
            assert "only a vision-language student can score it" in row["reject_detail"]


def test_text_is_scored_as_without_images_beside_it(corpus, scored, seeing):
    rows = [turns("What is 2 + 5?", "It is 7.")]
    alone = score_conversations(rows, student=seeing, teacher="terse").to_pylist()[0]
    together = by_id(stored(scored, "eyes"))["terse", "text"]
    for name in ("n_tokens", "rank_sum", "surprisal_sum", "entropy_sum"):
        assert alone[name] == together[name]


@on_moto
def test_corpus_and_images_in_a_bucket_give_the_same(
    corpus, scored, seeing, s3, local_ray, tmp_path
):
    fs, _ = s3
    upload(fs, corpus / "corpus", "rsr/corpus")
    upload(fs, corpus / "media", "rsr/media")
    score(
        "s3://rsr/corpus",
        tmp_path / "s",
        student=seeing,
        media_root="s3://rsr/media",
        max_rejects=0.4,
    )
    here, there = by_id(stored(scored, "eyes")), by_id(stored(tmp_path / "s", "eyes"))
    assert here.keys() == there.keys()
    for key, row in here.items():
        for name in (
            "content",
            "prompt_id",
            "n_tokens",
            "rank_sum",
            "surprisal_sum",
            "reject_reason",
        ):
            assert row[name] == there[key][name], (key, name)


def test_batches_change_no_more_than_rounding(corpus, scored, seeing, here, tmp_path):
    score(
        corpus / "corpus",
        tmp_path / "s",
        student=seeing,
        media_root=str(corpus / "media"),
        batch_tokens=1,
        unit_rows=1,
        max_rejects=0.4,
    )
    alone, together = stored(tmp_path / "s", "eyes"), stored(scored, "eyes")
    for one, other in zip(alone, together, strict=True):
        if one["surprisal_sum"] is not None:
            assert one["rank_sum"] == other["rank_sum"]
            assert one["surprisal_sum"] == pytest.approx(other["surprisal_sum"], rel=1e-5)


def given(corpus, student: str) -> dict:
    return {"corpus": corpus / "corpus", "student": student, "media_root": corpus / "media"}


def test_preview_shows_where_images_are(corpus, seeing):
    done = rsr_ray("preview", *as_options(given(corpus, seeing) | {"rows": 12}), "--json")
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    rows = {row["trajectory_id"]: row for row in shown if "trajectory_id" in row}
    assert "[image 60x40]" in rows["path"]["text"]
    assert "[image 33x90]" in rows["column"]["text"]
    assert "image_pad" not in rows["path"]["text"]
    assert rows["path"]["scored"] in (
        ["It is 7."],
        ["Let me look at the picture: it is 7, I think."],
    )
    assert rows["missing"]["reject_reason"] == "media"


def test_doctor_counts_images(corpus, seeing, brief_doctor, tmp_path):
    settings = given(corpus, seeing) | {"store": tmp_path / "s", "max_rejects": 0.4}
    done = rsr_ray("doctor", *as_options(settings))
    assert done.returncode == 0, done.stdout + done.stderr


def test_chosen_rows_keep_their_images(corpus, scored, seeing, local_ray, tmp_path):
    given = {"store": str(scored), "student": "eyes", "out": str(tmp_path / "out"), "k": 2}
    choose_trajectories(ChooseConfig(**given, media_root=str(corpus / "media"), format="jsonl"))
    rows = [
        json.loads(line)
        for path in (tmp_path / "out").glob("train-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(rows) == 8
    for row in rows:
        images = [
            one
            for turn in row["messages"]
            if isinstance(turn["content"], list)
            for one in turn["content"]
            if one["type"] != "text"
        ]
        assert len(images) == (0 if row["id"] == "text" else 1)
        if row["id"] == "column":
            assert row["image"] == "part-photo.png"
            assert {key for key, value in images[0].items() if value} == {"type"}
    # what was written is scored as what it was made of
    media = str(corpus / "media")
    teacher = ("teacher=rsr_ray.teacher",)
    written = tmp_path / "out" / "train-*.jsonl"
    score(written, tmp_path / "s", student=seeing, media_root=media, columns=teacher)
    before, after = by_id(stored(scored, "eyes")), by_id(stored(tmp_path / "s", "eyes"))
    assert len(after) == 8
    for key, row in after.items():
        assert row["rank_sum"] == before[key]["rank_sum"]
        assert row["surprisal_sum"] == pytest.approx(before[key]["surprisal_sum"], rel=1e-5)
