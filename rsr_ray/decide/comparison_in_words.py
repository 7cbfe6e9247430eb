"""comparison_in_words: the answer of a comparison as one sentence."""

from rsr_ray.decide.inference import FEWEST
from rsr_ray.decide.moved import Move, Swap
from rsr_ray.decide.shared_trajectories import SharedTrajectories

NAMED = 3  # names that a sentence lists before it only counts


def comparison_in_words(
    moves: list[Move],
    swaps: list[Swap],
    trajectories: SharedTrajectories | None,
    *,
    same_student: bool,
) -> str:
    """What moved by more than noise, or why nothing can be said of that."""
    if trajectories and _nothing_moved(trajectories):
        return (
            f"Nothing moved: the {trajectories.both:,} trajectories have bit-for-bit the same "
            "scores on both sides."
        )
    if all(move.n_prompts is not None and move.n_prompts < FEWEST for move in moves):
        return (
            f"With fewer than {FEWEST} prompts per teacher, changes are shown but cannot be "
            "tested against noise."
        )
    if same_student and all(move.more_than_noise is None for move in moves):
        return "Changes are shown but cannot be tested against noise."
    said = []
    if same_student:
        said.append(_moves_in_words(moves))
    if len(moves) > 1:
        said.append(_swaps_in_words(swaps, len(moves)))
    if not said:
        said.append(
            f"the only teacher on both sides is {moves[0].teacher}, and two students' values are "
            "on different scales"
        )
    text = "; ".join(said)
    return text[0].upper() + text[1:] + "."


def _nothing_moved(trajectories: SharedTrajectories) -> bool:
    return trajectories.differ == trajectories.only_a == trajectories.only_b == 0


def _moves_in_words(moves: list[Move]) -> str:
    moved = [move for move in moves if move.more_than_noise]
    if not moved:
        return f"none of {len(moves)} teachers moved by more than noise"
    names = [f"{move.teacher} ({_higher_or_lower(move)}: {move.went})" for move in moved]
    return f"{len(moved)} of {len(moves)} teachers moved by more than noise: {_listed(names)}"


def _higher_or_lower(move: Move) -> str:
    return "higher" if move.difference is not None and move.difference > 0 else "lower"


def _swaps_in_words(swaps: list[Swap], n_teachers: int) -> str:
    if not swaps:
        return f"the {n_teachers} teachers are in the same order"
    n_pairs = n_teachers * (n_teachers - 1) // 2
    sure = [swap for swap in swaps if swap.more_than_noise]
    names = [f"B ranks {swap.before_in_b} above {swap.before_in_a}" for swap in sure]
    beyond = f"{len(sure)} by more than noise ({_listed(names)})"
    more = beyond if sure else "none by more than noise"
    return f"{len(swaps)} of {n_pairs} pairs of teachers changed order, {more}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
