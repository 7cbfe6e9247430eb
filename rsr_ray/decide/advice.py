"""advice: a ranking as what to do: which teacher to train on, and which would do as well."""

from rsr_ray.decide.ranking import Ranking, TeacherPlace

SHORTER = 0.8  # times as long as the first's: an answer from which length is worth a word
NAMED = 3  # teachers that are named before they are only counted


def advised(ranking: Ranking) -> Ranking:
    """The ranking whose first teacher is advised: that without degenerate trajectories, if the
    first of all is first only because of them.
    """
    guard = ranking.degeneration
    return guard.without if guard and guard.warning and guard.without else ranking


def advice(ranking: Ranking) -> str | None:
    """The answer in plain words; None if it is not known how sure the order is, or if another
    teacher may be first only because of degenerate trajectories.

    A teacher that is first because of its own is not advised: the ranking without these is taken.
    """
    guard = ranking.degeneration
    first, *others = ranking.teachers
    if guard and guard.n_degenerate:
        if guard.without is None:
            return None
        if (others_alone := advised(ranking)) is not ranking:
            return advice(others_alone)
        if guard.without.teachers[0].teacher != first.teacher:
            return None
        others = [t for t in others if t.teacher not in guard.left_out]
    if not ranking.best:
        return None
    return f"Train on {first.teacher}." + _tied(
        first, [t for t in others if t.teacher in ranking.best]
    )


def verdict(ranking: Ranking) -> str:
    """How sure the answer is, in a few words."""
    best = advised(ranking).best
    if not best:
        return "No confidence estimate"
    if advice(ranking) is None:
        return "Unclear: degenerate trajectories decide which teacher ranks first"
    return "Clear winner" if len(best) == 1 else "Statistical tie"


def _tied(first: TeacherPlace, tied: list[TeacherPlace]) -> str:
    if not tied:
        return ""
    names = [t.teacher for t in tied]
    if len(names) > NAMED:
        who = f"{len(names)} other teachers are"
    else:
        who = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
    shortest = min(tied, key=lambda t: t.mean_tokens)
    share = shortest.mean_tokens / first.mean_tokens
    if share > SHORTER:
        return f" {who} statistically tied with it."
    if len(tied) == 1:
        return f" {who} statistically tied with it, and its answers are {share:.0%} as long."
    return (
        f" {who} statistically tied with it; the shortest answers are {shortest.teacher}'s, "
        f"{share:.0%} as long."
    )
