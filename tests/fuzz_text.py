"""Rows of all shapes through read and encode, with an oracle: python -m tests.fuzz_text [100000]
[SEED]

Each row is made of words that occur nowhere else, and it is known which of them the assistant
wrote. Of every trajectory either each of these words is scored exactly once, in the text that it
was written in, and no other word is; or the row is a reject with a reason. Rows that hold what
nothing reads must be rejects. Under the student's own template and, where they are at hand, 22 real
ones, in every mode.
"""

import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.pairs import PAIRS
from rsr_ray.corpus.reading import Reading, trajectories
from rsr_ray.corpus.row_faults import row_boundary
from rsr_ray.encode.how import How
from rsr_ray.encode.locate import find
from rsr_ray.errors import BadRow
from rsr_ray.files.objects import InputObject
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.student.tokenizer import load_tokenizer

from .conftest import DEMO_STUDENT, SHARED

SPACES = (" ", " ", " ", "  ", "\n", "\n\n", ". ", ": ", "\t")
OBJ = InputObject(uri="/corpus/teacher=T/a.jsonl", version="v", size=1)
SYSTEM, USER, ASSISTANT, TOOL = (
    ("system", "developer"),
    ("user", "human"),
    ("assistant", "gpt", "model", "bot", "ai"),
    ("tool", "observation", "environment", "ipython", "tool_response"),
)


@dataclass
class Made:
    """A row, and what is known of it."""

    row: dict[str, Any]
    shape: str
    scored: list[list[str]]  # of each trajectory the texts that the assistant wrote
    context: list[str] = field(default_factory=list)  # texts of all else
    unread: bool = False  # holds text that nothing reads: must be a reject
    columns: dict[str, str] = field(default_factory=dict)


class Maker:
    """Makes rows. Words are numbered, so that none occurs twice."""

    def __init__(self, seed: int):
        self.rng, self.n = random.Random(seed), itertools.count(1)

    def word(self) -> str:
        return (
            "".join(self.rng.choice("bdfgklmnprstvz") + self.rng.choice("aeiou") for _ in range(2))
            + f"q{next(self.n)}q"
        )

    def text(self, *, white: bool = True) -> str:
        words = [self.word() for _ in range(self.rng.randint(1, 4))]
        out = words[0] + "".join(self.rng.choice(SPACES) + word for word in words[1:])
        if white and self.rng.random() < 0.15:
            out = self.rng.choice(["\n", " ", "\n\n", "\t"]) + out
        return out + ("\n" if white and self.rng.random() < 0.1 else "")

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    # --- turns ---

    def content(self, text: str) -> Any:
        """Text as a turn's content: itself, or in parts."""
        if self.chance(0.8):
            return text
        cut = self.rng.randrange(len(text) + 1)
        kind = self.rng.choice(["text", "output_text"]) if self.chance(0.5) else "text"
        parts = [{"type": kind, "text": part} for part in (text[:cut], text[cut:])]
        return parts if self.chance(0.7) else [part["text"] for part in parts]

    def turn(self, roles: tuple[str, ...], text: Any, sharegpt: bool) -> dict[str, Any]:
        role, body = ("from", "value") if sharegpt else ("role", "content")
        out = {role: self.rng.choice(roles), body: text}
        if self.chance(0.2):
            out |= dict.fromkeys(
                self.rng.sample(
                    ["tool_calls", "name", "tool_call_id", "thinking", "weight", "function_call"], 2
                )
            )
        return out

    def answer(
        self, made: Made, said: list[str], *, sharegpt: bool, calls: bool
    ) -> list[dict[str, Any]]:
        """A turn of the assistant with all that may be in it; behind calls what the tools said."""
        thought = self.text(white=False) if self.chance(0.35) else None
        text = self.text() if not calls or self.chance(0.5) else self.rng.choice(["", None])
        trained = not self.chance(0.1)
        into = said if trained else made.context
        used = [self.call() for _ in range(self.rng.randint(1, 2))] if calls else []
        if calls and self.chance(0.15) and not sharegpt:
            return self.blocks(made, said, thought, text, used)
        form = (
            self.rng.choice(["reasoning_content", "reasoning", "thinking", "think"])
            if thought
            else ""
        )
        shown = text
        if form == "think":
            shown = f"<think>\n{thought}\n</think>\n\n{text or ''}"
        out = self.turn(ASSISTANT, self.content(shown) if shown else shown, sharegpt)
        if form not in ("", "think"):
            out[form] = thought
        into += [part for part in (thought, text) if part]
        if used:
            out |= self.calls_of(used)
            into += [word for call in used for word in call["said"]]
        if not trained:
            out |= self.rng.choice([{"weight": 0}, {"loss": False}, {"train": False}])
        if self.chance(0.03):
            out[self.rng.choice(["analysis", "draft", "notes", "final_answer"])] = self.text()
            made.unread = True
        return [out, *self.results(made, used, sharegpt)]

    def call(self) -> dict[str, Any]:
        said = [self.word(), self.word()]
        arguments = {
            "path": said[0],
            "more": self.rng.choice([said[1], [said[1]], {"deep": said[1], "none": None}]),
        }
        return {
            "id": f"call{next(self.n):05d}"[:9],
            "name": self.rng.choice(["look", "run", "fetch"]),
            "arguments": arguments,
            "said": said,
        }

    def calls_of(self, used: list[dict[str, Any]]) -> dict[str, Any]:
        def shown(call: dict[str, Any]) -> dict[str, Any]:
            arguments = json.dumps(call["arguments"]) if self.chance(0.5) else call["arguments"]
            return {"name": call["name"], "arguments": arguments}

        if len(used) == 1 and self.chance(0.2):
            return {"function_call": shown(used[0])}
        calls = [{"id": call["id"], "type": "function", "function": shown(call)} for call in used]
        return {"tool_calls": json.dumps(calls) if self.chance(0.2) else calls}

    def blocks(
        self,
        made: Made,
        said: list[str],
        thought: str | None,
        text: str | None,
        used: list[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """The same in Anthropic's blocks, the results in the user's next turn."""
        parts = [{"type": "thinking", "thinking": thought, "signature": "x"}] if thought else []
        parts += [{"type": "text", "text": text}] if text else []
        parts += [
            {"type": "tool_use", "id": call["id"], "name": call["name"], "input": call["arguments"]}
            for call in used
        ]
        said += [part for part in (thought, text) if part] + [
            word for call in used for word in call["said"]
        ]
        results = []
        for call in used:
            result = self.text(white=False)
            made.context.append(result)
            results.append({"type": "tool_result", "tool_use_id": call["id"], "content": result})
        return [{"role": "assistant", "content": parts}, {"role": "user", "content": results}]

    def results(
        self, made: Made, used: list[dict[str, Any]], sharegpt: bool
    ) -> list[dict[str, Any]]:
        turns = []
        for call in used:
            made.context.append(text := self.text(white=False))
            turns.append(
                self.turn(TOOL, text, sharegpt)
                | ({} if sharegpt else {"tool_call_id": call["id"], "name": call["name"]})
            )
        return turns

    def conversation(self, made: Made, said: list[str], *, sharegpt: bool) -> list[dict[str, Any]]:
        turns = []
        if self.chance(0.25):
            made.context.append(text := self.text(white=False))
            turns.append(self.turn(SYSTEM, text, sharegpt))
        agent = self.chance(0.3)
        for _ in range(self.rng.randint(1, 3)):
            made.context.append(text := self.text())
            turns.append(self.turn(USER, self.content(text), sharegpt))
            for _ in range(self.rng.randint(0, 2) if agent else 0):
                turns += self.answer(made, said, sharegpt=sharegpt, calls=True)
            turns += self.answer(made, said, sharegpt=sharegpt, calls=False)
        return turns

    # --- rows ---

    def made(self) -> Made:
        make = self.rng.choice(
            [
                self.messages,
                self.messages,
                self.sharegpt,
                self.pair,
                self.pair,
                self.several,
                self.side_by_side,
            ]
        )
        made = make()
        if (
            self.chance(0.1)
            and made.shape != "side by side"
            and not {"reasoning", "thinking"} & made.row.keys()
        ):
            made.row[self.rng.choice(["reasoning", "thinking"])] = self.rng.choice(
                ["on", "off", True, False, "high", {"type": "enabled"}]
            )
        if self.chance(0.2):
            made.row |= {
                "id": next(self.n),
                "source": self.word(),
                "score": 0.5,
                "note": self.word(),
            }
        return made

    def messages(self) -> Made:
        made = Made({}, "messages", [[]])
        turns = self.conversation(made, made.scored[0], sharegpt=False)
        made.row["messages"] = json.dumps(turns) if self.chance(0.15) else turns
        return made

    def sharegpt(self) -> Made:
        made = Made({}, "conversations", [[]])
        made.row["conversations"] = self.conversation(made, made.scored[0], sharegpt=True)
        return made

    def asked(self, made: Made, asking: str) -> None:
        made.context.append(text := self.text())
        made.row[asking] = text
        if asking == "prompt" and self.chance(0.2):
            made.row[asking] = [{"role": "user", "content": text}]
        if asking == "instruction" and self.chance(0.5):
            made.context.append(more := self.text())
            made.row["input"] = more
        if self.chance(0.15):
            made.row["history"] = [[self.text(), self.text()]]
            made.context += made.row["history"][0]
        if self.chance(0.15):
            made.context.append(system := self.text(white=False))
            made.row["system"] = system

    def pair(self) -> Made:
        asking, answering = self.rng.choice(PAIRS)
        made = Made({}, f"{asking} + {answering}", [[]])
        self.asked(made, asking)
        text = self.text()
        made.scored[0].append(text)
        parts = [{"type": "text", "text": text}]
        forms = [
            text,
            text,
            parts,
            {"content": text},
            {"text": text, "finish_reason": "stop"},
            [{"role": "assistant", "content": text}],
        ]
        made.row[answering] = self.rng.choice(forms)
        if self.chance(0.3) and isinstance(made.row[answering], str):
            thought = self.text(white=False)
            made.row[self.rng.choice(["reasoning_content", "reasoning", "thinking"])] = thought
            made.scored[0].append(thought)
        return made

    def several(self) -> Made:
        """A list of answers to one prompt, some of them null."""
        asking, answering = self.rng.choice(PAIRS)
        n = self.rng.randint(1, 4)
        made = Made({}, f"several {answering}", [[] for _ in range(n)])
        self.asked(made, asking)
        texts: list[str | None] = [self.text() if not self.chance(0.15) else None for _ in range(n)]
        for said, text in zip(made.scored, texts, strict=True):
            said += [text] if text else []
        form = self.rng.choice(["texts", "dicts", "choices", "turns"])
        if form == "texts" or None in texts:
            made.row[answering] = texts
            if self.chance(0.3):
                thoughts = [self.text(white=False) for _ in range(n)]
                made.row["reasoning"] = thoughts
                for said, thought in zip(made.scored, thoughts, strict=True):
                    said.append(thought)
        elif form == "turns":
            made.row[answering] = [[{"role": "assistant", "content": text}] for text in texts]
        elif form == "choices":
            made.row[answering] = {
                "choices": [
                    {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                    for text in texts
                ]
            }
        else:
            name = self.rng.choice(["text", "content"])
            made.row[answering] = [{name: text, "finish_reason": "length"} for text in texts]
        return made

    def side_by_side(self) -> Made:
        """Answers of several teachers, or several samples, in columns of their own."""
        made, n = Made({}, "side by side", []), self.rng.randint(1, 3)
        made.context.append(question := self.text())
        made.row["question"] = question
        by_teacher = self.chance(0.5)
        made.columns = {
            "prompt": "question",
            "response": "{teacher}_said" if by_teacher else "answer_{sample}",
        }
        with_thoughts = by_teacher and self.chance(0.5)
        if with_thoughts:
            made.columns["thinking"] = "{teacher}_thought"
        for k in range(n):
            text = self.text()
            made.row[f"t{k}_said" if by_teacher else f"answer_{k}"] = text
            made.scored.append([text])
            if with_thoughts:
                made.row[f"t{k}_thought"] = thought = self.text(white=False)
                made.scored[-1].append(thought)
        return made


def through_arrow(row: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    """The row as Parquet has it: with a null for each key that only the row beside it has.

    As it is where Arrow has no type for both.
    """
    try:
        return pa.Table.from_pylist([row, beside]).to_pylist()[0]
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return json.loads(json.dumps(row))


def words_of(texts: list[str]) -> set[str]:
    return {part for text in texts for part in text.replace(".", " ").replace(":", " ").split()}


def fault_of(
    text: str, spans: list[tuple[int, int]], said: list[str], others: set[str]
) -> str | None:
    """How a rendering breaks the law; None where it does not.

    `others` are words that the assistant did not write here.
    """
    pieces = [text[start:stop] for start, stop in spans]
    if any(a[1] > b[0] for a, b in itertools.pairwise(spans)):
        return "spans overlap"
    whole = "\0".join(pieces)
    for one in said:
        if sum(piece.count(one.strip()) for piece in pieces) != 1:
            return f"{one!r} is scored {whole.count(one.strip())} times"
        if text.count(one.strip()) != 1:
            return f"{one!r} is {text.count(one.strip())} times in the text"
    if wrong := next((word for word in others if word in whole), None):
        return f"{wrong!r} is scored and not the assistant's"
    return None


def modes() -> Iterator[tuple[str, Any, How]]:
    """Templates with their tokenizers, and how they are used."""
    shared = SHARED / "students" / "tiny-qwen3"
    student = str(shared if shared.is_dir() else DEMO_STUDENT)
    templates = {"its own": None} | {
        path.stem: path.read_text() for path in sorted(SHARED.glob("chat_templates/*.jinja"))
    }
    for name, template in templates.items():
        tokenizer = load_tokenizer(student, template)
        for verbatim in (False, True):
            yield (
                f"{name}{' verbatim' if verbatim else ''}",
                tokenizer,
                How(max_length=10**9, verbatim=verbatim),
            )


def check(made: Made, tokenizer: Any, how: How, counts: Counter[str]) -> list[str]:
    """The violations of a row; what became of its trajectories is counted."""
    reading = Reading(columns=made.columns)
    try:
        with row_boundary("reading the row"):
            rows = [
                canonical(one, OBJ, n, reading)
                for n, (one, _) in enumerate(trajectories(made.row, reading))
            ]
    except BadRow as e:
        counts[f"{made.shape}: {e.reason}"] += 1
        return [] if made.unread else [f"refused whole: {e.detail}"]
    if len(rows) != len(made.scored):
        return [f"{len(rows)} trajectories, not {len(made.scored)}"]
    faults = []
    every = words_of([*made.context, *itertools.chain(*made.scored)])
    for row, said in zip(rows, made.scored, strict=True):
        try:
            if row["reject_reason"]:
                raise BadRow(row["reject_reason"], row["reject_detail"])
            with row_boundary("encoding the row"):
                text, spans, *_ = find(json.loads(row["messages"]), tokenizer, how, None)
        except BadRow as e:
            counts[f"{made.shape}: {e.reason}"] += 1
            if e.reason not in REJECT_REASONS or "\n" in e.detail:
                faults.append(
                    f"{e.reason}: {e.detail!r} is no reason of the list, or more than a line"
                )
            if (
                e.reason
                in ("row_error", "unread_content", "unreadable_row", "unknown_role", "not_text")
                and not made.unread
            ):
                faults.append(f"refused for no reason: {e.reason}: {e.detail}")
            if e.reason in ("empty_response", "no_assistant_turn") and said:
                faults.append(f"{e.reason}, and the assistant said {said}")
            continue
        counts[f"{made.shape}: scored"] += 1
        if made.unread:
            faults.append("scored, and holds text that nothing reads")
        if fault := fault_of(text, spans, said, every - words_of(said)):
            faults.append(f"{fault}\n{text}")
    return faults


def run(n: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """n rows, each under one template in one mode, by turns.

    What became of them, and the violations.
    """
    maker, counts, faults = Maker(seed), Counter[str](), []
    under, before = list(modes()), maker.made()
    for i in range(n):
        name, tokenizer, how = under[i % len(under)]
        made = maker.made()
        made.row = through_arrow(made.row, before.row)
        before = made
        found = check(made, tokenizer, how, counts)
        faults += [
            f"row {i}, {made.shape}, {name}: {fault}\n{json.dumps(made.row)}" for fault in found
        ]
    return counts, faults


if __name__ == "__main__":
    n, seed = (int(word) for word in (*sys.argv[1:], *("100000", "0")[len(sys.argv) - 1 :]))
    counts, faults = run(n, seed)
    for what, times in sorted(counts.items()):
        print(f"{times:8,}  {what}")
    print(
        f"{n:,} rows, seed {seed}: {sum(counts.values()):,} trajectories, {len(faults):,} "
        f"violations"
    )
    for fault in faults[:10]:
        print(f"\n{fault}")
    sys.exit(bool(faults))
