"""report: what a person reads of a run and of a store, in a terminal."""

import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import safe
from rsr_ray.metrics import REGISTRY, Metric
from rsr_ray.rank import probability
from rsr_ray.run import Run
from rsr_ray.schema import DROPPED, REJECT_REASONS

if TYPE_CHECKING:
    from rsr_ray.check import Checked
    from rsr_ray.doctor import Doctor
    from rsr_ray.preview import PreviewRow

SWAPS = 10  # pairs that changed order that are listed
SHOWN = 400  # characters of each end of a text that preview shows
NARROW = 110  # columns of a terminal below which tables have fewer


def console() -> Console:
    """A console as wide as the terminal, and wide enough for the table where the output is piped."""
    return Console() if Console().is_terminal else Console(width=120)


COUNTS = {
    "n_duplicates": "further rows of a trajectory that counts once",
    "n_repeated_ids": "trajectories whose id another has, with other content; all count",
    "n_truncated": "trajectories cut to the length limit",
}


def print_teachers(teachers: list[dict[str, Any]], student_name: str, out: Console) -> None:
    """The ranking: lowest rsr first, the length beside it."""
    title = Text(f"Teachers for student {student_name}, sorted by rsr (lower is better)")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("#", justify="right")
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in ("rsr\nlower=better", "mean\nrank", "nats a\ntoken", "tokens\neach", "scored", "rejec-\nted", "dupli-\ncates", "trun-\ncated"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in teachers:
        numbers = [f"{t[name]:.3f}" if t[name] is not None else "-" for name in ("rsr", "mean_rank", "mean_surprisal")]
        length = f"{t['mean_tokens']:,.0f}" if t["mean_tokens"] is not None else "-"
        counts = [f"{t[name]:,}" for name in ("n_trajectories", "n_rejected", "n_duplicates", "n_truncated")]
        table.add_row(str(t["place"] or "-"), Text(safe(t["teacher"])), *numbers, length, *counts)
    out.print(table)


def print_metrics(metrics: list[Metric], out: Console) -> None:
    """The registry, a metric a row."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name, more in (("metric", {"no_wrap": True}), ("better", {}), ("formula", {"ratio": 1}), ("unit", {}), ("source", {}), ("published*", {})):
        table.add_column(name, **more)
    for m in metrics:
        table.add_row(m.name, m.better, m.formula, m.unit, m.source, "-" if m.published is None else f"{m.published:.3f}")
    out.print(table)
    out.print(Text("p, l = -ln p, r, H, q: probability, surprisal, rank, entropy, sum of squared probabilities at each of the T scored tokens."))
    out.print(Text("A teacher's rsr is mean(rank) / mean(surprisal) over its trajectories; of metrics that are means, their mean."))
    out.print(Text("* mean over 5 students of abs. Spearman with post-training accuracy, 11 teachers (arXiv 2601.14249)"))


def print_ranking(ranking: dict[str, Any], table: list[dict[str, Any]], student_name: str, out: Console) -> None:
    """`rank_teachers`' answer: the sentence, the teachers with their intervals and places, each pairwise order, lengths."""
    metric, teachers = ranking["metric"], ranking["teachers"]
    out.print(Text(safe(ranking["sentence"]), style="bold"))
    out.print(Text(f"Teachers for student {student_name} by {metric} ({ranking['better']} is better), on {_prompts(ranking)}", style="dim"))
    shown = _ranked_table(f"{_broken(metric)}\n{ranking['better']}\n=better", f"{percent(ranking['confidence'])}\ninterval")
    wide = out.width >= NARROW
    if wide:
        shown.add_column("", no_wrap=True)
    for name in (f"{percent(ranking['confidence'])}\nplaces", "P(best)", "prompts\nwon"):
        shown.add_column(name, justify="right", no_wrap=True)
    ends = [v for t in teachers for v in (t["low"], t["high"], t["value"]) if v is not None]
    for t in teachers:
        bar = [_whisker(t["low"], t["value"], t["high"], min(ends), max(ends), 16)] if wide else []
        won = f"{t['won']:.0%}" if t["won"] is not None else "-"
        shown.add_row(str(t["place"]), Text(safe(t["teacher"])), number(t["value"]), _between(t), *bar, places(t), probability(t["p_best"]), won)
    out.print(shown)
    if ranking["best"]:
        out.print(Text(places_in_words(ranking), style="dim"))
    _print_spreads(ranking, table, out)
    _print_notes(list(filter(None, [unscored(table)])), out)
    for column, what in COUNTS.items():
        if some := [f"{safe(t['teacher'])} {t[column]:,}" for t in table if t.get(column)]:
            out.print(Text(f"{what}: {', '.join(some)}"))
    if some := [f"{safe(t['teacher'])} {share:.1%}" for t in table if (share := incomplete_share(t))]:
        out.print(Text(f"answers that the corpus says are cut off: {', '.join(some)}"))
    _print_notes(ranking["notes"], out)
    if len(ranking["pairwise"]) > 12:
        out.print(Text("the probability of each pairwise order on prompts like these is in --json"))
    elif ranking["pairwise"]:
        out.print(Text("probability that the row's teacher is better than the column's on prompts like these:"))
        matrix = Table(box=box.SIMPLE_HEAD, show_edge=False)
        matrix.add_column("", justify="right")
        for t in teachers[1:]:
            matrix.add_column(f"#{t['place']}", justify="right")
        for i, row in enumerate(ranking["pairwise"][:-1]):
            matrix.add_row(f"#{i + 1}", *(probability(p).replace("0.", ".").replace(" ", "") if j > i else "" for j, p in enumerate(row) if j))
        out.print(matrix)
    length = ranking["length"]
    if length["spearman"] is not None:
        within = f", {length['within_teachers']:+.2f} within teachers" if length["within_teachers"] is not None else ""
        out.print(Text(f"length: Spearman of {metric} and n_tokens {length['spearman']:+.2f} over trajectories{within}"))


def incomplete_share(t: dict[str, Any]) -> float | None:
    """Of a teacher's trajectories of which the corpus says whether they are complete, those that are not; None where it says nothing."""
    said = (t.get("n_complete") or 0) + (t.get("n_incomplete") or 0)
    return t["n_incomplete"] / said if said else None


def places(t: dict[str, Any]) -> str:
    """The places that a teacher may have."""
    first, last = t["first_place"], t["last_place"]
    return "-" if first is None else f"{first}" if first == last else f"{first}-{last}"


def places_in_words(ranking: dict[str, Any]) -> str:
    """What the places and P(best) of a ranking are."""
    bounds = f"places: those that a teacher may have on prompts like these, right for all of them together at {percent(ranking['confidence'])}"
    return f"{bounds}; P(best): the chance of being best there, with what was seen shrunk, because chance favours whoever comes first"


def _ranked_table(*numbers: str) -> Table:
    """A table of teachers and their places, and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_spreads(ranking: dict[str, Any], table: list[dict[str, Any]], out: Console) -> None:
    """Of each teacher its value on all its prompts, and how its trajectories lie."""
    wide = out.width >= NARROW
    shown = _ranked_table(
        "all its\nprompts", *(["interval", "mean"] if wide else []), "median", "IQR", "std", "tokens\neach", "scored", "rejec-\nted"
    )
    rejected = {t["teacher"]: t["n_rejected"] for t in table}
    for t in ranking["teachers"]:
        more = [_between(t["all"]), number(t["mean"])] if wide else []
        spread = (number(t["median"]), number(t["q75"] - t["q25"]), number(t["std"]))
        counts = (f"{t['mean_tokens']:,.0f}", f"{t['n_trajectories']:,}", f"{rejected.get(t['teacher'], 0):,}")
        shown.add_row(str(t["place"]), Text(safe(t["teacher"])), number(t["all"]["value"]), *more, *spread, *counts)
    out.print(Text("all it answered, and its single trajectories:"))
    out.print(shown)


def unscored(table: list[dict[str, Any]]) -> str | None:
    """Which teachers of a store no ranking can have, and why."""
    names = [f"{t['teacher']} ({t['n_rejected']:,} rejected: {', '.join(t['rejects'])})" for t in table if not t["n_trajectories"]]
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return f"not in the ranking, because nothing of them was scored: {', '.join(names[:20])}{more}" if names else None


def _between(t: dict[str, Any]) -> str:
    return f"{number(t['low'])}..{number(t['high'])}" if t["low"] is not None else "-"


def percent(share: float) -> str:
    """A confidence as it was given."""
    return f"{100 * share:g}%"


def print_naturalness(found: dict[str, Any], out: Console) -> None:
    """`naturalness`' answer: local beside global naturalness of each teacher, and whether they are two things."""
    if found["teachers"]:
        out.print(Text(f"Local beside global naturalness, nats a token (higher is better), on {_prompts(found)}", style="bold"))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
        table.add_column("teacher", overflow="fold", min_width=12)
        for name in ("local", "global"):
            table.add_column(name, justify="right", no_wrap=True)
        for t in found["teachers"]:
            table.add_row(Text(safe(t["teacher"])), number(t["local"]), number(t["global"]))
        out.print(table)
    _print_notes(found["notes"], out)


def _prompts(answer: dict[str, Any]) -> str:
    """What teachers were compared on."""
    return f"the {answer['n_prompts']:,} prompts that all answered" if answer["matched"] else f"all {answer['n_prompts']:,} prompts"


def _print_notes(notes: list[str], out: Console) -> None:
    for note in notes:
        out.print(Text(safe(f"note: {note}"), style="yellow"))


def print_comparison(compared: dict[str, Any], out: Console) -> None:
    """`compare`'s answer: the sentence, the sides, each teacher's values and places, what changed order, notes."""
    metric, better = compared["metric"], compared["better"]
    out.print(Text(safe(compared["sentence"]), style="bold"))
    for side in ("a", "b"):
        facts = compared[side]
        night = f", night {facts['night']}" if facts["night"] else ""
        out.print(Text(safe(f"{side.upper()}: {facts['store']}, student {facts['student']}{night}"), style="dim"), soft_wrap=True)
    out.print(Text(f"Teachers by {metric} ({better} is better), on {compared['basis']}", style="dim"))
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    shown.add_column("teacher", overflow="fold", min_width=12)
    wide = out.width >= NARROW
    interval = f"{percent(compared['confidence'])} interval\nof B - A"
    for name in ("place\nA > B", "A", "B", "B - A", interval, *(["draws with\nB higher", "prompts", "scored\nA", "scored\nB"] if wide else [])):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("more than\nnoise", no_wrap=True)
    for t in compared["teachers"]:
        places = f"{t['a']['place']} > {t['b']['place']}"
        between = f"{number(t['low'])} to {number(t['high'])}" if t["low"] is not None else "-"
        numbers = (number(t["a"]["value"]), number(t["b"]["value"]), number(t["difference"]), between)
        counts = [f"{n:,}" if n is not None else "-" for n in (t["n_prompts"], t["a"]["n_trajectories"], t["b"]["n_trajectories"])]
        more = [f"{t['p_up']:.0%}" if t["p_up"] is not None else "-", *counts] if wide else []
        shown.add_row(Text(safe(t["teacher"])), places, *numbers, *more, _verdict(t))
    out.print(shown)
    pairs = compared["swaps"]
    for pair in pairs[:SWAPS]:
        sure = "cannot be told" if pair["more_than_noise"] is None else "more than noise" if pair["more_than_noise"] else "may be noise"
        share = f", both orders in {pair['share']:.0%} of draws" if pair["share"] is not None else ""
        out.print(Text(safe(f"changed order: A has {pair['before_in_a']} before {pair['before_in_b']}, B the reverse{share}: {sure}")))
    if len(pairs) > SWAPS:
        out.print(Text(f"changed order: {len(pairs) - SWAPS:,} other pairs; --json lists them"))
    if tau := compared["kendall"]:
        between = f" ({number(tau['low'])} to {number(tau['high'])})" if tau["low"] is not None else ""
        on = f", prompts: {compared['n_prompts_ranked']:,}" if compared["n_prompts_ranked"] is not None else ""
        out.print(Text(f"order: Kendall tau of the two rankings {number(tau['value'])}{between}{on}"))
    if rows := compared["trajectories"]:
        alone = f"{rows['only_a']:,} only in A, {rows['only_b']:,} only in B"
        out.print(Text(safe(f"trajectories: {rows['both']:,} in both{_changed(rows)}; {alone}")))
    for what, names in (("only in A", "only_a"), ("only in B", "only_b"), ("in both, without a prompt in common", "unmatched")):
        if compared[names]:
            out.print(Text(safe(f"teachers {what}: {', '.join(compared[names])}")))
    _print_notes([*compared["notes"], *noise_in_words(compared)], out)


def noise_in_words(compared: dict[str, Any]) -> list[str]:
    """What "more than noise" means in a comparison; nothing where it is said of nothing."""
    many, same_student = len(compared["teachers"]), compared["same_student"]
    judged = [f"the {many} teachers" if many > 1 else "the one teacher"] if same_student else []
    judged += [f"all pairs of the {many} teachers"] if many > 1 else []
    if not judged:
        return []
    corrected = ", corrected for being so many (Holm)" if many > 1 else ""
    alone = "; an interval is of one teacher alone" if same_student else ""
    return [f"more than noise: at {percent(compared['confidence'])} on prompts like these, of {' and of '.join(judged)}{corrected}{alone}"]


def _verdict(t: dict[str, Any]) -> str:
    """Whether a teacher moved by more than noise, and which way; "-" where that cannot be told."""
    if t["more_than_noise"] is None:
        return "-"
    if not t["more_than_noise"]:
        return "no" if t["difference"] else "same"
    return f"yes, {t['went']}"


def _changed(rows: dict[str, Any]) -> str:
    if rows["differ"] is None or not rows["both"]:
        return ""
    if not rows["differ"]:
        return ", the same bit for bit"
    return f", {rows['differ']:,} of them differ: by {rows['largest']:.2g} at most, {rows['column']} of {rows['where']}"


def _broken(name: str) -> str:
    """A metric's name over several lines, for the head of a narrow column."""
    return name.replace("_", "_\n")


def number(value: float | None) -> str:
    """Four digits: more is noise."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"


def _whisker(low: float | None, value: float, high: float | None, least: float, most: float, width: int) -> Text:
    """An interval and its point on a line of characters."""
    if most <= least:
        return Text("●")
    at = [round((v - least) / (most - least) * (width - 1)) for v in (low if low is not None else value, value, high if high is not None else value)]
    line = [" "] * width
    line[at[0] : at[2] + 1] = "─" * (at[2] - at[0] + 1)
    line[at[1]] = "●"
    return Text("".join(line), style="cyan")


def print_run(run: Run, store_uri: str, out: Console) -> None:
    """The row equation, the rejects by reason, and where the files are."""
    out.print(Text(run.equation))
    if run.splits:
        out.print(Text(f"  memory ran out {run.splits:,} times: batches were split and made smaller; --batch-tokens sets their size"))
    _print_notes(run.notes, out)
    for reason, n in run.rejected.most_common():
        out.print(Text(f"  rejected {n:,} {reason}: {REJECT_REASONS[reason]}"))
        out.print(Text(safe(f"    e.g. {run.examples[reason]}")), style="dim")
    out.print(Text(f"scores    {store_uri}/scores/student={run.config.student_name}/"), soft_wrap=True)
    out.print(Text(f"teachers  {store_uri}/teachers/student={run.config.student_name}.parquet"), soft_wrap=True)
    out.print(Text(f"run       {store_uri}/runs/{run.run_id}.json"), soft_wrap=True)


def print_check(checked: "Checked", out: Console) -> None:
    """What was read of a store, each finding, and what to do."""
    read = ", ".join(f"{n:,} {what}" for what, n in sorted(checked.files.items()))
    out.print(Text(f"{sum(checked.files.values()):,} files of store {checked.store} read: {read}"), soft_wrap=True)
    if checked.n_unsealed:
        out.print(
            Text(f"{checked.n_unsealed:,} of them were written by an earlier version, which left no digest: they can be read, no more is known")
        )
    for finding in checked.findings:
        removed = " (removed)" if finding.place in checked.removed else ""
        out.print(Text(safe(f"{finding.kind:<9} {finding.place}: {finding.detail}{removed}")), soft_wrap=True)
    if checked.removed:
        what = "units and tables are made again by the next run of rsr-ray score; records of runs and nights stay lost"
        out.print(Text(f"{len(checked.removed):,} files removed: {what}"))
    elif not checked.is_well:
        out.print(Text("--repair removes what is broken; rsr-ray score then makes units and tables again"))
    else:
        out.print(Text("every file is what was written there"))


def print_choice(manifest: dict[str, Any], out: Console) -> None:
    """What was chosen: from which teachers, beside all candidates and a random choice, and what was left out."""
    by, chosen, prompts, config = manifest["by"], manifest["chosen"], manifest["prompts"], manifest["config"]
    title = f"{chosen:,} trajectories for student {manifest['student']}, up to {config['k']:,} a prompt, by {by['name']} ({by['better']} is better)"
    if n := manifest["dropped"].get("incomplete", 0):
        title += f"; {n:,} cut-off {'answer' if n == 1 else 'answers'} left out (--keep-incomplete keeps them)"
    out.print(Text(safe(title), style="bold"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in ("chosen", "share", "candidates", "tokens each"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in manifest["teachers"]:
        length = f"{t['mean_tokens']:,.0f}" if t["mean_tokens"] is not None else "-"
        table.add_row(Text(safe(t["teacher"])), f"{t['chosen']:,}", f"{t['share']:.1%}", f"{t['candidates']:,}", length)
    out.print(table)
    sets = ("chosen", "candidates", "random")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("mean of the set")
    for name in ("better", *sets):
        table.add_column(name, justify="right", no_wrap=True)
    for name in manifest["means"]["chosen"]:
        better = REGISTRY[name].better
        table.add_row(name, better, *(f"{manifest['means'][some][name]:,.4g}" for some in sets), style="bold" if name == by["name"] else "")
    out.print(table)
    out.print(Text(f"random: as many of each prompt, drawn with seed {config['seed']}", style="dim"))
    out.print(Text(f"{manifest['rows']:,} scored rows = {manifest['candidates']:,} candidates + {sum(manifest['dropped'].values()):,} left out"))
    for why, n in manifest["dropped"].items():
        out.print(Text(f"  {n:,} {why}: {_why_dropped(why)}"))
    _print_notes(manifest["notes"], out)
    line = f"{prompts['all']:,} prompts, {prompts['without_candidates']:,} of them without a candidate"
    out.print(Text(line + (f", {prompts['with_fewer_than_k']:,} with fewer than {config['k']:,}" if config["k"] > 1 else "")))
    if n := manifest["ties"]["prompts"]:
        out.print(Text(f"{n:,} prompts were cut between {manifest['ties']['rule']}"), soft_wrap=True)
    if cap := manifest["cap"]:
        moved = f"{cap['moved']:,} places went to another teacher, {cap['left_out']:,} were left out"
        out.print(Text(f"--max-share {cap['max_share']:g}: no teacher has more than {cap['most']:,}; {moved}"))
    out.print(Text(f"files     {config['out']}/train-*.{config['format']}, {len(manifest['files']):,} of them"), soft_wrap=True)
    out.print(Text(f"manifest  {config['out']}/manifest.json"), soft_wrap=True)


def _why_dropped(why: str) -> str:
    return REJECT_REASONS[why.removeprefix("rejected/")] if why.startswith("rejected/") else DROPPED[why]


def print_doctor(doctor: "Doctor", out: Console) -> None:
    """The sample with what is scored marked, then a line a finding."""
    for shown in doctor.shown:
        line = Text(safe(f"{shown.trajectory_id}: "), style="bold")
        if shown.reject:
            line.append(safe(f"rejected: {shown.reject}"), style="red")
        at = 0
        for start, stop in shown.spans:
            line.append(_middle_out(shown.text[at:start]), style="dim")
            line.append("«" + _middle_out(shown.text[start:stop]) + "»", style="green")
            at = stop
        out.print(line, soft_wrap=True)
    if doctor.shown:
        out.print(Text("«scored», the rest is context\n", style="dim"))
    style = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    for finding in doctor.findings:
        out.print(Text.assemble((f"{finding.level:8}", style[finding.level]), f" {finding.check}: {finding.says}"), soft_wrap=True)


def print_plan(plan: dict[str, Any], out: Console) -> None:
    """How a corpus is read, a line a fact."""
    for name, value in plan.items():
        pairs = [f"{key}={some}" for key, some in value.items()] if isinstance(value, dict) else value
        said = ", ".join(pairs) if isinstance(pairs, list) else str(pairs)
        if said:
            line = Text.assemble((f"{name.replace('_', ' '):14}", "bold"), safe(said))
            out.print(line, soft_wrap=True)


def print_preview_row(row: "PreviewRow", out: Console) -> None:
    """A row as the student sees it, what is scored of it marked; or why it is rejected."""
    where = f"{row.source} row {row.source_row}"
    out.print()
    out.print(Text(safe(f"{where}  {row.teacher or 'no teacher'}"), style="bold"), soft_wrap=True)
    if row.reject_reason:
        reject = f"rejected: {row.reject_reason}: {row.reject_detail}"
        out.print(Text(safe(reject), style="red"), soft_wrap=True)
        return
    text, line, at = row.text or "", Text(), 0
    for start, stop in row.spans:
        line.append(_shortened(text[at:start]), style="dim")
        line.append("«" + _shortened(text[start:stop]) + "»", style="green")
        at = stop
    line.append(_shortened(text[at:]), style="dim")
    out.print(line, soft_wrap=True)


def _shortened(text: str) -> str:
    """A text as it stands, its middle left out where it is long."""
    shown = text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} … {text[-SHOWN:]}"
    return "\n".join(safe(line) for line in shown.split("\n"))


def _middle_out(text: str) -> str:
    """A text in one line, its middle left out where it is long."""
    text = safe(" ".join(text.replace("\n", "⏎ ").split()))
    return text if len(text) <= 80 else f"{text[:38]} … {text[-38:]}"


def race_line(record: dict[str, Any]) -> str:
    """A round of a race in one line."""
    leader, n = record["leader"], len(record["alive"])
    first = f"{leader['teacher']} leads, {record['by']} {_interval(leader)}" if leader else "nobody leads yet"
    left = f"; out: {', '.join(record['left'])}" if record["left"] else ""
    so_far = f"{record['prompts']:,} of {record['of_prompts']:,} prompts, {record['cost_share']:.1%} of the full cost"
    return safe(f"round {record['round']}: {so_far}; {first}{left}; {n} teacher{'s'[: n != 1]} in")


def _interval(standing: dict[str, Any]) -> str:
    return f"{standing['value']:.3f} ({_ends(standing)})"


def _ends(standing: dict[str, Any]) -> str:
    """The interval; a value with every prompt tried has none: it is exact, of these prompts."""
    if standing["exact"]:
        return "exact"
    return "-" if standing["low"] is None else f"{standing['low']:.3f} to {standing['high']:.3f}"


def print_race(record: dict[str, Any], store_uri: str, out: Console) -> None:
    """The teachers of a race, best first, who is the winner and how sure that is, and what it cost."""
    by, better, share = record["by"], record["better"], percent(record["confidence"])
    title = Text(f"Race of teachers for student {record['student']}, by {by} ({better} is better)")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in (f"{by}\n{better}=better", f"{share}\ninterval", "prompts", "out after\nround"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for t in record["teachers"]:
        numbers = [f"{t['value']:.3f}", _ends(t), f"{t['n_prompts']:,}"] if "value" in t else ["-"] * 3
        why = t["why"] or ("winner" if t["teacher"] == record["winner"] else "could still win")
        table.add_row(Text(safe(t["teacher"])), *numbers, str(t["left_after_round"] or "-"), Text(safe(why)))
    out.print(table)
    out.print(Text(safe(race_answer(record)), style="bold"), soft_wrap=True)
    spent, taken, full = record["spent"], record["taken_from_store"], record["full"]
    tokens = f"{spent['scored_tokens']:,} tokens scored, {spent['prompt_tokens']:,} of prompts"
    trajectories = f"{spent['trajectories']:,} of {full['trajectories']:,} trajectories"
    out.print(Text(f"cost      {spent['cost_share']:.1%} of scoring all {record['matched_prompts']:,} matched prompts: {trajectories}; {tokens}"))
    if taken["trajectories"]:
        out.print(
            Text(f"taken     {taken['trajectories']:,} trajectories, {taken['cost_share']:.1%} of that cost, from the store: it had their scores")
        )
    for reason, n in record["rejected"].items():
        out.print(Text(f"  rejected {n:,} {reason}: {REJECT_REASONS[reason]} Their prompts are not compared."), soft_wrap=True)
    if record["unreadable_rows"]:
        out.print(Text(f"  {record['unreadable_rows']:,} rows of the corpus hold no conversation that could be read and did not race"))
    own = f"{store_uri}/races/{record['race_id']}"
    out.print(Text(f"race      {own}/race.json"), soft_wrap=True)
    if record["decided"] and not (spent["trajectories"] and taken["trajectories"]):  # else no store holds all that was looked at
        ranked = f"rsr-ray teachers --store {own if spent['trajectories'] else store_uri} --student {record['student']}"
        out.print(Text(f"On prompts like these, not these alone: {ranked}"), soft_wrap=True)


def race_answer(record: dict[str, Any]) -> str:
    """What a race found out, in a sentence."""
    if not record["decided"]:
        more = record["next_cost_share"]
        go_on = f"; the next round takes the cost to {more:.1%}: give --budget {math.ceil(more * 100) / 100:g} or more to go on" if more else ""
        n = len(record["alive"])
        left = f"{n} teacher{'s'[: n != 1]} could still win: {', '.join(record['alive'])}" if n else "No teacher is left"
        return f"Not decided: {record['reason']}. {left}{go_on}"
    last, sure = record["rounds"][-1], f" ({percent(record['confidence'])})"
    if last["prompts"] == record["matched_prompts"]:
        n, of = last["prompts_compared"], last["prompts"]
        on = f"the {n:,} of {of:,} prompts with a score of every teacher still in" if n < of else f"these {of:,} prompts"
        some_left_early = any((t["left_after_round"] or math.inf) < len(record["rounds"]) for t in record["teachers"])
        return f"{record['winner']} is best on {on}{sure if some_left_early else ''}: {record['reason']}"
    within = f", or within {record['margin']:.2%} of the best," if record["margin"] else ""
    return f"{record['winner']} is best{within} on these {record['matched_prompts']:,} prompts{sure}: {record['reason']}"


def print_rejects(rows: list[dict[str, Any]], out: Console) -> None:
    """A row a line, by reason."""
    for reason in dict.fromkeys(sorted(row["reject_reason"] for row in rows)):
        some = [row for row in rows if row["reject_reason"] == reason]
        out.print(Text(f"{len(some):,} {reason}: {REJECT_REASONS[reason]}", style="bold"), soft_wrap=True)
        for row in some:
            where = f"{row['source']} row {row['source_row']}"
            out.print(Text(safe(f"  {row['teacher']}  {row['trajectory_id']}  {where}: {row['reject_detail']}")), soft_wrap=True)
    if not rows:
        out.print("no row was rejected")


def print_night(night: dict[str, Any], store_uri: str, out: Console) -> None:
    """Of each student the ranking and what changed since the last night, or the error that stopped it."""
    if held := night.get("held_by"):
        ago = f", which wrote its lease {held['age']:.0f} s ago"
        out.print(Text(f"Another nightly run is at work on {store_uri} ({held.get('holder', 'starting')}{ago}); this one leaves it to it."))
        return
    for name, student in night["students"].items():
        if "teachers" in student:
            if student.get("ranking"):
                print_ranking(student["ranking"], student["teachers"], name, out)
            else:
                print_teachers(student["teachers"], name, out)
            for line in changes_in_words(student, night["night"]):
                out.print(Text(safe(line)), soft_wrap=True)
        if student["error"]:
            out.print(Text(safe(f"student {name}: {student['error']}"), style="bold red"), soft_wrap=True)
        out.print()
    if "report" in night:
        out.print(Text(f"report    {night['report']}"), soft_wrap=True)
    out.print(Text(f"night     {store_uri}/nightly/{night['night']}.json"), soft_wrap=True)


def changes_in_words(student: dict[str, Any], night: str) -> list[str]:
    """What changed for a student, a line each."""
    equation, changes = student["equation"], student["changes"]
    rejected = sum(equation["rejected"].values())
    lines = [f"night {night}: {equation['scored']:,} scored, {rejected:,} rejected, {equation['already_scored']:,} scored before"]
    if changes is None:
        return [*lines, "nothing to compare with: the first night of this student" if not student["since"] else
                f"not compared with night {student['since']}: the settings or weights were others"]  # fmt: skip
    lines[0] += f"; since night {student['since']}:"
    for new in changes["new_teachers"]:
        place = f"takes place {new['place']} of {new['of']} (rsr {new['rsr']:.3f}, lower is better)" if new["place"] else "has nothing scored"
        lines.append(f"  new teacher {new['teacher']} {place}")
    lines += [f"  {moved['teacher']} moved from place {moved['from']} to {moved['to']}" for moved in changes["moved"]]
    if unsure := changes.get("unsure"):
        lines.append("  places that differ, which may be noise: " + ", ".join(f"{m['teacher']} {m['from']} -> {m['to']}" for m in unsure))
    lines += [f"  {name} is gone" for name in changes["gone_teachers"]]
    grown = changes["new_trajectories"]
    if grown:
        lines.append(f"  {sum(grown.values()):+,} trajectories: " + ", ".join(f"{name} {n:+,}" for name, n in grown.items()))
    lines += [f"  {n:+,} rejected as {reason}: {REJECT_REASONS[reason]}" for reason, n in changes["new_rejects"].items()]
    return lines if len(lines) > 1 else [*lines, "  nothing changed"]


MOST_STUDENTS = 5  # that have a column each: more do not fit


def print_correlations(result: dict[str, Any], out: Console) -> None:
    """What `correlate` found, best first, how it was taken, and what differs from the paper where the table is the paper's."""
    students = list(result["students"])
    counts = f"{len(students):,} student{'s' * (len(students) > 1)}, {result['teachers']:,} teachers"
    title = Text(f"Spearman correlation of metrics with accuracy after training: {counts}")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False)
    table.add_column("metric", overflow="fold", min_width=20)
    table.add_column("bet-\nter")
    shown = students if len(students) <= MOST_STUDENTS else []
    for name in shown:
        table.add_column(Text("-\n".join(safe(name).split("-"))), justify="right", overflow="fold", min_width=5)
    for name in ("mean", "|mean|", "95%\ninterval", "p", "Pear-\nson", "Ken-\ndall", "paper"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric in result["metrics"]:
        each = [_correlation(metric["students"][name]["spearman"]) for name in shown]
        interval = " ".join(_correlation(end, 2) for end in metric["interval"] or [None])
        p = _correlation(metric["p"], 4) if (metric["p"] or 1) > 0.00005 else f"{metric['p']:.0e}"
        values = [_correlation(metric[name]) for name in ("spearman", "abs_of_mean")]
        others = [_correlation(metric[name]) for name in ("pearson", "kendall", "published")]
        table.add_row(Text(safe(metric["metric"])), metric["better"], *each, *values, interval, p, *others)
    out.print(table)
    for line in _correlation_notes(result):
        out.print(Text(safe(line)), soft_wrap=True)
    if result["paper"]:
        _print_paper(result["paper"], out)


def _correlation(value: float | None, digits: int = 3) -> str:
    """As papers write it, without the zero before the point."""
    return "-" if value is None else f"{value:.{digits}f}".replace("0.", ".", 1)


def _correlation_notes(result: dict[str, Any]) -> list[str]:
    """What a reader has to know of the table, a line each."""
    least, most = (end(student["teachers"] for student in result["students"].values()) for end in (min, max))
    n = f"{least}" if least == most else f"{least} to {most}"
    every = math.factorial(result["teachers"])
    orders = f"all {every:,}" if every <= result["permutations"] else f"{result['permutations']:,}"
    methods = {metric["interval_method"] for metric in result["metrics"]} - {None}
    lines = [
        "mean: of the students' signed correlations, |mean| its absolute value, as published; Pearson and Kendall: such means as well",
        f"p: of |mean|, from {orders} orders of the teachers, the same for every student",
        f"95% interval: of mean, from {result['draws']:,} draws of teachers, the same for every student ({', '.join(sorted(methods)) or 'none'}); "
        f"wide, because a student has n = {n} teachers",
    ]
    if any(metric["published"] for metric in result["metrics"]):
        lines.append("paper: |mean| as arXiv 2601.14249 prints it for its own 5 students and 11 teachers")
    if len(result["students"]) > MOST_STUDENTS:
        lines.append("each student's correlations are in --json")
    tied = [f"{of['tied_accuracies']} accuracies of {name}" for name, of in result["students"].items() if of["tied_accuracies"]]
    tied += [f"{of['tied']} of {metric['metric']} of {name}" for metric in result["metrics"] for name, of in metric["students"].items() if of["tied"]]
    shown = ", ".join(tied[:8]) + (f" and {len(tied) - 8} more, see --json" if len(tied) > 8 else "")
    lines.append(f"tied values: {shown or 'none'}" + ("; they share their average rank, Kendall is tau-b" if tied else ""))
    sign = {"lower": 1, "higher": -1}
    wrong = [m for m in result["metrics"] if m["spearman"] is not None and m["spearman"] * sign.get(m["better"], 0) > 0]
    lines += [f"wrong sign: {m['metric']} should be {m['better']} for better teachers, and in this table it is not (p = {m['p']:.2g})" for m in wrong]
    nulls: dict[tuple[str, str], list[str]] = {}
    for metric in result["metrics"]:
        for name, of in metric["students"].items():
            if of["why_null"]:
                nulls.setdefault((metric["metric"], of["why_null"]), []).append(name)
    lines += [f"no correlation of {metric} under {', '.join(names)}: {why}" for (metric, why), names in nulls.items()]
    without: dict[str, list[str]] = {}
    for metric in result["metrics"]:
        if metric["why_no_interval"]:
            without.setdefault(metric["why_no_interval"], []).append(metric["metric"])
    lines += [f"no interval of {', '.join(names)}: {why}" for why, names in without.items()]
    return [*lines, *result["notes"], *(f"left out: {what}" for what in result["left_out"])]


def _print_paper(paper: dict[str, Any], out: Console) -> None:
    """What the paper's second reading of a cell changes, and what explains the values it prints."""
    order, second = paper["order"], f"with {paper['second_reading']}"
    out.print()
    twice = f"accuracy {paper['accuracy']} in two tables of arXiv 2601.14249, {paper['second_reading']} in two others"
    out.print(Text(f"Student {paper['student']}, teacher {paper['teacher']}: {twice}", style="bold"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in ("metric", "|mean|", second, *(["as told\nbelow", "printed", "why printed is not |mean|"] if order else [])):
        table.add_column(name, justify="left" if name in ("metric", "why printed is not |mean|") else "right", overflow="fold")
    for row in paper["rows"]:
        more = [_correlation(row["best_order"]), _correlation(row["printed"]), row["reason"] or "-"] if order else []
        table.add_row(Text(safe(row["metric"])), _correlation(row["here"]), _correlation(row["second_reading"]), *more)
    out.print(table)
    if each := paper["rsr_of_students"]:
        out.print(Text(f"rsr of {', '.join(each)}:"), soft_wrap=True)
        for key, what in (("printed", "printed"), ("here", "from the table"), ("best_order", "as told below")):
            out.print(Text(f"  {' '.join(_correlation(abs(of[key])) for of in each.values())}  {what}"))
    if order:
        which = second if order["second_reading"] else f"with {paper['accuracy']}"
        also = f"{order['as_good']} others do as well" if order["as_good"] else "no other does as well"
        out.print(
            Text(
                f"Of {order['tried']} readings and orders of tied accuracies one, {which}, gives {order['reproduces']} of the {order['of']} values "
                f"that the paper prints (each metric's mean, and rsr's of each student); {also}:"
            ),
            soft_wrap=True,
        )
        for tie in order["ties"]:
            out.print(Text(safe(f"  {tie['student']}, {tie['accuracy']}: {' above '.join(tie['order'])}")), soft_wrap=True)
