"""A student's eyes: its processor of images. What of it is needed where rows are encoded, and where
they are scored.

Images are processed by Pillow and numpy (the processor's `pil` backend), so that a score does not
depend on which version of torchvision a machine has.
"""

import functools
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rsr_ray.errors import BadRow, UserError, one_line
from rsr_ray.student.source import hash_files, resolve

if TYPE_CHECKING:
    import torch
    from PIL import Image

MAX_PIXELS = 1 << 26  # of an image: 8,192 x 8,192
MAX_ROW_PIXELS = 1 << 28  # of all images of a row: 800 MB once decoded
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class Place(NamedTuple):
    """An image in a rendering: [start, stop) in characters, and what stands there for the model."""

    start: int
    stop: int
    text: str


def sees(folder: str) -> bool:
    """Whether the folder holds a vision-language student with its processor."""
    if not any(Path(folder, name).is_file() for name in PROCESSOR_FILES):
        return False
    # not for students of text: every process that encodes would import it
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN,
    )

    config = json.loads(Path(folder, "config.json").read_text())
    return "vision_config" in config and config.get("model_type") in KNOWN


def hash_of_processor(folder: str) -> str:
    """sha256 of what a student's processor is made of; "" where it does not see."""
    if not sees(folder):
        return ""
    paths = [Path(folder, name) for name in PROCESSOR_FILES]
    return hash_files([path for path in paths if path.is_file()])


def auto_model(seeing: bool) -> Any:
    """The class that loads such a student."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if seeing else AutoModelForCausalLM


def decode(data: bytes) -> "Image.Image":
    """A still image in RGB, turned as its camera says. Raises BadRow."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width:,} x {image.height:,}"
                raise BadRow("media", f"an image has {size} pixels, more than {MAX_PIXELS:,}")
            n_frames = getattr(image, "n_frames", 1)
            if n_frames > 1 and image.format != "MPO":  # a phone's JPEG, a smaller one behind it
                raise BadRow("media", f"an image has {n_frames} frames; only stills are read")
            return ImageOps.exif_transpose(image).convert("RGB")
    except BadRow:
        raise
    except Exception as e:  # Pillow raises many kinds for broken files
        raise BadRow("media", f"an image cannot be decoded: {one_line(e)}") from e


class Eyes:
    """A student's processor of images. Legend: B rows, T positions."""

    def __init__(self, student: str):
        """Raises UserError where there is no usable processor."""
        try:
            self.processor = _images_only(resolve(student))
        except ImportError as e:
            raise UserError(
                f"student {student}: its image processor needs a package, here and on the "
                f"cluster: {one_line(e)}; pip install 'rsr_ray[images]' brings Pillow"
            ) from e
        except Exception as e:  # the library raises many kinds; each means that it is not usable
            raise UserError(
                f"student {student}: its image processor cannot be loaded: {one_line(e)}"
            ) from e
        self.own_token = _token_of_images(resolve(student), self.processor.tokenizer)
        if self.processor.tokenizer.pad_token is None:
            self.processor.tokenizer.pad_token = self.processor.tokenizer.eos_token

    @property
    def placeholder(self) -> str:
        """What stands for an image in a rendering."""
        return str(self.processor.image_token)

    def places(self, text: str, images: Sequence[bytes]) -> list[Place]:
        """Where the images are in a rendering, in their order. Raises BadRow."""
        n = text.count(self.placeholder)
        if n != len(images):
            what = f"the rendering has {n} times {self.placeholder} for {len(images)} images"
            raise BadRow("media", what)
        own = self.own_token
        if own and own != self.placeholder and own in text:  # Gemma's, of which an image has many
            raise BadRow("media", f"the rendering has {own}, which stands for part of an image")
        if not images:
            return []
        decoded = []
        n_pixels = 0
        for data in images:
            decoded.append(decode(data))
            n_pixels += decoded[-1].width * decoded[-1].height
            if n_pixels > MAX_ROW_PIXELS:  # before the next one is decoded
                raise BadRow("media", f"the row's images have more than {MAX_ROW_PIXELS:,} pixels")
        try:
            made = self.processor(
                images=[decoded], text=[text], return_text_replacement_offsets=True
            )
        except Exception as e:  # an image of one pixel, or 200 times as wide as it is high
            raise BadRow("media", f"the student's processor refuses an image: {one_line(e)}") from e
        (found,) = made["text_replacement_offsets"]
        return [Place(one["span"][0], one["span"][1], one["replacement"]) for one in found]

    def tensors(
        self, images: Sequence[Sequence[bytes]], ids_BT: np.ndarray
    ) -> "dict[str, torch.Tensor]":
        """What the backbone takes beside the ids of rows, each of which has images."""
        import torch

        made = self.processor(
            images=[[decode(data) for data in row] for row in images],
            text=[self.placeholder * len(row) for row in images],
            padding=True,
            return_tensors="pt",
        )
        given = {name: value for name, value in made.items() if name not in OF_TEXT}
        for name in self._of_kinds:
            is_image = np.isin(ids_BT, self.processor.image_token_ids)
            given[name] = torch.from_numpy(is_image.astype(np.int64))
        return given

    @functools.cached_property
    def _of_kinds(self) -> list[str]:
        """What the backbone calls the kind of each token, text or image."""
        names = self.processor.model_input_names
        return [name for name in ("token_type_ids", "mm_token_type_ids") if name in names]


@functools.lru_cache(maxsize=2)
def load_eyes(student: str) -> Eyes:
    """The eyes of a student, loaded once in a process."""
    return Eyes(student)


def _token_of_images(folder: str, tokenizer: Any) -> str | None:
    """The token in whose places the model puts what it sees, if its config says which."""
    config = json.loads(Path(folder, "config.json").read_text())
    ids = (config.get(name) for name in ("image_token_id", "image_token_index"))
    token = next((one for one in ids if one is not None), None)
    return None if token is None else tokenizer.convert_ids_to_tokens(token)


def _images_only(folder: str) -> Any:
    """The processor of a folder without its part for videos, which only torchvision can load."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    said = [Path(folder, name) for name in PROCESSOR_FILES]
    names = [json.loads(path.read_text()).get("processor_class") for path in said if path.is_file()]
    config = json.loads(Path(folder, "config.json").read_text())
    names.append(PROCESSOR_MAPPING_NAMES.get(config["model_type"]))
    kind: Any = getattr(transformers, next(name for name in names if name))
    parts = {
        "image_processor": transformers.AutoImageProcessor.from_pretrained(folder, backend="pil"),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(folder),
    }
    given = [parts.get(name) for name in kind.get_attributes()]

    class ImagesOnly(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [*parts]

    settings, _ = kind.get_processor_dict(folder)
    return ImagesOnly.from_args_and_dict(given, settings)
