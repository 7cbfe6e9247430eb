"""race: which teacher is best, from as few trajectories as the confidence allows.

    <store>/races/<race id>/round-<nn>/teacher=<name>/part-<nnnnn>.jsonl   the trajectories of a round, shards like any other
    <store>/races/<race id>/race.json                                      the answer

A pass over the corpus finds the matched prompts, those with an answer of every teacher. Each round's share of them is
written as shards and scored like any corpus into the same store, so what is there is done, and the same command goes on
with the same race. Who is still in after a round is elimination.py's to say.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.cluster import Resources, connect, take
from rsr_ray.config import RaceConfig
from rsr_ray.elimination import Elimination
from rsr_ray.errors import UserError
from rsr_ray.matched import Matched, build_index, digest, write_rows
from rsr_ray.metrics import REGISTRY
from rsr_ray.objects import InputObject, put
from rsr_ray.pipeline import score_corpus
from rsr_ray.read import check_readable, list_corpus
from rsr_ray.run import Run
from rsr_ray.store import Store
from rsr_ray.student import inspect_student
from rsr_ray.watch import log

RACE_VERSION = 1  # raised whenever the same settings would give another course of a race than before


def race(config: RaceConfig, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Find the best teacher; the record of the race, also stored. `say` gets the record of each round.

    Raises UserError and RunError as score_corpus does.
    """
    objects = list_corpus(config.corpus, config.s3_endpoint)
    check_readable(objects, config.s3_endpoint, config.column_names)
    student = inspect_student(config.student, config.trust_remote_code, config.template_text)
    store = Store(config.store, str(config.student_name), config.s3_endpoint)
    with connect(config.ray_address, config.log):
        resources = take(config)
        fingerprint = config.fingerprint(student, resources.dtype, config.length_limit(student))
        store.units_under(fingerprint, new_generation=config.new_generation)
        name = race_id(config, objects, fingerprint)
        store.check_writable(name)
        matched = Matched.of(build_index(config, objects), config.teachers, config.seed)
        course = Course(config, objects, matched, store, resources, name)
        while not course.state.finished and course.affordable:
            say(course.run_round())
    record = course.record() | {"fingerprint": fingerprint}
    put(f"{course.folder}/race.json", json.dumps(record, indent=1).encode(), config.s3_endpoint)
    return record


def race_id(config: RaceConfig, objects: list[InputObject], fingerprint: str) -> str:
    """The same for the same corpus and settings, whatever the budget, so that a race goes on where it was."""
    names = ("teacher", "columns", "teachers", "by", "confidence", "margin", "first_round", "seed", "student_name")
    settings = {name: getattr(config, name) for name in names} | {"teachers": sorted(config.teachers)}
    corpus = [[obj.uri, obj.version] for obj in objects]
    return digest([RACE_VERSION, fingerprint, settings, corpus])[:16]


class Course:
    """A race on its way: what was scored, and what it cost."""

    def __init__(self, config: RaceConfig, objects: list[InputObject], matched: Matched, store: Store, resources: Resources, name: str):
        self.config, self.objects, self.matched, self.store, self.resources = config, objects, matched, store, resources
        self.name, self.folder = name, f"{config.store}/races/{name}"
        self.metric = REGISTRY[config.by]
        self.state = Elimination(
            matched.teachers, len(matched.prompts), confidence=config.confidence, margin=config.margin, first_round=config.first_round
        )
        shape = (len(matched.prompts), len(matched.teachers))
        self.x, self.y, self.n = np.zeros(shape), np.zeros(shape), np.zeros(shape)  # sums over a teacher's answers, and how many
        self.t, self.p, self.chars = (matched.rows[name].to_numpy() for name in ("t", "p", "n_chars"))
        self.scored = np.zeros(len(self.t), bool)  # matched rows that went through the student
        self.rejected: Counter[str] = Counter()
        self.n_tokens = self.n_prompt_tokens = 0
        self.rounds: list[dict[str, Any]] = []

    def share(self, rows: np.ndarray) -> float:
        """Of the cost of scoring every matched trajectory; `rows` bool."""
        return float(self.chars[rows].sum() / max(self.chars.sum(), 1))

    def next_rows(self) -> np.ndarray:
        """The matched rows that the next round scores, bool."""
        ends, alive = [0, *self.state.ends], [self.matched.teachers.index(name) for name in self.state.alive]
        return (self.p >= ends[self.state.round]) & (self.p < ends[self.state.round + 1]) & np.isin(self.t, alive)

    @property
    def affordable(self) -> bool:
        """Whether the next round is within the budget. Raises UserError where not even the first is."""
        needed = self.share(self.scored | self.next_rows())
        if needed > self.config.budget and not self.rounds:
            enough = math.ceil(needed * 100) / 100
            raise UserError(
                f"--budget {self.config.budget:g}: the first round alone costs {needed:.1%} of scoring everything: give {enough:g} or more"
            )
        return needed <= self.config.budget

    def run_round(self) -> dict[str, Any]:
        """Score a round and decide; its record."""
        alive, rows = list(self.state.alive), self.next_rows()
        folder = f"{self.folder}/round-{self.state.round + 1:02d}"
        write_rows(self.config, self.objects, self.matched, rows, folder)
        # Every replica gets some units of a round, however small it is; their size changes no number.
        unit_rows = max(1, min(self.config.unit_rows, math.ceil(int(rows.sum()) / (4 * self.resources.replicas))))
        run = score_corpus(dataclasses.replace(self.config, corpus=(folder,), columns=(), teacher=None, unit_rows=unit_rows))
        self.scored |= rows
        self._add(run)
        end, columns = self.state.ends[self.state.round], [self.matched.teachers.index(name) for name in alive]
        n = self.n[:end, columns]
        x, y = (np.where(n > 0, side[:end, columns] / np.maximum(n, 1), np.nan) for side in (self.x, self.y))
        self.state.update(self.metric.order(x), y)
        leader = self.state.leader
        record = {
            "round": self.state.round,
            "run_id": run.run_id,
            "prompts": end,
            "of_prompts": len(self.matched.prompts),
            "prompts_compared": int((n > 0).all(1).sum()),
            "by": self.config.by,
            "leader": leader and {"teacher": leader, **self.standing(leader)},
            "alive": list(self.state.alive),
            "left": {name: why for name, why in self.state.left.items() if name in alive},
            "cost_share": self.share(self.scored),
        }
        self.rounds.append(record)
        log.info("race round", extra={"race_id": self.name, **record})
        return record

    def _add(self, run: Run) -> None:
        """Take in the scores of a round."""
        keys = {key for key, _ in run.objects}
        names = sorted(name for name in {*run.units, *run.written} - {*run.stale} if name[:16] in keys)
        columns = dict.fromkeys(["teacher", "prompt_id", "trajectory_id", "reject_reason", "n_prompt_tokens", "n_tokens", *self.metric.columns])
        rows = self.store.read_units(pa.table({"name": names}), run.fingerprint, list(columns))
        self.rejected.update(pc.drop_null(rows["reject_reason"]).to_pylist())
        rows = rows.filter(pc.is_null(rows["reject_reason"])).sort_by([("teacher", "ascending"), ("trajectory_id", "ascending")])  # sums alike
        self.n_tokens += pc.sum(rows["n_tokens"]).as_py() or 0
        self.n_prompt_tokens += pc.sum(rows["n_prompt_tokens"]).as_py() or 0
        t = pc.index_in(rows["teacher"], pa.array(self.matched.teachers)).to_numpy()
        p = pc.index_in(rows["prompt_id"], pa.array(self.matched.prompts)).to_numpy()
        x, y = self.metric.terms({name: rows[name].to_numpy() for name in self.metric.columns})
        for total, values in ((self.x, x), (self.y, y), (self.n, np.ones(len(t)))):
            np.add.at(total, (p, t), values)

    def standing(self, teacher: str) -> dict[str, Any]:
        """A teacher's value and interval when it was last looked at, the metric's own way round."""
        standing = self.state.standings[teacher]
        value, *ends = (float(self.metric.order(np.array(v))) for v in (standing.value, standing.low, standing.high))
        return {"value": value, "low": min(ends), "high": max(ends), "n_prompts": standing.n_prompts, "round": standing.round}

    def record(self) -> dict[str, Any]:
        """What is stored as race.json."""
        state, standings = self.state, self.state.standings
        left = {name: entry["round"] for entry in self.rounds for name in entry["left"]}
        value = {name: standing.value for name, standing in standings.items()}
        places = sorted(self.matched.teachers, key=lambda name: (-left.get(name, math.inf), value.get(name, math.inf)))
        alive = [name for name in places if name in state.alive]
        decided = state.finished and len(alive) == 1
        return {
            "race_id": self.name,
            "student": self.config.student_name,
            "by": self.config.by,
            "better": self.metric.better,
            "decided": decided,
            "winner": alive[0] if decided else None,
            "reason": state.reason or "the next round is not within the budget",
            "next_cost_share": None if state.finished else self.share(self.scored | self.next_rows()),
            "alive": alive,
            "confidence": self.config.confidence,
            "margin": self.config.margin,
            "budget": self.config.budget,
            "teachers": [
                {
                    "teacher": name,
                    **(self.standing(name) if name in standings else {}),
                    "left_after_round": left.get(name),
                    "why": state.left.get(name),
                }
                for name in places
            ],
            "rounds": self.rounds,
            "matched_prompts": len(self.matched.prompts),
            "unreadable_rows": self.matched.n_unreadable,
            "full": {"trajectories": len(self.t), "chars": int(self.chars.sum())},
            "spent": {
                "cost_share": self.share(self.scored),
                "trajectories": int(self.scored.sum()),
                "chars": int(self.chars[self.scored].sum()),
                "scored_tokens": self.n_tokens,
                "prompt_tokens": self.n_prompt_tokens,
            },
            "rejected": dict(self.rejected.most_common()),
            "config": dataclasses.asdict(self.config),
        }
