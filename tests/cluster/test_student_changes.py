"""Whole runs on students that are not whole, or no longer what was hashed."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import rsr_ray.run.pipeline as pipeline
from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import RunError, UserError
from rsr_ray.run.doctor.doctor import examine

from ..conftest import DEMO_STUDENT
from .conftest import rsr_ray, score, write_many

pytestmark = pytest.mark.usefixtures("brief_doctor")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_many(folder, 1, 8)
    return folder


@pytest.fixture
def student(tmp_path):
    return shutil.copytree(DEMO_STUDENT, tmp_path / "student")


def units(store) -> list:
    return list(store.rglob("scores/**/*.parquet"))


def test_a_renamed_checkpoint_is_refused_in_the_same_words(local_ray, corpus, student, tmp_path):
    path = student / "model.safetensors"
    renamed = {f"_orig_mod.{key}": value.clone() for key, value in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})
    store = tmp_path / "store"
    done = rsr_ray("score", "--corpus", corpus, "--student", student, "--store", store)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "_orig_mod.model.embed_tokens.weight" in line
    assert not units(store)
    found = examine(ScoreConfig(corpus=(str(corpus),), student=str(student), store=str(store)))
    assert [f.says for f in found.findings if f.check == "student"] == [
        line.removeprefix("rsr-ray: ")
    ]


def other_weights(student):
    path = student / "model.safetensors"
    other = {key: value + torch.randn(value.shape) for key, value in load_file(path).items()}
    save_file(other, path, metadata={"format": "pt"})


def another_tokenizer(student):
    path = student / "tokenizer.json"
    changed = json.loads(path.read_text())
    changed["model"]["merges"].pop()
    path.write_text(json.dumps(changed))


def cut_config(student):
    (student / "config.json").write_text("{")


@pytest.mark.parametrize("change", [other_weights, another_tokenizer, cut_config])
def test_files_that_change_while_the_run_starts_end_it(
    local_ray, corpus, student, tmp_path, monkeypatch, change
):
    """The trainer writes at the moment that the driver has planned the run; the replicas come
    after.
    """
    build = pipeline.build_scores

    def build_late(*planned):
        change(student)
        return build(*planned)

    monkeypatch.setattr(pipeline, "build_scores", build_late)
    with pytest.raises(RunError, match="changed while the run was starting") as caught:
        score(corpus, tmp_path / "store", student=str(student))
    assert not re.search(r"\n|\^\^|ActorDied", str(caught.value))
    assert not units(tmp_path / "store")


def test_what_a_replica_cannot_load_is_the_line(local_ray, corpus, student, tmp_path):
    """NaN weights are seen by the replica alone: the headers are right."""
    path = student / "model.safetensors"
    weights = {key: value * float("nan") for key, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite numbers") as caught:
        score(corpus, tmp_path / "store", student=str(student))
    assert not re.search(r"\n|\^\^|ActorDied", str(caught.value))
    assert not units(tmp_path / "store")
