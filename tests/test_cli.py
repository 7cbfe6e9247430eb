"""The command line before anything runs: help, near names, one line for a mistake."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import typing
import weakref

import pytest

import rsr_ray
from rsr_ray import cli
from rsr_ray.cli import main
from rsr_ray.cli.commands import COMMANDS, PURPOSES
from rsr_ray.cli.options import GROUPS
from rsr_ray.config.demo import MetricsConfig
from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.options import called
from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import Terminated
from rsr_ray.store.lease import Lease
from tests.conftest import REPOSITORY


def shown(capsys, *command: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def test_the_help_groups_every_command(capsys):
    code, out, _ = shown(capsys, "--help")
    assert code == 0
    named = re.findall(r"^  (\w+) {2,}\S", out, re.MULTILINE)
    assert named == [name for names in PURPOSES.values() for name in names]
    assert sorted(named) == sorted(COMMANDS)
    for name in named:
        assert shown(capsys, name, "--help")[0] == 0


def test_the_version(capsys):
    assert shown(capsys, "--version")[:2] == (0, f"rsr-ray {rsr_ray.__version__}\n")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_help_shows_choices_and_defaults(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "1000")
    _, out, _ = shown(capsys, command.name, "--help")
    entries = [" ".join(entry.split()) for entry in re.split(r"\n  (?=--|\w+ )", out)]
    lines = {entry.split()[0].rstrip(","): entry for entry in entries}
    for field in command.settings:
        line = lines[called(field)]
        assert field.metadata["help"].replace("%", "%%").split()[0] in line
        if (choices := field.metadata["choices"]) and not field.metadata["metavar"]:
            assert "{" + ",".join(choices) + "}" in line
        if field.default not in (dataclasses.MISSING, None, (), "") and not isinstance(
            field.default, bool
        ):
            default = f"{field.default:g}" if isinstance(field.default, float) else field.default
            assert f"(default: {default})" in line


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_setting_of_every_command_is_a_yaml_key_as_well(monkeypatch, tmp_path, command):
    """A value that the command line takes gives the same settings from a file, with hyphens or
    without; an unknown key is refused.
    """
    if command.config in (NightlyConfig, MetricsConfig):
        return  # whose file is of another form; that has no settings
    kinds = typing.get_type_hints(command.config)
    needed = {field.name for field in command.settings if field.default is dataclasses.MISSING}
    needed |= {"table"} if command.name == "correlate" else set()
    values = {
        field.name: ["b"] if kinds[field.name] == tuple[str, ...] else "b"
        for field in command.settings
        if field.name in needed
    }
    ran = []
    run = f"rsr_ray.cli.{command.home}.{command.name}"
    monkeypatch.setattr(run, lambda config, _: ran.append(config) or 0)
    options = [
        text
        for field in command.settings
        if field.name in needed
        for text in ([] if field.metadata["positional"] else [called(field)]) + ["b"]
    ]
    seed = {"choose": {"max-tokens": 7}, "arms": {"per-teacher": 7}}.get(command.name, {})
    options += [text for name in seed for text in (f"--{name}", "7")]
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps(values | seed))
    assert main([command.name, "--config", str(file)]) == 0
    assert main([command.name, *options]) == 0
    assert ran[0] == ran[1]
    file.write_text(json.dumps(values | {"zzz": 1}))
    assert main([command.name, "--config", str(file)]) == 2


def test_every_option_of_a_score_is_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(ScoreConfig))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["scroe"], "rsr-ray: unknown command scroe; did you mean score?"),
        (
            ["score", "--max-lenght", "5"],
            "rsr-ray score: unknown argument --max-lenght; did you mean --max-length?",
        ),
        (
            ["score", "--max-lenght=5"],
            "rsr-ray score: unknown argument --max-lenght=5; did you mean --max-length?",
        ),
        (["score", "--zzz"], "rsr-ray score: unknown argument --zzz"),
        (
            ["rejects", "--store", "s", "--student", "x", "--reason", "over_lenght"],
            "rsr-ray: --reason over_lenght: did you mean over_length?",
        ),
        (["compare", "a"], "rsr-ray: missing: B"),
        (
            ["teachers", "--store", "s"],
            "rsr-ray: missing: --student",
        ),
    ],
)
def test_a_misspelt_name_is_one_line_with_what_was_meant(capsys, command, says):
    try:
        code = main(command)
    except SystemExit as ended:
        code = ended.code
    told = capsys.readouterr()
    assert (code, told.out, told.err) == (2, "", says + "\n")


def test_a_misspelt_key_is_one_line_with_what_was_meant(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("max_lenght: 5\n")
    assert main(["score", "--config", str(tmp_path / "run.yaml")]) == 2
    assert "unknown key 'max_lenght'; did you mean max_length? known: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dtype", "int3"),
        ("render", "plain"),
        ("over-length", "cut"),
        ("log", "xml"),
        ("steps", "word"),
        ("quantize", "2bit"),
    ],
)
def test_what_is_no_choice_is_refused_with_the_choices(capsys, option, value):
    assert (
        main(["score", "--corpus", "c", "--student", "s", "--store", "o", f"--{option}", value])
        == 2
    )
    field = next(f for f in dataclasses.fields(ScoreConfig) if f.name == option.replace("-", "_"))
    *first, last = field.metadata["choices"]
    assert (
        capsys.readouterr().err
        == f"rsr-ray: --{option} {value}: choose {', '.join(first)} or {last}\n"
    )


def test_a_key_may_be_spelt_like_its_option_but_not_twice(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("max-tokens: 7\nmax_tokens: 8\n")
    assert main(["choose", "--config", str(file)]) == 2
    assert capsys.readouterr().err.endswith("'max_tokens' appears twice; remove one\n")


def test_a_student_is_called_by_its_name_folder_or_hub_id(monkeypatch):
    ran = []
    run = "rsr_ray.cli.answers.teachers"
    monkeypatch.setattr(run, lambda config, _: ran.append(config.student) or 0)
    for student in (
        "Qwen3-8B",
        "Qwen3-8B@main",
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3-8B@main",
        "/models/Qwen3-8B/",
    ):
        assert main(["teachers", "--store", "s", "--student", student]) == 0
    assert {*ran} == {"Qwen3-8B"}


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["sco"], ["score"]),
        (["score", "--over"], ["--over-length"]),
        (["score", "--over-length", "r"], ["reject"]),
        (["compare", "--any"], ["--anyway"]),
        (["teachers", "x"], []),
    ],
)
def test_bash_completes_commands_options_and_choices(capsys, typed, completed):
    code, script, _ = shown(capsys, "--completion")
    assert code == 0
    words = " ".join(["rsr-ray", *typed])
    asked = f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _rsr_ray; echo ${{COMPREPLY[@]}}"
    told = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == completed


STUCK = """
import sys, threading, time
from rsr_ray import cli
from rsr_ray.cli import upkeep
from rsr_ray.errors import Terminated
from rsr_ray.store.lease import Lease
from tests.conftest import REPOSITORY

def stuck(config, as_json):
    assert Lease(sys.argv[1], 300, None).take() is None
    print("held", flush=True)
    try:
        time.sleep(600)
    finally:  # as where another thread waits for the lock of an import that was interrupted
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

cli.LAST_SECONDS = 0.2
upkeep.metrics = stuck
cli.run(["metrics"])
"""


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_command_that_cannot_leave_ends_all_the_same_and_lets_its_lease_go(
    tmp_path, number, code, word
):
    command = [sys.executable, "-c", STUCK, str(tmp_path / "lease")]
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, **heard) as stuck:
        assert stuck.stdout.readline() == "held\n"
        stuck.send_signal(number)
        _, said = stuck.communicate(timeout=100)
    assert stuck.returncode == code
    assert said.startswith(f"rsr-ray: {word}; finished units are kept")
    assert Lease(str(tmp_path / "lease"), 300, None).take() is None


WAITING = """
import signal, sys, time
from rsr_ray import cli
from rsr_ray.cli import upkeep
from rsr_ray.errors import RunError

def waiting(config, as_json):
    print("waiting", flush=True)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        signal.raise_signal(int(sys.argv[1]))  # sent on
        raise eval(sys.argv[2])("of its own")

upkeep.metrics = waiting
cli.run(["metrics"])
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "RunError", "OSError"])
def test_a_library_that_hands_on_another_error_changes_no_exit_code(error):
    command = [sys.executable, "-c", WAITING, str(int(signal.SIGTERM)), error]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout.readline() == "waiting\n"
        waiting.terminate()
        _, said = waiting.communicate(timeout=100)
    assert waiting.returncode == 143
    assert said.startswith("rsr-ray: terminated; finished units are kept")


@pytest.mark.parametrize("error", [Terminated(), KeyboardInterrupt(), ValueError("a mistake")])
def test_an_end_that_comes_where_python_can_raise_nothing_leaves_no_traceback(
    monkeypatch, capsys, error
):
    def broken_off(_):
        raise error

    monkeypatch.setattr(sys, "unraisablehook", cli._tell_unraisable)
    thing = type("Thing", (), {})()
    reference = weakref.ref(thing, broken_off)
    del thing
    assert reference() is None
    assert bool(capsys.readouterr().err) == isinstance(error, ValueError)


IMPORTING = """
import signal, sys
from rsr_ray.cli import _end
signal.signal(signal.SIGTERM, _end)
sys.path.insert(0, sys.argv[1])
import native
"""
# What C++ does with an exception that it did not expect is worse than to go on.
NATIVE = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGTERM)
except BaseException:
    print("broken off")
"""


def test_a_command_that_is_ended_while_it_imports_a_module(tmp_path):
    (tmp_path / "native.py").write_text(NATIVE)
    command = [sys.executable, "-c", IMPORTING, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr.startswith("rsr-ray: terminated;")
