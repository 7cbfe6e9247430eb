"""The commands that read a corpus: preview, doctor, score, nightly, race, demo, bench.

What a command needs is imported when it runs, because --help may not wait for it.
"""

import json
import sys
from typing import TYPE_CHECKING

from rsr_ray.cli.next_step import print_next, score_line
from rsr_ray.config.command_line import command_line
from rsr_ray.config.demo import BenchConfig, DemoConfig
from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.race import RaceConfig
from rsr_ray.config.score import PreviewConfig, ScoreConfig
from rsr_ray.errors import RunError

if TYPE_CHECKING:
    from rsr_ray.race.answer import RaceAnswer, Round
    from rsr_ray.run.ledger import Run
    from rsr_ray.store.teacher_rows import TeacherRow


def preview(config: PreviewConfig, as_json: bool) -> int:
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.preview import print_plan, print_preview_row
    from rsr_ray.run.preview import Preview

    preview = Preview(config)
    if as_json:
        print(json.dumps(preview.plan_to_json()))
        for row in preview.rows():
            print(json.dumps(row.to_json()))
        return 0
    out = console()
    print_plan(preview, out)
    for row in preview.rows():
        print_preview_row(row, out)
    out.print()
    print_next(score_line(config))
    return 0


def doctor(config: ScoreConfig | NightlyConfig, as_json: bool) -> int:
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.doctor import print_doctor
    from rsr_ray.run.doctor.doctor import examine

    if isinstance(config, NightlyConfig):
        return _check_night(config, as_json)
    found = examine(config)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        print_doctor(found, console())
        if not found.failed:
            print_next(score_line(config))
    return int(found.failed)


def _check_night(config: NightlyConfig, as_json: bool) -> int:
    """What doctor says of a nightly file."""
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.doctor import print_night_check
    from rsr_ray.run.doctor.night import examine_night

    found = examine_night(config)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        print_night_check(found, console())
    return int(found.failed)


def score(config: ScoreConfig, as_json: bool = False) -> int:
    """Run, print, and say by the exit code whether the ranking stands on the whole corpus."""
    from rsr_ray.run.pipeline import score_corpus
    from rsr_ray.store.teacher_rows import teacher_rows

    run = score_corpus(config)
    assert run.teachers is not None
    table = teacher_rows(run.teachers)
    if as_json:
        print(json.dumps(run.record.to_json() | {"teachers": [row.to_json() for row in table]}))
    else:
        _print_scores(config, run, table)
    if run.problem:
        raise RunError(run.problem)
    if not as_json:
        student = config.student_name
        where = {"store": config.store, "student": student, "s3_endpoint": config.s3_endpoint}
        print_next(command_line("teachers", **where))
    return 0


def _print_scores(config: ScoreConfig, run: "Run", table: list["TeacherRow"]) -> None:
    from rsr_ray.decide.loading import load_scored
    from rsr_ray.decide.naturalness import LOCAL, naturalness
    from rsr_ray.decide.ranking import rank_teachers
    from rsr_ray.metrics import RSR
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.naturalness import print_naturalness
    from rsr_ray.report.terminal.ranking import print_ranking
    from rsr_ray.report.terminal.run import print_run
    from rsr_ray.report.terminal.teachers import print_teachers
    from rsr_ray.store.store import Store

    out, student = console(), str(config.student_name)
    print_run(run, config.store, out)
    out.print()
    if not any(t.n_trajectories for t in table):
        print_teachers(table, student, out)
        return
    store = Store(config.store, student, config.s3_endpoint)
    scored = load_scored(store, [RSR, LOCAL] if config.local else [RSR])
    print_ranking(rank_teachers(scored, RSR), table, student, out)
    if config.local:
        print_naturalness(naturalness(scored), out)


def nightly(config: NightlyConfig, as_json: bool) -> int:
    if config.check:
        return _check_night(config, as_json)
    from rsr_ray.decide.nights import HeldNight
    from rsr_ray.nightly import run_night
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.night import print_night

    night = run_night(config)
    if as_json:
        print(json.dumps(night.to_json()))
    else:
        print_night(night, config.students[0].store, console())
    if isinstance(night, HeldNight):
        return 0
    if night.problem:
        raise RunError(night.report_error or f"{night.problem}; see above")
    return 0


def race(config: RaceConfig, as_json: bool) -> int:
    from rsr_ray.race.race import race
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.race import print_race, race_line

    def say(decided: "Round") -> None:
        if config.log == "text":
            print(race_line(decided), file=sys.stderr, flush=True)

    answer = race(config, say)
    if as_json:
        print(json.dumps(answer.to_json()))
    else:
        print_race(answer, config.store, console())
    _check_rejects(config, answer)
    return 0


def _check_rejects(config: RaceConfig, answer: "RaceAnswer") -> None:
    """Raise RunError where a race had too many."""
    if answer.n_rejected <= config.max_rejects * answer.n_rows:
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in answer.rejected.items())
    raise RunError(
        f"{answer.n_rejected:,} of {answer.n_rows:,} rows in the race were rejected, more than "
        f"--max-rejects {config.max_rejects:g} allows: {reasons}; list them with rsr-ray rejects "
        f"--store {config.store}/races/{answer.race_id} --student {answer.student}"
    )


def demo(config: DemoConfig, as_json: bool) -> int:
    from rsr_ray.demo import prepare

    with prepare(config.out) as settings:
        code = score(settings, as_json)
    from rsr_ray.metrics import RSR
    from rsr_ray.report.page.write import store_report
    from rsr_ray.store.store import Store

    page = store_report([Store(settings.store, str(settings.student_name), None)], RSR)
    print(f"report    {page}")
    return code


def bench(config: BenchConfig, as_json: bool) -> int:
    from rsr_ray.bench.bench import bench
    from rsr_ray.bench.figures import print_bench

    result = bench(config.out, config.rounds)
    if as_json:
        print(json.dumps(result.to_json()))
    else:
        print_bench(result)
    return 0
