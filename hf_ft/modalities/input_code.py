"""Python code that prepares one input for an exported model, as short and with as few packages as the model allows.

Whoever writes such code tries it first: each modality offers several candidates, the plainest first, and they are
compared with what the run's own processor gives. The last one uses `transformers` and always fits.
"""

from __future__ import annotations

from typing import Any

from hf_ft.modalities.base import InputCode

IMAGES = """from PIL import Image, ImageOps

MEAN, STD = np.array({mean}, dtype=np.float32), np.array({std}, dtype=np.float32)


def inputs(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
{steps}
    pixels = (np.asarray(image, dtype=np.float32) * {factor} - MEAN) / STD
    return {{"pixel_values": pixels.transpose(2, 0, 1)[None]}}"""
IMAGES_BY_TRANSFORMERS = """from PIL import Image, ImageOps
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained(FOLDER)


def inputs(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return {"pixel_values": np.asarray(processor(image, return_tensors="pt")["pixel_values"])}"""
TEXTS = """from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(f"{{FOLDER}}/tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation({limit})


def inputs(text, text_pair=None):
    found = tokenizer.encode(text, text_pair)
    arrays = {{"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}}
    return {{name: np.array([values], dtype=np.int64) for name, values in arrays.items()}}"""
TEXTS_BY_TRANSFORMERS = """from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)


def inputs(text, text_pair=None):
    return dict(tokenizer(text, text_pair, truncation=True, max_length={limit}, return_tensors="np"))"""
WORDS = """from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(f"{{FOLDER}}/tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation({limit})


def inputs(words):
    found = tokenizer.encode(words, is_pretokenized=True)
    arrays = {{"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}}
    return {{name: np.array([values], dtype=np.int64) for name, values in arrays.items()}}


def word_ids(words):
    return tokenizer.encode(words, is_pretokenized=True).word_ids"""
WORDS_BY_TRANSFORMERS = """from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
options = {{"is_split_into_words": True, "truncation": True, "max_length": {limit}}}


def inputs(words):
    return dict(tokenizer(words, return_tensors="np", **options))


def word_ids(words):
    return tokenizer(words, **options).word_ids()"""


def text_code(processor: Any, limit: int, words: bool) -> list[InputCode]:
    """Return code for a text or pair of texts, or for a list of words."""
    plain, other = (WORDS, WORDS_BY_TRANSFORMERS) if words else (TEXTS, TEXTS_BY_TRANSFORMERS)
    return [
        InputCode(("tokenizers",), plain.format(limit=limit)),
        InputCode(("transformers",), other.format(limit=limit)),
    ]


def image_code(processor: Any, limit: int, words: bool) -> list[InputCode]:
    """Return code for the path of an image: with Pillow where the processor only resizes, crops and normalises."""
    steps = _timm_steps(processor) if hasattr(processor, "data_config") else _steps(processor)
    by_transformers = InputCode(("pillow", "transformers", "torch", "torchvision"), IMAGES_BY_TRANSFORMERS)
    if steps is None:
        return [by_transformers]
    lines, factor, mean, std = steps
    code = IMAGES.format(steps="\n".join(f"    {line}" for line in lines), factor=factor, mean=mean, std=std)
    return [InputCode(("pillow",), code), by_transformers]


Steps = tuple[list[str], float, list[float], list[float]]
"""Lines that resize and crop, the factor on pixels, and mean and deviation by channel."""


def _steps(processor: Any) -> Steps | None:
    """The steps of an image processor of `transformers`; None where it does not say its sizes in a known form."""
    from PIL import Image

    settings = processor.to_dict()
    lines, size = [], settings.get("size") or {}
    if settings.get("do_resize"):
        how = Image.Resampling(int(settings.get("resample") or Image.Resampling.BILINEAR)).name
        if size.get("height") and size.get("width"):
            lines.append(f"image = image.resize(({size['width']}, {size['height']}), Image.Resampling.{how})")
        elif size.get("shortest_edge"):
            lines += _shortest(size["shortest_edge"], how)
        else:
            return None
    if settings.get("do_center_crop"):
        crop = settings.get("crop_size") or size
        if not (crop.get("height") and crop.get("width")):
            return None
        lines += _crop(crop["height"], crop["width"])
    factor = float(settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale") else 1.0
    normal = settings.get("do_normalize")
    mean, std = (settings.get(f"image_{name}") if normal else [default] * 3 for name, default in _NEUTRAL)
    return (lines, factor, list(mean), list(std)) if mean and std else None


_NEUTRAL = (("mean", 0.0), ("std", 1.0))


def _timm_steps(processor: Any) -> Steps | None:
    """The steps of timm's usual transform for evaluation: the shorter side resized, the centre cropped."""
    config = processor.data_config
    _, height, width = config["input_size"]
    if height != width or config.get("crop_mode", "center") != "center":
        return None
    how = {"bicubic": "BICUBIC", "bilinear": "BILINEAR"}.get(config.get("interpolation", "bicubic"))
    if how is None:
        return None
    lines = [*_shortest(int(height / config.get("crop_pct", 1.0)), how), *_crop(height, width)]
    return lines, 1 / 255, list(config["mean"]), list(config["std"])


def _shortest(edge: int, how: str) -> list[str]:
    return [
        f"scale = {edge} / min(image.size)",
        "width, height = (int(side * scale) for side in image.size)",
        f"image = image.resize((max(width, {edge}), max(height, {edge})), Image.Resampling.{how})",
    ]


def _crop(height: int, width: int) -> list[str]:
    return [
        f"left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)",
        f"image = image.crop((left, top, left + {width}, top + {height}))",
    ]
