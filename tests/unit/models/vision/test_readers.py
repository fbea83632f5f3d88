"""Readers of our own: the text and the tiles are those that Transformers' processors make."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.models.vision import markers, minicpm
from penstock.models.vision.gemma4 import Gemma4Reader
from penstock.models.vision.llama4 import Llama4Reader, best_grid
from penstock.models.vision.minicpm import MiniCPMReader
from penstock.models.vision.pixtral import PixtralReader
from tests.fixtures import vision

if TYPE_CHECKING:
    from pathlib import Path

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

SIDE = 28
SIZES = ((1, 1), (28, 28), (60, 90), (28, 56), (57, 28), (300, 20), (500, 500), (9, 400))


def folder(path: Path, **files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def image(height: int, width: int) -> Any:
    pixels = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(1))
    return PIL.fromarray(pixels.to(torch.uint8).numpy())


@pytest.mark.parametrize(
    ("height", "width", "grid", "enlarged"),
    [
        (28, 28, (1, 1), (2, 2)),
        (10, 10, (1, 1), (2, 2)),
        (28, 56, (1, 2), (1, 2)),
        (56, 28, (2, 1), (2, 1)),
        (40, 40, (2, 2), (2, 2)),
        (500, 500, (2, 2), (2, 2)),
        (20, 300, (1, 4), (1, 4)),
        (300, 20, (4, 1), (4, 1)),
        (60, 90, (2, 2), (2, 2)),
    ],
)
def test_the_grid_that_fits_best(
    height: int, width: int, grid: tuple[int, int], enlarged: tuple[int, int]
) -> None:
    assert best_grid(height, width, SIDE, 4, enlarge=False) == grid
    assert best_grid(height, width, SIDE, 4, enlarge=True) == enlarged


def llama4(path: Path, **own: Any) -> Llama4Reader:
    rules = {"size": {"height": SIDE, "width": SIDE}, "max_patches": 4, **own}
    return Llama4Reader(
        folder(path, preprocessor_config=rules, processor_config={"patch_size": 14})
    )


def test_llama_4_has_the_text_of_transformers(tmp_path: Path) -> None:
    from transformers.models.llama4.processing_llama4 import Llama4Processor

    reader = llama4(tmp_path)
    kind: Any = Llama4Processor
    for height, width in SIZES:
        made = reader.prepare(image(height, width))
        theirs: Any = SimpleNamespace(
            patch_size=14, downsample_ratio=4,
            _prompt_split_image=lambda *of: kind._prompt_split_image(None, *of),
        )  # fmt: skip
        inputs = {
            "pixel_values": [made.inputs["pixel_values"]],
            "aspect_ratios": [best_grid(height, width, SIDE, 4, enlarge=False)],
        }
        text = kind.replace_image_token(theirs, inputs, 0)
        assert made.text == text
        assert made.text.count("<|patch|>") == made.tokens


def test_the_tiles_of_llama_4(tmp_path: Path) -> None:
    reader = llama4(tmp_path)
    wide = image(SIDE, 2 * SIDE)
    tiles = reader.prepare(wide).inputs["pixel_values"]
    assert (tiles.shape, tiles.dtype) == ((3, 3, SIDE, SIDE), torch.bfloat16)
    left, _, whole = (tile.float() for tile in tiles)
    (alone,) = reader.prepare(wide.crop((0, 0, SIDE, SIDE))).inputs["pixel_values"].float()
    assert torch.equal(left, alone)  # not resized: it fits
    small = wide.resize((SIDE, SIDE), PIL.Resampling.BILINEAR)
    (resized,) = reader.prepare(small).inputs["pixel_values"].float()
    assert torch.equal(whole, resized)
    # A narrow one stays in its corner; the rest is black.
    (tile,) = reader.prepare(image(SIDE, 7)).inputs["pixel_values"].float()
    assert (tile[:, :, 7:] == -1).all()
    assert (tile[:, :, :7] > -0.99).any()


@pytest.mark.parametrize("own", [{"size": {"height": 28, "width": 56}}, {"do_resize": False}])
def test_rules_that_llama_4_never_has(own: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="square"):
        llama4(tmp_path, **own)


def test_rows_of_pixtral(tmp_path: Path) -> None:
    reader = PixtralReader(
        folder(
            tmp_path,
            preprocessor_config={"size": {"longest_edge": 112}},
            processor_config={"patch_size": 14, "spatial_merge_size": 2},
        )
    )
    made = reader.prepare(image(60, 90))
    assert made.inputs["image_sizes"].tolist() == [[84, 112]]
    row = "[IMG]" * 4
    assert made.text == f"{row}[IMG_BREAK]{row}[IMG_BREAK]{row}[IMG_END]"
    assert made.tokens == 12


def test_gemma_4_has_the_text_of_transformers(tmp_path: Path) -> None:
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

    named = {"image_token": "<|image|>", "boi_token": {"content": "<b>"}, "eoi_token": "<e>"}
    rules = {"patch_size": 2, "max_soft_tokens": 70, "pooling_kernel_size": 2}
    reader = Gemma4Reader(folder(tmp_path, preprocessor_config=rules, tokenizer_config=named))
    made = reader.prepare(image(60, 90))
    theirs: Any = SimpleNamespace(boi_token="<b>", eoi_token="<e>", image_token="<|image|>")
    inputs = {"num_soft_tokens_per_image": [made.tokens]}
    assert made.text == Gemma4Processor.replace_image_token(theirs, inputs, 0)
    filled = (made.inputs["image_position_ids"] != -1).all(-1).sum()
    assert made.tokens == int(filled) // 4


@pytest.mark.parametrize("version", ["4_6", "4_7"])
def test_minicpm_has_the_text_of_transformers(version: str, tmp_path: Path) -> None:
    name = f"minicpmv{version}"
    own = importlib.import_module(f"transformers.models.{name}.processing_{name}")
    kind = getattr(own, f"MiniCPMV{version}Processor")
    assert kind.__name__ in minicpm.PROCESSORS
    named = vision.KINDS[name]["named"]
    rules = {"scale_resolution": 56, "patch_size": 14, "max_slice_nums": 4}
    extra = {"extra_special_tokens": named}
    reader = MiniCPMReader(folder(tmp_path, preprocessor_config=rules, tokenizer_config=extra))
    for height, width in SIZES[1:]:
        made = reader.prepare(image(height, width))
        inputs = reader._images([image(height, width)], return_tensors="pt")
        theirs: Any = SimpleNamespace(slice_mode=True, **named)
        text = kind.replace_image_token(theirs, inputs, 0, image_token_divisor=16)
        assert made.text == text
        assert made.text.count("<|image_pad|>") == made.tokens
        assert made.label == "<image_id>{}</image_id>"


def test_markers_that_are_not_named(tmp_path: Path) -> None:
    folder(tmp_path, tokenizer_config={"extra_special_tokens": ["<image>"]})
    with pytest.raises(ValueError, match="names no image_token"):
        markers.read_markers(tmp_path, ("image_token",))
