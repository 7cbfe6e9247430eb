import dataclasses
import math
import typing

import pytest

from rsr_ray.cli import main
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.config.load import load_config
from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.race import RaceConfig
from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import UserError
from rsr_ray.student.facts import inspect_student

from .conftest import DEMO_STUDENT

# The options of `rsr-ray score` are a promise: a change here is a change for every user and every
# YAML file.
OPTIONS = {
    "system_role",
    "teacher_from",
    "roles",
    "corpus",
    "student",
    "store",
    "student_name",
    "teacher",
    "r_max",
    "dtype",
    "max_length",
    "replicas",
    "gpus_per_replica",
    "quantize",
    "batch_tokens",
    "unit_rows",
    "log",
    "pushgateway",
    "verbose",
    "columns",
    "system_prompt",
    "chat_template",
    "render",
    "max_rejects",
    "over_length",
    "per_turn",
    "stratum",
    "segments",
    "segment",
    "metrics",
    "steps",
    "step_window",
    "token_scores",
    "s3_endpoint",
    "ray_address",
    "new_generation",
    "trust_remote_code",
    "media_root",
    "allow_http_media",
}
GIVEN = {"corpus": ("c",), "student": "hub/student-1", "store": "s"}


def test_the_options():
    assert {f.name for f in dataclasses.fields(ScoreConfig)} == OPTIONS
    assert all(f.metadata["help"] for f in dataclasses.fields(ScoreConfig))


def test_a_yaml_file_sets_what_an_option_sets_and_the_option_wins(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("corpus: [a, b]\nstore: from-file\nr_max: 50\n")
    config = load_config(ScoreConfig, str(path), {"student": "hub/student-1", "store": "given"})
    assert [c.rsplit("/")[-1] for c in config.corpus] == ["a", "b"]
    assert config.store.endswith("/given")
    assert (config.r_max, config.student_name) == (50, "student-1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rmax: 50", "unknown key 'rmax'"),
        ("r_max: many", "must be a whole number"),
        ("- a", "mapping"),
        ("a: [", "--config"),
        ("student: 3", "must be text"),
    ],
)
def test_a_wrong_yaml_file_is_named(tmp_path, text, says):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_config(ScoreConfig, str(path), GIVEN)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"r_max": 0}, "--r-max 0"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"corpus": ()}, "--corpus"),
        ({"quantize": "2bit"}, "--quantize 2bit"),
        ({"columns": ("answer=x",)}, "--columns answer=x"),
        ({"segment": ("code",)}, "--segment code"),
        ({"segment": ("a b=x",)}, "--segment a b=x"),
        ({"segment": ("code=(",)}, "--segment code=.*: not a regular expression"),
    ],
)
def test_wrong_values_are_named(changes, says):
    with pytest.raises(UserError, match=says) as caught:
        ScoreConfig(**(GIVEN | changes))
    assert "secret" not in str(caught.value)


CONFIGS = {
    ScoreConfig: GIVEN,
    RaceConfig: GIVEN,
    ChooseConfig: {"store": "s", "student": "m", "out": "o"},
    NightlyConfig: {"students": (ScoreConfig(**GIVEN),)},
}


def numbers_of(config: type) -> dict[str, type]:
    """Names of the options that are numbers, and whether whole ones."""
    kinds = {
        name: {kind, *typing.get_args(kind)} for name, kind in typing.get_type_hints(config).items()
    }
    return {
        name: int if int in kind else float for name, kind in kinds.items() if kind & {int, float}
    }


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (config, name, value)
        for config in CONFIGS
        for name, kind in numbers_of(config).items()
        for value in ((-1,) if kind is int else (-1.0, math.nan, math.inf, -math.inf))
    ],
)
def test_a_number_that_means_nothing_is_refused(config, name, value):
    with pytest.raises(UserError, match=name.replace("_", "[_-]")):
        config(**CONFIGS[config], **{name: value})


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        *(
            (command, option, values)
            for command in (
                "teachers --store s --student m",
                "compare a b",
                "report --store s --out o",
            )
            for option, values in (
                ("--confidence", ("-1", "0", "1", "nan", "inf")),
                ("--seed", ("-1",)),
            )
        ),
        ("correlate --table t.csv", "--permutations", ("-1", "0")),
        ("rescore --store s --student m --out o", "--r-max", ("-1", "0")),
        ("bench", "--rounds", ("-1", "0")),
    ],
)
def test_a_number_of_the_command_line_that_means_nothing_is_one_line(
    capsys, command, option, values
):
    for value in values:
        assert main([*command.split(), option, value]) == 2
        assert capsys.readouterr().err.startswith(f"rsr-ray: {option} {value}: ")


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match="--corpus, --store"):
        load_config(ScoreConfig, None, {"student": "x"})


def test_the_fingerprint_covers_what_changes_a_score_and_nothing_else():
    student = inspect_student(str(DEMO_STUDENT), False)
    config = ScoreConfig(**GIVEN)

    def fingerprint(student=student, dtype="float32", max_length=100, **changes):
        return dataclasses.replace(config, **changes).fingerprint(student, dtype, max_length)

    same = [
        fingerprint(),
        fingerprint(replicas=3),
        fingerprint(batch_tokens=7),
        fingerprint(unit_rows=5),
        fingerprint(store="elsewhere"),
        # what is kept beside the scores
        fingerprint(token_scores=True),
        fingerprint(per_turn=True),
        fingerprint(segments=True),
        fingerprint(segment=("code=`[^`]+`",)),
    ]
    same.append(fingerprint(dataclasses.replace(student, source="/moved")))
    other = [
        fingerprint(r_max=50),
        fingerprint(dtype="bfloat16"),
        fingerprint(max_length=99),
        fingerprint(quantize="4bit"),
    ]
    other.append(fingerprint(system_prompt="Be brief."))
    other += [
        fingerprint(render="verbatim"),
        fingerprint(over_length="window"),
    ]
    other += [
        fingerprint(metrics="rsr,local_naturalness"),
        fingerprint(metrics="local_naturalness", steps="paragraph"),
    ]
    other += [
        fingerprint(dataclasses.replace(student, **{name: "x"}))
        for name in ("weights_hash", "config_hash", "tokenizer_hash", "template_hash")
    ]
    assert len(set(same)) == 1
    assert len({*same, *other}) == 1 + len(other)


@pytest.mark.parametrize(("quantize", "package"), [("4bit", "bitsandbytes"), ("fp8", "torchao")])
def test_a_missing_extra_is_named(monkeypatch, quantize, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else 1)
    with pytest.raises(UserError, match=rf"needs {package}, .*pip install 'rsr_ray\[quantize\]'"):
        ScoreConfig(**GIVEN, quantize=quantize)
