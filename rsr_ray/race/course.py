"""course: a race on its way, round by round, and what it cost so far."""

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np

from rsr_ray.config.race import RaceConfig
from rsr_ray.errors import RunError, UserError, counted
from rsr_ray.files.objects import InputObject, list_files
from rsr_ray.metrics import REGISTRY
from rsr_ray.race.answer import (
    FullCost,
    Leader,
    Measured,
    RaceAnswer,
    Round,
    Spent,
    Taken,
    TeacherStanding,
)
from rsr_ray.race.elimination import Elimination
from rsr_ray.race.matched import Matched
from rsr_ray.race.round_shards import write_rows
from rsr_ray.race.row_scores import RowScores
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.ledger import Run
from rsr_ray.run.pipeline import run_through
from rsr_ray.store.packs import find_packs
from rsr_ray.store.store import Store
from rsr_ray.watch import log

# Of reading: a race's shards are canonical.
ITS_OWN: dict[str, Any] = {"teacher": None, "teacher_from": None, "columns": (), "roles": ()}


class Course:
    """Who is still in, which matched rows the race has looked at, and what is known of them.

    Arrays are bool [N], over the rows of `matched`.
    """

    def __init__(
        self,
        config: RaceConfig,
        objects: list[InputObject],
        matched: Matched,
        store: Store,
        fingerprint: str,
        replicas: int,
        cluster: Cluster,
    ):
        self.config = config
        self.objects = objects
        self.matched = matched
        self.store = store  # the race's own
        self.fingerprint = fingerprint
        self.replicas = replicas
        self.cluster = cluster
        self.metric = REGISTRY[config.by]
        self.state = Elimination(
            matched.teachers,
            len(matched.prompts),
            confidence=config.confidence,
            margin=config.margin,
            first_round=config.first_round,
        )
        self.scores = RowScores(
            matched, objects, self.metric, keep_degenerate=config.keep_degenerate
        )
        self.chars = matched.rows["n_chars"].to_numpy()  # int64 [N]
        self.raced = np.zeros(len(self.chars), bool)
        self.taken = np.zeros(len(self.chars), bool)  # known from the store it is a race of
        self.rounds: list[Round] = []
        self._take_own()

    def take_from(self, store: Store, fingerprint: str, names: list[str]) -> None:
        """Take what units of the store hold of these objects as they are now, scored or rejected.

        What the race itself has scored stays its own.
        """
        packs, _ = find_packs(self.objects, store, names)
        versions = {(obj.key, obj.version) for obj in [*self.objects, *packs]}
        present = [name for name in names if (name[:16], name[17:29]) in versions]
        key = ("source", "source_row", "teacher", "trajectory_id")
        self.taken |= self.scores.take_in(store, fingerprint, present, key)

    def _take_own(self) -> None:
        names = self.store.units().get(self.fingerprint, [])
        self.scores.take_in(self.store, self.fingerprint, names, ("teacher", "trajectory_id"))

    def share(self, rows: np.ndarray) -> float:
        """Of the cost of scoring every matched trajectory; `rows` bool [N]."""
        return float(self.chars[rows].sum() / max(self.chars.sum(), 1))

    def next_rows(self) -> np.ndarray:
        """The matched rows that the next round looks at, bool [N]."""
        p = self.matched.rows["p"].to_numpy()
        t = self.matched.rows["t"].to_numpy()
        start, end = [0, *self.state.ends][self.state.round : self.state.round + 2]
        return (p >= start) & (p < end) & np.isin(t, self._columns(self.state.alive))

    def _columns(self, teachers: list[str]) -> list[int]:
        """Their indices into `matched.teachers`."""
        return [self.matched.teachers.index(name) for name in teachers]

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
        """Whether the budget has room for the next round. Raises UserError if not for the first."""
        needed = self.next_cost_share
        if needed > self.config.budget and not self.rounds:
            enough = math.ceil(needed * 100) / 100
            raise UserError(
                f"--budget {self.config.budget:g}: the first round alone costs {needed:.1%} of "
                f"scoring everything: use {enough:g} or more"
            )
        return needed <= self.config.budget

    def run_round(self) -> Round:
        """Score what is not known of a round, and decide."""
        alive = list(self.state.alive)
        end = self.state.ends[self.state.round]
        rows = self.next_rows()
        run_id = self._score(rows)
        self.raced |= rows
        x, y = (term[:end, self._columns(alive)] for term in self.scores.terms())
        self.state.update(self.metric.order(x), y)
        leader = self.state.leader
        decided = Round(
            round=self.state.round,
            run_id=run_id,
            prompts=end,
            of_prompts=len(self.matched.prompts),
            prompts_compared=self.state.n_compared,
            by=self.config.by,
            leader=Leader(leader, self.measured(leader)) if leader else None,
            alive=list(self.state.alive),
            left={name: why for name, why in self.state.left.items() if name in alive},
            cost_share=self.cost_share,
        )
        self.rounds.append(decided)
        race_id = self.store.uri.rpartition("/")[2]
        log.info("race round", extra={"race_id": race_id, **decided.to_json()})
        return decided

    def _score(self, rows: np.ndarray) -> str | None:
        """Score those of a round's rows that are not known; the id of the run, if there was one."""
        folder = f"{self.store.uri}/round-{self.state.round + 1:02d}"
        run_id = None
        begun = (rows & ~self.scores.known).any() and any(
            name.endswith(".jsonl") for name in list_files(folder, self.store.endpoint)
        )
        if begun:  # its shards first, as they are
            run_id = self._score_shards(folder, rows)
        unknown = rows & ~self.scores.known
        if unknown.any():
            write_rows(self.config, self.objects, self.matched, unknown, folder)
            run_id = self._score_shards(folder, rows)
        if lost := int((rows & ~self.scores.known).sum()):
            raise RunError(
                f"{counted(lost, 'row')} of {folder} scored but missing from "
                f"{self.store.scores_uri}; rerun the same command"
            )
        return run_id

    def _score_shards(self, folder: str, rows: np.ndarray) -> str:
        """Score the shards of a round, which has these rows; the id of the run."""
        # Every replica gets some units of a round, however small it is. It is not the size of what
        # is left to score, because a race that goes on must cut the same units as the one that
        # began.
        some = math.ceil(int(rows.sum()) / (4 * self.replicas))
        unit_rows = max(1, min(self.config.unit_rows, some))
        config = dataclasses.replace(
            self.config, corpus=(folder,), store=self.store.uri, **ITS_OWN, unit_rows=unit_rows
        )
        prompts = f"{self.state.ends[self.state.round]:,} of {len(self.matched.prompts):,} prompts"
        teachers = f"{len(self.state.alive)} of {len(self.matched.teachers)} teachers left"
        label = f"round {self.state.round + 1}: {prompts}, {teachers}"
        run = Run(config)
        run_through(run, self.cluster, label)
        self._take_own()
        return run.run_id

    def measured(self, teacher: str) -> Measured:
        """A teacher's value and interval when it was last looked at."""
        standing = self.state.standings[teacher]
        value, *ends = (
            float(self.metric.order(np.array(v)))
            for v in (standing.value, standing.low, standing.high)
        )
        known = not math.isnan(ends[0])
        return Measured(
            value=value,
            low=min(ends) if known else None,
            high=max(ends) if known else None,
            exact=standing.exact,
            n_prompts=standing.n_prompts,
            round=standing.round,
        )

    def answer(self, race_id: str) -> RaceAnswer:
        """What the race found out so far."""
        state = self.state
        standings = self._standings()
        raced_and_taken = self.raced & self.taken
        reasons = Counter(reason for reason in self.scores.rejected[self.raced] if reason)
        return RaceAnswer(
            race_id=race_id,
            student=str(self.config.student_name),
            by=self.config.by,
            better=self.metric.better,
            decided=state.winner is not None,
            winner=state.winner,
            reason=state.reason or "the next round would exceed the budget",
            next_cost_share=None if state.finished else self.next_cost_share,
            alive=[t.teacher for t in standings if t.teacher in state.alive],
            confidence=self.config.confidence,
            margin=self.config.margin,
            budget=self.config.budget,
            teachers=standings,
            rounds=self.rounds,
            matched_prompts=len(self.matched.prompts),
            unreadable_rows=self.matched.n_unreadable,
            full=FullCost(len(self.chars), int(self.chars.sum())),
            spent=self._spent(),
            taken_from_store=Taken(self.share(raced_and_taken), int(raced_and_taken.sum())),
            rejected=dict(reasons.most_common()),
            degenerate=int(self.scores.degenerate[self.raced].sum()),
            config=self.config,
            fingerprint=self.fingerprint,
        )

    def _standings(self) -> list[TeacherStanding]:
        """The teachers, best first: those that left later, then those with a lower value."""
        known = self.state.standings
        left = {name: entry.round for entry in self.rounds for name in entry.left}
        value = {name: standing.value for name, standing in known.items()}
        names = sorted(
            self.matched.teachers,
            key=lambda name: (-left.get(name, math.inf), value.get(name, math.inf)),
        )
        return [
            TeacherStanding(
                teacher=name,
                measured=self.measured(name) if name in known else None,
                left_after_round=left.get(name),
                why=self.state.left.get(name),
            )
            for name in names
        ]

    def _spent(self) -> Spent:
        paid = self.raced & ~self.taken
        return Spent(
            cost_share=self.cost_share,
            trajectories=int(paid.sum()),
            chars=int(self.chars[paid].sum()),
            scored_tokens=int(self.scores.n_tokens[paid].sum()),
            prompt_tokens=int(self.scores.n_prompt_tokens[paid].sum()),
        )
