"""The settings of `rsr-ray score` and `rsr-ray preview`."""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsr_ray.config.fingerprint import fingerprint_of
from rsr_ray.config.options import (
    S3_ENDPOINT,
    as_mapping,
    check_column_pairs,
    check_least,
    check_role_pairs,
    check_segments,
    option,
    settle,
    short_name,
)
from rsr_ray.corpus.images import Media
from rsr_ray.corpus.reading import Reading, check_teacher_from
from rsr_ray.corpus.shapes import COLUMNS as NAMES
from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute, endpoint_of
from rsr_ray.metrics import REGISTRY
from rsr_ray.store.beside import NOTHING, Beside, HashOf, Named, kept_under
from rsr_ray.store.run_record import RunRecord
from rsr_ray.student.facts import StudentFacts
from rsr_ray.student.model import DTYPES, QUANTIZE
from rsr_ray.student.tokenizer import CHAT_TEMPLATES

STEPS = ("sentence", "paragraph")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `rsr-ray score` does."""

    corpus: tuple[str, ...] = option(
        "shards, folders or globs: paths, s3://..., hf://datasets/..., or any fsspec URI",
        metavar="URI",
    )
    student: str = option("folder or hub id (org/name, org/name@revision) of the student")
    store: str = option("folder or URI for the scores")
    student_name: str | None = option(
        "name of the student in the store; default: the last part of --student", None
    )
    teacher: str | None = option(
        "teacher of every row; default: the teacher column, else a teacher=NAME/ folder, else "
        "the shard's folder",
        None,
    )
    teacher_from: str | None = option(
        "part of the path that names the teacher: file, folder, folder:2 (the one above), or a "
        "pattern such as {teacher}/*/*.jsonl",
        None,
    )
    columns: tuple[str, ...] = option(
        "map columns with other names: response=completion; or paths: prompt_id=meta.task; "
        "several answers per row: response={teacher}_attempt, response=solution_{sample}; "
        "names: " + ", ".join(NAMES),
        (),
        metavar="NAME=COLUMN",
    )
    roles: tuple[str, ...] = option(
        "map roles with other names: critic=assistant", (), metavar="NAME=ROLE"
    )
    media_root: str | None = option(
        "folder or bucket below which the paths of images lie; nothing outside it is opened", None
    )
    allow_http_media: bool = option("fetch images that rows name by http(s) URLs", False)
    chat_template: str | None = option(
        f"file with a Jinja chat template, or {', '.join(CHAT_TEMPLATES)}; default: the student's "
        "own",
        None,
    )
    render: str = option(
        "how assistant text is rendered: template applies the chat template to it, verbatim "
        "inserts it unchanged between the template's headers, raw takes prompt and answer as "
        "they are (for prompts that are already rendered)",
        "template",
        choices=("template", "verbatim", "raw"),
    )
    system_prompt: str | None = option("system turn to add to conversations without one", None)
    system_role: str = option(
        "what to do with system turns if the template has none: merge them into the first user "
        "turn, drop them, or refuse the row",
        "merge",
        choices=("merge", "drop", "refuse"),
    )
    metrics: str = option(
        "extra metrics that need additional forward passes, separated by commas (currently only "
        "local_naturalness); all others are always computed",
        "rsr",
    )
    steps: str = option("unit of a reasoning step for local_naturalness", "sentence", choices=STEPS)
    step_window: float = option(
        "preceding steps used as context for a step in local_naturalness; below 1: a share of "
        "all preceding steps",
        4.0,
    )
    token_scores: bool = option(
        "also store the rank, surprisal and entropy of every token, about 13 bytes per token, "
        "in the folder tokens; added to scores of earlier runs, which stay as they are",
        False,
    )
    r_max: int = option("clip token ranks at N", 100)
    dtype: str = option(
        "dtype of the student; auto: that of the scores already in the store, else bfloat16 on "
        "GPUs and float32 on CPUs",
        "auto",
        choices=("auto", *DTYPES),
    )
    max_length: int | None = option(
        "maximum length of a row in tokens; default: the student's context length", None
    )
    over_length: str = option(
        "what to do with longer rows: reject them, truncate them, or score them in windows that "
        "overlap by half",
        "reject",
        choices=("reject", "truncate", "window"),
    )
    replicas: int | None = option(
        "number of student replicas; default: one per GPU (per CPU without GPUs), or fewer if "
        "there is little to score",
        None,
    )
    gpus_per_replica: int | None = option(
        "number of GPUs per replica; default: 1 if the cluster has GPUs", None
    )
    quantize: str | None = option(
        "quantize the weights; needs pip install 'rsr_ray[quantize]'",
        None,
        choices=tuple(QUANTIZE),
    )
    batch_tokens: int | None = option(
        "maximum positions per batch, padding included; default: 32768 on a GPU, 4096 on a CPU",
        None,
    )
    per_turn: bool = option(
        "also store the sums of each assistant turn, in the column turns; added as --token-scores",
        False,
    )
    stratum: tuple[str, ...] = option(
        "also store the values of these columns or paths, e.g. source or meta.domain; "
        "`teachers --by-stratum COLUMN` ranks by it",
        (),
        metavar="COLUMN",
    )
    segments: bool = option(
        "also store the sums of reasoning, answer text and tool calls, in the column segments; "
        "added as --token-scores",
        False,
    )
    segment: tuple[str, ...] = option(
        "also store the sums of what a regular expression (or its groups) matches in the "
        "assistant's text, as a segment of this name; the first expression that matches wins",
        (),
        metavar="NAME=REGEX",
    )
    max_rejects: float = option(
        "exit with code 1 if more than this share of rows is rejected; the run still completes",
        0.05,
    )
    unit_rows: int = option(
        "rows per work unit, which is one file of the store; a lost replica repeats at most one "
        "unit",
        256,
    )
    s3_endpoint: str | None = option(S3_ENDPOINT, None)
    ray_address: str | None = option(
        "Ray cluster to use; default: RAY_ADDRESS, else a local one is started", None
    )
    pushgateway: str | None = option(
        "Prometheus Pushgateway to push the figures of score and nightly to when they end, also "
        "if they fail; they are in status.prom in the store in any case",
        None,
        metavar="URL",
    )
    log: str = option(
        "format of progress and logs; json: one object per line, with the run's id",
        "text",
        choices=("text", "json"),
    )
    verbose: bool = option("also show Ray's own progress bars and messages", False)
    new_generation: bool = option(
        "score everything again if the store has scores of this student under other settings", False
    )
    trust_remote_code: bool = option("allow running Python code that comes with the student", False)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "corpus", tuple(absolute(uri) for uri in self.corpus))
        object.__setattr__(self, "store", self.store and absolute(self.store))
        object.__setattr__(self, "media_root", self.media_root and absolute(self.media_root))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        object.__setattr__(
            self,
            "student_name",
            self.student_name or short_name(self.student),
        )
        object.__setattr__(self, "stratum", tuple(sorted({*self.stratum})))
        check_column_pairs(self.columns)
        check_role_pairs(self.roles)
        check_segments(self.segment)
        self._check_teacher()
        if not self.corpus:
            raise UserError("--corpus is missing: name at least one shard, folder or glob")
        if self.render == "raw" and self.system_prompt:
            raise UserError(
                "--system-prompt cannot be used with --render raw, which adds nothing to a "
                "prompt; leave it out"
            )
        if unknown := [name for name in self.metrics.split(",") if name not in REGISTRY]:
            raise UserError(
                f"--metrics {','.join(unknown)}: no such metric; rsr-ray metrics lists them"
            )
        self._check_numbers()

    def _check_teacher(self) -> None:
        """Raise UserError for a rule that names no teacher, or for two that name one."""
        if self.teacher_from:
            check_teacher_from(self.teacher_from)
        in_columns = any("{teacher}" in pair for pair in self.columns)
        if self.teacher and (self.teacher_from or in_columns):
            raise UserError(
                "--teacher cannot be combined with --teacher-from or {teacher} in --columns; "
                "pass only one"
            )

    def _check_numbers(self) -> None:
        """Raise UserError for numbers out of range, and for --quantize without its package."""
        if not 0 < self.step_window < math.inf or (
            self.step_window > 1 and self.step_window != int(self.step_window)
        ):
            raise UserError(
                f"--step-window {self.step_window:g}: must be a whole number of steps (1 or "
                "more) or a share of the preceding steps (between 0 and 1)"
            )
        package = QUANTIZE.get(self.quantize or "")
        if package and importlib.util.find_spec(package) is None:
            raise UserError(
                f"--quantize {self.quantize} needs {package}, here and on the cluster: pip install "
                "'rsr_ray[quantize]'"
            )
        if not 0 <= self.max_rejects <= 1:
            raise UserError(f"--max-rejects {self.max_rejects}: must be between 0 and 1")
        if self.pushgateway and not self.pushgateway.startswith(("http://", "https://")):
            raise UserError(
                f"--pushgateway {self.pushgateway}: must start with http:// or https://"
            )
        counts = ("r_max", "max_length", "replicas", "gpus_per_replica", "batch_tokens")
        check_least(self, 1, *counts, "unit_rows")

    @property
    def local(self) -> bool:
        """Whether local naturalness is asked for."""
        return "local_naturalness" in self.metrics.split(",")

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "ScoreConfig":
        """The settings of a run, as its record has them; those of other commands are left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in names})

    @functools.cached_property
    def named_segments(self) -> Named | None:
        """Name and expression of each named segment; None if no segments are asked for."""
        return self.beside.segments

    @property
    def reading(self) -> Reading:
        """How these settings say that rows are read."""
        return Reading(
            self.teacher,
            self.teacher_from,
            as_mapping(self.columns),
            as_mapping(self.roles),
            self.stratum,
            Media(self.media_root, self.allow_http_media),
        )

    def reading_for(self, student: StudentFacts) -> Reading:
        """How rows are read for a student, which may not see."""
        return dataclasses.replace(self.reading, sees=student.sees)

    def length_limit(self, student: StudentFacts) -> int:
        """Tokens above which a row is over length: never more than the student's context."""
        return min(self.max_length or student.context_length, student.context_length)

    @functools.cached_property
    def template_text(self) -> str | None:
        """The text of the given chat template, if any. Raises UserError.

        It is read once: what is hashed is what is used.
        """
        if self.chat_template is None or self.chat_template in CHAT_TEMPLATES:
            return CHAT_TEMPLATES.get(self.chat_template or "")
        try:
            with open(self.chat_template) as file:
                return file.read()
        except (OSError, UnicodeError) as e:
            raise UserError(
                f"--chat-template {self.chat_template}: not one of {', '.join(CHAT_TEMPLATES)}, "
                f"and cannot be read as a file: {e}"
            ) from e

    @property
    def beside(self) -> Beside:
        """What is asked for beside the scores."""
        return Beside.of(vars(self))

    def hash_of(self, student: StudentFacts, dtype: str, max_length: int) -> HashOf:
        """The fingerprint of these scores with something kept beside them, as earlier versions
        had it.
        """
        return functools.partial(fingerprint_of, self, student, dtype, max_length)

    def fingerprint(self, student: StudentFacts, dtype: str, max_length: int) -> str:
        """Hash of all that decides a score; scores of two fingerprints never mix silently."""
        return self.hash_of(student, dtype, max_length)(NOTHING)

    def has_made(self, run: RunRecord, student: StudentFacts, dtype: str, max_length: int) -> bool:
        """Whether the scores of a run are those that these settings give."""
        hash_of = self.hash_of(student, dtype, max_length)
        return kept_under(run.fingerprint, hash_of, run.asked) is not None


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(ScoreConfig):
    """What `rsr-ray preview` does: settings of a run, of which it needs no store."""

    store: str | None = option(  # type: ignore[assignment]
        "not needed; files of a store inside the corpus are skipped", None
    )
    rows: int = option("number of trajectories to show, spread over the corpus", 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "rows")
