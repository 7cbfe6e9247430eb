"""Attention in memory that grows with the length of a row, and not with its square.

For students with sliding windows and for packed rows, transformers builds a mask of all queries and
keys, and for those with capped scores (Gemma 2) or sinks (gpt-oss) the scores themselves. Here
queries go through in blocks, each with the keys that it sees at most, and packed rows one by one.
What a query sees of them is what transformers' own function for the layer says.

Legend: B rows, T positions, H heads, G heads of keys, Q queries, K keys, D size of a head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "rsr_ray_blocks"  # among transformers' attentions
QUERIES = 512  # most of a block
SCORE_BYTES = 128 << 20  # of a block whose scores are capped
SINK_SIZE = 8  # what a head grows by for a sink: fast kernels want multiples of 8
_rows: ContextVar[Sequence[int]] = ContextVar("rows", default=())


@contextmanager
def packed_rows(starts: Sequence[int]) -> Iterator[None]:
    """In here, each of these positions begins a row of its own; the last is the end of all."""
    before = _rows.set(starts)
    try:
        yield
    finally:
        _rows.reset(before)


def use_blocks(model: Any) -> bool:
    """Have a model attend in blocks, where its architecture takes another attention; whether it
    does now.
    """
    config = model.config
    own = config.get_text_config()._attn_implementation
    # One that has an eager attention alone, and takes flash attention all the same, has caps or
    # sinks. What else an eager attention does is not known here.
    fits = own == "sdpa" or (own == "eager" and model._supports_flash_attn)
    if not (fits and model._supports_attention_backend and model._can_set_attn_implementation()):
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, see)
    text = [key for key in config.sub_configs if getattr(config, key) is config.get_text_config()]
    model.set_attn_implementation({text[0]: NAME} if text else NAME)
    return True


@dataclass(frozen=True)
class Seen:
    """What the queries of a layer see: where `of(row, head, query, key)` is true, and at most
    `reach` keys, the query's own the last of them.
    """

    of: Callable[..., torch.Tensor]
    reach: int
    device: torch.device | None = None  # of what `of` looks at; the layers may be on others

    def mask(self, queries: range, keys: range, device: torch.device) -> torch.Tensor:
        """bool [1, 1, Q, K]"""
        of = self.device or device
        first = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=of)
        query_Q = torch.arange(queries.start, queries.stop, device=of)
        key_K = torch.arange(keys.start, keys.stop, device=of)
        seen = self.of(first, first, query_Q[None, None, :, None], key_K[None, None, None])
        return seen.expand(1, 1, len(queries), len(keys)).to(device)


def see(**given: Any) -> torch.Tensor | Seen | None:
    """transformers' mask of a layer, as a Seen where that is what can be: a causal one, with a
    window or not, of rows without padding in front.
    """
    reach = given.get("local_size")
    is_causal_alone = given.get("allow_is_causal_skip", False) or (_rows.get() and _is_plain(given))
    if given.get("attention_mask") is not None or not is_causal_alone:
        return sdpa_mask(**given)
    if reach is None:
        return None
    return Seen(given["mask_function"], reach, given.get("device"))


def _is_plain(given: dict[str, Any]) -> bool:
    return "allow_is_causal_skip" in given and not given.get("use_vmap", False)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | Seen | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: query [B, H, T, D], key and value [B, G, T, D] -> [B, T, H,
    D]. `softcap` caps the scores, `s_aux` [H] is the score of a sink, which has no value.
    """
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    if not is_causal or isinstance(attention_mask, torch.Tensor):
        if s_aux is not None or isinstance(attention_mask, Seen):
            raise ValueError("a sink, or a window in blocks, where attention is not causal")
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            is_causal=is_causal,
            softcap=softcap,
            **more,
        )
    layer = _Layer(module, attention_mask, scaling or query.shape[-1] ** -0.5, softcap, s_aux)
    starts = _rows.get() or (0, query.shape[2])
    rows = [
        layer.row(start, *(part[:, :, start:stop] for part in (query, key, value)))
        for start, stop in pairwise(starts)
    ]
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1), None


def _causal(_row: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return key <= query


@dataclass(frozen=True)
class _Layer:
    """How a layer attends."""

    module: torch.nn.Module
    seen: Seen | None
    scaling: float
    softcap: float | None
    sink: torch.Tensor | None  # [H], its score

    def row(
        self, start: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """A row that is packed at `start`; [B, T, H, D]."""
        n, size = query.shape[2], value.shape[-1]
        if value.shape[-1] < query.shape[-1]:  # fast kernels want them alike
            value = torch.nn.functional.pad(value, (0, query.shape[-1] - size))
        if self.sink is not None:
            query, key, value = with_sink(query, key, value, self.sink / self.scaling)
        reach = n if self.seen is None else min(n, self.seen.reach)
        if reach == n and self.softcap is None:
            return self._whole(query, key, value)[..., :size]
        n_heads = query.shape[0] * query.shape[1]
        most = QUERIES if self.softcap is None else SCORE_BYTES // (8 * n_heads * min(n, 2 * reach))
        n_queries = max(16, min(QUERIES, most, max(128, reach)))
        out = query.new_empty(query.shape[0], n, query.shape[1], size)
        for first in range(0, n, n_queries):
            stop = min(first + n_queries, n)
            keys = range(max(0, first - reach + 1), stop)
            block = self._block(start, range(first, stop), keys, query, key, value)
            out[:, first:stop] = block[..., :size]
        return out

    def _whole(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Every query sees all keys up to its own."""
        if self.sink is None:
            return self._attend(query, key, value, None)
        # The sink is a key in front of the first: so is a query that is left out again.
        query = torch.nn.functional.pad(query, (0, 0, 1, 0))
        return self._attend(query, key, value, None)[:, 1:]

    def _block(
        self,
        start: int,
        queries: range,
        keys: range,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        mask = (self.seen or Seen(_causal, 0)).mask(
            range(start + queries.start, start + queries.stop),
            range(start + keys.start, start + keys.stop),
            query.device,
        )
        query = query[:, :, queries.start : queries.stop]
        if self.sink is None:
            key, value = (part[:, :, keys.start : keys.stop] for part in (key, value))
        else:
            mask = torch.nn.functional.pad(mask, (1, 0), value=True)
            key, value = (
                torch.cat((part[:, :, :1], part[:, :, keys.start + 1 : keys.stop + 1]), 2)
                for part in (key, value)
            )
        if self.softcap is not None:
            return self._capped(query, key, value, mask, self.softcap)
        return self._attend(query, key, value, mask)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        return sdpa_attention_forward(
            self.module, query, key, value, mask, scaling=self.scaling, is_causal=True
        )[0]

    def _capped(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        softcap: float,
    ) -> torch.Tensor:
        """With the scores of the block, which no kernel caps."""
        if self.sink is not None:
            raise ValueError("a sink beside capped scores")
        groups = query.shape[1] // key.shape[1]
        scores_BHQK = query @ repeat_kv(key, groups).transpose(2, 3)
        scores_BHQK.mul_(self.scaling / softcap).tanh_().mul_(softcap)
        scores_BHQK.masked_fill_(~mask, -torch.inf)
        weight_BHQK = scores_BHQK.softmax(-1, dtype=torch.float32).to(query.dtype)
        return (weight_BHQK @ repeat_kv(value, groups)).transpose(1, 2)


def with_sink(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sink_H: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A sink as a key in front of the others, with a value of zeros; `sink_H` is its product with
    a query, before scaling.

    Heads grow by SINK_SIZE. There, queries have that product, in three parts so that it keeps
    float32's digits in any dtype, the sink has ones, and the other keys zeros.
    """
    pad = torch.nn.functional.pad
    query, key, value = (pad(part, (0, SINK_SIZE)) for part in (query, key, value))
    key, value = (pad(part, (0, 0, 1, 0)) for part in (key, value))
    key[:, :, 0, -SINK_SIZE:] = 1.0
    rest_H = sink_H.float()
    for n in range(-SINK_SIZE, -SINK_SIZE + 3):
        part_H = rest_H.to(query.dtype)
        query[..., n] = part_H[:, None]
        rest_H = rest_H - part_H.float()
    return query, key, value
