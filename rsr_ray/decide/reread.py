"""reread: how scored rows were read, so that they can be read again."""

from collections.abc import Iterable

from rsr_ray.config.options import as_mapping
from rsr_ray.corpus.images import Media
from rsr_ray.corpus.reading import Reading
from rsr_ray.store.store import Store
from rsr_ray.store.units import AS_IT_IS, reading_of


def way_of(unit: str) -> str:
    """What the name of a unit says of columns and roles; who the teacher is moves no row."""
    return _way(reading_of(unit))


def readings_of(store: Store, ways: Iterable[str]) -> dict[str, Reading]:
    """How rows were read, by `way_of` their units, as far as the records of runs tell."""
    found = {AS_IT_IS: Reading()}
    missing = {*ways} - {*found}
    for config in store.run_configs() if missing else ():
        columns, roles = (
            as_mapping(tuple(config.get(name) or ())) for name in ("columns", "roles")
        )
        media = Media(config.get("media_root"), bool(config.get("allow_http_media")))
        reading = Reading(columns=columns, roles=roles, media=media)
        found[_way(reading.label)] = reading
        missing.discard(_way(reading.label))
        if not missing:
            break
    return found


def _way(label: str) -> str:
    return label[7:] or AS_IT_IS
