"""Made-up reasoning trajectories: word problems, and teachers with visibly different habits."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ("Ada", "Bruno", "Chen", "Dara", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas")
THINGS = ("apples", "marbles", "stamps", "pencils", "coins", "shells", "cards", "books")
N_PROMPTS = 60

Problem = dict[str, int | str]


def make_problem(rng: random.Random) -> Problem:
    """Start with a, gain b packs of c, give away d; how many are left?"""
    a, b, c = rng.randint(3, 60), rng.randint(2, 9), rng.randint(2, 12)
    return {
        "name": rng.choice(NAMES),
        "thing": rng.choice(THINGS),
        "a": a,
        "b": b,
        "c": c,
        "d": rng.randint(1, a + b * c - 1),
    }


def prompt(p: Problem) -> str:
    return (
        f"{p['name']} has {p['a']} {p['thing']} and buys {p['b']} packs of {p['c']} "
        f"{p['thing']} each. "
        f"Then {p['name']} gives {p['d']} {p['thing']} away. How many {p['thing']} are left?"
    )


def _numbers(p: Problem) -> tuple[int, int, int]:
    bought = int(p["b"]) * int(p["c"])
    total = int(p["a"]) + bought
    return bought, total, total - int(p["d"])


def terse(p: Problem, rng: random.Random) -> str:
    bought, total, left = _numbers(p)
    return (
        f"{p['b']} * {p['c']} = {bought}. {p['a']} + {bought} = {total}. {total} - {p['d']} = "
        f"{left}. The answer is {left}."
    )


def methodical(p: Problem, rng: random.Random) -> str:
    bought, total, left = _numbers(p)
    return (
        f"<think>\nStep 1: {p['name']} buys {p['b']} packs of {p['c']}, so {p['b']} * "
        f"{p['c']} = {bought} {p['thing']}.\n"
        f"Step 2: together with the first {p['a']} that makes {p['a']} + {bought} = {total} "
        f"{p['thing']}.\n"
        f"Step 3: {p['d']} are given away, so {total} - {p['d']} = {left} {p['thing']} are left.\n"
        f"</think>\n\n{p['name']} has {left} {p['thing']} left. The answer is {left}."
    )


def doubtful(p: Problem, rng: random.Random) -> str:
    bought, total, left = _numbers(p)
    wrong = total + rng.choice((-10, -2, 2, 10))
    doubts = rng.sample(
        [
            "Wait, let me read the question again.",
            "Hmm, is that right?",
            "Let me check this once more to be sure.",
            f"Actually, does {p['name']} keep the first {p['a']}? Yes.",
            "Okay, so where was I?",
            "Alternatively, I could count backwards.",
        ],
        4,
    )
    return (
        f"<think>\nOkay, {p['name']} has {p['a']} {p['thing']}. {doubts[0]} "
        f"{p['b']} packs of {p['c']} {p['thing']}, that is {p['b']} * {p['c']} = {bought}. "
        f"{doubts[1]} {p['a']} + {bought} = {wrong}. {doubts[2]} No, {p['a']} + {bought} = "
        f"{total}. {doubts[3]} "
        f"Then {total} - {p['d']} = {left}. Let me check: {left} + {p['d']} = {total}. Yes, "
        f"{left}.\n</think>\n\nThe answer is {left}."
    )


def formal(p: Problem, rng: random.Random) -> str:
    bought, total, left = _numbers(p)
    return (
        f"Let $x$ denote the number of {p['thing']}. Then\n\\begin{{align*}}\nx &= {p['a']} "
        f"+ {p['b']} \\cdot {p['c']} - {p['d']} \\\\\n"
        f"&= {p['a']} + {bought} - {p['d']} \\\\\n&= {total} - {p['d']} \\\\\n&= "
        f"{left}.\n\\end{{align*}}\nHence $x = \\boxed{{{left}}}$."
    )


def flowery(p: Problem, rng: random.Random) -> str:
    bought, total, left = _numbers(p)
    dear = rng.choice(("gentle reader", "dear friend", "kind soul", "patient scholar"))
    return (
        f"Ah, {dear}, picture {p['name']} beside a trove of {p['a']} {p['thing']}! From the "
        f"merchant come {p['b']} bundles, each cradling {p['c']}; "
        f"lo, {bought} more swell the hoard to a splendid {total}. Yet generosity calls, "
        f"and {p['d']} depart. What remains, {dear}? "
        f"Precisely {left}. The answer is {left}."
    )


def looping(p: Problem, rng: random.Random) -> str:
    bought, total, left = _numbers(p)
    line = f"So {total} - {p['d']} = {left}. "
    return (
        f"<think>\n{p['b']} * {p['c']} = {bought}. {p['a']} + {bought} = {total}. "
        + line * rng.randint(6, 14)
        + f"\n</think>\n\nThe answer is {left}."
    )


TEACHERS: dict[str, Callable[[Problem, random.Random], str]] = {
    "terse-7b": terse,
    "methodical-32b": methodical,
    "doubtful-32b-think": doubtful,
    "formal-72b": formal,
    "flowery-8b": flowery,
    "looping-3b": looping,
}


def conversation(teacher: str, problem: Problem, rng: random.Random) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": prompt(problem)},
        {"role": "assistant", "content": TEACHERS[teacher](problem, rng)},
    ]


def write_corpus(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write the shards, the same for the same seed, and return the number of rows a teacher.

    Shards are parquet, jsonl and jsonl.gz by turns. One answer is empty, and one line of JSON is
    cut off.
    """
    rng = random.Random(seed)
    problems = [make_problem(rng) for _ in range(N_PROMPTS)]
    for n, teacher in enumerate(TEACHERS):
        rows = [
            {
                "id": f"{teacher}/{i}",
                "prompt_id": f"problem-{i}",
                "messages": conversation(teacher, problem, rng),
            }
            for i, problem in enumerate(problems)
        ]
        if teacher == "flowery-8b":
            rows[7]["messages"][1]["content"] = ""  # type: ignore[index]
        shard = folder / f"teacher={teacher}" / "part-00000"
        shard.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) for row in rows]
        if teacher == "doubtful-32b-think":
            lines[11] = lines[11][:200]
        text = "\n".join(lines) + "\n"
        if n % 3 == 0:
            pq.write_table(pa.Table.from_pylist(rows), f"{shard}.parquet")
        elif n % 3 == 1:
            Path(f"{shard}.jsonl").write_text(text)
        else:
            Path(f"{shard}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    return dict.fromkeys(TEACHERS, N_PROMPTS)
