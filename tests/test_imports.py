"""Importing is free, and the maths knows nothing of storage."""

import ast
import subprocess
import sys

import pytest

from .conftest import REPOSITORY

HEAVY = {"torch", "transformers", "ray", "pyarrow"}
ALLOWED = {
    "rsr_ray": set(),
    "rsr_ray.cli": set(),
    "rsr_ray.engine.lm_head": set(),
    "rsr_ray.engine.lm_head_reference": set(),
    "rsr_ray.engine.scoring": set(),
    "rsr_ray.engine.steps": set(),
    "rsr_ray.engine.sums": set(),
    "rsr_ray.engine.windows": set(),
    "rsr_ray.engine.batching": set(),
    "rsr_ray.decide.paper": set(),
    "rsr_ray.race.elimination": {"pyarrow"},
    "rsr_ray.student.facts": set(),
    "rsr_ray.student.model": set(),
    "rsr_ray.corpus.units": {"pyarrow"},
    "rsr_ray.store.store": {"pyarrow"},
    "rsr_ray.config.load": {"pyarrow"},
    "rsr_ray.encode.encode": {"pyarrow"},
    "rsr_ray.run.local": {"pyarrow"},
    "rsr_ray.run.score": {"pyarrow"},
}


@pytest.mark.parametrize("allowed", [set(), {"pyarrow"}], ids=str)
def test_importing_brings_nothing_heavy(allowed):
    """Modules that may bring the same are imported by one process, one after the other: what the
    first to bring anything brings is told as its own.
    """
    modules = [module for module, may in ALLOWED.items() if may == allowed]
    code = "import sys\nfor module in sys.argv[1:]:\n"
    code += f"    __import__(module); print(module, *sorted({HEAVY} & set(sys.modules)))"
    command = [sys.executable, "-c", code, *modules]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    loaded = {module: set(heavy) for module, *heavy in map(str.split, told)}
    assert list(loaded) == modules
    for module, heavy in loaded.items():
        assert heavy <= allowed, f"{module} imports {heavy}"


def test_every_module_is_imported_for_what_it_may_bring():
    assert {frozenset(may) for may in ALLOWED.values()} == {frozenset(), frozenset({"pyarrow"})}


FLOORS = [
    "errors",
    "guard",
    "credentials metrics schema",
    "codes unit_rows watch files",
    "student engine",
    "store",
    "corpus",
    "config",
    "encode",
    "decide",
    "run",
    "race choose",
    "arms",
    "report",
    "nightly bench demo",
    "cli",
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
# What a folder never imports, nor inside a function.
NEVER = {
    "files": {"torch", "transformers", "ray"},
    "student": {"pyarrow", "ray"},
    "engine": {"pyarrow", "ray", "transformers"},
    "store": {"torch", "transformers"},
    "corpus": {"torch", "transformers", "ray"},
    "config": {"numpy", "torch", "transformers", "ray"},
    "encode": {"torch", "ray"},
    "decide": {"torch", "transformers", "ray"},
    "report": {"transformers", "ray"},
}


def imported(path):
    """Every module that a file imports, also inside functions: (name, line)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"rsr_ray.{alias.name}" for alias in node.names]
                if node.module == "rsr_ray"
                else [node.module]
            )
            yield from ((name, node.lineno) for name in names)


def files_of(folder):
    return sorted((REPOSITORY / "rsr_ray" / folder).rglob("*.py")) or [
        REPOSITORY / "rsr_ray" / f"{folder}.py"
    ]


def test_every_module_has_a_floor():
    there = {
        path.relative_to(REPOSITORY / "rsr_ray").with_suffix("").parts[0]
        for path in (REPOSITORY / "rsr_ray").rglob("*.py")
    }
    assert there - {"__init__", "__main__"} == FLOOR.keys()


@pytest.mark.parametrize("folder", FLOOR)
def test_a_folder_imports_from_lower_floors_only(folder):
    for path in files_of(folder):
        for name, line in imported(path):
            package, _, rest = name.partition(".")
            top = rest.partition(".")[0]
            if package == "rsr_ray" and top in FLOOR and top != folder:
                assert FLOOR[top] < FLOOR[folder], f"{path}:{line} imports {name}"
            assert package not in NEVER.get(folder, ()), f"{path}:{line} imports {name}"
