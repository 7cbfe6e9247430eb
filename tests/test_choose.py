"""The choice against brute force in pandas: ties, missing teachers, rejects, samples, caps,
controls.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rsr_ray.choose.candidates import Candidates, drop_by_scores
from rsr_ray.choose.cap import cap_shares
from rsr_ray.choose.card import CARD_BEGINS, card
from rsr_ray.choose.choose import find_files, notes
from rsr_ray.choose.columns import CANDIDATES
from rsr_ray.choose.files import refuse_foreign
from rsr_ray.choose.manifest import Manifest, make_manifest
from rsr_ray.choose.offers import Offers, offers_of
from rsr_ray.choose.prompts import choose_prompts
from rsr_ray.choose.summary import Summary
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.corpus.pairs import PAIRS
from rsr_ray.corpus.verdicts import says
from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject
from rsr_ray.guard import UNCHECKED
from rsr_ray.metrics import CONTROLS, REGISTRY
from rsr_ray.schema import DROPPED, SCORES
from rsr_ray.store.packs import FEWEST, pack_up
from rsr_ray.store.store import Store

TIE = ["teacher", "sample", "trajectory_id"]


def config(**changes) -> ChooseConfig:
    return ChooseConfig(**({"store": "s", "student": "m", "out": "o"} | changes))


@functools.cache
def made_up(
    n_prompts: int = 40, n_teachers: int = 5, seed: int = 0, coarse: int = 3
) -> pd.DataFrame:
    """Candidates with many equal values (`coarse` of each sum), teachers that miss prompts,
    several samples, rejects and duplicates. To be read, not changed.
    """
    rng = random.Random(seed)
    rows = []
    for p in range(n_prompts):
        for t in range(n_teachers):
            for sample in range(rng.choice((0, 1, 1, 3))):
                rejected = rng.random() < 0.15
                n = rng.randint(1, coarse) * 7 + 1
                row = dict.fromkeys(CANDIDATES.names)
                row |= {"dropped": "rejected/over_length" if rejected else None}
                row |= {
                    "prompt_id": f"p{p}",
                    "teacher": f"t{t}",
                    "trajectory_id": f"p{p}-t{t}-{sample}",
                    "sample": rng.choice((None, sample)),
                    "source": f"s{t % 2}",
                    "source_row": len(rows),
                    "version": "v",
                }
                if not rejected:
                    row |= {
                        "n_tokens": n,
                        **{
                            f"rank_sum{x}": 30 * rng.randint(1, coarse)
                            for x in ("", "_50", "_200", "_500", "_unclipped")
                        },
                    }
                    row |= {
                        "surprisal_sum": 10 * rng.randint(1, coarse) / 2,
                        "entropy_sum": n * 1.0,
                        "token_ratio_sum": n * 2.0,
                        "n_top30": n // 3,
                    }
                    row |= {
                        "token_ratio_top30_sum": float(n),
                        "n_top20": n // 5,
                        "surprisal_top20_sum": float(n),
                        "n_improbable": rng.randint(0, n),
                    }
                    row |= {
                        "brier_sum": n * rng.randint(1, coarse) / 4,
                        "checking": rng.choice((0.0, 0.1)),
                        "exploring": 0.0,
                        "connecting": rng.random(),
                    }
                    row |= {
                        "mean_rank": row["rank_sum"] / n,
                        "mean_surprisal": row["surprisal_sum"] / n,
                        "rsr": row["rank_sum"] / row["surprisal_sum"],
                    }
                rows.append(row)
                if rng.random() < 0.1:
                    rows.append(row | {"source": "s9"})
    return pd.DataFrame(rows, columns=CANDIDATES.names)


def as_table(rows: pd.DataFrame) -> pa.Table:
    clean = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in rows.to_dict("records")
    ]
    for row in clean:
        row |= {
            f.name: int(row[f.name])
            for f in CANDIDATES
            if f.type == pa.int64() and row[f.name] is not None
        }
    return pa.Table.from_pylist(clean, CANDIDATES)


def chosen_of(table: pa.Table, **changes) -> tuple[list[dict], Summary]:
    """The chosen rows and the partition's summary."""
    rows, summary = chosen_in([table], **changes)
    return rows.to_pylist(), summary


def chosen_in(partitions: list[pa.Table], **changes) -> tuple[pa.Table, Summary]:
    """The chosen rows of partitions and their summary, as `choose_trajectories` has them."""
    asked, capped = config(**changes), None
    if asked.max_share is not None:
        offers = Offers.of(offers_of(rows, asked) for rows in partitions)
        capped = cap_shares(offers, asked.k, asked.max_share)
    found = [choose_prompts(rows, asked, capped and capped.exchanged) for rows in partitions]
    rows = pa.concat_tables(found)
    summary = Summary.added(rows["summary"].drop_null().to_pylist())
    summary = dataclasses.replace(summary, capped=capped.moves) if capped else summary
    return rows.filter(pc.is_null(rows["summary"])), summary


def manifest_of(*summaries: Summary, **changes) -> Manifest:
    """The manifest of partitions with these summaries."""
    found = Summary.added(summary.to_text() for summary in summaries)
    return make_manifest(config(**changes), "f", found, [])


def ids(rows: list[dict]) -> set:
    return {(row["prompt_id"], row["teacher"], row["trajectory_id"]) for row in rows}


def lark_of(group: pd.DataFrame) -> pd.Series:
    loss, brier = group.surprisal_sum / group.n_tokens, group.brier_sum / group.n_tokens
    rho = brier / loss
    return (loss / loss.sum()) * (2 * rho - (rho * loss).sum() / loss.sum())


def z(values: pd.Series) -> pd.Series:
    return (values - values.mean()) / values.std(ddof=0) if values.nunique() > 1 else values * 0.0


def draw(row: pd.Series, seed: int) -> float:
    digest = hashlib.sha256(
        "\0".join((str(seed), row.prompt_id, row.teacher, row.trajectory_id)).encode()
    ).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


# Of a prompt's candidates the values of a metric, turned so that lower is better: written again,
# apart from the registry.
ORDERS = {
    "rsr": lambda g: g.rank_sum / g.surprisal_sum,
    "mean_surprisal": lambda g: g.surprisal_sum / g.n_tokens,
    "lark": lambda g: -lark_of(g),
    "longest": lambda g: -g.n_tokens,
    "shortest": lambda g: g.n_tokens,
    "random": lambda g: g.apply(draw, axis=1, seed=0),
    "rule_quality": lambda g: (
        -(
            0.3 * z(g.n_tokens)
            + 0.2 * z(g.checking)
            + 0.25 * z(g.exploring)
            + 0.25 * z(g.connecting)
        )
    ),
}


def with_dropped_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """And of every third row a copy that was left out, in a shard that comes first: a corpus
    that lay elsewhere before, say.
    """
    why = ("missing", "no_verdict", "not_verified", "incomplete", "rejected/over_length")
    copies = rows.iloc[::3].assign(source="r")
    return pd.concat([rows, copies.assign(dropped=[why[n % len(why)] for n in range(len(copies))])])


def brute_force(rows: pd.DataFrame, by: str, k: int) -> set:
    rows = rows.assign(out=rows.dropped.notna())
    once = rows.sort_values(["out", "source", "source_row"]).drop_duplicates(
        ["prompt_id", "teacher", "trajectory_id"]
    )
    best = []
    for _, group in once[once.dropped.isna()].groupby("prompt_id"):
        order = ORDERS[by](group)
        # sums that pandas takes in another order
        order = order.round(12) if by in ("lark", "rule_quality") else order
        best.append(
            group.assign(order=order).sort_values(["order", *TIE], na_position="last").head(k)
        )
    return ids(pd.concat(best).to_dict("records"))


@pytest.mark.parametrize(
    ("by", "k"), [*zip(ORDERS, itertools.cycle((1, 3)), strict=False), ("rsr", 3)]
)
def test_the_choice_is_the_brute_force_one(by, k):
    plain = made_up(n_prompts=20)
    rows = with_dropped_copies(plain)
    got, summary = chosen_of(as_table(rows), by=by, k=k)
    assert ids(got) == brute_force(rows, by, k) == brute_force(plain, by, k)
    assert "r" not in {row["source"] for row in got}
    assert summary.sets["chosen"].n == len(got)
    assert {row["by"] for row in got} == {by}
    assert max(row["place"] for row in got) == k


def test_every_metric_can_be_chosen_by_in_its_registered_direction():
    rows = made_up(coarse=50)
    table = as_table(rows.assign(n_steps=4, step_surprisal_sum=rows.surprisal_sum))
    for name, metric in REGISTRY.items():
        if metric.better == "-":
            with pytest.raises(UserError, match="no direction"):
                config(by=name)
            continue
        got, _ = chosen_of(table, by=name)
        worst, _ = chosen_of(table, by=name, k=10**6)
        pick = max if metric.better == "higher" else min
        for row in got:
            assert row["value"] == pick(
                other["value"] for other in worst if other["prompt_id"] == row["prompt_id"]
            ), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"by": "lark", "k": 2},
        {"by": "random", "seed": 7},
        {"by": "rule_quality"},
        {"max_share": 0.25},
    ],
)
def test_the_order_of_rows_changes_no_bit(changes):
    rows = made_up(seed=3)
    first = chosen_in([as_table(rows)], **changes)
    for seed in range(3):
        assert chosen_in([as_table(rows.sample(frac=1, random_state=seed))], **changes) == first


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"by": "lark"},
        {"by": "rule_quality", "k": 2},
        {"max_share": 0.25},
        {"k": 2, "max_share": 0.22},
        {"by": "longest", "max_share": 0.21},
    ],
)
def test_partitions_change_no_row_and_no_sum(changes):
    rows = made_up(seed=4)
    whole, summary = chosen_of(as_table(rows), **changes)
    parts = [
        as_table(rows[rows.prompt_id.str[-1].isin(list(digits))])
        for digits in ("012", "345", "6789")
    ]
    found, added = chosen_in(parts, **changes)
    assert sorted(map(str, whole)) == sorted(map(str, found.to_pylist()))
    assert added == summary
    assert bool(summary.capped) == ("max_share" in changes)


def test_random_depends_on_the_seed_and_favours_nobody():
    rows = made_up(n_prompts=300, coarse=9)
    picks = {seed: ids(chosen_of(as_table(rows), by="random", seed=seed)[0]) for seed in (0, 1)}
    assert picks[0] != picks[1]
    # Each teacher has about its share of the candidates; six standard deviations of a binomial.
    got, summary = chosen_of(as_table(rows), by="random")
    for teacher, t in summary.teachers.items():
        share = t.candidates / summary.sets["candidates"].n
        assert abs(t.chosen - share * len(got)) < 6 * math.sqrt(share * (1 - share) * len(got)), (
            teacher
        )


def test_the_random_set_takes_as_many_of_each_prompt():
    rows = made_up(seed=5)
    _, summary = chosen_of(as_table(rows), k=2)
    by_chance, _ = chosen_of(as_table(rows), by="random", k=2)
    assert summary.sets["random"].n == summary.sets["chosen"].n
    lengths = pd.Series([row["n_tokens"] for row in by_chance]).value_counts()
    assert summary.sets["random"].lengths == dict(lengths.items())


def test_ties_at_the_cut_are_counted():
    rows = made_up(coarse=2)
    got, summary = chosen_of(as_table(rows), k=2)
    all_of, _ = chosen_of(as_table(rows), k=10**6)
    tied = 0
    for prompt in {row["prompt_id"] for row in got}:
        values = sorted(row["value"] for row in all_of if row["prompt_id"] == prompt)
        tied += len(values) > 2 and values[1] == values[2]
    assert summary.tied_prompts == tied > 0


def test_what_is_dropped_is_counted_by_reason():
    rows = made_up(seed=6)
    rows.loc[rows.prompt_id == "p3", "dropped"] = "rejected/over_length"
    rows.loc[rows.prompt_id == "p4", "dropped"] = "min_tokens"
    _, summary = chosen_of(as_table(rows))
    duplicates = rows.duplicated(["prompt_id", "teacher", "trajectory_id"])
    assert summary.rows == len(rows)
    assert summary.dropped["duplicate"] == duplicates.sum()
    assert (
        summary.dropped["rejected/over_length"]
        == (rows[~duplicates].dropped == "rejected/over_length").sum()
    )
    assert summary.rows == summary.sets["candidates"].n + sum(summary.dropped.values())
    lost = [p for p, group in rows.groupby("prompt_id") if group.dropped.notna().all()]
    assert {"p3", "p4"} <= {*lost}
    assert (summary.prompts, summary.prompts_without) == (rows.prompt_id.nunique(), len(lost))
    assert summary.because["min_tokens"] == 1


@pytest.mark.parametrize(
    "why", ["rejected/over_length", *sorted(DROPPED.keys() - {"duplicate", "no_value"})]
)
def test_a_candidate_counts_before_its_dropped_copy(why):
    rows = made_up(n_prompts=1, n_teachers=1, seed=1)
    row = rows[rows.dropped.isna()].iloc[:1].assign(source="s9")
    got, summary = chosen_of(as_table(pd.concat([row.assign(dropped=why, source="s0"), row])))
    assert [r["source"] for r in got] == ["s9"]
    assert summary.dropped == {"duplicate": 1}


def test_means_of_a_set_are_those_of_a_teacher():
    got, summary = chosen_of(as_table(made_up(coarse=9)), k=2)
    manifest = manifest_of(summary, k=2)
    means = manifest.means["chosen"]
    rank, surprisal = (
        np.mean([row[name] for row in got]) for name in ("mean_rank", "mean_surprisal")
    )
    assert means["rsr"] == pytest.approx(rank / surprisal, rel=1e-9)
    assert means["rsr_mean"] == pytest.approx(np.mean([row["rsr"] for row in got]), rel=1e-9)
    assert means["n_tokens"] == np.mean([row["n_tokens"] for row in got])
    assert "local_naturalness" not in means
    lengths = sorted(row["n_tokens"] for row in got)
    assert manifest.lengths["chosen"].p50 == np.quantile(lengths, 0.5, method="inverted_cdf")
    assert manifest.lengths["chosen"].p100 == lengths[-1]
    assert sum(t.chosen for t in manifest.teachers) == len(got)
    json.dumps(manifest.to_json())


FIRST = pa.table({"place": [0]})


def write_rows(store: Store, key: str, version: str, source: str, n: int) -> None:
    """Scored rows of a version of a file, as a unit."""
    row = {"teacher": "T", "source": source, "fingerprint": "f", "prompt_id": "p"}
    row |= {"n_tokens": 10, "rank_sum": 9, "surprisal_sum": 3.0}
    ids = [{"trajectory_id": f"{source} {version} {i}", "source_row": i} for i in range(n)]
    write_unit(store, key, version, [row | of for of in ids])


def write_unit(store: Store, key: str, version: str, rows: list[dict]) -> None:
    facts = {"key": [key], "version": [version], "start": [0], "stop": [len(rows)], "last": [True]}
    of_unit = pa.array([rows], pa.list_(pa.struct(list(SCORES))))
    store.write_unit(pa.table({**facts, "rows": of_unit}), "f")


@pytest.mark.parametrize("skip_missing", [False, True])
def test_of_a_file_that_was_scored_in_several_versions_its_present_one_counts(
    tmp_path, monkeypatch, skip_missing
):
    """Else the first that has rows, which is then missing."""
    versions = {"now": "b" * 12, "gone": None, "replaced": "c" * 12, "empty": "a" * 12}
    store = Store(str(tmp_path), "m", None)
    for n, source in enumerate(versions):
        for version, rows in (("a" * 12, 0 if source in ("gone", "empty") else 2), ("b" * 12, 3)):
            write_rows(store, f"{n:016}", version, source, rows)
    monkeypatch.setattr("rsr_ray.choose.candidates.version_of", lambda uri, _: versions[uri])
    files = store.score_files("f")
    find = Candidates(config(skip_missing=skip_missing), store, "f", files)
    places = pa.table({"place": range(len(files))})
    if not skip_missing:
        with pytest.raises(UserError, match="shard gone no longer exists"):
            find.read(places)
        return
    found = {(r["source"], r["version"], r["dropped"]) for r in find.read(places).to_pylist()}
    assert found == {
        ("now", "b" * 12, None), ("gone", "b" * 12, "missing"), ("replaced", "a" * 12, "missing"),
    }  # fmt: skip
    write_rows(store, f"{0:016}", f"{'b' * 12}-{'1' * 12}", "now", 1)
    find = Candidates(config(skip_missing=True), store, "f", store.score_files("f"))
    with pytest.raises(UserError, match="now was scored with 2 different settings"):
        find.read(pa.table({"place": range(len(find.files))}))


def test_files_of_a_pack_are_missing_one_by_one(tmp_path, monkeypatch):
    store = Store(str(tmp_path), "m", None)
    small = [InputObject(uri=f"s{n:02}", version=f"{n:012}", size=9) for n in range(FEWEST)]
    (pack,), _ = pack_up(small, store, [])
    row = {"teacher": "T", "fingerprint": "f", "prompt_id": "p", "source_row": 0, "n_tokens": 10}
    numbers = {"rank_sum": 9, "surprisal_sum": 3.0}
    sources = ["s00", "s01", "s02", "no member"]
    rows = [{**row, **numbers, "trajectory_id": uri, "source": uri} for uri in sources]
    write_unit(store, pack.key, pack.version, rows)
    now = {"s00": f"{0:012}", "s01": "f" * 12}
    monkeypatch.setattr("rsr_ray.choose.candidates.version_of", lambda uri, _: now.get(uri))
    find = Candidates(config(skip_missing=True), store, "f", store.score_files("f"))
    found = {(r["source"], r["version"], r["dropped"]) for r in find.read(FIRST).to_pylist()}
    assert found == {
        ("s00", f"{0:012}", None), ("s01", f"{1:012}", "missing"), ("s02", f"{2:012}", "missing"),
    }  # fmt: skip


KNOWN = {"said_complete": 1, "guarded": 1}  # of these rows everything is known


def test_local_naturalness_is_compared_with_the_global_one_from_what_was_scored(tmp_path):
    store = Store(str(tmp_path), "m", None)
    row = {"teacher": "T", "source": "s", "fingerprint": "f", "n_tokens": 10}
    good = [
        row
        | {
            "trajectory_id": f"{n}",
            "surprisal_sum": 10.0 + n,
            "n_steps": 2 + n,
            "step_surprisal_sum": (2 + n) * (1.0 + n),
        }
        for n in range(4)
    ]
    bad = [{"trajectory_id": "x", "source": "s", "reject_reason": "not_text", "fingerprint": "f"}]
    for start, rows in ((0, good), (4, bad)):
        facts = {
            "key": ["0" * 16],
            "version": ["a" * 12],
            "start": [start],
            "stop": [start + len(rows)],
            "last": [False],
        }
        store.write_unit(
            pa.table({**facts, "rows": pa.array([rows], pa.list_(pa.struct(list(SCORES))))}), "f"
        )
    files = store.score_files("f")
    said, collapsed = notes(config(by="local_naturalness"), store, "f", files, **KNOWN)
    assert said == (
        "local naturalness: rank correlation with global naturalness over 4 trajectories "
        "1.000; median number of steps 3.5"
    )
    assert collapsed.startswith("local naturalness has collapsed")
    assert notes(config(by="local_naturalness"), store, "f", files[1:], **KNOWN) == []
    assert notes(config(by="rsr"), store, "f", files, **KNOWN) == []


def test_a_store_without_the_guards_columns_is_noted(tmp_path):
    (said,) = notes(config(), Store(str(tmp_path), "s"), "f", [], **KNOWN | {"guarded": 0})
    assert said == UNCHECKED


GUARDED = {"longest_repeat": 3, "compression_ratio": 2.0, "cut_off": False, "n_tokens": 9}
JUDGED = {
    "good": GUARDED,
    "loop": GUARDED | {"repeated_ngrams": 0.99, "complete": True},
    "loop, cut off": GUARDED | {"repeated_ngrams": 0.99, "complete": False, "cut_off": True},
    "cut off": GUARDED | {"complete": False, "cut_off": True},
    "breaks off": GUARDED | {"cut_off": True},
    "old": {"n_tokens": 9},
    "old, cut off": {"n_tokens": 9, "complete": False},
    "rejected": {"reject_reason": "not_text"},
}
CUT = {"loop, cut off": "incomplete", "cut off": "incomplete", "old, cut off": "incomplete"}
BAD = {"rejected": "rejected/not_text"}


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        ({}, CUT | {"loop": "degenerate", "breaks off": "degenerate"}),
        ({"keep_degenerate": True}, CUT),
        ({"keep_incomplete": True}, {"loop": "degenerate", "loop, cut off": "degenerate"}),
        ({"keep_incomplete": True, "keep_degenerate": True}, {}),
        ({"complete_column": "done"}, {"loop": "degenerate", "loop, cut off": "degenerate"}),
    ],
)
def test_degenerate_rows_are_left_out_unless_they_are_to_be_kept(kept, why):
    rows = pa.Table.from_pylist([{"teacher": "t"} | row for row in JUDGED.values()], SCORES)
    dropped = drop_by_scores(rows, config(**kept)).to_pylist()
    assert {name: d for name, d in zip(JUDGED, dropped, strict=True) if d} == why | BAD
    assert {*why.values()} <= {*DROPPED}


# --- caps------------------------------------------------------------------------------------------


def brute_cap(rows: pd.DataFrame, k: int, share: tuple[int, int]) -> set:
    """The rule of CAP_RULE, every loss looked at anew for every row that moves."""
    rows = rows.sort_values(["source", "source_row"]).drop_duplicates(
        ["prompt_id", "teacher", "trajectory_id"]
    )
    rows = rows[rows.dropped.isna()]
    rows = (
        rows.assign(order=rows.rank_sum / rows.surprisal_sum)
        .sort_values(["prompt_id", "order", *TIE], na_position="last")
        .reset_index(drop=True)
    )
    chosen = set(rows.groupby("prompt_id").head(k).index)
    at = rows.to_dict("index")
    of_prompt = {prompt: list(group.index) for prompt, group in rows.groupby("prompt_id")}
    while True:
        most = share[0] * len(chosen) // share[1]
        have = {t: sum(at[i]["teacher"] == t for i in chosen) for t in set(rows.teacher)}
        above = sorted(t for t, n in have.items() if n > most)
        if not above:
            return {(at[i]["prompt_id"], at[i]["teacher"], at[i]["trajectory_id"]) for i in chosen}
        moves = []
        for i in chosen:
            if at[i]["teacher"] in above:
                others = [
                    j
                    for j in of_prompt[at[i]["prompt_id"]]
                    if j not in chosen and have[at[j]["teacher"]] < most
                ]
                moves += (
                    [(at[min(others)]["order"] - at[i]["order"], i, min(others))] if others else []
                )
        if moves:
            _, gone, new = min(moves)
            chosen.add(new)
        else:
            furthest = min(above, key=lambda t: -have[t])
            gone = max(
                (i for i in chosen if at[i]["teacher"] == furthest),
                key=lambda i: (at[i]["order"], i),
            )
        chosen.remove(gone)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("k", "share"), [(1, (1, 4)), (2, (3, 10)), (3, (22, 100)), (1, (1, 2))])
def test_a_capped_choice_is_the_brute_force_one(seed, k, share):
    rows = made_up(seed=seed, coarse=2 + seed)
    # one that would take most prompts
    rows = rows.assign(rank_sum=rows.rank_sum.where(rows.teacher != "t1", rows.n_tokens))
    got, summary = chosen_of(as_table(rows), k=k, max_share=share[0] / share[1])
    assert ids(got) == brute_cap(rows, k, share)
    for t in summary.teachers.values():
        assert t.chosen * share[1] <= share[0] * len(got)
    moved = summary.capped.values()
    assert sum(t.moved_away for t in moved) == sum(t.moved_to for t in moved)


def test_a_share_that_too_few_teachers_can_keep_is_an_error_and_says_so():
    _, summary = chosen_of(as_table(made_up(n_teachers=3)), max_share=0.3)
    with pytest.raises(UserError, match="--max-share 0.3 cannot be met with 3 teachers"):
        manifest_of(summary, max_share=0.3)


def test_a_share_that_nobody_exceeds_changes_nothing():
    table = as_table(made_up())
    free, capped = chosen_of(table)[0], chosen_of(table, max_share=1.0)
    assert free == capped[0]
    assert capped[1].capped == {}


# --- what the user can mend------------------------------------------------------------------------


def test_no_value_of_the_metric_says_what_to_score():
    rows = as_table(made_up())
    got, summary = chosen_of(rows, by="local_naturalness")
    assert not got
    with pytest.raises(UserError, match="score with --metrics local_naturalness"):
        manifest_of(summary, by="local_naturalness")


@pytest.mark.parametrize(
    ("name", "option"), [("teachers", "--teachers"), ("exclude_teachers", "--exclude-teachers")]
)
def test_a_teacher_that_is_not_there_is_named(name, option):
    _, summary = chosen_of(as_table(made_up()))
    with pytest.raises(
        UserError, match=f"{option} t9: not in the store; teachers: t0, t1, t2, t3, t4"
    ):
        manifest_of(summary, **{name: ("t1", "t9")})


def test_a_column_in_which_no_row_says_whether_it_is_complete_is_named():
    rows = made_up()
    _, silent = chosen_of(as_table(rows))
    _, told = chosen_of(as_table(rows.assign(complete=[n != 7 or None for n in range(len(rows))])))
    with pytest.raises(UserError, match=r"--complete-column whole: no row has a value"):
        manifest_of(silent, complete_only=True, complete_column="whole")
    manifest_of(silent, told, complete_only=True, complete_column="whole")
    manifest_of(silent, complete_only=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"by": "rsrr"}, "--by rsrr: no such metric; choose rsr, "),
        ({"by": "n_tokens"}, "longest or shortest"),
        ({"k": 0}, "--k 0"),
        ({"max_share": 0.0}, "--max-share 0"),
        ({"max_share": 1.5}, "--max-share 1.5"),
        ({"format": "csv"}, "parquet or jsonl"),
        ({"teachers": ("a", "b"), "exclude_teachers": ("b",)}, "--exclude-teachers b"),
        ({"min_tokens": 9, "max_tokens": 3}, "--min-tokens 9"),
        (
            {"complete_column": "whole", "keep_incomplete": True},
            "--keep-incomplete contradicts --complete-column",
        ),
        ({"columns": ("x",)}, "NAME=COLUMN"),
        ({"store": "s3://me:secret@host/x"}, "password"),
    ],
)
def test_a_wrong_option_is_named(wrong, says):
    with pytest.raises(UserError, match=says):
        config(**wrong)


def test_scores_of_several_fingerprints_do_not_mix(tmp_path):
    store = Store(str(tmp_path), "m", None)
    with pytest.raises(UserError, match="no scores of student m"):
        find_files(store, None)
    for fingerprint in ("a" * 16, "b" * 16):
        path = (
            tmp_path
            / "scores/student=m"
            / fingerprint
            / "0"
            / f"{'0' * 16}-{'1' * 12}-{0:010d}-{2:010d}-last.parquet"
        )
        path.parent.mkdir(parents=True)
        path.touch()
    with pytest.raises(UserError, match=f"--fingerprint {'a' * 16} or {'b' * 16}"):
        find_files(store, None)
    with pytest.raises(UserError, match="the store has"):
        find_files(store, "c" * 16)
    assert [file.units for file in find_files(store, "a" * 16)[1]] == [(path.name,)]


def test_units_that_overlap_count_once(tmp_path):
    folder = tmp_path / "scores/student=m/f/0"
    folder.mkdir(parents=True)
    names = [
        f"{'0' * 16}-{'1' * 12}-{start:010d}-{stop:010d}.parquet"
        for start, stop in ((0, 10), (5, 20), (10, 20))
    ]
    for name in names:
        (folder / name).touch()
    fingerprint, files = find_files(Store(str(tmp_path), "m", None), None)
    assert fingerprint == "f"
    assert [file.units for file in files] == [(names[0],), (names[2],)]


def test_a_folder_with_anything_else_in_it_is_not_written_to(tmp_path):
    (tmp_path / "train-0123456789abcdef.parquet").touch()
    with pytest.raises(UserError, match="earlier choice.*--overwrite"):
        refuse_foreign(config(out=str(tmp_path)))
    refuse_foreign(config(out=str(tmp_path), overwrite=True))
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UserError, match="contains thesis.docx, which rsr-ray choose did not write"):
        refuse_foreign(config(out=str(tmp_path), overwrite=True))


def test_the_card_says_what_datasets_would_say():
    import datasets
    import yaml

    many = pa.list_(
        pa.struct(
            [("a", pa.list_(pa.list_(pa.int64()))), ("b", pa.list_(pa.string())), ("c", pa.null())]
        )
    )
    schema = pa.schema(
        [
            ("x", pa.float64()),
            ("y", pa.float32()),
            ("m", many),
            ("s", pa.struct([("q", pa.bool_())])),
            ("h", pa.large_string()),
        ]
    )
    text = card(schema)
    assert text.startswith(CARD_BEGINS)
    said = yaml.safe_load(text.strip().strip("-"))["dataset_info"]["features"]
    assert datasets.Features._from_yaml_list(said) == datasets.Features.from_arrow_schema(schema)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(True, True), (0, False), ("Yes", True), ("wrong", False), (None, None), (1.0, True)],
)
def test_what_a_column_says(value, verdict):
    assert says({"correct": value}, "correct", "here") is verdict
    assert says({"correct": [False, value], "sample": 1}, "correct", "here") is verdict


def test_a_verdict_that_is_none_is_named():
    with pytest.raises(UserError, match="x.jsonl row 3: column correct has 0.37"):
        says({"correct": 0.37}, "correct", "x.jsonl row 3")


def test_reasons_and_controls_are_explained():
    assert {"duplicate", "no_value"} <= DROPPED.keys()
    assert all(direction in ("lower", "higher") for _, direction in CONTROLS.values())
    assert not CONTROLS.keys() & REGISTRY.keys()
    assert {"version", "dropped"} <= {*CANDIDATES.names} - {*SCORES.names}
    assert not Candidates(config(), Store("s", "m", None), "f", []).reads_corpus


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_lists_of_answers_are_split_as_they_were_scored_whatever_else_is_read(tmp_path, pair):
    question, answer = pair
    rows = {question: ["2+2?"], answer: [["4", "four"]], "ok": [True], "teacher": ["t"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    shard = InputObject(uri=str(tmp_path / "a.parquet"), version="v", size=1)
    chosen = config(verified="ok")
    candidates = Candidates(chosen, Store(chosen.store, "m", None), "f", [])
    assert [(n, row["ok"]) for n, row in candidates._rows(shard, {0, 1})] == [(0, True), (1, True)]
