"""race: which teacher is best, from as few trajectories as the confidence allows.

    <store>/races/<race id>/round-<nn>/teacher=<name>/part-<hash>.jsonl   what a round had to score, shards like any other
    <store>/races/<race id>/scores/, runs/, teachers/                      their scores: the race is a store of its own
    <store>/races/<race id>/race.json                                      the answer

A pass over the corpus finds the matched prompts, those with an answer of every teacher. What the store holds of a round's
share of them is taken from there, and the rest is written as shards and scored like any corpus into the race's own store:
copies of a few columns are not what the store is to hold, and would stay in it for good. What is scored is scored, so the
same command goes on with the same race. Who is still in after a round is elimination.py's to say.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.cluster import connect, take
from rsr_ray.config import RaceConfig
from rsr_ray.elimination import Elimination
from rsr_ray.errors import RunError, UserError
from rsr_ray.matched import Matched, build_index, digest, write_rows
from rsr_ray.metrics import REGISTRY
from rsr_ray.objects import InputObject, list_files
from rsr_ray.packs import find_packs
from rsr_ray.pipeline import score_corpus
from rsr_ray.read import check_readable, list_corpus
from rsr_ray.records import put_record
from rsr_ray.store import Store, settle_units
from rsr_ray.student import inspect_student
from rsr_ray.watch import log

ITS_OWN: dict[str, Any] = {"teacher": None, "teacher_from": None, "columns": (), "roles": ()}  # of reading: a race's shards are canonical
RACE_VERSION = 3  # raised whenever the same settings would give another course of a race than before


def race(config: RaceConfig, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Find the best teacher; the record of the race, also stored. `say` gets the record of each round.

    Raises UserError and RunError as score_corpus does.
    """
    objects = list_corpus(config.corpus, config.s3_endpoint, config.store)
    check_readable(objects, config.s3_endpoint, config.reading.columns)
    student = inspect_student(config.student, config.trust_remote_code, config.template_text)
    store = Store(config.store, str(config.student_name), config.s3_endpoint)
    with connect(config.ray_address, config.log):
        resources = take(config)
        fingerprint = config.fingerprint(student, resources.dtype, config.length_limit(student))
        units = store.units_under(fingerprint, new_generation=config.new_generation)
        name = race_id(config, objects, fingerprint)
        own = Store(f"{store.uri}/races/{name}", store.student_name, store.endpoint)
        own.check_writable(name)
        matched = Matched.of(build_index(config, objects), config.teachers, config.seed)
        course = Course(config, objects, matched, own, fingerprint, resources.replicas)
        course.take_from(store, units)
        while not course.state.finished and course.affordable:
            say(course.run_round())
    record = {"race_id": name, **course.record(), "fingerprint": fingerprint}
    put_record(own.uri, "race.json", record, config.s3_endpoint)
    return record


def race_id(config: RaceConfig, objects: list[InputObject], fingerprint: str) -> str:
    """The same for the same corpus and settings, whatever the budget, so that a race goes on where it was."""
    names = ("teacher", "teacher_from", "columns", "roles", "teachers", "by", "confidence", "margin", "first_round", "seed", "student_name")
    settings = {name: getattr(config, name) for name in names} | {"teachers": sorted({*config.teachers})}
    corpus = [[obj.uri, obj.version] for obj in objects]
    return digest([RACE_VERSION, fingerprint, settings, corpus])[:16]


class Course:
    """A race on its way: what is known of the matched rows, which of them it has looked at, and what that cost.

    Arrays are [N], over the rows of `matched`.
    """

    def __init__(self, config: RaceConfig, objects: list[InputObject], matched: Matched, store: Store, fingerprint: str, replicas: int):
        self.config, self.objects, self.matched, self.fingerprint, self.replicas = config, objects, matched, fingerprint, replicas
        self.store = store  # the race's own
        self.metric = REGISTRY[config.by]
        self.state = Elimination(
            matched.teachers, len(matched.prompts), confidence=config.confidence, margin=config.margin, first_round=config.first_round
        )
        self.rows = matched.rows.append_column("source", pa.array([obj.uri for obj in objects]).take(matched.rows["object"]))
        self.t, self.p, self.chars = (matched.rows[name].to_numpy() for name in ("t", "p", "n_chars"))
        self.raced, self.known, self.taken = (np.zeros(len(self.t), bool) for _ in range(3))  # taken: known from the store it is a race of
        self.x, self.y = (np.full(len(self.t), np.nan) for _ in range(2))  # the metric's terms; NaN for a rejected row
        self.rejected = np.full(len(self.t), None, object)  # reasons
        self.n_tokens, self.n_prompt_tokens = (np.zeros(len(self.t), np.int64) for _ in range(2))
        self.rounds: list[dict[str, Any]] = []
        self._take_own()

    def take_from(self, store: Store, names: list[str]) -> None:
        """Take what units of the store hold, scored or rejected, of these objects as they are now, and the race itself has not scored."""
        packs, _ = find_packs(self.objects, store, names)
        versions = {(obj.key, obj.version) for obj in [*self.objects, *packs]}
        present = [name for name in names if (name[:16], name[17:29]) in versions]
        self.taken |= self._take_in(store, present, ("source", "source_row", "teacher", "trajectory_id"))

    def _take_own(self) -> None:
        self._take_in(self.store, self.store.units().get(self.fingerprint, []), ("teacher", "trajectory_id"))

    def _take_in(self, store: Store, names: list[str], key: tuple[str, ...]) -> np.ndarray:
        """Take in what units hold of rows that were not known, bool: which these are. Rows are the same where the columns `key` are."""
        new = np.zeros(len(self.t), bool)
        names = sorted({*names} - {*settle_units(names)[1]})
        if not names:
            return new
        columns = dict.fromkeys([*key, "reject_reason", "n_tokens", "n_prompt_tokens", *self.metric.columns])
        rows = store.read_units(pa.table({"name": names}), self.fingerprint, list(columns))
        at = pc.fill_null(pc.index_in(_joined(rows, key), _joined(self.rows, key)), -1).to_numpy()
        wanted = (at >= 0) & ~self.known[at]
        rows, at = rows.filter(pa.array(wanted)), at[wanted]
        new[at] = self.known[at] = True
        self.x[at], self.y[at] = self.metric.terms({name: rows[name].to_numpy() for name in self.metric.columns})
        self.rejected[at] = rows["reject_reason"].to_pylist()
        self.n_tokens[at], self.n_prompt_tokens[at] = (pc.fill_null(rows[name], 0).to_numpy() for name in ("n_tokens", "n_prompt_tokens"))
        return new

    def share(self, rows: np.ndarray) -> float:
        """Of the cost of scoring every matched trajectory; `rows` bool."""
        return float(self.chars[rows].sum() / max(self.chars.sum(), 1))

    def next_rows(self) -> np.ndarray:
        """The matched rows that the next round looks at, bool."""
        ends, alive = [0, *self.state.ends], [self.matched.teachers.index(name) for name in self.state.alive]
        return (self.p >= ends[self.state.round]) & (self.p < ends[self.state.round + 1]) & np.isin(self.t, alive)

    @property
    def cost_share(self) -> float:
        """Of the full cost, for what the race had to score."""
        return self.share(self.raced & ~self.taken)

    @property
    def next_cost_share(self) -> float:
        """What `cost_share` is after the next round."""
        return self.share((self.raced | self.next_rows()) & ~self.taken)

    @property
    def affordable(self) -> bool:
        """Whether the next round is within the budget. Raises UserError where not even the first is."""
        needed = self.next_cost_share
        if needed > self.config.budget and not self.rounds:
            enough = math.ceil(needed * 100) / 100
            raise UserError(
                f"--budget {self.config.budget:g}: the first round alone costs {needed:.1%} of scoring everything: give {enough:g} or more"
            )
        return needed <= self.config.budget

    def run_round(self) -> dict[str, Any]:
        """Score what is not known of a round and decide; its record."""
        alive, rows = list(self.state.alive), self.next_rows()
        run_id = self._score(rows)
        self.raced |= rows
        end, columns = self.state.ends[self.state.round], [self.matched.teachers.index(name) for name in alive]
        shape = (len(self.matched.prompts), len(self.matched.teachers))
        scored = np.isfinite(self.x)
        cell = (self.p * shape[1] + self.t)[scored]
        n = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)[:end, columns]  # a teacher's answers with a score
        sums = (np.bincount(cell, side[scored], shape[0] * shape[1]).reshape(shape)[:end, columns] for side in (self.x, self.y))
        x, y = (np.where(n > 0, side / np.maximum(n, 1), np.nan) for side in sums)
        self.state.update(self.metric.order(x), y)
        leader = self.state.leader
        record = {
            "round": self.state.round,
            "run_id": run_id,
            "prompts": end,
            "of_prompts": len(self.matched.prompts),
            "prompts_compared": self.state.n_compared,
            "by": self.config.by,
            "leader": leader and {"teacher": leader, **self.standing(leader)},
            "alive": list(self.state.alive),
            "left": {name: why for name, why in self.state.left.items() if name in alive},
            "cost_share": self.cost_share,
        }
        self.rounds.append(record)
        log.info("race round", extra={"race_id": self.store.uri.rpartition("/")[2], **record})
        return record

    def _score(self, rows: np.ndarray) -> str | None:
        """Score those of a round's rows that are not known; the id of the run, None where there was nothing to score."""
        folder = f"{self.store.uri}/round-{self.state.round + 1:02d}"
        # Every replica gets some units of a round, however small it is. It is not the size of what is left to score, because a
        # race that goes on must cut the same units as the one that began.
        unit_rows = max(1, min(self.config.unit_rows, math.ceil(int(rows.sum()) / (4 * self.replicas))))
        config = dataclasses.replace(self.config, corpus=(folder,), store=self.store.uri, **ITS_OWN, unit_rows=unit_rows)
        run_id = None
        begun = (rows & ~self.known).any() and any(name.endswith(".jsonl") for name in list_files(folder, self.store.endpoint))
        if begun:  # its shards first, as they are
            run_id = score_corpus(config).run_id
            self._take_own()
        if (unknown := rows & ~self.known).any():
            write_rows(self.config, self.objects, self.matched, unknown, folder)
            run_id = score_corpus(config).run_id
            self._take_own()
        if lost := int((rows & ~self.known).sum()):
            raise RunError(f"{lost:,} rows of {folder} were scored and are not in {self.store.scores_uri}")
        return run_id

    def standing(self, teacher: str) -> dict[str, Any]:
        """A teacher's value and interval when it was last looked at, the metric's own way round; None where nothing is known of it."""
        standing = self.state.standings[teacher]
        value, *ends = (float(self.metric.order(np.array(v))) for v in (standing.value, standing.low, standing.high))
        low, high = (None, None) if math.isnan(ends[0]) else (min(ends), max(ends))
        facts = {"exact": standing.exact, "n_prompts": standing.n_prompts, "round": standing.round}
        return {"value": value, "low": low, "high": high, **facts}

    def record(self) -> dict[str, Any]:
        """What is stored as race.json."""
        state, standings = self.state, self.state.standings
        paid, taken = self.raced & ~self.taken, self.raced & self.taken
        left = {name: entry["round"] for entry in self.rounds for name in entry["left"]}
        value = {name: standing.value for name, standing in standings.items()}
        places = sorted(self.matched.teachers, key=lambda name: (-left.get(name, math.inf), value.get(name, math.inf)))
        alive = [name for name in places if name in state.alive]
        return {
            "student": self.config.student_name,
            "by": self.config.by,
            "better": self.metric.better,
            "decided": state.winner is not None,
            "winner": state.winner,
            "reason": state.reason or "the next round is not within the budget",
            "next_cost_share": None if state.finished else self.next_cost_share,
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
                "cost_share": self.cost_share,
                "trajectories": int(paid.sum()),
                "chars": int(self.chars[paid].sum()),
                "scored_tokens": int(self.n_tokens[paid].sum()),
                "prompt_tokens": int(self.n_prompt_tokens[paid].sum()),
            },
            "taken_from_store": {"cost_share": self.share(taken), "trajectories": int(taken.sum())},
            "rejected": dict(Counter(reason for reason in self.rejected[self.raced] if reason).most_common()),
            "config": dataclasses.asdict(self.config),
        }


def _joined(rows: pa.Table, names: tuple[str, ...]) -> pa.Array:
    """The columns of each row as one text."""
    return pc.binary_join_element_wise(*(rows[name].cast(pa.string()) for name in names), "\0").combine_chunks()
