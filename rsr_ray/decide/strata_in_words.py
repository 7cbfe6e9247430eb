"""strata_in_words: what is said of teachers in strata and over all of them, in sentences."""

from rsr_ray.decide.orders import OrderChange, Orders
from rsr_ray.decide.strata import Stratum
from rsr_ray.decide.wording import sentence
from rsr_ray.errors import counted

NAMED = 3  # strata or teachers that are named before they are only counted


def named(names: list[str]) -> str:
    """Names, or the first of them and how many more there are."""
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED:,} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def orders_in_words(
    orders: Orders, changes: list[OrderChange], column: str, confidence: float
) -> str:
    """Whether teachers change order between strata, and by more than noise."""
    if len(orders.strata) == 1:
        return f"All trajectories belong to one stratum of {column}: {orders.strata[0]}."
    if not orders.n_shared_pairs:
        return f"No two teachers share two strata of {column}, so there are no orders to compare."
    if not changes:
        return f"No two teachers change order between strata of {column}."
    sure = [change for change in changes if change.more_than_noise]
    if sure:
        more = f"; {len(sure) - 1:,} more pairs do so too" if len(sure) > 2 else ""
        more = "; one more pair does so too" if len(sure) == 2 else more
        return (
            f"The order of teachers depends on {column}: {in_words(sure[0])}, by more than noise "
            f"({100 * confidence:g}%){more}."
        )
    pairs = counted(len(changes), "pair of teachers changes", "pairs change")
    untested = sum(change.more_than_noise is None for change in changes)
    if untested == len(changes):
        noise = "not tested against noise"
    else:
        noise = f"but not by more than noise ({100 * confidence:g}%)"
        noise += f"; {untested:,} of them not tested" if untested else ""
    return f"{pairs} order between strata of {column}, {noise}."


def in_words(change: OrderChange) -> str:
    """A change of order that is more than noise."""
    where, elsewhere = named(change.a_surely), named(change.b_surely)
    return f"{change.a} is better than {change.b} in {where} and worse in {elsewhere}"


def overall_in_words(
    names: list[str],
    best: list[str],
    n_prompts: int,
    why_unsure: str | None,
    *,
    confidence: float,
    over: str,
) -> str:
    """Which teacher is best over strata; `names` are all of them, best first, and `over` says
    which strata and weights.
    """
    if len(names) == 1:
        return f"{names[0]} is the only teacher with answers in each of {over}."
    if why_unsure:
        return (
            f"Over {over}, {names[0]} ranks first, but without a confidence estimate: {why_unsure}."
        )
    found = sentence(
        names,
        best,
        is_matched=True,
        n_prompts=n_prompts,
        more_prompts=None,
        confidence=confidence,
    )
    return f"Over {over}: {found}"


def over_strata(n: int, column: str, *, equal_weights: bool) -> str:
    """The strata that a ranking is over."""
    how = "with equal weights" if equal_weights else "with the given weights"
    return f"{counted(n, 'stratum', 'strata')} of {column} {how}"


def strata_notes(strata: list[Stratum], column: str, n_without: int) -> list[str]:
    """What a reader of the strata has to know: which trajectories and teachers are not in them."""
    said = []
    if n_without:
        what = counted(n_without, "trajectory has", "trajectories have")
        said.append(f"{what} no value in {column} and belong{'s' * (n_without == 1)} to no stratum")
    weighty = [stratum for stratum in strata if stratum.weight]
    in_each = set.intersection(*({*stratum.scored.teachers} for stratum in weighty))
    others = sorted({name for one in strata for name in one.scored.teachers} - in_each)
    if not in_each:
        who = "; ".join(f"{one.name} has {named(one.scored.teachers)}" for one in strata[:NAMED])
        said.append(
            f"no teacher appears in every stratum, so there is no ranking over all strata: {who}"
        )
    elif others:
        said.append(
            f"the ranking over all strata leaves out {named(others)}, missing from some stratum"
        )
    return said
