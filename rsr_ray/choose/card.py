"""card: a data set card with the columns' types, which null values alone do not tell."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import yaml

CARD = "README.md"
CARD_BEGINS = (
    "---\n# Written by rsr-ray choose: column types, which cannot be inferred from nulls.\n"
)
# Arrow's names -> those of a card
DTYPES = {"double": "float64", "float": "float32", "halffloat": "float16"}


def card(schema: pa.Schema) -> str:
    """The card by which `datasets` loads JSON Lines whose first values are null."""
    features = yaml.safe_dump({"dataset_info": {"features": _features(schema)}}, sort_keys=False)
    return f"{CARD_BEGINS}{features}---\n"


def _features(fields: Iterable[pa.Field]) -> list[dict[str, Any]]:
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": _features(kind)}
    if not hasattr(kind, "value_type"):
        return {"dtype": DTYPES.get(str(kind), str(kind))}
    inner = _feature(kind.value_type)
    return {"list": inner if "list" in inner else next(iter(inner.values()))}
