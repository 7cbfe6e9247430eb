"""Settings from a YAML file and the command line."""

import dataclasses
import datetime
from typing import Any

import yaml

from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.options import called
from rsr_ray.config.score import ScoreConfig
from rsr_ray.config.settings import kinds_of, settled, shown
from rsr_ray.errors import UserError, did_you_mean

COMMON = {"store", "ray_address", "log", "s3_endpoint", "pushgateway"}  # to all students
Values = dict[str, Any]  # of settings by name, not looked at yet


def load_config(cls: type, path: str | None, given: Values) -> Any:
    """A config of dataclass `cls` from a YAML file, if any, and the options given, which win."""
    return _build(cls, read_yaml(path) if path else {}, given, path)


def load_nightly(path: str, given: Values, of_all: Values | None = None) -> NightlyConfig:
    """The nightly's YAML: options of `score` for all, `students` with those of each, its own.

    `given` are options of the night, `of_all` those of each student; they win.
    """
    values = read_yaml(path)
    own = {
        f.name: values.pop(f.name) for f in dataclasses.fields(NightlyConfig) if f.name in values
    }
    entries = own.pop("students", None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"--config {path}: students must be a list of mappings, each with student: and its "
            "own options"
        )
    entries = [_named(entry, path) for entry in entries]
    for entry in entries:
        if common := entry.keys() & COMMON:
            raise UserError(
                f"--config {path}: {', '.join(sorted(common))} must be the same for all "
                "students: move it to the top level, next to students:"
            )
    students = tuple(_build(ScoreConfig, values | entry, of_all or {}, path) for entry in entries)
    if isinstance(own.get("night"), datetime.date):
        own["night"] = str(own["night"])
    return _build(NightlyConfig, own, {"students": students, **given}, path)


def has_students(path: str) -> bool:
    """Whether a YAML file is that of a night. Raises UserError."""
    return "students" in read_yaml(path)


def read_yaml(path: str) -> Values:
    """A YAML file that holds a mapping. Raises UserError."""
    try:
        with open(path) as file:
            values = yaml.safe_load(file)
    except Exception as e:  # what a tag does not fit, and what is nested too deep, fails in any way
        raise UserError(
            f"--config {path}: cannot be read as YAML: {' '.join(str(e).split())[:300]}"
        ) from e
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: must hold a mapping of option names to values")
    return _named(values, path)


def _named(values: dict[Any, Any], path: str) -> Values:
    """Values by the names of settings: a key may be spelt like its option, with hyphens."""
    named: Values = {}
    for key, value in values.items():
        name = key.replace("-", "_") if isinstance(key, str) else key
        if name in named:
            raise UserError(f"--config {path}: {shown(name)} appears twice; remove one")
        named[name] = value
    return named


def _build(cls: type, values: Values, given: Values, path: str | None) -> Any:
    """A config from a file's values, which are checked, and those given, which win."""
    kinds = kinds_of(cls)
    for name, value in values.items():
        if name not in kinds:
            meant = did_you_mean(str(name), kinds)
            known = f"known: {', '.join(sorted(kinds))}"
            raise UserError(
                f"--config {path}: unknown key {shown(name)}; {f'{meant} ' * bool(meant)}{known}"
            )
        values[name] = settled(f"--config {path}: {name}", name, value, kinds[name])
    values = values | given
    required = [
        called(f)
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.name not in values
    ]
    if required:
        raise UserError(f"missing: {', '.join(required)}" + (f" (--config {path})" if path else ""))
    return cls(**values)
