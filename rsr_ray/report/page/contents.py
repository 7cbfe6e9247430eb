"""contents: what the viewer shows of each trajectory: its tokens, else its text, else why not."""

from collections import Counter
from dataclasses import dataclass, field

from rsr_ray.corpus.row_faults import Row
from rsr_ray.report.page.corpus_rows import Missing, read_rows
from rsr_ray.report.page.texts import Part, text_of_row
from rsr_ray.report.page.trajectories import ShownTokens, ShownTrajectory, stored_tokens, tokens_of
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store

TOKENS_SHOWN = 50_000  # over all trajectories of the page: about 25 bytes each
TOKENS_EACH = 1_500
TEXT_SHOWN = 1_000_000  # bytes, over all trajectories of the page
TEXT_EACH = 12_000
READ_TOKENS = 100_000_000  # of a corpus, for a student: about 400 MB


@dataclass(frozen=True)
class Contents:
    """Of shown[i] by i; each i is in one of the three."""

    tokens: dict[int, ShownTokens] = field(default_factory=dict)
    texts: dict[int, list[Part]] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)  # why there is neither


@dataclass(frozen=True)
class Sources:
    """Where contents come from besides the store, and how much of them is wanted."""

    tokens_from: str | None  # the student that scores the tokens if the store has none
    run: RunRecord | None  # that scored the rows
    mean_tokens: float  # of a row of the corpus
    share: float  # of the page


def find_contents(store: Store, shown: list[ShownTrajectory], sources: Sources) -> Contents:
    """The tokens in the store, else those of the student `tokens_from`, else the corpus's text.

    Raises UserError if that student is not the one that gave the scores.
    """
    n = max(1, len(shown))
    most_tokens = min(TOKENS_EACH, int(sources.share * TOKENS_SHOWN) // n)
    most_bytes = min(TEXT_EACH, int(sources.share * TEXT_SHOWN) // n)
    tokens = stored_tokens(store, shown, most_tokens)
    left = {i: row for i, row in enumerate(shown) if i not in tokens}
    if not left:
        return Contents(tokens)
    asked, run = sources.tokens_from, sources.run
    most_rows = None if asked else int(READ_TOKENS / sources.mean_tokens)
    rows: dict[int, Row] = {}
    missing: dict[int, str] = {}
    for i, row in read_rows(store, left, most_rows):
        if isinstance(row, Missing):
            missing[i] = row.why
        else:
            rows[i] = row
    texts = {i: text_of_row(row, most_bytes) for i, row in rows.items()}
    if asked and run:
        from rsr_ray.report.page.tokens import score_again

        again = score_again(rows, run, asked)
        tokens |= {i: tokens_of(row, most_tokens, run.config["r_max"]) for i, row in again}
    return Contents(tokens, {i: text for i, text in texts.items() if i not in tokens}, missing)


def reasons(missing: dict[int, str]) -> list[tuple[str, int]]:
    """Why texts are missing, each with how many, the most frequent first."""
    return Counter(missing.values()).most_common()
