"""Numbers as a person reads them, and the prompts they stand on."""


def number(value: float | None) -> str:
    """Four digits: more is noise."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"


def percent(share: float) -> str:
    """A confidence as it was given."""
    return f"{100 * share:g}%"


def prompts(n: int, is_matched: bool) -> str:
    """The prompts that teachers are compared on."""
    return f"the {n:,} prompts that all answered" if is_matched else f"all {n:,} prompts"


def coefficient(value: float | None, digits: int = 3) -> str:
    """A correlation as papers write it, without the zero before the point."""
    return "-" if value is None else f"{value:.{digits}f}".replace("0.", ".", 1)
