"""A student is loaded whole or not at all: each tensor left out, renamed, cut, of another shape."""

import errno
import itertools
import json
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rsr_ray.errors import RunError, UserError
from rsr_ray.run.failure import raised_in
from rsr_ray.student.facts import inspect_student, prove
from rsr_ray.student.model import Student, load_whole
from rsr_ray.student.source import file_states
from rsr_ray.student.tokenizer import load_tokenizer
from rsr_ray.student.weights import check_weights

from .conftest import DEMO_STUDENT, by_turns

SMALL = {
    "vocab_size": 640,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "head_dim": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 640, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
MODELS = {
    "qwen3": SMALL,
    "llama": SMALL,
    "gemma2": SMALL,
    "phi3": SMALL,
    "gpt2": GPT2,
    "mixtral": SMALL | {"num_local_experts": 2, "num_experts_per_tok": 1},
}


# Every day half of them: each kind, and as many with a head of their own as without.
PAIRS = [
    pytest.param((kind, tied), marks=() if tied == bool(n % 2) else pytest.mark.slow)
    for n, kind in enumerate(MODELS)
    for tied in (True, False)
]


@pytest.fixture(scope="module", params=PAIRS, ids=str)
def saved(request, tmp_path_factory):
    kind, tied = request.param
    folder = tmp_path_factory.mktemp(kind)
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **MODELS[kind], tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO_STUDENT / name, folder)
    return folder


def refused(folder) -> str:
    """What is said before any replica starts (score, doctor, bench), and that a replica's own
    load is refused too.
    """
    with pytest.raises(UserError) as early:
        check_weights("s", str(folder), trust_remote_code=False)
    with pytest.raises(UserError):
        load_whole(str(folder), "float32")
    assert "\n" not in str(early.value)
    return str(early.value)


def test_a_whole_student_is_loaded(saved):
    inspect_student(str(saved), False)
    load_whole(str(saved), "float32")


WRONGS = ("left out", "renamed", "of another shape", "cut")
PREFIXES = ("_orig_mod.", "module.", "base_model.model.", "x.")


def test_each_tensor_left_out_renamed_cut_or_of_another_shape_is_refused(saved):
    """Every day each tensor in one or two of the four ways."""
    path = saved / "model.safetensors"
    content, weights = path.read_bytes(), load_file(path)
    kind = json.loads((saved / "config.json").read_text())["model_type"]
    cases = list(itertools.product(weights, WRONGS))
    try:
        for key, wrong in by_turns(cases, [*MODELS].index(kind)):
            write_spoilt(path, content, weights, key, wrong)
            says = refused(saved)
            if wrong == "cut":
                assert f"{path} is truncated" in says
            elif "block_sparse_moe" not in key:  # the library renames and merges these
                told = {"left out": " missing: ", "of another shape": "of another shape"}
                assert told.get(wrong, key) in says
                assert key in says or wrong == "of another shape"
    finally:
        path.write_bytes(content)


def write_spoilt(path, content: bytes, weights: dict, key: str, wrong: str) -> None:
    """Writes a file of weights in which one tensor is not as it was in `content`."""
    path.unlink()  # the tensors are mapped from it
    if wrong == "cut":
        header = int.from_bytes(content[:8], "little")
        start, stop = json.loads(content[8 : 8 + header])[key]["data_offsets"]
        path.write_bytes(content[: 8 + header + (start + stop) // 2])
        return
    spoilt = {name: value for name, value in weights.items() if name != key}
    if wrong == "renamed":
        prefix = PREFIXES[[*weights].index(key) % len(PREFIXES)]
        spoilt[prefix + key] = weights[key]
    if wrong == "of another shape":
        spoilt[key] = torch.zeros([n + 1 for n in weights[key].shape])
    save_file(spoilt, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "Input/output error"), RunError),
        (MemoryError(), RunError),
        (torch.AcceleratorError("CUDA error: ECC"), RunError),
        (OSError("no such model"), UserError),
        (KeyError("architectures"), UserError),
        (RuntimeError("size mismatch"), UserError),
    ],
    ids=repr,
)
def test_a_machine_that_breaks_is_not_the_students_fault(monkeypatch, error, kind):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", broken)
    with pytest.raises(kind) as caught:
        load_whole(str(DEMO_STUDENT), "float32")
    assert "cannot be" in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DEMO_STUDENT, tmp_path / "student")


def rewrite(folder, change) -> None:
    path = folder / "model.safetensors"
    weights = {key: value.clone() for key, value in load_file(path).items()}
    save_file(change(weights), path, metadata={"format": "pt"})


def untied(folder):
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))


def split(folder, *, lose=False, stale=False):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {key: f"model-{n % 2}.safetensors" for n, key in enumerate(weights)}
    for name in set(names.values()):
        save_file(
            {key: weights[key] for key in names if names[key] == name},
            folder / name,
            metadata={"format": "pt"},
        )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": names})
    )
    if lose:
        (folder / "model-1.safetensors").unlink()
    if stale:
        shutil.copy(folder / "model-1.safetensors", folder / "model-2.safetensors")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda f: rewrite(f, lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}),
            "the keys have the prefix of torch.compile",
        ),
        (lambda f: rewrite(f, lambda w: {f"module.{k}": v for k, v in w.items()}), "data parallel"),
        (
            lambda f: rewrite(f, lambda w: {f"base_model.model.{k}": v for k, v in w.items()}),
            "merge_and_unload",
        ),
        (
            lambda f: rewrite(f, lambda w: w | {"extra": torch.zeros(2)}),
            "1 not of this model: extra",
        ),
        (
            lambda f: rewrite(f, lambda w: {k: v.to(torch.int8) for k, v in w.items()}),
            "whole numbers",
        ),
        (untied, "1 missing: lm_head.weight; the head is missing"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "LoRA adapter"),
        (lambda f: split(f, lose=True), "names model-1.safetensors, not found"),
        (lambda f: split(f, stale=True), "model-2.safetensors would not be loaded"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json is not a JSON object"),
        (
            lambda f: (f / "config.json").write_text(
                '{"model_type": "nothing", "vocab_size": 627}'
            ),
            "config.json cannot be used",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is truncated"),
        (lambda f: (f / "tokenizer.json").write_text('{"version":'), "tokenizer.json is not JSON"),
    ],
)
def test_what_is_not_whole_is_named_before_anything_starts(folder, spoil, says):
    spoil(folder)
    with pytest.raises(UserError, match=says) as caught:
        inspect_student(str(folder), False)
    assert "\n" not in str(caught.value)


def test_shards_are_one_student(folder):
    split(folder)
    inspect_student(str(folder), False)


def test_weights_that_are_no_numbers_are_refused_when_loaded(folder):
    rewrite(folder, lambda w: w | {"model.norm.weight": w["model.norm.weight"] * float("nan")})
    with pytest.raises(UserError, match=r"not finite numbers: .*norm.weight"):
        Student(str(folder), "float32", "cpu")


# --- what was loaded is what was hashed------------------------------------------------------------


def noise(weights):
    return {key: value + torch.randn(value.shape) for key, value in weights.items()}


def test_a_replica_takes_no_other_files_than_those_that_were_hashed(folder):
    facts = inspect_student(str(folder), False)
    Student(str(folder), "float32", "cpu", expected=facts)
    rewrite(folder, noise)  # the same keys, shapes and size
    with pytest.raises(RunError, match="changed while the run was starting"):
        Student(str(folder), "float32", "cpu", expected=facts)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_that_are_cut_after_they_were_hashed_are_a_change(folder, name):
    facts = inspect_student(str(folder), False)
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(RunError, match="changed while the run was starting"):
        Student(str(folder), "float32", "cpu", expected=facts)


def test_old_weights_that_are_put_back_during_the_load_are_a_change(folder):
    """The content is as it was when the hash is taken, and the time of change is not."""
    facts = inspect_student(str(folder), False)
    path = folder / "model.safetensors"
    content, before = path.read_bytes(), file_states(str(folder))
    path.write_bytes(bytes(len(content)))
    path.write_bytes(content)
    with pytest.raises(RunError, match="changed"):
        prove(facts, before)
    prove(facts, file_states(str(folder)))


def test_another_tokenizer_or_template_is_a_change(folder):
    facts = inspect_student(str(folder), False)
    load_tokenizer(str(folder), None, facts.text_hash)
    load_tokenizer.cache_clear()
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(RunError, match="changed"):
        load_tokenizer(str(folder), None, facts.text_hash)


def test_a_student_that_is_written_while_it_is_read_is_no_student_yet(folder):
    """A writer that never stops: each look sees a file of another time."""
    stop, path = threading.Event(), folder / "model.safetensors"
    content = path.read_bytes()

    def write():
        while not stop.is_set():
            with path.open("r+b") as file:
                file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(RunError, match="changed while they were read"):
            inspect_student(str(folder), False)
    finally:
        stop.set()
        writer.join()


# --- the cause of a failure------------------------------------------------------------------------

TRACE = """\
The actor died because of an error raised in its creation task, \
\x1b[36mray::_MapWorker.__init__()\x1b[39m (pid=1)
  File "/a/b.py", line 3, in __init__
    self.x = f(a, b)
             ^^^^^^^
  File "/a/c.py", line 9, in f
    raise X("...")
"""


@pytest.mark.parametrize(
    ("end", "found"),
    [
        ("OSError: no such file: x", [("OSError", "no such file: x")]),
        (
            "torch.OutOfMemoryError: CUDA: no\n\tmemory left\nTry again",
            [("OutOfMemoryError", "CUDA: no memory left Try again")],
        ),
        (
            "rsr_ray.errors.UserError: student s: it: is cut",
            [("UserError", "student s: it: is cut")],
        ),
        (
            "rsr_ray.files.rights.DeniedError: s3:GetObject is denied on s3://b/k\n"
            "Failed to apply UDF transform after 1/6 attempts (total backoff 0.0s).\n"
            "This looks like an AWS S3 permissions error.",
            [("DeniedError", "s3:GetObject is denied on s3://b/k")],
        ),
        (
            (
                "KeyError: 'a'\n\nThe above exception was the direct cause of the following "
                "exception:\n\n"
            )
            + TRACE
            + "RunError: it broke",
            [("KeyError", "'a'"), ("RunError", "it broke")],
        ),
    ],
)
def test_the_cause_is_read_from_a_trace(end, found):
    assert raised_in(TRACE + end) == found
