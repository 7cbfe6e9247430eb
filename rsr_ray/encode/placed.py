"""placed: a rendering with what a vision-language student reads in the place of each image."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rsr_ray.encode.found import Found, Span
from rsr_ray.errors import BadRow
from rsr_ray.student.vision import Eyes, Place, decode


def with_images(found: Found, images: Sequence[bytes], eyes: Eyes | None) -> Found:
    """The rendering as the student reads it, its spans moved. Raises BadRow where the images are
    not those of the rendering, or cannot be read.
    """
    if eyes is None:
        if images:
            raise BadRow("not_text", "the row has images, which this student cannot see")
        return found
    places = eyes.places(found.text, images)
    text, spans = replaced(found.text, found.spans, places)
    segments = None
    if found.segments is not None:
        segments = np.zeros(len(text), np.uint8)
        for (start, stop), (was, end) in zip(spans, found.spans, strict=True):
            segments[start:stop] = found.segments[was:end]
    now = np.cumsum([0] + [len(place.text) - (place.stop - place.start) for place in places])
    at = tuple(
        (place.start + int(before), place.stop + int(after))
        for place, (before, after) in zip(places, pairwise(now), strict=True)
    )
    return found._replace(text=text, spans=spans, segments=segments, images=at)


def without_images(
    found: Found, spans: list[Span], images: Sequence[bytes]
) -> tuple[str, list[Span]]:
    """The text of a rendering for people, with the size of each image in its place, and spans."""
    sizes = [decode(data).size for data in images]
    places = [
        Place(start, stop, f"[image {width}x{height}]")
        for (start, stop), (width, height) in zip(found.images, sizes, strict=True)
    ]
    return replaced(found.text, spans, places)


def replaced(text: str, spans: list[Span], places: Sequence[Place]) -> tuple[str, list[Span]]:
    """The text with other text in some places, and the spans, which lie between these, moved."""
    pieces: list[str] = []
    at = 0
    for place in places:
        pieces += [text[at : place.start], place.text]
        at = place.stop
    stops = [place.stop for place in places]
    longer = np.cumsum([0] + [len(place.text) - (place.stop - place.start) for place in places])

    def moved(position: int) -> int:
        return position + int(longer[np.searchsorted(stops, position, "right")])

    return "".join([*pieces, text[at:]]), [(moved(start), moved(stop)) for start, stop in spans]
