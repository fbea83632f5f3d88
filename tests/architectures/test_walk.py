"""Every architecture that Transformers can generate text with is served as `generate` answers.

`make test` takes a sample; `make test-models` (PENSTOCK_TEST_MODELS=all) takes all, in 32 and in
4 bit. What is expected of each is in the package's own table, which docs/models.md shows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as MAPPING

from penstock.errors import ModelNotLoadable
from penstock.models.catalogue import ways
from tests.architectures import build, image_text, serve, table

if TYPE_CHECKING:
    from pathlib import Path

ALL = os.environ.get("PENSTOCK_TEST_MODELS") == "all"
SAMPLE = ("bert-generation", "deepseek_v2", "gemma3n_text", "gpt_oss", "mamba", "qwen3_5_text")
"""A kind for each way that a model is run, and two whose layers differ most from Llama's."""
IMAGE_SAMPLE = ("idefics3", "mllama")
COARSE = 0.15
"""What rounding of activations to 8 bit may tip in 4 bit, in standard deviations of a row."""
ROUTERS = 1.5
"""The same of a model with experts, where it may tip a router's choice."""
INDEXED = 2.5
"""The same with an index, where it may also tip which keys are seen."""

known = ways.read()
types = [name for name in known.text if ALL or name in SAMPLE]
images = [name for name in known.images if ALL or name in IMAGE_SAMPLE]


def test_every_architecture_of_this_release_is_known():
    """A new release shows here what is new: build it, serve it, add it to the table."""
    new = sorted(set(MAPPING) - {*known.text, *known.images, *known.unbuilt})
    assert not new, f"not in the table yet (python -m tests.architectures.walk): {', '.join(new)}"


def test_the_documentation_has_the_table():
    text = (table.ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert table.of(known) in text, "python -m tests.architectures.table writes it"


@pytest.mark.parametrize("model_type", types)
def test_it_answers_as_generate(model_type: str, tmp_path: Path):
    folder = build.write(model_type, tmp_path / model_type.replace("_", "-"))
    _expect_both(folder, known.text[model_type])


@pytest.mark.parametrize("model_type", images)
def test_a_checkpoint_that_takes_images_answers_text(model_type: str, tmp_path: Path):
    folder = image_text.write(model_type, tmp_path / model_type.replace("_", "-"))
    _expect_both(folder, known.images[model_type])


def test_the_sample_has_each_way_that_a_model_is_run():
    sample = [known.text[name] for name in SAMPLE] + [known.images[name] for name in IMAGE_SAMPLE]
    every = {way.full.partition("-")[0] for way in known.text.values()}
    assert {way.full.partition("-")[0] for way in sample} == every


def _expect_both(folder: Path, way: ways.Way) -> None:
    """In 32 bit, then in 4 bit; a refusal is one of both."""
    _expect(folder, way, low_bit=False)
    if not way.refusal or ALL:
        _expect(folder, way, low_bit=True)


def _expect(folder: Path, way: ways.Way, *, low_bit: bool) -> None:
    if way.refusal:
        with pytest.raises(ModelNotLoadable, match=way.refusal) as refused:
            serve.judge(folder, low_bit=low_bit)
        assert "\n" not in refused.value.message
        return
    judged = serve.judge(folder, low_bit=low_bit)
    expected = way.low_bit if low_bit else way.full
    assert ways.speed(judged.card.running) >= ways.speed(expected), judged
    if low_bit:  # activations are rounded too, and a router makes much of little
        config = (folder / "config.json").read_text(encoding="utf-8")
        most = INDEXED if "index_topk" in config else ROUTERS if "expert" in config else COARSE
        assert judged.gap < most, judged
    else:
        assert judged.gap < serve.ROUNDING, judged
        assert judged.equal >= judged.answers - 1, judged
