"""report: a store -> everything that the report says of its students."""

import datetime
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rsr_ray.config.command_line import command_line
from rsr_ray.decide.advice import advice, advised, verdict
from rsr_ray.decide.kept import count_rejects
from rsr_ray.decide.loading import load_ends, load_scored
from rsr_ray.decide.nights import History
from rsr_ray.decide.ranking import Ranking, rank_teachers
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.strata_ranking import StrataRanking, rank_strata
from rsr_ray.errors import UserError
from rsr_ray.metrics import RSR, Metric
from rsr_ray.report.page.charts.boxes import draw_boxes
from rsr_ray.report.page.charts.drawn import Charts
from rsr_ray.report.page.charts.lengths import draw_lengths
from rsr_ray.report.page.charts.places import draw_places
from rsr_ray.report.page.charts.plane import draw_plane
from rsr_ray.report.page.charts.strata import draw_strata
from rsr_ray.report.page.charts.whiskers import draw_whiskers
from rsr_ray.report.page.contents import Contents, Sources, find_contents
from rsr_ray.report.page.nights import ShownLastNight, ShownNight, comparable, nights_of
from rsr_ray.report.page.summaries import Point, RankedScores, points_of, sample_of, spreads_of
from rsr_ray.report.page.trajectories import ShownTrajectory, shown_trajectories
from rsr_ray.report.terminal.night import changes_in_words
from rsr_ray.report.terminal.ranking import unscored
from rsr_ray.run.display import each
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow


@dataclass(frozen=True)
class RejectCount:
    """Rejected rows of one reason."""

    reason: str
    meaning: str
    n: int
    example: str  # one of the rows, and what was wrong with it


@dataclass(frozen=True)
class StudentReport:
    """What the report says of a student."""

    student: str
    table: list[TeacherRow]
    unscored: str | None  # which teachers no ranking can have, and why
    rejects: list[RejectCount]  # the most frequent reason first
    run: RunRecord | None  # the record of the last run, if it is there
    nights: list[ShownNight]  # oldest first
    changes: list[str]  # since the night before the last one, a line each
    ranking: Ranking | None = None  # None if no trajectory was scored
    points: list[Point] = field(default_factory=list)  # of the ranked teachers, best first
    trajectories: list[ShownTrajectory] = field(default_factory=list)
    contents: Contents = field(default_factory=Contents)  # of `trajectories`
    charts: dict[str, str] = field(default_factory=dict)  # name -> SVG
    empty: str | None = None  # why there is no ranking
    strata: StrataRanking | None = None  # if a column was asked for
    choose: str | None = None  # the command that makes a training set of the advised teacher

    @property
    def advice(self) -> str | None:
        """The answer as what to do; None if nothing is known of how sure it is."""
        return advice(self.ranking) if self.ranking else None

    @property
    def verdict(self) -> str:
        """How sure that is, in a few words; there is a ranking."""
        assert self.ranking
        return verdict(self.ranking)

    @property
    def advised_answer(self) -> str:
        """The ranking that is advised, in a sentence; there is one."""
        assert self.ranking
        return advised(self.ranking).sentence

    @property
    def answer(self) -> str:
        """The ranking in a sentence, or why there is none."""
        return self.ranking.sentence if self.ranking else str(self.empty)

    def to_json(self) -> dict[str, Any]:
        """All numbers, without charts and tokens; `empty` only if there is no ranking."""
        said = {
            "student": self.student,
            "table": [row.to_json() for row in self.table],
            "unscored": self.unscored,
            "rejects": [vars(reject) for reject in self.rejects],
            "run": self.run and self.run.to_json(),
            "nights": [{"night": one.night, "places": one.places} for one in self.nights],
            "changes": self.changes,
            "ranking": self.ranking and self._ranking_to_json(self.ranking),
            "trajectories": [vars(row) for row in self.trajectories],
        }
        said |= {"strata": self.strata.to_json()} if self.strata else {}
        return said | {"empty": self.empty} if self.empty else said

    def _ranking_to_json(self, ranking: Ranking) -> dict[str, Any]:
        """The ranking, with the means of `points` beside each teacher."""
        told = ranking.to_json()
        for t, point in zip(told["teachers"], self.points, strict=True):
            t["mean_surprisal"], t["mean_rank"] = point.mean
        return told


@dataclass(frozen=True)
class Report:
    """Everything the report says."""

    metric: str
    better: str  # lower or higher
    made: str  # when, in UTC
    night: ShownLastNight | None
    students: list[StudentReport]

    def to_json(self) -> dict[str, Any]:
        """As teachers.json has it."""
        return {
            "metric": self.metric,
            "better": self.better,
            "made": self.made,
            "night": self.night and vars(self.night),
            "students": [student.to_json() for student in self.students],
        }


@dataclass(frozen=True)
class Settings:
    """What the report goes by; the same for all students."""

    metric: Metric
    confidence: float
    seed: int
    teachers: Collection[str]  # the only ones it ranks, if any are given
    tokens_from: str | None
    share: float  # of the page, that a student has for its trajectories
    charts: Charts
    by_stratum: str | None = None
    stratum_weights: Mapping[str, float] | None = None


def make_report(
    stores: list[Store],
    metric: Metric,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    teachers: Collection[str] = (),
    tokens_from: str | None = None,
    rankings: dict[str, Ranking] | None = None,
    loaded: Mapping[str, Scored] | None = None,
    by_stratum: str | None = None,
    stratum_weights: Mapping[str, float] | None = None,
    charts: Charts | None = None,
) -> Report:
    """Everything the report says of each student.

    `teachers` are the only ones it ranks, if any are given; `rankings` are those of students that
    `rank_teachers` has ranked already, in just this way, `loaded` the scores of students that were
    loaded for it; `charts` has those drawn before. If the
    store has no token scores, those of the shown trajectories come from the student `tokens_from`,
    if it is given, or else their text is read from the corpus. `by_stratum` is a column that
    --stratum kept, `stratum_weights` as `rank_strata` has them. Raises UserError.
    """
    history = History(stores[0].uri, stores[0].endpoint)
    night = ShownLastNight.of(history)
    share = 1 / len(stores)
    charts = charts or Charts()
    settings = Settings(
        metric, confidence, seed, teachers, tokens_from, share, charts, by_stratum, stratum_weights
    )
    students = [
        _report_student(store, history, rankings or {}, loaded or {}, settings)
        for store in each(stores, len(stores), f"drawing the report of {len(stores)} students")
    ]
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Report(metric.name, metric.better, made, night, students)


def students_of(uri: str, wanted: Iterable[str], endpoint: str | None) -> list[Store]:
    """The students asked for, or all that the store has. Raises UserError if there is none."""
    names = list(dict.fromkeys(wanted)) or Store.students(uri, endpoint)
    if not names:
        raise UserError(f"store {uri}: no student was scored there yet: run rsr-ray score")
    return [Store(uri, name, endpoint) for name in names]


# --- one student ----------------------------------------------------------------------------------


def _report_student(
    store: Store,
    history: History,
    rankings: Mapping[str, Ranking],
    loaded: Mapping[str, Scored],
    settings: Settings,
) -> StudentReport:
    said = _without_ranking(store, history)
    if any(t.n_trajectories for t in said.table):
        name = store.student_name
        return _with_ranking(said, store, rankings.get(name), loaded.get(name), settings)
    why = "every row was rejected" if said.rejects else "the store is empty"
    return replace(said, empty=f"no trajectory was scored: {why}")


def _without_ranking(store: Store, history: History) -> StudentReport:
    """What is said of a student whether it has scores or not."""
    table = store.read_teacher_rows()
    run = store.find_run(store.generation())
    nights = nights_of(store.student_name, history)
    return StudentReport(
        student=store.student_name,
        table=table,
        unscored=unscored(table),
        rejects=_rejects(store),
        run=run,
        nights=nights,
        changes=changes_in_words(nights[-1].results, nights[-1].night) if nights else [],
    )


def _rejects(store: Store) -> list[RejectCount]:
    """Rejected rows of the store by reason, the most frequent first."""
    found = count_rejects(store)
    rejects = [
        RejectCount(reason, REJECT_REASONS.get(reason, ""), some.n, some.example)
        for reason, some in found.items()
    ]
    return sorted(rejects, key=lambda reject: (-reject.n, reject.reason))


def _with_ranking(
    said: StudentReport,
    store: Store,
    ranking: Ranking | None,
    scored: Scored | None,
    settings: Settings,
) -> StudentReport:
    """The report with the ranking, the trajectories, their tokens, and the charts."""
    metric = settings.metric
    scored = scored or load_scored(
        store, [metric, RSR], stratum=settings.by_stratum, teachers=settings.teachers
    )
    scored = scored.valued(metric)
    if ranking is None:
        ranking = rank_teachers(scored, metric, confidence=settings.confidence, seed=settings.seed)
    values = metric.values(scored.columns, scored.prompt)
    order = [scored.teachers.index(t.teacher) for t in ranking.teachers]
    ranked = RankedScores(scored, values, order)
    shown = shown_trajectories(RankedScores(*load_ends(store, scored, values), order), metric)
    mean_tokens = float(scored.columns["n_tokens"].mean())
    sources = Sources(settings.tokens_from, said.run, mean_tokens, settings.share)
    points = points_of(ranked)
    said = replace(said, strata=_rank_strata(scored, settings))
    return replace(
        said,
        ranking=ranking,
        points=points,
        choose=_choose_line(store, ranking, settings),
        trajectories=shown,
        contents=find_contents(store, shown, sources),
        charts=_draw_charts(said, ranking, ranked, points, settings),
    )


def _choose_line(store: Store, ranking: Ranking, settings: Settings) -> str:
    return command_line(
        "choose",
        store=store.uri,
        student=store.student_name,
        by=None if settings.metric is RSR else settings.metric.name,
        teachers=(advised(ranking).teachers[0].teacher,),
        out="sft",
        s3_endpoint=store.endpoint,
    )


def _rank_strata(scored: Scored, settings: Settings) -> StrataRanking | None:
    if not settings.by_stratum:
        return None
    return rank_strata(
        scored,
        settings.metric,
        settings.by_stratum,
        weights=settings.stratum_weights,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def _draw_charts(
    said: StudentReport,
    ranking: Ranking,
    ranked: RankedScores,
    points: list[Point],
    settings: Settings,
) -> dict[str, str]:
    """The charts of a student with a ranking, by name."""
    name = f"student:{said.student}"  # no student's name has a colon
    axis = f"{settings.metric.name} ({settings.metric.better} is better)"
    teachers = [t.teacher for t in ranking.teachers]
    sample = sample_of(ranked, settings.seed)
    draw = settings.charts.draw
    drawn = {
        "whiskers": draw(draw_whiskers, ranking, f"{name}:whiskers", axis),
        "plane": draw(draw_plane, points, f"{name}:plane", settings.confidence),
        "boxes": draw(draw_boxes, spreads_of(ranked), f"{name}:boxes", axis),
        "lengths": draw(draw_lengths, teachers, sample, f"{name}:lengths", axis),
    }
    if said.strata:
        drawn["strata"] = draw(draw_strata, said.strata, f"{name}:strata")
    alike = comparable(said.nights)
    if len(alike) > 1:
        drawn["places"] = draw(draw_places, alike, f"{name}:places")
    return drawn
