"""beside: what is kept of a unit beside its scores, and changes none of them: the scores of its
tokens, the sums of its turns, the sums of segments.

A unit's file says in its footer which sums it has; token scores are there if their file is. Up to
SCORES_VERSION 4's first stores all three were part of the fingerprint: a generation that was begun
then keeps its name, and units that do not say what they have, have what that name says.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Self

KEY = "beside"  # in the metadata of a unit's scores
PARTS = ("reasoning", "answer", "tool_calls")  # segments that nobody names
Named = tuple[tuple[str, str], ...]  # name and expression of each segment; the first one wins
WORDS = {
    "token_scores": "token scores",
    "per_turn": "sums per turn",
    "segments": "sums per segment",
}


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a unit has, or what is asked for; segments are None if there are none."""

    token_scores: bool = False
    per_turn: bool = False
    segments: Named | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """What the settings of a run ask for; those of an earlier version may lack some."""
        pairs = [pair.partition("=") for pair in settings.get("segment") or ()]
        has_segments = bool(settings.get("segments") or pairs)
        return cls(
            token_scores=bool(settings.get("token_scores")),
            per_turn=bool(settings.get("per_turn")),
            segments=tuple((name, some) for name, _, some in pairs) if has_segments else None,
        )

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        segments = found.get("segments")
        return cls(
            token_scores=bool(found.get("token_scores")),
            per_turn=bool(found.get("per_turn")),
            segments=None if segments is None else tuple((name, some) for name, some in segments),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def hashed(self) -> dict[str, object]:
        """What earlier versions put into the fingerprint."""
        facts: dict[str, object] = {
            name: True for name in ("per_turn", "token_scores") if getattr(self, name)
        }
        return facts if self.segments is None else facts | {"segments": self.segments}

    @property
    def mark(self) -> str:
        """What a unit's file says of the sums it has."""
        return json.dumps({"per_turn": self.per_turn, "segments": self.segments})

    @classmethod
    def of_mark(cls, mark: str | bytes, *, token_scores: bool = False) -> Self:
        """Raises ValueError."""
        found = json.loads(mark)
        return cls.from_json(found | {"token_scores": token_scores})

    def missing(self, has: "Beside") -> "Beside":
        """What of this is not in `has`. Other named segments share the tokens out differently."""
        return Beside(
            token_scores=self.token_scores and not has.token_scores,
            per_turn=self.per_turn and not has.per_turn,
            segments=None if self.segments == has.segments else self.segments,
        )

    def __bool__(self) -> bool:
        return self != NOTHING

    @property
    def has_sums(self) -> bool:
        return self.per_turn or self.segments is not None

    @property
    def words(self) -> str:
        """As a sentence names it."""
        return " and ".join(said for name, said in WORDS.items() if name in self.hashed)

    def __or__(self, more: "Beside") -> "Beside":
        return Beside(
            token_scores=self.token_scores or more.token_scores,
            per_turn=self.per_turn or more.per_turn,
            segments=self.segments if more.segments is None else more.segments,
        )


NOTHING = Beside()
HashOf = Callable[[Beside], str]  # the fingerprint of a run's settings and of something beside


def kept_under(fingerprint: str, hash_of: HashOf, known: Iterable[Beside]) -> Beside | None:
    """What a fingerprint's name says is kept beside the same scores; None: it is of others.

    `known` are what may be in the name: segments can be of any names.
    """
    segments = dict.fromkeys([None, *(some.segments for some in known)])
    for tokens, turns, named in product((False, True), (False, True), segments):
        some = Beside(token_scores=tokens, per_turn=turns, segments=named)
        if hash_of(some) == fingerprint:
            return some
    return None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The scores that a run's settings give, in a store."""

    fingerprint: str  # their folder's name
    kept: Beside = NOTHING  # by the units that do not say it
    same: frozenset[str] = frozenset()  # all folders of such scores
