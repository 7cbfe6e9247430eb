"""The README says what is there."""

import inspect
import re

from rsr_ray import cli
from rsr_ray.cli import main
from rsr_ray.schema import REJECT_REASONS

from .conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_the_tree_is_the_tree():
    (tree,) = re.findall(r"```text\n(rsr_ray/\n.*?)```", README, re.DOTALL)
    folder, named = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        named.add(folder if name == folder else folder + name)
    for name in named:
        assert (REPOSITORY / name).exists(), name
    modules = {f"rsr_ray/{p.name}" for p in (REPOSITORY / "rsr_ray").glob("*.py")} - {"rsr_ray/__init__.py", "rsr_ray/__main__.py"}
    jobs = {f"jobs/{p.name}" for p in (REPOSITORY / "jobs").glob("*.py")}
    assert modules | jobs <= named


def test_every_command_parses(monkeypatch):
    commands = [line.split("  #")[0].split() for line in README.replace("\\\n", " ").splitlines() if line.startswith("rsr-ray ")]
    assert len(commands) >= 4
    ran = []
    for name, function in vars(cli).copy().items():
        if inspect.isfunction(function) and list(inspect.signature(function).parameters) == ["args"]:
            monkeypatch.setattr(cli, name, lambda args: ran.append(args) or 0)
    for command in commands:
        assert main(command[1:]) == 0, command
    assert len(ran) == len(commands)


def test_every_reject_reason_is_explained():
    for reason, meaning in REJECT_REASONS.items():
        assert f"| `{reason}` | {meaning} |" in README


def test_ci_does_what_the_readme_says():
    (command,) = re.findall(r"^python3 -m venv .*pytest$", README, re.MULTILINE)
    ci = (REPOSITORY / ".ci" / "run").read_text()
    assert "pip install -e '.[test]'" in command
    assert "pip install -q -e '.[test]'" in ci
    assert "alone pytest\n" in ci
    assert "rsr-ray demo" in ci
