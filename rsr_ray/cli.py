"""The command line, `rsr-ray`. Exit codes: 0 done, 1 the run broke or is not whole, 2 a mistake the user can mend."""

import argparse
import dataclasses
import json
import sys
import typing
from typing import Any

from rsr_ray.config import ChooseConfig, ScoreConfig, load_config, load_nightly
from rsr_ray.errors import RunError, UserError, safe
from rsr_ray.schema import REJECT_REASONS

if typing.TYPE_CHECKING:
    from rsr_ray.store import Store

METAVARS = {"corpus": "URI", "columns": "NAME=COLUMN", "keep": "COLUMN", "verified": "COLUMN"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rsr-ray", description="Which teacher's reasoning trajectories should this student learn from? (rsr: lower is better)"
    )
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

    teachers = commands.add_parser("teachers", help="print the ranking of a store's teachers for a student")
    _add_store(teachers)
    teachers.add_argument("--json", action="store_true", help="print JSON, one object a teacher")
    teachers.set_defaults(run=_teachers)

    choose = commands.add_parser("choose", help="write the best trajectories of each prompt as training data, by any metric or a control")
    choose.add_argument("--config", metavar="FILE", help="YAML file of these options; the command line wins")
    _add_options(choose, ChooseConfig)
    choose.set_defaults(run=_choose)

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
        return args.run(args)
    except (UserError, RunError, OSError) as e:
        print(f"rsr-ray: {safe(str(e))}", file=sys.stderr)
        return 2 if isinstance(e, UserError) else 1
    except KeyboardInterrupt:
        print("rsr-ray: interrupted; finished units are kept: run the same command again to go on", file=sys.stderr)
        return 130


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


def _open_store(args: argparse.Namespace) -> "Store":
    from rsr_ray.objects import endpoint_of
    from rsr_ray.store import Store

    return Store(args.store, args.student, endpoint_of(args.s3_endpoint))


def _score(args: argparse.Namespace) -> int:
    return score(_score_config(args), as_json=args.json)


def _score_config(args: argparse.Namespace) -> ScoreConfig:
    return _config(ScoreConfig, args)


def _config(cls: type, args: argparse.Namespace) -> Any:
    """The options of `_add_options` and of the file that --config names."""
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(cls) if hasattr(args, f.name)}
    return load_config(cls, args.config, {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def score(config: ScoreConfig, *, as_json: bool = False) -> int:
    """Run, print, and say by the exit code whether the ranking stands on the whole corpus."""
    from rsr_ray.pipeline import score_corpus
    from rsr_ray.report import console, print_run, print_teachers

    run = score_corpus(config)
    assert run.teachers is not None
    if as_json:
        print(json.dumps({**run.record, "teachers": run.teachers.to_pylist(maps_as_pydicts="strict")}))
    else:
        out = console()
        print_teachers(run.teachers.to_pylist(), str(config.student_name), out)
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
    failed = [name for name, student in night.get("students", {}).items() if student["error"]]
    if failed:
        raise RunError(f"{len(failed)} of {len(night['students'])} students failed in night {config.night}: {', '.join(failed)}; see above")
    return 0


def _teachers(args: argparse.Namespace) -> int:
    from rsr_ray.report import console, print_teachers

    teachers = _open_store(args).read_teachers()
    if args.json:
        print(json.dumps(teachers.to_pylist(maps_as_pydicts="strict")))
    else:
        print_teachers(teachers.to_pylist(), args.student, console())
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


def _doctor(args: argparse.Namespace) -> int:
    config = _score_config(args)
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


def _demo(args: argparse.Namespace) -> int:
    from rsr_ray.demo import prepare

    with prepare(args.out) as config:
        return score(config)


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
