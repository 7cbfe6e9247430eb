"""codes: columns of texts as numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def codes_of(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """int64 [N] indices of texts into the distinct ones, -1 for null, and these: in the order in
    which they come, or as a dictionary column has them.
    """
    is_encoded = pa.types.is_dictionary(column.type)
    unified = column.unify_dictionaries() if is_encoded else column
    whole = pa.concat_arrays(unified.chunks) if unified.num_chunks else unified.combine_chunks()
    # encoded in one piece: pieces would each have the dictionary of all
    whole = whole if is_encoded else whole.dictionary_encode()
    return whole.indices.fill_null(-1).to_numpy().astype(np.int64), whole.dictionary


def sorted_codes_of(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """int64 [N] indices of texts, none of them null, into the distinct ones, sorted, and these."""
    codes, texts = codes_of(column)
    order = pc.sort_indices(texts)
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    return place[codes], texts.take(order)
