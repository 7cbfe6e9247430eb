"""how: what decides how a conversation becomes tokens, apart from the student."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsr_ray.config.score import ScoreConfig
    from rsr_ray.student.facts import StudentFacts


@dataclass(frozen=True, kw_only=True)
class How:
    """The settings of encoding."""

    max_length: int
    chat_template: str | None = None  # in place of the student's own
    system_prompt: str | None = None  # for conversations without a system turn
    # of a template without a system role: merge into the first user turn, drop, or refuse
    system_role: str = "merge"
    verbatim: bool = False
    raw: bool = False  # prompts are rendered already
    # of rows with more than max_length tokens: reject, truncate, or window (left whole here)
    over_length: str = "reject"
    steps: str | None = None  # what a step is, if steps are wanted: a sentence or a paragraph
    segments: tuple[tuple[str, str], ...] | None = None  # named ones, if segments are wanted
    token_text: bool = False  # the text of each scored token is wanted
    sees: bool = False  # whether the student does
    proof: str | None = None  # hash of the tokenizer and template that the run began with

    @classmethod
    def of(cls, config: "ScoreConfig", student: "StudentFacts") -> "How":
        """What the settings of a run say."""
        return cls(
            max_length=config.length_limit(student),
            chat_template=config.template_text,
            system_prompt=config.system_prompt,
            system_role=config.system_role,
            verbatim=config.render == "verbatim",
            raw=config.render == "raw",
            over_length=config.over_length,
            steps=config.steps if config.local else None,
            segments=config.named_segments,
            token_text=config.token_scores,
            sees=student.sees,
            proof=student.text_hash,
        )
