"""A student's weights in two halves for scoring, backbone and head."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_ray.errors import RunError, UserError, one_line
from rsr_ray.student.weights import check_finite, check_report, quiet

if TYPE_CHECKING:
    import torch
from rsr_ray.student.facts import StudentFacts, prove
from rsr_ray.student.source import FileStates, file_states, files_changed, resolve
from rsr_ray.student.vision import auto_model, load_eyes, sees

SLICE_POSITIONS = 8192
QUANTIZE = {"4bit": "bitsandbytes", "8bit": "bitsandbytes", "fp8": "torchao"}  # and by what
DTYPES = ("float32", "bfloat16", "float16")


def _reuse_large_blocks() -> None:
    """Let the C library keep freed blocks of up to a GiB for the next use.

    Otherwise every chunk of logits is new memory that the kernel zeroes page by page: 0.8 ms a
    position for the head at vocabulary 151,936 and hidden 256, against 0.55 ms with this. Does
    nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ctypes.c_int(-3), ctypes.c_int(1 << 30))  # M_MMAP_THRESHOLD
        mallopt(ctypes.c_int(-1), ctypes.c_int(1 << 30))  # M_TRIM_THRESHOLD


def _in_slices(forward: Any) -> Any:
    """A feed-forward layer that takes long sequences a slice of positions at a time.

    Its intermediate values are several times as wide as a hidden state: at 131,072 positions they,
    and not the attention, set the peak of memory. Every position is computed by itself, so slicing
    changes nothing but rounding.
    """
    import torch

    def sliced(hidden_BTD: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = max(1, hidden_BTD.shape[0])
        if (
            hidden_BTD.dim() != 3
            or args
            or kwargs
            or rows * hidden_BTD.shape[1] <= 2 * SLICE_POSITIONS
        ):
            return forward(hidden_BTD, *args, **kwargs)
        out_BTD = torch.empty_like(hidden_BTD)
        for start in range(0, hidden_BTD.shape[1], max(1, SLICE_POSITIONS // rows)):
            at = slice(start, start + max(1, SLICE_POSITIONS // rows))
            part = forward(hidden_BTD[:, at])
            if not isinstance(part, torch.Tensor):
                # a mixture of experts that also returns its routing
                return forward(hidden_BTD)
            out_BTD[:, at] = part
        return out_BTD

    return sliced


def load_whole(source: str, dtype: str, **how: Any) -> Any:
    """The model of a folder or hub id, every tensor of it from its files; `how` goes to the loader.

    Raises UserError where the files give no model, RunError where they could not be read or the
    device broke.
    """
    import torch

    load = auto_model(sees(resolve(source))).from_pretrained
    named = {
        "dtype": getattr(torch, dtype),
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    try:
        with quiet():
            model, report = load(resolve(source), **named, **how)
    except torch.OutOfMemoryError:
        raise
    except (MemoryError, torch.AcceleratorError) as e:
        raise RunError(
            f"student {source}: it cannot be loaded on this machine: {one_line(e)}"
        ) from e
    except Exception as e:
        # the library raises many kinds; each means that these files give no model here
        if isinstance(e, OSError) and e.errno is not None:
            # the system's own, and not the library's word for a bad file
            raise RunError(f"student {source}: its files cannot be read: {one_line(e)}") from e
        raise UserError(f"student {source}: it cannot be loaded: {one_line(e)}") from e
    check_report(source, report)
    return model


def _load_as_hashed(source: str, expected: StudentFacts | None, dtype: str, **how: Any) -> Any:
    """`load_whole` of the files that were hashed, where `expected` is given. Raises RunError."""
    before = file_states(resolve(source))
    try:
        model = load_whole(source, dtype, **how)
    except UserError:
        if expected is not None and _files_differ(expected, before):
            # they were whole when they were hashed
            raise files_changed(source) from None
        raise
    if expected is not None:
        prove(expected, before)
    return model


def _files_differ(expected: StudentFacts, before: FileStates) -> bool:
    try:
        prove(expected, before)
    except RunError:
        return True
    return False


def _quantization(quantize: str, dtype: str) -> Any:
    """The settings for one of QUANTIZE."""
    import torch
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if quantize == "fp8":
        from torchao.quantization import Float8WeightOnlyConfig

        # a scale a row of weights; products in the student's dtype, so that any device has them
        return TorchAoConfig(Float8WeightOnlyConfig(set_inductor_config=False))
    if quantize == "4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=getattr(torch, dtype))
    return BitsAndBytesConfig(load_in_8bit=True)


def _given_backbone() -> Any:
    """A backbone that ignores its arguments and returns the hidden states it was given, with a
    place for all else that heads look for: routing, images, what older models have.
    """
    import torch
    from transformers.modeling_outputs import MoeModelOutputWithPast

    @dataclass
    class Output(MoeModelOutputWithPast):
        def __getattr__(self, name: str) -> None:
            if name.startswith("_"):
                raise AttributeError(name)

    class Given(torch.nn.Module):
        hidden: torch.Tensor

        def forward(self, *_: Any, **__: Any) -> Output:
            return Output(last_hidden_state=self.hidden)

    return Given()


def _no_halves(source: str, model: Any) -> str:
    return (
        f"student {source}: {type(model).__name__} has no separate backbone and head, "
        "which scoring needs; use a checkpoint of a causal language model"
    )


def _moved(values: np.ndarray, device: "torch.device") -> "torch.Tensor":
    """An array on a device. To a GPU from pinned memory: from other memory, a copy first waits for
    all that the GPU has begun.
    """
    import torch

    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class Student:
    """A causal language model in two halves: token ids -> hidden states -> logits.

    On one device, or with `spread` over all GPUs the process sees, whole layers on each
    (accelerate's device map). `quantize` is one of QUANTIZE or None. It is loaded whole or not at
    all (UserError), and with `expected` from the files that were hashed (RunError).
    Legend: B rows, T positions, N scored positions, D hidden size, V vocabulary.
    """

    def __init__(
        self,
        source: str,
        dtype: str,
        device: str,
        *,
        trust_remote_code: bool = False,
        spread: bool = False,
        quantize: str | None = None,
        expected: StudentFacts | None = None,
    ):
        import torch

        if device == "cpu":
            _reuse_large_blocks()
        self.eyes = load_eyes(source) if sees(resolve(source)) else None
        placed: dict[str, Any] = (
            {"device_map": "auto" if spread else {"": device}} if spread or quantize else {}
        )
        if quantize:
            placed["quantization_config"] = _quantization(quantize, dtype)
        self.model = _load_as_hashed(
            source, expected, dtype, trust_remote_code=trust_remote_code, **placed
        )
        check_finite(source, self.model)
        if "device_map" not in placed:
            self.model.to(torch.device(device))
        self._take_apart(source)

    @classmethod
    def around(cls, model: Any) -> "Student":
        """Of a model that is there already, on its device. It is taken apart: what else is done
        with it needs a copy.
        """
        student = cls.__new__(cls)
        student.model, student.eyes = model, None
        student._take_apart(type(model).__name__)
        return student

    def _take_apart(self, source: str) -> None:
        """Set the backbone, the head and their devices. Raises UserError where it has no halves."""
        from rsr_ray.student.attention import use_blocks

        self.model.eval()
        in_blocks = use_blocks(self.model)
        head = self.model.get_output_embeddings()
        self.vocab_size = head.weight.shape[0]
        self.backbone = self.model.base_model
        if self.backbone is self.model:
            raise UserError(_no_halves(source, self.model))
        # Where the ids go, and where hidden states and targets meet.
        self.device = self.model.get_input_embeddings().weight.device
        self.head_device = head.weight.device
        self.n_devices = len({weight.device for weight in self.model.parameters()})
        for name, module in self.backbone.named_modules():
            if name.split(".")[-1] == "mlp":
                module.forward = _in_slices(module.forward)
        # With its backbone replaced, the model's own forward is its head alone, with all that the
        # architecture does to logits (soft caps, scales): nothing of that is written again here.
        self._given = _given_backbone()
        setattr(self.model, self.model.base_model_prefix, self._given)
        self._try_head(source, getattr(head, "in_features", head.weight.shape[1]))
        # A GPU does not fill up with the rows of a rectangle as well as with rows one by one.
        may_pack = in_blocks and self.eyes is None and self.device.type == "cuda"
        self.packed = may_pack and self.can_pack()

    def _try_head(self, source: str, size: int) -> None:
        """On hidden states of a size. Raises UserError where the forward is not the head alone."""
        import torch

        dtype = next(w.dtype for w in self.model.parameters() if w.is_floating_point())
        try:
            with torch.inference_mode():
                hidden = torch.zeros(1, size, dtype=dtype, device=self.head_device)
                fits = self.logits(hidden).shape == (1, self.vocab_size)
        except (AttributeError, TypeError, ValueError, RuntimeError) as e:
            raise UserError(_no_halves(source, self.model) + f" ({one_line(e)})") from e
        if not fits:
            raise UserError(_no_halves(source, self.model))

    def can_pack(self) -> bool:
        """Whether a row behind another gets the hidden states that it gets alone; where layers
        have a state, as those without attention do, the row in front goes on in it.
        """
        import torch

        rng = np.random.default_rng(0)
        one, other, row = (rng.integers(0, min(1000, self.vocab_size), n) for n in (12, 12, 9))
        at = np.concatenate([np.arange(12), np.arange(9)])[None]
        with torch.inference_mode():
            behind, behind_other = (
                self.hidden(np.concatenate([front, row])[None], at)[0, 12:].float()
                for front in (one, other)
            )
            alone = self.hidden(row[None])[0].float()
        size = float(alone.norm())
        # the first are of one shape, which rounds alike; the last is of another
        is_alike = float((behind - behind_other).norm()) < 0.01 * size
        return is_alike and float((behind - alone).norm()) < 0.1 * size

    def hidden(
        self,
        ids_BT: np.ndarray,
        position_BT: np.ndarray | None = None,
        images: Sequence[Sequence[bytes]] | None = None,
    ) -> "torch.Tensor":
        """Hidden states [B, T, D] of right-padded ids, or of packed rows.

        `images` are those of each row, all of which have some.

        No attention mask is passed: under causal attention a position never sees the padding behind
        it, and without a mask no [T, T] tensor is built. Where rows are packed, their positions
        start anew.
        """
        from rsr_ray.student.attention import packed_rows

        given, starts = {"input_ids": ids_BT}, np.zeros(0, np.int64)
        if position_BT is not None:
            given["position_ids"] = position_BT
            starts = np.append(np.flatnonzero(position_BT[0] == 0), position_BT.shape[1])
        moved = {name: _moved(values, self.device) for name, values in given.items()}
        if images is not None:
            moved |= self._seen(images, ids_BT)
        with packed_rows(starts.tolist()):
            return self.backbone(**moved, use_cache=False).last_hidden_state.to(self.head_device)

    def _seen(
        self, images: Sequence[Sequence[bytes]], ids_BT: np.ndarray
    ) -> "dict[str, torch.Tensor]":
        assert self.eyes is not None
        dtype = next(w.dtype for w in self.model.parameters() if w.is_floating_point())
        return {
            name: values.to(self.device, dtype if values.is_floating_point() else None)
            for name, values in self.eyes.tensors(images, ids_BT).items()
        }

    def beside_head(self, values_N: np.ndarray) -> "torch.Tensor":
        """Values on the device of the head, without waiting for the device."""
        return _moved(values_N, self.head_device)

    def logits(self, hidden_ND: "torch.Tensor") -> "torch.Tensor":
        """The model's own logits [N, V], in its own dtype."""
        import torch

        self._given.hidden = hidden_ND.unsqueeze(0)
        return self.model(
            input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.head_device),
            use_cache=False,
        ).logits.squeeze(0)
