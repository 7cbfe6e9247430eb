"""The columns the store holds, with their units, and the closed list of reasons for rejecting rows.

A score that could not be computed is null and has a reject_reason; it is never 0.
"""

import pyarrow as pa

from rsr_ray.guard import GUARD, GUARD_COLUMNS

# Raised whenever the same settings would give another score than before; such changes stand under
# SCORES: in CHANGELOG.md.
SCORES_VERSION = 4

REJECT_REASONS: dict[str, str] = {
    "unreadable_shard": (
        "The shard could not be read to its end (corrupt, truncated, or not of the format its "
        "name says)."
    ),
    "unreadable_row": (
        "The line is not a JSON object, or the row has no conversation in any of the known shapes."
    ),
    "row_error": (
        "Reading, normalizing or encoding the row raised an error, or the row is larger than any "
        "that can be scored."
    ),
    "identity": (
        "An id, teacher or sample has a type that cannot name anything, or is not valid UTF-8."
    ),
    "stratum": "A column of --stratum has a list, a mapping, or a value that cannot be a name.",
    "unknown_role": "A turn has a role other than system, user, assistant or tool.",
    "unread_content": (
        "The row may have assistant text that would not be read: a key that nothing reads, or "
        "two keys that differ."
    ),
    "not_text": (
        "A turn's content is not text or not valid unicode, or has images that the student "
        "cannot see."
    ),
    "media": "An image is missing, broken, too large or not allowed, or has no clear place.",
    "no_teacher": (
        "Nothing names the row's teacher: no column, no teacher=NAME/ folder, no --teacher."
    ),
    "no_assistant_turn": "The conversation has no assistant turn, so there is nothing to score.",
    "empty_response": "Every assistant turn is empty or whitespace, or yields no scorable token.",
    "tool_calls": (
        "A tool call names no function, or its arguments or the declared tools are not JSON, or "
        "are nested too deeply."
    ),
    "template_error": (
        "The student's chat template refuses the conversation, takes over 10 s for it, or the "
        "position of a turn in the rendering cannot be found."
    ),
    "template_drops_response": (
        "The student's chat template leaves out part of an assistant turn (often the <think> text)."
    ),
    "template_changes_response": (
        "The student's chat template rewrites an assistant turn beyond stripping whitespace at "
        "its ends."
    ),
    "tokenizer_error": "The student's tokenizer failed on the rendered text.",
    "over_length": (
        "The rendered conversation has more tokens than the length limit (the student's context, "
        "or --max-length)."
    ),
    "too_large_for_memory": (
        "The row alone does not fit into the replica's memory alongside the student."
    ),
    "non_finite_score": (
        "The student's logits gave a surprisal or entropy that is not a finite number."
    ),
}

# Why `choose` leaves a scored row out; a rejected one is rejected/<reason>.
DROPPED: dict[str, str] = {
    "duplicate": "It repeats a trajectory_id and content of this prompt and teacher.",
    "teachers": "Its teacher is not among --teachers.",
    "exclude_teachers": "Its teacher is among --exclude-teachers.",
    "truncated": "It was truncated to the length limit before it was scored (--complete-only).",
    "incomplete": "The corpus says that the answer is not complete (--keep-incomplete keeps it).",
    "degenerate": (
        "It loops, repeats its tool calls, changes its script, or its text breaks off "
        "(--keep-degenerate keeps it)."
    ),
    "min_tokens": "It has fewer scored tokens than --min-tokens.",
    "max_tokens": "It has more scored tokens than --max-tokens.",
    "not_verified": "The corpus says that the answer is not correct (--verified).",
    "no_verdict": "The corpus does not say whether the answer is correct (--verified).",
    "no_value": "It has no value for the metric.",
    "eval_exact": "Its prompt is in --eval-set.",
    "eval_normalized": ("Its prompt is in --eval-set, ignoring case, punctuation and whitespace."),
    "eval_near": "Its prompt is close to one in --eval-set (--eval-overlap).",
    "trainer_length": "An answer to its prompt is longer than --trainer-length (arms).",
    "missing": "Its shard is missing, or was replaced since it was scored (--skip-missing).",
}


def _column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": meaning})


# What is added up over the scored tokens of a trajectory, or of a segment of it.
SUMS = [
    _column("n_tokens", pa.int64(), "scored tokens: the text of all assistant turns"),
    _column(
        "rank_sum", pa.int64(), "sum over scored tokens of min(rank, r_max); ranks are 1-based"
    ),
    _column(
        "surprisal_sum", pa.float64(), "nats; sum over scored tokens of -ln p(token | context)"
    ),
    _column(
        "entropy_sum",
        pa.float64(),
        "nats; sum over scored tokens of the entropy of the student's distribution",
    ),
    *(
        _column(f"rank_sum_{clip}", pa.int64(), f"sum over scored tokens of min(rank, {clip})")
        for clip in (50, 200, 500)
    ),
    _column("rank_sum_unclipped", pa.int64(), "sum over scored tokens of their ranks"),
    _column(
        "token_ratio_sum",
        pa.float64(),
        "ranks per nat; sum over scored tokens of min(rank, r_max) / surprisal, surprisal "
        "at least 2**-24",
    ),
    _column(
        "n_top30", pa.int64(), "the 30% of scored tokens with the highest surprisal, rounded up"
    ),
    _column(
        "token_ratio_top30_sum",
        pa.float64(),
        "ranks per nat; token_ratio_sum over those tokens",
    ),
    _column(
        "n_top20", pa.int64(), "the 20% of scored tokens with the highest surprisal, rounded up"
    ),
    _column("surprisal_top20_sum", pa.float64(), "nats; surprisal_sum over those tokens"),
    _column(
        "brier_sum",
        pa.float64(),
        "sum over scored tokens of 1 - 2 p(token) + sum of the squared probabilities of the "
        "vocabulary",
    ),
    _column("n_improbable", pa.int64(), "scored tokens with a probability under 0.01"),
    _column(
        "high_entropy_sum",
        pa.float64(),
        "nats; entropy_sum over the 0.5% of scored tokens with the highest entropy, rounded up",
    ),
]
TURN_SUMS = pa.struct([_column("turn", pa.int64(), "0-based turn of the conversation"), *SUMS[:4]])
SEGMENT_SUMS = pa.struct(
    [
        _column("segment", pa.string(), "reasoning, answer, tool_calls, or a name that was given"),
        *SUMS,
    ]
)
SCORES = pa.schema(
    [
        _column(
            "trajectory_id",
            pa.string(),
            "from the data, or a hash of teacher, prompt, response and sample",
        ),
        _column(
            "prompt_id",
            pa.string(),
            "from the data, or a hash of the turns before the first assistant turn",
        ),
        _column("teacher", pa.string(), "the model that wrote the assistant turns"),
        _column(
            "sample",
            pa.int64(),
            "index of the answer among one teacher's answers to one prompt, from the data",
        ),
        _column("source", pa.string(), "URI of the input object"),
        _column(
            "source_row",
            pa.int64(),
            "0-based row in the input object; a row with several answers counts as several rows",
        ),
        _column(
            "content",
            pa.string(),
            "hash of the conversation and its tools; null if no conversation could be read",
        ),
        _column(
            "complete",
            pa.bool_(),
            "whether the corpus marks the answer as complete; null if it does not say",
        ),
        _column(
            "strata",
            pa.map_(pa.string(), pa.string()),
            "the row's value in each column of --stratum, null where it has none; null without "
            "--stratum",
        ),
        _column("n_prompt_tokens", pa.int64(), "tokens before the first scored one"),
        *SUMS,
        _column(
            "n_within_sentences",
            pa.int64(),
            "scored tokens that are not among the first two of a sentence",
        ),
        _column("surprisal_within_sentences_sum", pa.float64(), "nats; surprisal_sum over those"),
        _column(
            "n_steps",
            pa.int64(),
            "steps of the assistant's text, if --metrics asked for local_naturalness",
        ),
        _column(
            "step_surprisal_sum",
            pa.float64(),
            "nats per token; sum over steps of their mean surprisal given the prompt and the "
            "last steps only",
        ),
        _column("mean_rank", pa.float64(), "rank_sum / n_tokens"),
        _column("mean_surprisal", pa.float64(), "nats per token; surprisal_sum / n_tokens"),
        _column("mean_entropy", pa.float64(), "nats per token; entropy_sum / n_tokens"),
        _column("rsr", pa.float64(), "ranks per nat; rank_sum / surprisal_sum; lower is better"),
        _column(
            "local_naturalness",
            pa.float64(),
            "nats per token; -step_surprisal_sum / n_steps; higher is better",
        ),
        _column(
            "turns",
            pa.list_(TURN_SUMS),
            "the sums of each assistant turn, in order, if --per-turn asked for them",
        ),
        *GUARD,
        _column(
            "segments",
            pa.list_(SEGMENT_SUMS),
            "the sums of each segment that has tokens, if --segments asked for them; a token "
            "belongs to the segment of its first character",
        ),
        _column(
            "truncated",
            pa.bool_(),
            "whether the row was truncated to the length limit before scoring; null for a "
            "rejected row",
        ),
        _column(
            "reject_reason",
            pa.string(),
            "null for a scored row, else one of the closed list of reasons",
        ),
        _column("reject_detail", pa.string(), "what happened, in words"),
        _column("fingerprint", pa.string(), "hash of everything that can change a score"),
    ]
)

# What scores of earlier versions lack, and can be read without; the guard's and strata since
# version 4, as are the columns of segments, HES and ASLEC-DROP.
SINCE_VERSION_3 = frozenset(
    {
        *("content", "complete", "strata", "segments", *GUARD_COLUMNS),
        *("high_entropy_sum", "n_within_sentences", "surprisal_within_sentences_sum"),
    }
)

# Beside the scores where --token-scores asked for it: a row a scored trajectory, a list element a
# scored token.
TOKENS = pa.schema(
    [
        *[SCORES.field(n) for n in ("trajectory_id", "teacher", "source", "source_row")],
        _column(
            "text",
            pa.list_(pa.string()),
            "the token's part of the rendered text; if several tokens share a character, the "
            "last one has it",
        ),
        _column("rank", pa.list_(pa.int32()), "1-based, not clipped"),
        _column("surprisal", pa.list_(pa.float32()), "nats"),
        _column("entropy", pa.list_(pa.float32()), "nats"),
        _column(
            "square", pa.list_(pa.float32()), "sum of the squared probabilities of the vocabulary"
        ),
    ]
)

TEACHERS = pa.schema(
    [
        _column("teacher", pa.string(), "the model that wrote the trajectories"),
        _column("n_trajectories", pa.int64(), "scored trajectories, duplicates counted once"),
        _column("n_prompts", pa.int64(), "distinct prompts among them"),
        _column("n_rejected", pa.int64(), "rejected trajectories, duplicates counted once"),
        _column("rejects", pa.map_(pa.string(), pa.int64()), "n_rejected by reason"),
        _column(
            "n_duplicates",
            pa.int64(),
            "further rows with a trajectory_id and content already counted; not in any aggregate",
        ),
        _column(
            "n_repeated_ids",
            pa.int64(),
            "trajectories among n_trajectories that share a trajectory_id with different content",
        ),
        _column(
            "n_complete",
            pa.int64(),
            "trajectories among n_trajectories that the corpus marks as complete",
        ),
        _column(
            "n_incomplete",
            pa.int64(),
            "trajectories among n_trajectories that the corpus marks as not complete",
        ),
        _column(
            "n_truncated",
            pa.int64(),
            "trajectories among n_trajectories that were truncated to the length limit",
        ),
        _column("n_tokens", pa.int64(), "scored tokens"),
        _column("mean_tokens", pa.float64(), "scored tokens per trajectory"),
        _column("mean_rank", pa.float64(), "mean over trajectories of mean_rank"),
        _column(
            "mean_surprisal",
            pa.float64(),
            "nats per token; mean over trajectories of mean_surprisal",
        ),
        _column(
            "rsr",
            pa.float64(),
            "mean_rank / mean_surprisal; every trajectory weighs the same; lower is better",
        ),
        _column(
            "rsr_of_totals",
            pa.float64(),
            "sum of rank_sum / sum of surprisal_sum; every token weighs the same",
        ),
        _column("rsr_mean", pa.float64(), "mean over trajectories of rsr"),
        _column("rsr_median", pa.float64(), "median over trajectories of rsr"),
        _column(
            "rsr_std",
            pa.float64(),
            "sample standard deviation over trajectories of rsr (n - 1); null for one",
        ),
        _column("place", pa.int64(), "1 = lowest rsr; null if nothing was scored"),
        _column("fingerprint", pa.string(), "fingerprint of the scores that were aggregated"),
    ]
)

# What is known of a row before it is encoded.
OF_ROW = (
    "trajectory_id", "prompt_id", "teacher", "sample", "source", "source_row", "content",
    "complete", "strata",
)  # fmt: skip
