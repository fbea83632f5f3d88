"""A folder that optimum-cli exported (the fixtures' tiny Llama, `--weight-format int8`)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models.backends.openvino import load
from penstock.models.spec import ModelSpec

pytest.importorskip("openvino")

ARCHIVE = Path(__file__).parents[3] / "fixtures" / "exported-tiny-llama.zip"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def spec_of(path: Path, form: str | None = None) -> ModelSpec:
    return ModelSpec("tiny", "tiny-cpu", "cpu", None, path, "openvino", format=form)


def quiet(share: float, what: str) -> None:
    assert 0 <= share <= 1, what


def test_it_serves_paged_batches(folder: Path, tiny_llama: Path) -> None:
    assembled = load(spec_of(folder), quiet)
    model = assembled.model
    model.allocate(8)
    first, second = list(range(10, 80)), list(range(200, 240))
    model.forward(Batch((SequenceSlice(0, first[:40], 0, [3, 1], 40),)))
    got = model.forward(
        Batch(
            (
                SequenceSlice(1, second, 0, [0, 5], 39),
                SequenceSlice(0, first[40:], 40, [3, 1, 6], 28),
            )
        )
    )

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = torch.cat(
            (
                plain(torch.tensor([second])).logits[0, -1:],
                plain(torch.tensor([first])).logits[0, -2:],
            )
        )
    assert got.shape == (3, 512)
    assert (got - wanted).norm() < 0.06 * wanted.norm()
    assert assembled.format == "exported"
    assert (assembled.architecture, model.context_length) == ("LlamaForCausalLM", 2048)
    weights = sum(weight.numel() for weight in plain.parameters())
    assert abs(assembled.parameters - weights) < 0.02 * weights


def test_its_format_is_not_a_choice(folder: Path) -> None:
    with pytest.raises(ModelNotLoadable, match="an exported model has its format already"):
        load(spec_of(folder, "int4"), quiet)


def test_a_damaged_file_is_one_line(folder: Path) -> None:
    (folder / "openvino_model.xml").write_text("<net")
    with pytest.raises(ModelNotLoadable, match=r"openvino_model\.xml: OpenVINO: .+") as caught:
        load(spec_of(folder), quiet)
    assert "\n" not in caught.value.message
