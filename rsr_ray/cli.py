"""The command line, `rsr-ray`. Exit codes: 0 done, 1 the run broke or is not whole, 2 a mistake the user can mend."""

import argparse
import dataclasses
import json
import sys
import typing
from typing import Any

from rsr_ray.config import ChooseConfig, PreviewConfig, RaceConfig, ScoreConfig, load_config, load_nightly
from rsr_ray.credentials import scrub
from rsr_ray.errors import RunError, UserError, safe
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.settings import check_text, check_whole

if typing.TYPE_CHECKING:
    from rsr_ray.store import Store

RANKED_ROWS = 2_000_000  # of more the end of a run shows no intervals: `rsr-ray teachers` has the time to read them all
POSITIONAL = {"a", "b"}  # arguments that are no options
METAVARS = {"corpus": "URI", "columns": "NAME=COLUMN", "keep": "COLUMN", "verified": "COLUMN"}


class _Parser(argparse.ArgumentParser):
    """Quotes no credentials of a command line that it refuses."""

    def error(self, message: str) -> typing.NoReturn:
        super().error(scrub(message))


def main(argv: list[str] | None = None) -> int:
    parser = _Parser(prog="rsr-ray", description="Which teacher's reasoning trajectories should this student learn from? (rsr: lower is better)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    score = commands.add_parser("score", help="score a corpus under a student and rank its teachers")
    score.add_argument("--config", metavar="FILE", help="YAML file of these options; the command line wins")
    _add_options(score, ScoreConfig)
    score.set_defaults(run=_score)

    nightly = commands.add_parser("nightly", help="score what is new for every student of a file, and say what changed since the last night")
    nightly.add_argument("--config", metavar="FILE", required=True, help="YAML: options of score, students: [...], each with options of its own")
    nightly.add_argument("--night", default=argparse.SUPPRESS, help="name of the night; default: today's date in UTC")
    nightly.add_argument("--wait", type=int, metavar="SECONDS", default=argparse.SUPPRESS, help="wait so long for another nightly run; default: 0")
    nightly.add_argument("--json", action="store_true", help="print the night's record as JSON")
    nightly.set_defaults(run=_nightly)

    teachers = commands.add_parser("teachers", help="rank a store's teachers for a student, and say how sure the ranking is")
    _add_store(teachers)
    teachers.add_argument("--by", default="rsr", metavar="METRIC", help="metric to rank by (rsr-ray metrics lists them); default: %(default)s")
    teachers.add_argument("--teachers", nargs="+", metavar="NAME", help="compare only these, on the prompts that they share")
    _add_certainty(teachers)
    teachers.add_argument("--json", action="store_true", help="print JSON")
    teachers.set_defaults(run=_teachers)

    compare = commands.add_parser("compare", help="two stores, two students or two nights: what moved, and is it more than noise?")
    for name in ("A", "B"):
        compare.add_argument(
            name.lower(), metavar=name, help="STORE, STORE#STUDENT, STORE#STUDENT@NIGHT or STORE#@NIGHT; a store's only student has no need of a name"
        )
    compare.add_argument("--by", default="rsr", metavar="METRIC", help="metric to compare by (rsr-ray metrics lists them); default: %(default)s")
    compare.add_argument("--anyway", action="store_true", help="compare scores that were made under other settings all the same")
    compare.add_argument("--s3-endpoint", help="URL of an S3-compatible store; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL")
    _add_certainty(compare)
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(run=_compare)

    report = commands.add_parser("report", help="write the page that shows which teacher, how sure, and why; and the same as CSV, JSON and Markdown")
    report.add_argument("--store", required=True, help="folder or URI the scores are kept in")
    report.add_argument("--student", nargs="+", metavar="NAME", default=[], help="names of students in the store; default: all it has")
    report.add_argument(
        "--out", required=True, metavar="DIR", help="folder or URI to write index.html, teachers.csv, teachers.json and summary.md into"
    )
    report.add_argument("--by", default="rsr", metavar="METRIC", help="metric to rank by (rsr-ray metrics lists them); default: %(default)s")
    _add_certainty(report)
    report.add_argument("--teachers", nargs="+", default=[], metavar="NAME", help="rank only these, on the prompts that they share")
    report.add_argument("--tokens-from", metavar="STUDENT", help="folder or hub id of the student: it scores the tokens of the shown trajectories, "
                        "where the store has no token scores")  # fmt: skip
    report.add_argument("--s3-endpoint", help="URL of an S3-compatible store; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL")
    report.set_defaults(run=_report)

    correlate = commands.add_parser("correlate", help="how well each metric orders teachers as the accuracy after training on them does")
    source = correlate.add_mutually_exclusive_group(required=True)
    source.add_argument("--table", metavar="FILE", help="CSV, Parquet or JSON with student, teacher, accuracy and a column a metric")
    source.add_argument("--store", help="folder or URI the scores are kept in; the accuracies are then in --accuracies")
    correlate.add_argument("--accuracies", metavar="FILE", help="CSV, Parquet or JSON with student (its name in the store), teacher, accuracy")
    correlate.add_argument("--by", nargs="+", action="extend", metavar="METRIC", help="only these metrics")
    correlate.add_argument("--without", nargs="+", action="extend", default=[], metavar="TEACHER", help="leave teachers out")
    correlate.add_argument("--set", action="append", default=[], metavar="STUDENT/TEACHER/COLUMN=VALUE", help="read one cell of the table as VALUE")
    correlate.add_argument("--permutations", type=int, default=10_000, metavar="N", help="for the p-values; default: %(default)s")
    correlate.add_argument("--s3-endpoint", help="URL of an S3-compatible store; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL")
    correlate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    correlate.set_defaults(run=_correlate)

    race = commands.add_parser("race", help="find the best teacher, scoring only as many prompts as that takes")
    race.add_argument("--config", metavar="FILE", help="YAML file of these options; the command line wins")
    _add_options(race, RaceConfig)
    race.set_defaults(run=_race)

    choose = commands.add_parser("choose", help="write the best trajectories of each prompt as training data, by any metric or a control")
    choose.add_argument("--config", metavar="FILE", help="YAML file of these options; the command line wins")
    _add_options(choose, ChooseConfig)
    choose.set_defaults(run=_choose)

    preview = commands.add_parser("preview", help="show how a corpus is read, and rows as the student sees them: no Ray, no weights")
    preview.add_argument("--config", metavar="FILE", help="YAML file of these options; the command line wins")
    _add_options(preview, PreviewConfig)
    preview.set_defaults(run=_preview)

    doctor = commands.add_parser("doctor", help="check what a run needs, show ten rows with what is scored of them, and say what it would cost")
    doctor.add_argument("--config", metavar="FILE", help="YAML file of these options; the command line wins")
    _add_options(doctor, ScoreConfig)
    doctor.set_defaults(run=_doctor)

    rejects = commands.add_parser("rejects", help="list the rows of a store that were rejected, or have them tried again")
    _add_store(rejects)
    rejects.add_argument("--reason", choices=sorted(REJECT_REASONS), metavar="REASON", help="only rows rejected for this reason")
    rejects.add_argument("--retry", action="store_true", help="delete the work units that hold them: the next run scores these anew")
    rejects.add_argument("--json", action="store_true", help="print JSON, one object a line and row")
    rejects.set_defaults(run=_rejects)

    check = commands.add_parser("check", help="read every file of a store and say which is not what was written there")
    check.add_argument("--store", required=True, help="folder or URI the scores are kept in")
    check.add_argument("--student", metavar="NAME", help="only the files of this student; default: all of the store")
    check.add_argument("--repair", action="store_true", help="remove what is broken: the next run makes it again")
    check.add_argument("--s3-endpoint", help="URL of an S3-compatible store; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)

    metrics = commands.add_parser("metrics", help="list the metrics: what each is, which way is better, where it comes from")
    metrics.add_argument("--json", action="store_true", help="print JSON, one object a metric")
    metrics.set_defaults(run=_metrics)

    rescore = commands.add_parser("rescore", help="compute all metrics again from kept token scores, without the student")
    _add_store(rescore)
    rescore.add_argument("--r-max", type=int, metavar="N", help="ranks above this count as this; default: as they were scored")
    rescore.add_argument("--out", metavar="STORE", help="store to write them to; default: only compare them with what is stored")
    rescore.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster to use; default: RAY_ADDRESS, else a local one is started")
    rescore.add_argument("--json", action="store_true", help="print JSON instead of a table")
    rescore.set_defaults(run=_rescore)

    demo = commands.add_parser("demo", help="a whole run on data it makes itself, on a local Ray, in under two minutes")
    demo.add_argument("--out", metavar="DIR", default="rsr-demo", help="folder for the corpus and the store; default: %(default)s")
    demo.set_defaults(run=_demo)

    bench = commands.add_parser("bench", help="measure this engine beside the naive way on this machine")
    bench.add_argument("--out", metavar="DIR", default="rsr-bench", help="folder the result is kept in; default: %(default)s")
    bench.add_argument("--rounds", metavar="N", type=int, default=3, help="rounds, the two ways in turn; default: %(default)s")
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")
    bench.set_defaults(run=_bench)

    args = parser.parse_args(argv)
    try:
        _check_given(vars(args))
        return args.run(args)
    except (UserError, RunError, OSError) as e:
        print(f"rsr-ray: {safe(scrub(str(e)))}", file=sys.stderr)
        return 2 if isinstance(e, UserError) else 1
    except KeyboardInterrupt:
        print("rsr-ray: interrupted; finished units are kept: run the same command again to go on", file=sys.stderr)
        return 130


def _check_given(given: dict[str, Any]) -> None:
    """Raise UserError for a text or a number that no option takes. Where --config is one, the config says which may be empty."""
    for name, value in given.items():
        setting = name.upper() if name in POSITIONAL else f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                check_text(setting, name, one, optional=one == "" and "config" in given)
            elif isinstance(one, int):
                check_whole(setting, name, one)


def _add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """An option for each field of a config dataclass; options that are not given are left to the file and the defaults."""
    kinds = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        flag, kind = "--" + field.name.replace("_", "-"), kinds[field.name]
        common: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": field.metadata["help"].replace("%", "%%")}
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif kind == tuple[str, ...]:
            parser.add_argument(flag, nargs="+", action="extend", metavar=METAVARS.get(field.name, "NAME"), **common)
        else:
            number = next((t for t in (int, float) if kind is t or t in typing.get_args(kind)), None)
            parser.add_argument(
                flag, type=number or str, metavar="N" if number else METAVARS.get(field.name, field.name.split("_")[-1].upper()), **common
            )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_store(parser: argparse.ArgumentParser) -> None:
    """Where to find a student's part of a store; `_open_store` opens it."""
    parser.add_argument("--store", required=True, help="folder or URI the scores are kept in")
    parser.add_argument("--student", required=True, metavar="NAME", help="name of the student in the store")
    parser.add_argument("--s3-endpoint", help="URL of an S3-compatible store; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL")


def _add_certainty(parser: argparse.ArgumentParser) -> None:
    """How sure is sure; `_check_certainty` checks it."""
    parser.add_argument("--confidence", type=float, default=0.95, metavar="P", help="confidence level of what is said; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random draws; default: %(default)s")


def _open_store(args: argparse.Namespace) -> "Store":
    from rsr_ray.objects import endpoint_of
    from rsr_ray.store import Store

    return Store(args.store, args.student, endpoint_of(args.s3_endpoint))


def _score(args: argparse.Namespace) -> int:
    return score(_config(ScoreConfig, args), as_json=args.json)


def _config(cls: type, args: argparse.Namespace) -> Any:
    """The options of `_add_options` and of the file that --config names."""
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(cls) if hasattr(args, f.name)}
    return load_config(cls, args.config, {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def score(config: ScoreConfig, *, as_json: bool = False) -> int:
    """Run, print, and say by the exit code whether the ranking stands on the whole corpus."""
    from rsr_ray.metrics import RSR
    from rsr_ray.pipeline import score_corpus
    from rsr_ray.rank import LOCAL, load_scored, naturalness, rank_teachers
    from rsr_ray.report import console, print_naturalness, print_ranking, print_run, print_teachers
    from rsr_ray.store import Store

    run = score_corpus(config)
    assert run.teachers is not None
    if as_json:
        print(json.dumps({**run.record, "teachers": run.teachers.to_pylist(maps_as_pydicts="strict")}))
    else:
        out, store = console(), Store(config.store, str(config.student_name), config.s3_endpoint)
        table = run.teachers.to_pylist(maps_as_pydicts="strict")
        if any(t["n_trajectories"] for t in table) and run.n_read <= RANKED_ROWS:
            scored = load_scored(store, [RSR, LOCAL] if config.local else [RSR])
            print_ranking(rank_teachers(scored, RSR), table, str(config.student_name), out)
            if config.local:
                print_naturalness(naturalness(scored), out)
        else:
            print_teachers(table, str(config.student_name), out)
        print_run(run, config.store, out)
    if run.problem:
        raise RunError(run.problem)
    return 0


def _nightly(args: argparse.Namespace) -> int:
    given = {name: getattr(args, name) for name in ("night", "wait") if hasattr(args, name)}
    config = load_nightly(args.config, given)
    from rsr_ray.nightly import run_night
    from rsr_ray.report import console, print_night

    night = run_night(config)
    if args.json:
        print(json.dumps(night))
    else:
        print_night(night, config.students[0].store, console())
    if "report_error" in night:
        raise RunError(night["report_error"])
    failed = [name for name, student in night.get("students", {}).items() if student["error"]]
    if failed:
        raise RunError(f"{len(failed)} of {len(night['students'])} students failed in night {config.night}: {', '.join(failed)}; see above")
    return 0


def _teachers(args: argparse.Namespace) -> int:
    from rsr_ray.metrics import find_metric
    from rsr_ray.rank import LOCAL, load_scored, naturalness, rank_teachers
    from rsr_ray.report import console, print_naturalness, print_ranking

    _check_certainty(args)
    metric, store = find_metric(args.by), _open_store(args)
    table = store.read_teachers().to_pylist(maps_as_pydicts="strict")
    scored = load_scored(store, [metric])
    if args.teachers:
        scored = scored.only(args.teachers)
    ranking = rank_teachers(scored, metric, confidence=args.confidence, seed=args.seed)
    beside = {"naturalness": naturalness(scored)} if metric is LOCAL else {}
    if args.json:
        print(json.dumps({"student": args.student, **ranking, **beside, "table": table}))
    else:
        print_ranking(ranking, table, args.student, console())
        if beside:
            print_naturalness(beside["naturalness"] | {"notes": []}, console())  # the ranking's own notes hold them
    return 0


def _compare(args: argparse.Namespace) -> int:
    from rsr_ray.compare import compare, open_side
    from rsr_ray.metrics import find_metric
    from rsr_ray.objects import endpoint_of
    from rsr_ray.report import console, print_comparison

    _check_certainty(args)
    metric = find_metric(args.by)
    a, b = (open_side(text, endpoint_of(args.s3_endpoint)) for text in (args.a, args.b))
    compared = compare(a, b, metric, confidence=args.confidence, seed=args.seed, anyway=args.anyway)
    if args.json:
        print(json.dumps(compared))
    else:
        print_comparison(compared, console())
    return 0


def _report(args: argparse.Namespace) -> int:
    from rsr_ray.metrics import find_metric
    from rsr_ray.objects import absolute, endpoint_of
    from rsr_ray.page import make_report, students_of, write_report

    _check_certainty(args)
    endpoint = endpoint_of(args.s3_endpoint)
    stores = students_of(args.store, args.student, endpoint)
    how = {"confidence": args.confidence, "seed": args.seed, "teachers": args.teachers, "tokens_from": args.tokens_from}
    report = make_report(stores, find_metric(args.by), **how)
    for student in report["students"]:
        print(safe(f"{student['student']}: {student['ranking']['sentence'] if student['ranking'] else student['empty']}"))
    for uri in write_report(report, absolute(args.out), endpoint):
        print(uri)
    return 0


def _check_certainty(args: argparse.Namespace) -> None:
    if not 0 < args.confidence < 1:
        raise UserError(f"--confidence {args.confidence:g}: a probability, between 0 and 1")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must be at least 0")


def _correlate(args: argparse.Namespace) -> int:
    if args.permutations < 1:
        raise UserError(f"--permutations {args.permutations}: must be at least 1")
    if (args.store is None) != (args.accuracies is None):
        raise UserError("--store and --accuracies go together: the scores of the one with the accuracies of the other")
    from rsr_ray.correlate import correlate, from_store, from_table, set_cells, without
    from rsr_ray.objects import endpoint_of
    from rsr_ray.published import compare

    endpoint = endpoint_of(args.s3_endpoint)
    evidence = from_table(args.table, endpoint) if args.table else from_store(args.store, args.accuracies, endpoint)
    evidence = without(set_cells(evidence, args.set), args.without)
    result = correlate(evidence, args.by, args.permutations)
    result["paper"] = compare(evidence, result["metrics"])
    if args.json:
        print(json.dumps(result))
    else:
        from rsr_ray.report import console, print_correlations

        print_correlations(result, console())
    return 0


def _race(args: argparse.Namespace) -> int:
    config = _config(RaceConfig, args)
    from rsr_ray.race import race
    from rsr_ray.report import console, print_race, race_line

    def say(record: dict[str, Any]) -> None:
        if config.log == "text":
            print(race_line(record), file=sys.stderr, flush=True)

    record = race(config, say)
    if args.json:
        print(json.dumps(record))
    else:
        print_race(record, config.store, console())
    n, rejected = record["spent"]["trajectories"] + record["taken_from_store"]["trajectories"], sum(record["rejected"].values())
    if rejected > config.max_rejects * n:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in record["rejected"].items())
        raise RunError(f"{rejected:,} of the {n:,} rows of the race were rejected, more than --max-rejects {config.max_rejects:g}: {reasons}")
    return 0


def _choose(args: argparse.Namespace) -> int:
    config = _config(ChooseConfig, args)
    from rsr_ray.choose import choose
    from rsr_ray.report import console, print_choice

    manifest = choose(config)
    if args.json:
        print(json.dumps(manifest))
    else:
        print_choice(manifest, console())
    return 0


def _preview(args: argparse.Namespace) -> int:
    config = _config(PreviewConfig, args)
    from rsr_ray.preview import Preview
    from rsr_ray.report import console, print_plan, print_preview_row

    preview = Preview(config)
    if args.json:
        print(json.dumps(preview.plan))
        for row in preview.rows():
            print(json.dumps(row.as_json()))
        return 0
    out = console()
    print_plan(preview.plan, out)
    for row in preview.rows():
        print_preview_row(row, out)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    config = _config(ScoreConfig, args)
    from rsr_ray.doctor import Doctor
    from rsr_ray.report import console, print_doctor

    doctor = Doctor(config)
    doctor.examine()
    if args.json:
        print(json.dumps({"findings": [dataclasses.asdict(f) for f in doctor.findings], "estimate": doctor.estimate}))
    else:
        print_doctor(doctor, console())
    return int(doctor.failed)


def _rejects(args: argparse.Namespace) -> int:
    from rsr_ray.report import console, print_rejects

    store = _open_store(args)
    found = store.find_rejects(args.reason)
    if args.retry:
        for fingerprint, name in found:
            store.drop(fingerprint, [name])
        print(f"{len(found):,} work units deleted, with {sum(map(len, found.values())):,} rejected rows: the next run scores them anew")
        return 0
    rows = [row for some in found.values() for row in some]
    if args.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print_rejects(rows, console())
    return 0


def _check(args: argparse.Namespace) -> int:
    from rsr_ray.check import check_store
    from rsr_ray.objects import endpoint_of
    from rsr_ray.report import console, print_check

    checked = check_store(args.store, endpoint_of(args.s3_endpoint), args.student, repair=args.repair)
    if args.json:
        print(json.dumps(checked.as_json()))
    else:
        print_check(checked, console())
    return int(not checked.is_well)


def _metrics(args: argparse.Namespace) -> int:
    from rsr_ray.metrics import REGISTRY
    from rsr_ray.report import console, print_metrics

    if args.json:
        print(json.dumps([dataclasses.asdict(metric) for metric in REGISTRY.values()]))
    else:
        print_metrics(list(REGISTRY.values()), console())
    return 0


def _rescore(args: argparse.Namespace) -> int:
    from rsr_ray.objects import absolute
    from rsr_ray.report import console, print_teachers
    from rsr_ray.rescore import rescore
    from rsr_ray.store import Store

    store = _open_store(args)
    if args.r_max is not None and args.r_max < 1:
        raise UserError(f"--r-max {args.r_max}: must be at least 1")
    if args.out and absolute(args.out) == store.uri:
        raise UserError(f"--out {args.out}: the store itself; its scores are what a run of the student gave")
    if args.r_max and not args.out:
        raise UserError("--r-max gives other scores: name a store for them with --out")
    out = Store(args.out, args.student, store.endpoint) if args.out else None
    result = rescore(store, args.r_max, out, args.ray_address)
    if args.json:
        teachers = result.pop("teachers")
        print(json.dumps(result | {"teachers": teachers and teachers.to_pylist(maps_as_pydicts="strict")}))
    elif out:
        print_teachers(result["teachers"].to_pylist(), args.student, console())
        print(f"{result['n_rows']:,} rows scored again from their tokens with r_max {result['r_max']}, in {out.uri}")
    else:
        print(f"{result['n_rows']:,} rows scored again from their tokens; largest relative difference {result['difference']:.3g} {result['column']}")
    if not out and result["difference"] > 1e-12:
        raise RunError(
            f"store {store.uri}: unit {result['unit']} is not what its tokens say: {result['column']} differs by {result['difference']:.3g}"
        )
    return 0


def _demo(args: argparse.Namespace) -> int:
    from rsr_ray.demo import prepare

    with prepare(args.out) as config:
        code = score(config)
    from rsr_ray.metrics import RSR
    from rsr_ray.page import store_report
    from rsr_ray.store import Store

    page = store_report([Store(config.store, str(config.student_name), None)], RSR)
    print(f"report    {page}")
    return code


def _bench(args: argparse.Namespace) -> int:
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: must be at least 1")
    from rsr_ray.bench import bench, print_bench

    result = bench(args.out, args.rounds)
    if args.json:
        print(json.dumps(result))
    else:
        print_bench(result)
    return 0
