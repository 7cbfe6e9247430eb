"""segments: which part of the assistant's text each character is in: reasoning, answer, tool calls,
or what a regular expression names.
"""

import itertools
import re
from collections.abc import Iterator

import numpy as np

from rsr_ray.encode.found import Span
from rsr_ray.store.beside import PARTS, Named

REASONING, ANSWER, CALLS = PARTS


def segment_names(named: Named) -> list[str]:
    """The names of all segments, those that are given first."""
    return list(dict.fromkeys([*(name for name, _ in named), *PARTS]))


def segment_of_chars(text: str, spans: list[Span], parts: list[str], named: Named) -> np.ndarray:
    """The segment of each character, uint8 [len(text)]: a place in `segment_names`; 0 outside of
    the spans.

    `parts` says of each span what the template has there. In an answer, text in <think> tags is
    reasoning, with the tags; so is text before a </think> that nothing opens. An expression is
    tried on each span alone; its groups are the segment if it has any, else all that it matches.
    """
    names = segment_names(named)
    expressions = [(names.index(name), re.compile(some)) for name, some in reversed(named)]
    of_char = np.zeros(len(text), np.uint8)
    for (start, stop), part in zip(spans, parts, strict=True):
        said = text[start:stop]
        of_span = of_char[start:stop]
        of_span[:] = names.index(part)
        if part == ANSWER:
            for a, b in _thought(said):
                of_span[a:b] = names.index(REASONING)
        for n, expression in expressions:
            groups = range(1, expression.groups + 1) if expression.groups else [0]
            for match, group in itertools.product(expression.finditer(said), groups):
                of_span[slice(*match.span(group)) if match[group] else slice(0)] = n
    return of_char


def _thought(text: str) -> Iterator[Span]:
    """Where text in <think> tags lies, the tags included."""
    begun = None
    for n, tag in enumerate(re.finditer("</?think>", text)):
        if tag[0] == "<think>":
            begun = tag.start() if begun is None else begun
        elif begun is not None or n == 0:
            yield begun or 0, tag.end()
            begun = None
    if begun is not None:
        yield begun, len(text)
