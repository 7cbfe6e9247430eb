"""codes: columns of texts as numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def codes_of(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """int64 [N] indices of texts into the distinct ones, -1 for null, and these: in the order in
    which they come, or as a dictionary column has them.
    """
    is_encoded = pa.types.is_dictionary(column.type)
    encoded = (column if is_encoded else column.dictionary_encode()).unify_dictionaries()
    whole = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else encoded.combine_chunks()
    return whole.indices.fill_null(-1).to_numpy().astype(np.int64), whole.dictionary


def sorted_codes_of(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """int64 [N] indices of texts, none of them null, into the distinct ones, sorted, and these."""
    codes, texts = codes_of(column)
    order = pc.sort_indices(texts)
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    return place[codes], texts.take(order)
