"""Checkpoints that take images, published with a quantised language part and a tower in 16 or 32 bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from penstock.models.backends import suitability
from tests.fixtures import published, vision
from tests.integration.models.published.test_published_checkpoints import distance, load
from tests.integration.models.vision.test_images import Served

if TYPE_CHECKING:
    from pathlib import Path

    import torch

LAYOUTS: dict[str, tuple[dict[str, Any], Any]] = {
    "awq": ({"quant_method": "awq", "version": "gemm"}, published.awq),
    "gptq": ({"quant_method": "gptq"}, published.gptq),
}
OLDER = {"model.language_model.": "model.", "model.visual.": "visual."}
"""Names of tensors as checkpoints had them before Transformers 4.52."""


def as_older(folder: Path) -> None:
    file = folder / "model.safetensors"
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(file).items():
        part = next((part for part in OLDER if name.startswith(part)), "")
        renamed[OLDER.get(part, "") + name.removeprefix(part)] = tensor
    save_file(renamed, file, metadata={"format": "pt"})


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_quantised_language_part_reads_images(name: str, older: bool, tmp_path: Path) -> None:
    rules, layout = LAYOUTS[name]
    source = vision.write("qwen2_5_vl", tmp_path / "source")

    def convert(own: str, weight: torch.Tensor) -> Any:
        if "visual" in own:
            return None
        found = published.codes_of(weight, 4, 32, symmetric=name == "gptq")
        return layout(found), found.values

    stated = {**rules, "bits": 4, "group_size": 32, "modules_to_not_convert": ["visual"]}
    folder, dense = published.write(source, tmp_path / "m", stated, convert)
    if older:
        as_older(folder)
    inputs = vision.Inputs(source)
    own, meant = (
        Served(loaded, None, inputs, "qwen2_5_vl")
        for loaded in (load(folder), load(dense, backend="transformers", format="fp32"))
    )
    assert own.loaded.card.stored == f"{name}-int4"
    if suitability.has_native():
        assert own.loaded.card.backend == "native"
    for chat in ("one", "text"):
        found, expected = own.logits(chat)[None], meant.logits(chat)[None]
        assert distance(found, expected) < 0.08  # activations in 8 bit
    assert own.answers(["one", "text"])[0] == own.answers(["one"])[0]
