"""Whatever a setting is given, it is of its type, or one line says which setting is wrong, and
nothing is written.
"""

import argparse
import contextlib
import dataclasses
import datetime
import decimal
import io
import itertools
import math
import types
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_ray.cli import main
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.config.load import COMMON, load_config, load_nightly
from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.race import RaceConfig
from rsr_ray.config.score import ScoreConfig
from rsr_ray.config.settings import kinds_of
from rsr_ray.errors import UserError, safe

from .conftest import WHOLE, by_turns, few

LONG = 5000  # characters that no line and no file name has
GIVEN = {
    ScoreConfig: {"corpus": ["c"], "student": "hub/student-1", "store": "s"},
    RaceConfig: {"corpus": ["c"], "student": "hub/student-1", "store": "s"},
    ChooseConfig: {"store": "s", "student": "m", "out": "o"},
    NightlyConfig: {"students": (ScoreConfig(corpus=("c",), student="hub/student-1", store="s"),)},
}
# As YAML writes them.
WRITTEN = {
    "null": "null", "nothing": "", "empty": "''", "blank": "' '", "word": "word", "int": "5",
    "zero": "0", "negative": "-3", "float": "2.5",
    "whole "
    "float": "5.0", "1e23": "1.0e+23", "1e23 as text": "1e23", "digits": "1" * 30,
    "many digits": "1" * 4000, "hex": "0x1F", "nan": ".nan", "inf": ".inf", "-inf": "-.inf",
    "true": "true", "no": "no", "date": "2026-11-25", "time": "2026-11-25 10:00:00",
    "minutes": "12:30", "bytes": "!!binary aGVsbG8=", "set": "!!set {a, b}",
    "pairs": "!!omap [a: b]", "empty list": "[]", "list": "[a, b]", "list of int": "[5]",
    "list of "
    "null": "[null]", "list of empty": "['']", "list of float": "[.nan]",
    "list of date": "[2026-11-25]", "nested": "[[a], [b]]", "deep": "[" * 90 + "]" * 90,
    "empty mapping": "{}", "mapping": "{a: b}", "mapping of int": "{response: 5}",
    "int keys": "{5: a}",
    "mapping of "
    "list": "{response: [a]}", "columns": "{response: completion}", "list of mapping": "[{a: b}]",
    "long": "x" * LONG,
    "long "
    "list": "[" + ", ".join(["word"] * 100) + "]", "nul": r'"a\0b"', "surrogate": r'"a\ud800b"',
    "lines": r'"a\nb"', "escape": r'"\e[31mred"',
    "list of "
    "nul": r'["a\0b"]', "list of surrogate": r'["a\ud800b"]', "loop": "&a [*a]",
    "mapping loop": "&a {response: *a}", "spaced": "'  x  '", "equals": "response=x", "slash": "/",
    "colon": "'://'", "only a scheme": "s3://", "glob": "'**['", "tilde": "~nobody/x",
    "unicode": "思考",
}  # fmt: skip
# And what only a program can give.
OBJECTS = {
    "numpy "
    "int": np.int64(5), "numpy float": np.float32(2.5), "numpy nan": np.float64("nan"),
    "array": np.zeros(3), "decimal": decimal.Decimal(1), "tuple": ("a", "b"), "tuple of int": (5,),
    "path": Path("x"), "object": object(), "class": int, "function": len,
    "bytearray": bytearray(b"x"), "frozenset": frozenset("ab"), "complex": 1j, "range": range(3),
    "timedelta": datetime.timedelta(1), "10,000 digits": 10**10_000, "-0.0": -0.0,
}  # fmt: skip
PARSED = {what: yaml.safe_load(f"x: {text}")["x"] for what, text in WRITTEN.items()}
CASES = [(config, field.name) for config in GIVEN for field in dataclasses.fields(config)]
EVERY = pytest.mark.parametrize(
    ("config", "name"), CASES, ids=lambda value: getattr(value, "__name__", value)
)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    """Each test runs in a folder of its own, in which nothing may be there afterwards."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield
    assert not [*here.iterdir()]


def fits(value: typing.Any, kind: typing.Any) -> bool:
    """Whether a value is of a field's type, and of no other that compares as equal."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        return type(value) is tuple and all(fits(one, inner[0]) for one in value)
    return type(value) is kind and (kind is not float or math.isfinite(value))


def built_or_refused(build: typing.Callable[[], typing.Any], name: str) -> typing.Any:
    """The config, each field of its type; None where one line refuses the setting by its name."""
    try:
        config = build()
    except UserError as e:
        line = str(e)
    else:
        line = None
    if line is not None:
        assert name in line.replace("-", "_") or (name == "students" and "unknown key" in line)
        assert len(safe(line)) < 400 or "known:" in line
        # the value itself, which the command line spells out
        assert "\n" not in line.replace("a\nb", "")
        return None
    for field, kind in kinds_of(type(config)).items():
        value = getattr(config, field)
        assert fits(value, kind), (field, value)
        for text in value if isinstance(value, tuple) else [value]:
            if isinstance(text, str):
                assert "\0" not in text.encode().decode()
    return config


def yaml_of(config: type, name: str, written: str) -> str:
    """A file of the config's settings, that setting as it is written."""
    rest = {key: value for key, value in GIVEN[config].items() if key != name}
    return yaml.safe_dump(rest) * bool(rest) + f"{name}: {written}\n"


@EVERY
def test_every_setting_takes_or_refuses_every_kind_of_value(config, name):
    """Given by a program: what YAML's types become, and what YAML has not, a third each by
    turns.
    """
    taken = 0
    values = by_turns([*(PARSED | OBJECTS).items()], CASES.index((config, name)) + 1)
    for what, value in values:
        rest = {
            key: tuple(given) if isinstance(given, list) else given
            for key, given in GIVEN[config].items()
        }
        built = built_or_refused(
            lambda rest=rest, value=value: config(**(rest | {name: value})), name
        )
        taken += built is not None
        if isinstance(value, (set, bytes, Path, np.ndarray, np.generic, decimal.Decimal)):
            assert built is None, what
    assert taken < len(values)  # no setting takes all


# What a race has of a run is of the same type and written in the same way: every day its own alone.
IN_FILES = [
    case
    for case in CASES
    if WHOLE or case[0] is not RaceConfig or (ScoreConfig, case[1]) not in CASES
]


@pytest.mark.parametrize(
    ("config", "name"), IN_FILES, ids=lambda value: getattr(value, "__name__", value)
)
def test_every_setting_of_a_file_takes_or_refuses_every_kind_of_value(config, name, tmp_path):
    """A third each by turns; a program gave others above."""
    for n, written in enumerate(by_turns([*WRITTEN.values()], CASES.index((config, name)))):
        path = tmp_path / f"{n}.yaml"  # ext4 waits for the disk where a file is written over
        if config is NightlyConfig:
            path.write_text(
                "store: s\n"
                + f"{name}: {written}\n"
                + "students: [{student: m, corpus: [c]}]\n" * (name != "students")
            )
            built_or_refused(lambda path=path: load_nightly(str(path), {}), name)
        else:
            path.write_text(yaml_of(config, name, written))
            built_or_refused(lambda path=path: load_config(config, str(path), {}), name)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ScoreConfig)])
def test_every_setting_of_a_nights_student_takes_or_refuses_every_kind_of_value(name, tmp_path):
    for n, written in enumerate(by_turns([*WRITTEN.values()], CASES.index((ScoreConfig, name)))):
        path = tmp_path / f"{n}.yaml"
        given = {"student": "m", "corpus": "[c]", "store": "s"} | {name: written}
        common = {key: given.pop(key) for key in COMMON if key in given}
        entry = ", ".join(f"{key}: {value}" for key, value in given.items())
        path.write_text(
            "".join(f"{key}: {value}\n" for key, value in common.items())
            + f"students: [{{{entry}}}]\n"
        )
        built_or_refused(lambda path=path: load_nightly(str(path), {}), name)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=few(500, 40), deadline=None)
@given(st.sampled_from([case for case in CASES if case[0] is not NightlyConfig]), ANYTHING)
def test_no_value_whatever_is_another_exception(case, value):
    config, name = case
    rest = {
        key: tuple(given) if isinstance(given, list) else given
        for key, given in GIVEN[config].items()
    }
    with contextlib.suppress(UserError):
        assert config(**(rest | {name: value}))


# --- through the command line----------------------------------------------------------------------

WRONG = [
    "corpus: "
    "", "corpus: ''", "corpus: []", "corpus: [5]", "corpus: [[a]]", "corpus: ['']",
    "corpus: {a: b}",
    "columns: "
    "[5]", "columns: {response: 5}", "columns: {nothing: here}", "columns: {5: a}", "columns: 5",
    "columns: response",
    "r_max: "
    "1e23", "r_max: 1.0e+23", "r_max: .nan", "r_max: true", "r_max: " + "9" * 30, "r_max: 2.0",
    "r_max: ",
    "store: "
    "''", "store: ' '", "store: ", "store: .nan", r'store: "a\0b"', r'store: "\ud800"',
    f"store: {'x' * LONG}",
    "student: "
    "''", "student: [a]", "system_prompt: 5", "max_rejects: .nan", "step_window: .inf",
    "trust_remote_code: 'yes'", "log: no", "teacher: &a [*a]",
]  # fmt: skip


# Every day each line for a night and for one of the others, by turns.
WRONG_OF = [
    pytest.param(line, command, id=f"{line[:20]}-{command}")
    for n, line in enumerate(WRONG)
    for command in (*by_turns(["score", "race", "doctor"], n), "nightly")
]


@pytest.mark.parametrize(("line", "command"), WRONG_OF)
def test_a_wrong_file_is_one_line_and_exit_code_2(command, line, tmp_path, capsys):
    name = line.partition(":")[0]
    rest = {"corpus": "[c]", "student": "hub/student-1", "store": str(tmp_path / "store")}
    lines = [f"{key}: {value}" for key, value in rest.items() if not line.startswith(f"{key}:")] + [
        line
    ]
    if command == "nightly":
        lines = [one for one in lines if not one.startswith("student:") or one == line] + [
            "students: [{student: hub/student-1}]"
        ]
    if command == "nightly" and name == "student":
        lines = [*[one for one in lines if one != line][:-1], f"students: [{{{line}}}]"]
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(lines) + "\n")
    assert main([command, "--config", str(path)]) == 2
    check_one_line(capsys, name)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "line",
    [
        "out: ''",
        "out: 5",
        "store: ''",
        "k: 1.0e+23",
        "k: [1]",
        "keep: [5]",
        "keep: {a: b}",
        "max_share: .nan",
        "format: 5",
    ],
)
def test_a_wrong_file_of_choose_is_one_line_and_exit_code_2(line, tmp_path, capsys):
    rest = {"store": str(tmp_path / "store"), "student": "m", "out": str(tmp_path / "out")}
    lines = [f"{key}: {value}" for key, value in rest.items() if not line.startswith(f"{key}:")] + [
        line
    ]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    assert main(["choose", "--config", str(tmp_path / "c.yaml")]) == 2
    check_one_line(capsys, line.partition(":")[0])
    assert not (tmp_path / "out").exists()


NO_MAPPINGS = [
    "",
    "a: [",
    "- a",
    "5",
    "'text'",
    "? [a]\n: b",
    "{a: b}: c",
    "!!python/object:os.system x",
    "&a [*a]",
    "a: *b",
    "\0",
    "[" * 1000,
]


@pytest.mark.parametrize(
    ("text", "command"),
    zip(NO_MAPPINGS, itertools.cycle(("score", "choose", "nightly")), strict=False),
)
def test_a_file_that_is_no_mapping_of_settings_is_one_line_and_exit_code_2(
    command, text, tmp_path, capsys
):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert main([command, "--config", str(path)]) == 2
    check_one_line(capsys, "config")


@pytest.mark.parametrize(
    "written",
    [
        "null",
        "5",
        "''",
        "[]",
        "[5]",
        "[null]",
        "[[a]]",
        "{a: b}",
        "[{}]",
        "[{5: a}]",
        "[{store: s}]",
        "text",
        "[{student: m}, {student: m}]",
    ],
)
def test_wrong_students_of_a_night_are_one_line_and_exit_code_2(written, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(f"store: {tmp_path / 'store'}\ncorpus: [c]\nstudents: {written}\n")
    assert main(["nightly", "--config", str(path)]) == 2
    check_one_line(capsys, "config" if written == "[{5: a}]" else "student")


def text_options() -> list[tuple[str, list[str], str]]:
    """(command, what else it needs, option) of every option of every command that takes one
    text, as the parser has them.
    """
    found: list[tuple[str, list[str], str]] = []
    parsers: dict[str, argparse.ArgumentParser] = {}
    made = argparse.ArgumentParser.parse_args
    try:
        argparse.ArgumentParser.parse_args = lambda self, argv=None: (
            parsers.update(self._subparsers._group_actions[0].choices) or made(self, argv)
        )  # type: ignore
        with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit):
            main(["no-such-command"])
    finally:
        argparse.ArgumentParser.parse_args = made  # type: ignore
    for command, parser in parsers.items():
        actions = [
            action for action in parser._actions if action.type in (None, str) and action.nargs != 0
        ]
        for action in actions:
            needs = [
                x
                for other in parser._actions
                if other.required and other is not action
                for x in ([*other.option_strings[:1], "x"])
            ]
            found.append((command, needs, (*action.option_strings, "")[0]))
    return found


EMPTY_IS_NONE = {"--night", "--system-prompt", "--s3-endpoint", "--ray-address"}
OPTIONS = [case for case in text_options() if case[2] not in EMPTY_IS_NONE]


NAMELESS = {"empty": "", "blank": " ", "nul": "a\0b", "not UTF-8": "a\udc80b", "long": "x" * LONG}
# Each option empty, and with one of the others by turns.
GIVEN_TEXTS = [
    pytest.param(*case, NAMELESS[what], id=f"{case[0]} {case[2]} {what}")
    for case, turn in zip(OPTIONS, itertools.cycle([*NAMELESS][1:]), strict=False)
    for what in (NAMELESS if WHOLE else ("empty", turn))
]


@pytest.mark.parametrize(("command", "needs", "option", "text"), GIVEN_TEXTS)
def test_no_command_takes_a_text_that_names_nothing(command, needs, option, text, capsys):
    argv = [command, *needs, *([option] * bool(option)), text]
    if command == "compare" and not option:
        argv = [command, text, "b"]
    try:
        code = main(argv)
    except SystemExit as e:  # argparse's own: not one of the choices
        code = e.code
        assert "argument" in capsys.readouterr().err
    else:
        check_one_line(capsys, "")
    assert code == 2


@pytest.mark.parametrize(
    "argv",
    [
        "teachers --store s --student m --seed",
        "compare a b --seed",
        "report --store s --out o --seed",
        "correlate --table t.csv --permutations",
        "rescore --store s --student m --out o --r-max",
        "bench --rounds",
        "nightly --config c.yaml --wait",
        "score --corpus c --student m --store s --r-max",
    ],
)
def test_no_command_takes_a_number_beyond_any_use(argv, capsys):
    for number in ("1" + "0" * 23, "-1" + "0" * 23):
        assert main([*argv.split(), number]) == 2
        check_one_line(capsys, argv.rpartition("--")[2].replace("-", "_"))


def check_one_line(capsys, name: str) -> None:
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("rsr-ray: ")
    assert err.count("\n") == 1
    assert len(err) < 700
    assert name in err.replace("-", "_")
