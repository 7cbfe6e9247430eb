"""marks: strings that are put into a conversation and found again in its rendering."""

import itertools
import re

from rsr_ray.errors import BadRow


def make_marks(n: int, text: str) -> list[str]:
    """n strings that do not occur in the text.

    They are made of two private-use characters, which are not white space to any template, and
    their number.
    """
    unused = (chr(c) for c in range(0xE000, 0xF8FF) if chr(c) not in text)
    free = [*itertools.islice(unused, 2)]
    if len(free) < 2:
        raise BadRow("template_error", "the conversation uses every private-use character")
    return [f"{free[0]}{i}{free[1]}" for i in range(n)]


def cut_at(marks: list[str], text: str) -> list[str]:
    """The text cut at marks, which are gone.

    A single piece if they do not stand in it once each and in their order.
    """
    mark = re.compile(f"{marks[0][0]}[0-9]+{marks[0][-1]}")
    return mark.split(text) if mark.findall(text) == marks else [text]
