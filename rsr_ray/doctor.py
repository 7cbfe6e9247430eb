"""doctor: what a run needs, looked at before a GPU-hour is spent, and what it would cost.

Every check ends in a finding: ok, a warning, or a failure that says what to do. Nothing is scored into the store.
"""

import dataclasses
import json
import os
import shutil
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rsr_ray.aside import Aside, Ended
from rsr_ray.cluster import Resources, connect, room_for, take
from rsr_ray.config import ScoreConfig
from rsr_ray.encode import Found, How, finder, reject_of, tokenize
from rsr_ray.errors import RunError, UserError
from rsr_ray.lm_head_reference import token_stats_reference
from rsr_ray.objects import InputObject, open_filesystem, protocol_of
from rsr_ray.plan import make_plan
from rsr_ray.read import PARQUET, Unreadable, canonical, find_corpus, iter_trajectories
from rsr_ray.score import Work, score_rows
from rsr_ray.shapes import BadRow, Turn
from rsr_ray.store import Store
from rsr_ray.student import Student, StudentFacts, inspect_student, load_tokenizer, resolve

SAMPLE = 10  # rows that are encoded and shown
CHECKED_TOKENS = 64
MEASURED_TOKENS = {"cuda": 65536, "cpu": 2048}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LARGE = 4 << 30  # weights above this are not loaded where there is no GPU
PROBE = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "<think>\nYes.\n</think>\n\nI am."},
]
SHORT = [PROBE[0], {"role": "assistant", "content": "It is 4."}]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found: `level` is ok, warning or failure."""

    check: str
    level: str
    says: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """A row of the sample: its rendered text and the [start, stop) in characters of what is scored, or why it is rejected."""

    trajectory_id: str
    text: str
    spans: list[tuple[int, int]]
    reject: str | None


class Doctor:
    """One examination of the settings of a run. `examine` fills `findings`, `shown` and `estimate`."""

    def __init__(self, config: ScoreConfig):
        self.config = config
        self.findings: list[Finding] = []
        self.shown: list[Shown] = []
        self.estimate: dict[str, Any] = {}
        self.ids: list[np.ndarray] = []
        self.spans: list[np.ndarray] = []
        self.n_rows = 0.0
        self.aside: Aside | None = None
        self.endless = False  # the template took too long for a conversation of two words

    @property
    def failed(self) -> bool:
        return any(finding.level == "failure" for finding in self.findings)

    def examine(self) -> None:
        """Every check that can still be made after those that failed."""
        facts = self.look_at("student", self.student)
        rows = self.look_at("corpus", self.corpus)
        if facts:
            self.look_at("template", self.template, facts)
            if rows and not self.endless:
                self.look_at("rows", self.rows, facts, rows)
            if self.aside:
                self.aside.close()
        resources = self.look_at("cluster", self.cluster)
        if resources and facts:
            self.look_at("store", self.store, facts, resources)
            if self.look_at("memory and disk", self.room, facts, resources):
                self.look_at("engine", self.engine, facts, resources)
            if rows and self.ids:
                self.look_at("estimate", self.cost, facts, resources)

    def look_at(self, check: str, how: Any, *args: Any) -> Any:
        """What a check returns; None where it fails, which is a finding and no end."""
        try:
            return how(*args)
        except (UserError, RunError, OSError, BadRow) as e:
            self.say(check, "failure", str(e))
        except Exception as e:  # a student's own files can break a library in any way
            self.say(check, "failure", f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")
        return None

    def say(self, check: str, level: str, says: str) -> None:
        self.findings.append(Finding(check, level, says))

    def find(self, facts: StudentFacts, turns: list[Turn], tools: list | None = None) -> Found:
        """What `encode.find` gives, by a process aside: the template may never end. Raises BadRow."""
        self.aside = self.aside or Aside(finder, facts.source, How.of(self.config, facts))
        try:
            return self.aside.ask((turns, tools))
        except Ended as e:
            self.endless = e.over_time and turns == SHORT
            raise reject_of(e) from None

    # --- the checks ---------------------------------------------------------------------------------------------------

    def student(self) -> StudentFacts:
        config = self.config
        facts = inspect_student(config.student, config.trust_remote_code, config.template_text)
        tokenizer = load_tokenizer(facts.source, config.template_text, facts.text_hash)
        own = json.loads(Path(resolve(facts.source), "config.json").read_text())
        ends = own.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [ends]
        said = f"{facts.vocab_size:,} rows in the head, {len(tokenizer):,} tokens in the tokenizer, context {facts.context_length:,}"
        if None not in ends and tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
            said += f"; the tokenizer ends with token {tokenizer.eos_token_id}, the model with {ends}: are they of one student?"
            self.say("student", "warning", said)
        else:
            self.say("student", "ok", said)
        return facts

    def corpus(self) -> list[dict[str, Any]]:
        """Rows from shards all over the corpus, canonical."""
        config = self.config
        objects, skipped = find_corpus(config.corpus, config.s3_endpoint, config.store)
        if skipped:
            self.say("corpus", "warning", skipped)
        plan = make_plan(objects, config.s3_endpoint, config.reading)
        shape = plan.shape
        for note in plan.notes:
            self.say("corpus", "warning", note)
        chosen = [objects[i] for i in sorted({int(i) for i in np.linspace(0, len(objects) - 1, SAMPLE)})]
        each, rows, weights = -(-SAMPLE // len(chosen)), [], []
        for obj in chosen:
            some = []
            for n, row in enumerate(iter_trajectories(obj, config.s3_endpoint, config.reading)):
                if isinstance(row, Unreadable) and row.shard:
                    self.say("corpus", "failure", f"{obj.uri}: {row.detail}; mend or remove it, or its unreadable rows are rejected")
                if n == each:
                    break
                some.append(row)
            rows += [canonical(row, obj, n, config.reading) for n, row in enumerate(some)]
            if some:
                weights.append(obj.size / self.rows_of(obj, some))
        self.n_rows = sum(obj.size for obj in objects) / (sum(weights) / len(weights)) if weights else 0.0
        teachers = {row["teacher"] or "none" for row in rows}
        size = sum(obj.size for obj in objects) / 1e6
        named = f"{len(teachers)} teachers in a sample of {len(rows)} rows: {', '.join(sorted(teachers)[:8])}"
        self.say("corpus", "ok", f"{shape} -> messages; {len(objects):,} shards, {size:,.1f} MB; {named}")
        return rows

    def rows_of(self, obj: InputObject, some: list[Any]) -> float:
        """About how many rows an object has, from its footer or from what some of its rows take."""
        if obj.uri.lower().endswith(PARQUET):
            fs, path = open_filesystem(obj.uri, self.config.s3_endpoint)
            with fs.open_input_file(path) as file:
                return max(1, pq.ParquetFile(file).metadata.num_rows)
        text = "".join(json.dumps(row, default=str) for row in some).encode()
        packed = obj.uri.lower().endswith((".gz", ".zst", ".bz2"))
        return max(1.0, obj.size / ((len(zlib.compress(text)) if packed else len(text)) / len(some)))

    def template(self, facts: StudentFacts) -> None:
        how = How.of(self.config, facts)
        tokenizer = load_tokenizer(facts.source, how.chat_template, how.proof)
        text, *_ = self.find(facts, SHORT)
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        if tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False).replace(" ", "") != text.replace(" ", ""):
            self.say(
                "template", "warning", "a rendered conversation, encoded and decoded, is another text: does the tokenizer know all its characters?"
            )
        kept = []
        for turns, name in ((PROBE[:2], "the last answer"), (PROBE, "earlier answers")):
            try:
                self.find(facts, turns)
            except BadRow as e:
                if e.reason != "template_drops_response":
                    raise
                self.say(
                    "template", "warning", f"the chat template drops the reasoning of {name}: such rows are rejected; --render verbatim keeps it"
                )
                return
            kept.append(name)
        self.say("template", "ok", f"keeps the text of every answer, the reasoning of {' and '.join(kept)} included")

    def rows(self, facts: StudentFacts, rows: list[dict[str, Any]]) -> None:
        how = How.of(self.config, facts)
        tokenizer = load_tokenizer(facts.source, how.chat_template, how.proof)
        rejects: Counter[str] = Counter()
        for row in rows:
            if row["reject_reason"]:
                rejects[f"{row['reject_reason']} ({row['reject_detail']})"] += 1
                self.shown.append(Shown(row["trajectory_id"], "", [], row["reject_detail"]))
                continue
            turns, tools = json.loads(row["messages"]), json.loads(row["tools"]) if row["tools"] else None
            try:
                text, at, _ = found = self.find(facts, turns, tools)
                ids, spans, *_ = tokenize(found, tokenizer, how)
            except BadRow as e:
                rejects[f"{e.reason} ({e})"] += 1
                self.shown.append(Shown(row["trajectory_id"], "", [], str(e)))
                continue
            self.ids.append(ids)
            self.spans.append(spans)
            self.shown.append(Shown(row["trajectory_id"], text, at, None))
        share = rejects.total() / max(1, len(rows))
        common = "; ".join(f"{n} {reason}" for reason, n in rejects.most_common(3))
        level = "failure" if share > self.config.max_rejects else "warning" if rejects else "ok"
        said = f"{len(rows) - rejects.total()} of {len(rows)} sampled rows can be scored"
        self.say("rows", level, said + (f"; rejected: {common}" if rejects else ""))

    def store(self, facts: StudentFacts, resources: Resources) -> None:
        config = self.config
        store = Store(config.store, str(config.student_name), config.s3_endpoint)
        store.check_writable("doctor")
        fingerprint = config.fingerprint(facts, resources.dtype, config.length_limit(facts))
        units = store.units_under(fingerprint, new_generation=config.new_generation)
        self.say("store", "ok", f"can be read and written; {len(units):,} work units are there under these settings")

    def cluster(self) -> Resources:
        import ray

        with connect(self.config.ray_address, self.config.log):
            resources = take(self.config)
            have, room = ray.cluster_resources(), room_for(resources.gpus_per_replica)
        size = f"{have.get('CPU', 0.0):g} CPUs, {have.get('GPU', 0):g} GPUs"
        said = f"{size}; {resources.replicas} replicas of {resources.gpus_per_replica} GPUs in {resources.dtype}"
        if resources.replicas > room:
            self.say(
                "cluster", "failure", f"{said}: only {room} fit now; a cluster that scales up may still bring them, others need fewer --replicas"
            )
        else:
            self.say("cluster", "ok", said)
        return resources

    def room(self, facts: StudentFacts, resources: Resources) -> bool:
        """Whether the student can be loaded here."""
        import torch

        need = n_parameters(facts.source) * BYTES[resources.dtype]
        if torch.cuda.is_available():
            have, where = torch.cuda.get_device_properties(0).total_memory * max(1, resources.gpus_per_replica), "GPU memory a replica"
        else:
            have, where = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // max(1, resources.replicas), "memory of this machine a replica"
        said = f"weights {need / 2**30:,.2f} GiB in {resources.dtype}, {where} {have / 2**30:,.1f} GiB"
        if need > 0.9 * have:
            self.say("memory and disk", "failure", f"{said}: fewer --replicas, --gpus-per-replica, or --quantize")
            return False
        if protocol_of(self.config.store) == "file":
            folder = Path(self.config.store)
            while not folder.exists():
                folder = folder.parent
            free = shutil.disk_usage(folder).free
            needed = self.n_rows * 200
            said += f"; {free / 2**30:,.1f} GiB free beside the store"
            if free < needed:
                self.say("memory and disk", "failure", f"{said}, about {needed / 2**30:,.1f} GiB are needed")
                return True
        self.say("memory and disk", "ok", said)
        if need > LARGE and not torch.cuda.is_available():
            self.say("engine", "warning", "not checked: this machine has no GPU to load it on (ray job submit --entrypoint-num-gpus 1 has one)")
            return False
        return True

    def engine(self, facts: StudentFacts, resources: Resources) -> None:
        """The engine against the full logits on 64 tokens, a batch against single rows, and its speed on the sample."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        student = Student(
            facts.source, resources.dtype, device, trust_remote_code=self.config.trust_remote_code, quantize=self.config.quantize, expected=facts
        )
        rng = np.random.default_rng(0)
        ids = self.ids or [rng.integers(0, facts.vocab_size, CHECKED_TOKENS).astype(np.int32) for _ in range(3)]
        short = [row[: CHECKED_TOKENS + 1] for row in ids[:3]]
        spans = [np.array([1, len(row)], np.int32) for row in short]
        r_max = self.config.r_max
        with torch.inference_mode():
            logits = student.logits(student.hidden(short[0][None, :-1].astype(np.int64)).flatten(0, 1))
            rank, surprisal, *_ = token_stats_reference(logits, torch.from_numpy(short[0][1:].astype(np.int64)).to(logits.device))
        alone = [score_rows(student, [row], [span], Work(resources.batch_tokens), r_max) for row, span in zip(short, spans, strict=True)]
        together = score_rows(student, short, spans, Work(resources.batch_tokens), r_max)
        if not np.isfinite(together["surprisal_sum"]).all():
            raise RunError("the student's logits are not finite numbers: are its weights whole?")
        off = abs(float(surprisal.sum()) / float(alone[0]["surprisal_sum"][0]) - 1)
        ranks = abs(int(rank.clamp_max(r_max).sum()) - int(alone[0]["rank_sum"][0]))
        apart = max(abs(float(a["surprisal_sum"][0]) / float(b) - 1) for a, b in zip(alone, together["surprisal_sum"], strict=True))
        budget = 1e-5 if resources.dtype == "float32" else 1e-2
        said = f"{len(short[0]) - 1} tokens: ranks {ranks} off the full logits, surprisals {off:.0e}; a batch is {apart:.0e} off single rows"
        if off > budget or apart > budget or ranks > (1 if resources.dtype == "float32" else 0.05 * int(rank.clamp_max(r_max).sum())):
            raise RunError(f"{said}: more than rounding explains ({budget:g})")
        self.say("engine", "ok", said)
        if self.ids:
            measured: list[int] = []
            total = 0
            for i in np.argsort([len(row) for row in self.ids]):
                total += len(self.ids[i])
                if measured and total > MEASURED_TOKENS[device]:
                    break
                measured.append(int(i))
            begun = time.monotonic()
            score_rows(student, [self.ids[i] for i in measured], [self.spans[i] for i in measured], Work(resources.batch_tokens), r_max)
            self.estimate |= {"device": device, "tokens_per_second": sum(len(self.ids[i]) for i in measured) / (time.monotonic() - begun)}

    def cost(self, facts: StudentFacts, resources: Resources) -> None:
        tokens = self.n_rows * float(np.mean([len(row) for row in self.ids]))
        work = 2.0 * n_parameters(facts.source) * tokens
        said = f"about {self.n_rows:,.0f} trajectories, {tokens / 1e6:,.1f} M tokens, {work / 1e15:,.3g} PFLOP"
        self.estimate |= {"trajectories": self.n_rows, "tokens": tokens, "flop": work, "replicas": resources.replicas}
        on_gpus = bool(resources.gpus_per_replica)
        if "tokens_per_second" in self.estimate and (self.estimate["device"] == "cuda") == on_gpus:
            hours = tokens / self.estimate["tokens_per_second"] / resources.replicas / 3600
            self.estimate["hours"] = hours
            speed = f"{self.estimate['tokens_per_second']:,.0f} tokens/s a replica, from a short sample"
            time_needed = f"{hours:,.1f} hours" if hours > 1 else f"{hours * 60:,.1f} minutes"
            self.say("estimate", "ok", f"{said}; {time_needed} on {resources.replicas} replicas ({speed})")
        else:
            self.say("estimate", "warning", f"{said}; no time: the speed of a GPU replica was not measured here")


def n_parameters(source: str) -> int:
    """Numbers in the student's weights, from the headers of its files."""
    from safetensors import safe_open

    total = 0
    for path in Path(resolve(source)).glob("*.safetensors"):
        with safe_open(str(path), framework="np") as file:
            total += sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
    return total
