"""The rows of a work unit between reading, encoding and scoring.

Between the stages one Ray Data row is one work unit, its trajectories a list column: so a block, a
retry, a batch given to a replica and a file of the store are all the same thing.
"""

import pyarrow as pa

from rsr_ray.guard import GUARD
from rsr_ray.schema import OF_ROW, SCORES

READ_ROWS = pa.struct(
    [
        *[SCORES.field(n) for n in OF_ROW],
        pa.field("messages", pa.string()),  # JSON: one Arrow type for conversations of any shape
        pa.field("tools", pa.string()),  # JSON: the functions the row declares
        # of the turns in their order, as they are stored: decoded, they would be ten times as large
        pa.field("images", pa.list_(pa.large_binary())),
        SCORES.field("reject_reason"),
        SCORES.field("reject_detail"),
    ]
)
ENCODED_ROWS = pa.struct(
    [
        *[f for f in READ_ROWS if f.name not in ("messages", "tools")],
        pa.field("image_stops", pa.list_(pa.int32())),  # the token behind each image in input_ids
        pa.field("input_ids", pa.list_(pa.int32())),  # the rendering up to its last scored token
        *GUARD,
        SCORES.field("truncated"),
        pa.field("span_turns", pa.list_(pa.int32())),  # the turn that each of the spans belongs to
        # start, stop ... of the steps in input_ids, where they are asked for
        pa.field("steps", pa.list_(pa.int32())),
        pa.field("sentences", pa.list_(pa.int32())),  # how many scored tokens each has
        # of each scored token its segment, as a place among their names, where they are asked for
        pa.field("token_segments", pa.list_(pa.uint8())),
        # of each scored token, where it is asked for
        pa.field("token_text", pa.list_(pa.string())),
        # start, stop, start, stop ... of the scored tokens in input_ids
        pa.field("spans", pa.list_(pa.int32())),
    ]
)
