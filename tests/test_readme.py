"""The READMEs say what is there."""

import re

import pytest

from rsr_ray.cli.parser import parse
from rsr_ray.metrics import REGISTRY
from rsr_ray.schema import REJECT_REASONS

from .conftest import REPOSITORY

READMES = [
    REPOSITORY / name
    for name in (
        "README.md",
        "jobs/README.md",
        "rsr_ray/README.md",
        "rsr_ray/decide/README.md",
        "tests/README.md",
    )
]
README, INSIDE = READMES[0].read_text(), (REPOSITORY / "rsr_ray" / "README.md").read_text()


def test_the_tree_is_the_tree():
    (tree,) = re.findall(r"```text\n(rsr_ray/\n.*?)```", INSIDE, re.DOTALL)
    folders, named = [], set()
    for line in tree.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        named.add("".join(folders))
    for name in named:
        assert (REPOSITORY / name).exists(), name
    modules = {
        p
        for p in (REPOSITORY / "rsr_ray").rglob("*.py")
        if not p.name.startswith("__") and not {"demo", "page"} & {*p.parts}
    }
    modules |= {*(REPOSITORY / "jobs").glob("*.py")}
    assert {str(p.relative_to(REPOSITORY)) for p in modules} <= named


def test_every_command_parses():
    text = "".join(path.read_text() for path in READMES).replace("\\\n", " ")
    commands = [
        line.split("  #")[0].split() for line in text.splitlines() if line.startswith("rsr-ray ")
    ]
    assert len(commands) >= 20
    for command in commands:
        assert parse(command[1:])[0].name == command[1]


def test_every_reject_reason_is_explained():
    for reason, meaning in REJECT_REASONS.items():
        assert f"| `{reason}` | {meaning} |" in INSIDE


def test_every_metric_is_in_the_table():
    for m in REGISTRY.values():
        assert f"| `{m.name}` | {m.better} | {m.formula} | {m.source} |\n" in INSIDE


def test_the_first_readme_takes_three_minutes():
    assert len(README) <= 9_000


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_ci_does_what_the_readme_says():
    (command,) = re.findall(r"^python3 -m venv .*pytest$", README, re.MULTILINE)
    ci = (REPOSITORY / ".ci" / "run").read_text()
    assert "pip install -e '.[test]'" in command
    assert "pip install -q --no-compile -e '.[test]'" in ci
    # All of it, in two calls, of which the first shares out the processors, and the second has
    # every file in one half.
    expressions = re.findall(r'alone pytest -m "([a-z ]+)"', ci)
    assert expressions == ["not cluster and not browser or simulation", "cluster or browser"]
    parts = " ".join(re.findall(r"^(?:first|second)=\((.+)\)$", ci, re.MULTILINE)).split()
    found = [path for part in parts for path in sorted(REPOSITORY.glob(part))]
    there = [REPOSITORY / "tests" / "browser", *(REPOSITORY / "tests/cluster").glob("test_*.py")]
    assert sorted(found) == sorted(there)
    assert "rsr-ray demo" in ci
