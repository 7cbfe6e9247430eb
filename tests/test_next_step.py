"""The command that comes after one: copied, it does what it says."""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_ray.cli import _config
from rsr_ray.cli.answers import _choose_line, _load_line
from rsr_ray.cli.next_step import score_line
from rsr_ray.cli.parser import parse
from rsr_ray.config.answers import ReportConfig, TeachersConfig
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.config.command_line import command_line
from rsr_ray.config.score import PreviewConfig, ScoreConfig

from .conftest import few

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1).filter(
    lambda name: not name.startswith("-")
)
SETTINGS = st.fixed_dictionaries(
    {"corpus": st.sampled_from([("/a b/c",), ("/a", "s3://b/c d")])},
    optional={
        "student_name": st.sampled_from(["s", "x"]),
        "teacher": NAMES,
        "columns": st.just(("prompt=a b", "response={sample}_$x")),
        "system_prompt": NAMES,
        "metrics": st.just("rsr,local_naturalness"),
        "step_window": st.sampled_from([0.25, 4.0, 7.0]),
        "token_scores": st.booleans(),
        "max_length": st.integers(1, 9),
        "max_rejects": st.floats(0, 1),
        "over_length": st.sampled_from(["reject", "window"]),
        "s3_endpoint": st.just("http://localhost:9000"),
    },
)


def settings_of(line: str):
    """What the command of a line is given."""
    words = shlex.split(line)
    assert words[0] == "rsr-ray"
    command, args = parse(words[1:])
    return command.name, _config(command, args)


@settings(max_examples=few(100, 25))
@given(SETTINGS)
def test_the_run_after_a_look_has_its_settings(given_settings):
    config = ScoreConfig(student="org/s@main", store="/s t", **given_settings)
    assert settings_of(score_line(config)) == ("score", config)
    looked = PreviewConfig(student="org/s@main", store="/s t", rows=3, **given_settings)
    assert settings_of(score_line(looked)) == ("score", config)


def test_a_run_after_a_look_without_a_store_has_one():
    config = PreviewConfig(corpus=("/a",), student="s")
    assert score_line(config) == "rsr-ray score --corpus /a --student s --store rsr"


@pytest.mark.parametrize("of", [TeachersConfig, ReportConfig])
def test_the_choice_after_a_ranking_is_of_what_was_ranked(of):
    more = {"out": "/page", "student": ("s",)} if of is ReportConfig else {"student": "s"}
    config = of(store="/s t", by="rsr", **more)
    assert _choose_line(config, "s") == "rsr-ray choose --store '/s t' --student s --out sft"
    config = of(store="/s", by="mean_surprisal", teachers=("A b", "$C"), **more)
    name, chosen = settings_of(_choose_line(config, "s", verified="grade.passed", out="/o"))
    assert (name, chosen) == (
        "choose",
        ChooseConfig(
            store="/s",
            student="s",
            out="/o",
            by="mean_surprisal",
            teachers=("A b", "$C"),
            verified="grade.passed",
        ),
    )


@pytest.mark.parametrize(
    ("out", "form", "what"),
    [
        ("/o", "jsonl", '"/o"'),
        ("s3://b/o", "jsonl", '"json", data_files="s3://b/o/train-*"'),
        ("s3://b/o", "parquet", '"parquet", data_files="s3://b/o/train-*"'),
    ],
)
def test_how_a_choice_is_loaded(out, form, what):
    config = ChooseConfig(store="/s", student="s", out=out, format=form)
    assert _load_line(config, config.out) == f"load_dataset({what})  # in Python, from datasets"


def test_what_is_not_given_is_left_out():
    assert command_line("score", a=None, b=(), c=("x", "y z"), d_e=True, f=False, g=0) == (
        "rsr-ray score --c x 'y z' --d-e --no-f --g 0"
    )
