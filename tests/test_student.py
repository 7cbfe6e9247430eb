import json
import shutil

import pytest

from rsr_ray.errors import UserError
from rsr_ray.student.facts import inspect_student

from .conftest import DEMO_STUDENT


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DEMO_STUDENT, tmp_path / "student")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_copy_is_the_same_student_and_other_weights_are_not(folder):
    def facts():
        return inspect_student(str(folder), False)

    before = facts()
    assert before.source == str(folder)
    change_config(folder, transformers_version="5.0.0", use_cache=False)
    assert facts() == before
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert facts().weights_hash != before.weights_hash


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda f: (f / "chat_template.jinja").unlink(),
            "no chat template; add a chat_template.jinja to",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pickled weights are not loaded",
        ),
        (
            lambda f: change_config(f, auto_map={"AutoModelForCausalLM": "evil.Model"}),
            "--trust-remote-code",
        ),
        (lambda f: change_config(f, vocab_size=10), "ids up to 626, but its head has only 10 rows"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    ],
)
def test_a_student_that_cannot_be_used_is_refused_with_what_to_do(folder, spoil, says):
    spoil(folder)
    with pytest.raises(UserError, match=says):
        inspect_student(str(folder), False)


def test_a_hub_id_is_pinned_to_its_revision_and_found_in_the_cache(tmp_path, monkeypatch):
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--demo"
    shutil.copytree(DEMO_STUDENT, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    unpinned, pinned, folder = (
        inspect_student(student, False)
        for student in ("org/demo", f"org/demo@{revision}", str(DEMO_STUDENT))
    )
    assert (unpinned.source, unpinned.weights_hash) == (pinned.source, pinned.weights_hash)
    assert pinned.source == f"org/demo@{revision}"
    assert pinned.weights_hash == folder.weights_hash


def test_no_folder_and_no_hub_id():
    with pytest.raises(UserError, match="no such folder"):
        inspect_student("/nowhere/at/all", False)
    with pytest.raises(UserError, match="not available from the hub"):
        inspect_student("somebody/some-model", False)
