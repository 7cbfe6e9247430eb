"""The settings of a run: one frozen dataclass behind the command line, the YAML file and the functions.

A field is an option (`--max-length`) and a YAML key (`max_length`); its `help` is what `--help` prints.
"""

import dataclasses
import datetime
import functools
import hashlib
import importlib.util
import json
import math
import re
import typing
from dataclasses import dataclass, field
from typing import Any

import yaml

from rsr_ray.elimination import MIN_PROMPTS
from rsr_ray.errors import UserError
from rsr_ray.metrics import CONTROLS, REGISTRY
from rsr_ray.objects import absolute, endpoint_of
from rsr_ray.reading import Reading, check_patterns, check_roles, check_teacher_from
from rsr_ray.schema import SCORES, SCORES_VERSION
from rsr_ray.settings import settled, shown
from rsr_ray.shapes import COLUMNS as NAMES
from rsr_ray.student import CHAT_TEMPLATES, DTYPES, QUANTIZE, StudentFacts

STEPS = ("sentence", "paragraph")
NIGHT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def option(help: str, default: Any = dataclasses.MISSING) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `rsr-ray score` does."""

    corpus: tuple[str, ...] = option("shard, folder or glob of the corpus: a path, s3://..., or any fsspec URI; may be repeated")
    student: str = option("folder or hub id (org/name, org/name@revision) of the student")
    store: str = option("folder or URI the scores are kept in")
    student_name: str | None = option("name of the student in the store; default: the last part of its path", None)
    teacher: str | None = option("teacher of every row; default: the teacher column, or the teacher=NAME/ folder, or the shard's folder", None)
    teacher_from: str | None = option("part of the path that names the teacher: file, folder, folder:2 (the one above), or {teacher}/*/*.jsonl", None)
    columns: tuple[str, ...] = option(
        "columns that go by another name: response=completion, prompt_id=meta.task; answers side by side: "
        "response={teacher}_attempt or response=solution_{sample}; names: " + ", ".join(NAMES),
        (),
    )
    roles: tuple[str, ...] = option("roles of turns that go by another name, as NAME=ROLE: critic=assistant", ())
    chat_template: str | None = option(f"file with a Jinja chat template, or {', '.join(CHAT_TEMPLATES)}; default: the student's own", None)
    render: str = option(
        "template: answers through the chat template; verbatim: only what is around them, the answers as they stand; "
        "raw: prompts are rendered already, and prompt and answer are taken as they stand",
        "template",
    )
    system_prompt: str | None = option("system turn for conversations that have none", None)
    system_role: str = option(
        "system turns under a template that has none: merge them into the first user turn, drop them, or refuse the row",
        "merge",
    )
    metrics: str = option("local_naturalness, with commas between several, adds what needs passes of its own; all others are always there", "rsr")
    steps: str = option("what a step of local naturalness is: sentence or paragraph", "sentence")
    step_window: float = option("steps before it that a step is scored with; under 1: this share of all before it", 4.0)
    token_scores: bool = option("keep rank, surprisal and entropy of each token as well, about 13 bytes a token, in the folder tokens", False)
    r_max: int = option("ranks above this count as this", 100)
    dtype: str = option(f"dtype of the student: {', '.join(DTYPES)}, or auto: bfloat16 on GPUs, float32 on CPUs", "auto")
    max_length: int | None = option("rows with more tokens than this are over length; default: the student's context length", None)
    over_length: str = option("reject them; truncate: score what fits, and count it; window: score all, in windows that overlap by half", "reject")
    replicas: int | None = option("student replicas; default: one a GPU, or one a CPU where there is no GPU", None)
    gpus_per_replica: int | None = option("GPUs a replica is spread over; default: 1 where the cluster has GPUs", None)
    quantize: str | None = option(f"load the student's weights as {' or '.join(QUANTIZE)}; needs pip install 'rsr_ray[quantize]'", None)
    batch_tokens: int | None = option("positions in a batch, padding included; default: 32768 on a GPU, 4096 on a CPU", None)
    per_turn: bool = option("keep the sums of each assistant turn as well, in the column turns", False)
    max_rejects: float = option("fail, after all is done, where more than this share of a run's rows was rejected", 0.05)
    unit_rows: int = option("rows in a work unit: what is lost when a replica dies, and one file of the store", 256)
    s3_endpoint: str | None = option("URL of an S3-compatible store; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL", None)
    ray_address: str | None = option("Ray cluster to use; default: RAY_ADDRESS, else a local one is started", None)
    log: str = option("text, or json: one JSON object a line, with the run's id, from the driver and in Ray's worker logs", "text")
    new_generation: bool = option("score under changed settings although the store holds this student's scores under others", False)
    trust_remote_code: bool = option("run Python code that comes with the student", False)

    def __post_init__(self) -> None:
        _settle(self)
        object.__setattr__(self, "corpus", tuple(absolute(uri) for uri in self.corpus))
        object.__setattr__(self, "store", self.store and absolute(self.store))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        object.__setattr__(self, "student_name", self.student_name or self.student.rstrip("/").split("/")[-1].split("@")[0])
        _check_columns(self.columns)
        _check_roles(self.roles)
        if self.teacher_from:
            check_teacher_from(self.teacher_from)
        if self.teacher and (self.teacher_from or any("{teacher}" in pair for pair in self.columns)):
            raise UserError("--teacher names it already: leave --teacher-from and {teacher} in --columns out, or --teacher")
        if not self.corpus:
            raise UserError("--corpus is missing: name at least one shard, folder or glob")
        if self.dtype not in ("auto", *DTYPES):
            raise UserError(f"--dtype {self.dtype}: choose auto, {', '.join(DTYPES)}")
        if self.render not in ("template", "verbatim", "raw"):
            raise UserError(f"--render {self.render}: choose template, verbatim or raw")
        if self.render == "raw" and self.system_prompt:
            raise UserError("--system-prompt: --render raw adds nothing to a prompt; leave it out")
        if unknown := [name for name in self.metrics.split(",") if name not in REGISTRY]:
            raise UserError(f"--metrics {','.join(unknown)}: no such metric; rsr-ray metrics lists them")
        if self.system_role not in ("merge", "drop", "refuse"):
            raise UserError(f"--system-role {self.system_role}: choose merge, drop or refuse")
        if self.steps not in STEPS:
            raise UserError(f"--steps {self.steps}: choose {' or '.join(STEPS)}")
        if not 0 < self.step_window < math.inf or (self.step_window > 1 and self.step_window != int(self.step_window)):
            raise UserError(f"--step-window {self.step_window:g}: a number of steps, 1 or more, or a share of the steps, under 1")
        if self.over_length not in ("reject", "truncate", "window"):
            raise UserError(f"--over-length {self.over_length}: choose reject, truncate or window")
        if self.log not in ("text", "json"):
            raise UserError(f"--log {self.log}: choose text or json")
        if self.quantize not in (None, *QUANTIZE):
            raise UserError(f"--quantize {self.quantize}: choose {' or '.join(QUANTIZE)}")
        spread = (self.gpus_per_replica or 1) > 1
        for wanted, package, extra in ((self.quantize, "bitsandbytes", "quantize"), (spread, "accelerate", "spread")):
            if wanted and importlib.util.find_spec(package) is None:
                raise UserError(f"this needs {package}, here and on the cluster: pip install 'rsr_ray[{extra}]'")
        if not 0 <= self.max_rejects <= 1:
            raise UserError(f"--max-rejects {self.max_rejects}: must be a share, 0 to 1")
        _check_least(self, 1, "r_max", "max_length", "replicas", "gpus_per_replica", "batch_tokens", "unit_rows")

    @property
    def local(self) -> bool:
        """Whether local naturalness is asked for."""
        return "local_naturalness" in self.metrics.split(",")

    @property
    def reading(self) -> Reading:
        """How these settings say that rows are read."""
        return Reading(self.teacher, self.teacher_from, _as_mapping(self.columns), _as_mapping(self.roles))

    def length_limit(self, student: StudentFacts) -> int:
        """Tokens above which a row is over length: never more than the student's context."""
        return min(self.max_length or student.context_length, student.context_length)

    @functools.cached_property
    def template_text(self) -> str | None:
        """The text of the chat template that is given, if any, read once: what is hashed is what is used. Raises UserError."""
        if self.chat_template is None or self.chat_template in CHAT_TEMPLATES:
            return CHAT_TEMPLATES.get(self.chat_template or "")
        try:
            with open(self.chat_template) as file:
                return file.read()
        except (OSError, UnicodeError) as e:
            raise UserError(f"--chat-template {self.chat_template}: not one of {', '.join(CHAT_TEMPLATES)}, and no file that can be read: {e}") from e

    def fingerprint(self, student: StudentFacts, dtype: str, max_length: int) -> str:
        """Hash of all that can change a score; scores of two fingerprints never mix silently."""
        facts = dataclasses.asdict(student)
        del facts["source"]
        facts |= {"system_prompt": self.system_prompt, "render": self.render, "over_length": self.over_length}
        if self.system_role != "merge":
            facts["system_role"] = self.system_role
        # What changes no score, but what is kept beside it.
        facts |= {name: True for name in ("per_turn", "token_scores") if getattr(self, name)}
        if self.local:
            facts |= {"steps": self.steps, "step_window": self.step_window}
            if self.over_length == "window":  # earlier versions cut the front off, the prompt too
                facts["step_context"] = "with prompt"
        facts["columns"] = [f"{field.name} {field.type}" for field in SCORES]  # what is kept of a row
        settings = {"version": SCORES_VERSION, "r_max": self.r_max, "dtype": dtype, "quantize": self.quantize, "max_length": max_length, **facts}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(ScoreConfig):
    """What `rsr-ray preview` does: settings of a run, of which it needs no store."""

    store: str | None = option(  # type: ignore[assignment]
        "not needed: files of a store inside the corpus are left out", None
    )
    rows: int = option("trajectories to show, from all over the corpus", 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_least(self, 1, "rows")


@dataclass(frozen=True, kw_only=True)
class RaceConfig(ScoreConfig):
    """What `rsr-ray race` does: the settings it scores with, and its own."""

    teachers: tuple[str, ...] = option("the teachers that race; default: all of the corpus", ())
    by: str = option("metric the best teacher is best by: any of one pass that has a direction and looks at no other answer", "rsr")
    confidence: float = option("confidence level of the answer: on the matched prompts no other teacher is better by more than the margin", 0.95)
    margin: float = option("teachers this share of the best one's value apart are as good as each other", 0.01)
    budget: float = option("share of the cost of scoring every matched prompt; a round that would go beyond is not begun", 1.0)
    first_round: int | None = option("prompts in the first round; default: 2% of them, and enough to show what 4% of a teacher's answers do", None)
    seed: int = option("decides the order in which prompts are scored", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        metric = REGISTRY.get(self.by)
        if metric is None or metric.better == "-" or metric.within_prompt or self.by == "local_naturalness":
            known = [m.name for m in REGISTRY.values() if m.better != "-" and not m.within_prompt and m.name != "local_naturalness"]
            raise UserError(f"--by {self.by}: teachers race by {', '.join(known)}")
        if len({*self.teachers}) == 1:
            raise UserError(f"--teachers {self.teachers[0]}: a race needs at least two")
        if not 0.5 < self.confidence < 1:
            raise UserError(f"--confidence {self.confidence:g}: must lie between 0.5 and 1")
        if not 0 <= self.margin < 1:
            raise UserError(f"--margin {self.margin:g}: must be a share, from 0 and under 1")
        if not 0 < self.budget <= 1:
            raise UserError(f"--budget {self.budget:g}: must be a share, above 0 and up to 1")
        if self.first_round is not None and self.first_round < MIN_PROMPTS:
            raise UserError(f"--first-round {self.first_round}: must be at least {MIN_PROMPTS}: fewer prompts decide nothing")
        _check_least(self, 0, "seed")


@dataclass(frozen=True, kw_only=True)
class ChooseConfig:
    """What `rsr-ray choose` does."""

    store: str = option("folder or URI the scores are kept in")
    student: str = option("name of the student in the store")
    out: str = option("folder or URI the chosen set is written to; it must be new or empty")
    by: str = option(f"metric the best are chosen by (rsr-ray metrics lists them), or a control: {', '.join(CONTROLS)}", "rsr")
    k: int = option("trajectories a prompt, over all its teachers and samples", 1)
    max_share: float | None = option("no teacher gives more than this share of the chosen set", None)
    teachers: tuple[str, ...] = option("choose from these teachers only", ())
    exclude_teachers: tuple[str, ...] = option("choose from all but these teachers", ())
    min_tokens: int | None = option("leave out trajectories of fewer scored tokens", None)
    max_tokens: int | None = option("leave out trajectories of more scored tokens", None)
    keep_incomplete: bool = option("keep answers that the corpus says are cut off (complete, finish_reason, stop_reason, truncated)", False)
    complete_only: bool = option("leave out what was cut to the length limit as well", False)
    complete_column: str | None = option("column that says whether an answer is complete, in place of what was read with the scores", None)
    verified: str | None = option("column of the corpus that says whether an answer is correct; only rows where it does are chosen from", None)
    seed: int = option("seed of --by random and of the random choice every choice is compared with", 0)
    format: str = option("parquet or jsonl", "parquet")
    keep: tuple[str, ...] = option("columns of the corpus to keep, or none; default: all", ())
    columns: tuple[str, ...] = option("columns of the corpus that go by another name, as they were scored with: NAME=COLUMN", ())
    roles: tuple[str, ...] = option("roles of turns that go by another name, as they were scored with: NAME=ROLE", ())
    fingerprint: str | None = option("fingerprint of the scores, where the store holds several of the student", None)
    skip_missing: bool = option("leave out trajectories whose shard is gone, or was replaced since it was scored", False)
    overwrite: bool = option("replace the earlier choice in --out", False)
    s3_endpoint: str | None = option("URL of an S3-compatible store; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL", None)
    ray_address: str | None = option("Ray cluster to use; default: RAY_ADDRESS, else a local one is started", None)

    def __post_init__(self) -> None:
        _settle(self)
        for name in ("store", "out"):
            object.__setattr__(self, name, absolute(getattr(self, name)))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        _check_columns(self.columns)
        _check_roles(self.roles)
        if self.by not in CONTROLS and self.by not in REGISTRY:
            raise UserError(f"--by {self.by}: no such metric; choose {', '.join((*REGISTRY, *CONTROLS))}")
        if self.better == "-":
            raise UserError(f"--by {self.by}: it has no direction; choose longest or shortest")
        _check_least(self, 1, "k", "max_tokens")
        _check_least(self, 0, "min_tokens", "seed")
        if self.max_share is not None and not 0 < self.max_share <= 1:
            raise UserError(f"--max-share {self.max_share:g}: must be a share, above 0 and at most 1")
        if self.format not in ("parquet", "jsonl"):
            raise UserError(f"--format {self.format}: choose parquet or jsonl")
        if both := sorted({*self.teachers} & {*self.exclude_teachers}):
            raise UserError(f"--exclude-teachers {both[0]}: --teachers names it as well")
        for name in ("complete_only", "complete_column"):
            if self.keep_incomplete and getattr(self, name):
                raise UserError(f"--keep-incomplete: --{name.replace('_', '-')} leaves them out")
        if (self.min_tokens or 0) > (self.max_tokens or math.inf):
            raise UserError(f"--min-tokens {self.min_tokens} is above --max-tokens {self.max_tokens}: no trajectory is both")

    @property
    def better(self) -> str:
        """Which values of `by` are better: lower, or higher."""
        return CONTROLS[self.by][1] if self.by in CONTROLS else REGISTRY[self.by].better

    @property
    def reading(self) -> Reading:
        """How these settings say that rows are read."""
        return Reading(columns=_as_mapping(self.columns), roles=_as_mapping(self.roles))


def _settle(config: Any) -> None:
    """Every setting of a config as its type has it. Raises UserError."""
    kinds = typing.get_type_hints(type(config))
    for name, kind in kinds.items():
        option = f"--{name.replace('_', '-')}"
        object.__setattr__(config, name, settled(option, name, getattr(config, name), kind))


def _check_least(config: Any, least: int, *names: str) -> None:
    """Refuse numbers of a config that are less. Raises UserError."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def _check_columns(pairs: tuple[str, ...]) -> None:
    for pair in pairs:
        name, _, column = pair.partition("=")
        if name not in NAMES or not column:
            raise UserError(f"--columns {pair}: give NAME=COLUMN; the names are {', '.join(NAMES)}")
    check_patterns(_as_mapping(pairs))


def _check_roles(pairs: tuple[str, ...]) -> None:
    for pair in pairs:
        if "=" not in pair.strip("="):
            raise UserError(f"--roles {pair}: give NAME=ROLE")
    check_roles(_as_mapping(pairs))


def _as_mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    return {name: column for name, _, column in (pair.partition("=") for pair in pairs)}


@dataclass(frozen=True, kw_only=True)
class NightlyConfig:
    """What `rsr-ray nightly` does. `students` are whole score settings, each for one student, all on one store."""

    students: tuple[ScoreConfig, ...]
    night: str = option("name of the night; default: today's date in UTC", "")
    lease_seconds: int = option("a run that died blocks the next one for this long; a live one renews its lease three times as often", 300)
    wait: int = option("seconds to wait for another nightly run on the store; default: leave at once", 0)

    def __post_init__(self) -> None:
        _settle(self)
        object.__setattr__(self, "night", str(self.night or datetime.datetime.now(datetime.UTC).date()))
        if not NIGHT.fullmatch(self.night):
            raise UserError(f"--night {self.night!r}: use letters, digits, '.', '_' and '-'; nights are compared in the order of their names")
        if self.lease_seconds < 3:
            raise UserError(f"lease_seconds {self.lease_seconds}: must be at least 3")
        _check_least(self, 0, "wait")
        if not isinstance(self.students, tuple) or not all(isinstance(student, ScoreConfig) for student in self.students):
            raise UserError(f"students: {shown(self.students)} is no list of students, each with settings of its own")
        names = [student.student_name for student in self.students]
        if not names or len({*names}) < len(names):
            raise UserError(f"students: each needs a name of its own (student_name); given: {', '.join(map(str, names)) or 'none'}")


def load_config(cls: type, path: str | None, given: dict[str, Any]) -> Any:
    """A config of dataclass `cls` from a YAML file, if any, and the options given on the command line, which win."""
    return _build(cls, read_yaml(path) if path else {}, given, path)


def load_nightly(path: str, given: dict[str, Any]) -> NightlyConfig:
    """The nightly's YAML: options of `score` for all students, `students` with those of each, and the nightly's own."""
    values = read_yaml(path)
    own = {f.name: values.pop(f.name) for f in dataclasses.fields(NightlyConfig) if f.name in values}
    entries = own.pop("students", None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"--config {path}: students must be a list, each entry a mapping with student: and options of its own")
    for entry in entries:
        if common := entry.keys() & {"store", "ray_address", "log", "s3_endpoint"}:
            raise UserError(f"--config {path}: {', '.join(sorted(common))} is the same for all students: put it beside students:")
    students = tuple(_build(ScoreConfig, values | entry, {}, path) for entry in entries)
    if isinstance(own.get("night"), datetime.date):
        own["night"] = str(own["night"])
    return _build(NightlyConfig, own, {"students": students, **given}, path)


def read_yaml(path: str) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError."""
    try:
        with open(path) as file:
            values = yaml.safe_load(file)
    except Exception as e:  # what a tag does not fit, and what is nested too deep, fails in any way
        raise UserError(f"--config {path}: is no YAML that can be read: {' '.join(str(e).split())[:300]}") from e
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: must hold a mapping of option names to values")
    return values


def _build(cls: type, values: dict[str, Any], given: dict[str, Any], path: str | None) -> Any:
    """A config from a file's values, which are checked, and those given, which win."""
    kinds = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in kinds:
            raise UserError(f"--config {path}: unknown key {shown(name)}; known: {', '.join(sorted(kinds))}")
        values[name] = settled(f"--config {path}: {name}", name, value, kinds[name])
    values = values | given
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in values]
    if required:
        raise UserError(f"missing: {', '.join('--' + name.replace('_', '-') for name in required)}" + (f" (--config {path})" if path else ""))
    return cls(**values)
