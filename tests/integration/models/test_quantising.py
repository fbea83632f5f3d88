"""Models written in low bit: what is in the folder, what the report says, what is listed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from typer.testing import CliRunner

from penstock import settings as penstock_settings
from penstock.cli.application import app
from penstock.errors import BadSettings
from penstock.models import loader
from penstock.models.catalogue import footprint, resolve
from penstock.models.catalogue.footprint import LOW_BITS
from penstock.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.models.loader import LoadedModel

pytest.importorskip("bigdl.llm", reason="bigdl-llm is not installed")

CONTEXT = 2048


@pytest.fixture
def shelf(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A models directory with one model in it, which the commands find."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny").symlink_to(models_dir / "tiny-llama")
    monkeypatch.setenv("PENSTOCK_MODELS_DIR", str(folder))
    monkeypatch.setenv("PENSTOCK_MODELS_FILE", str(tmp_path / "none.toml"))
    monkeypatch.setenv("PENSTOCK_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("PENSTOCK_REDIS_PATIENCE_S", "0.05")
    penstock_settings.load.cache_clear()
    yield folder
    penstock_settings.load.cache_clear()


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def quantised(*arguments: str) -> dict[str, Any]:
    return json.loads(run("quantize", "tiny", "--json", *arguments))


def loaded(folder: Path, queue: str) -> LoadedModel:
    settings = Settings(
        models_dir=folder, models_file=folder / "none.toml", threads=1, bigdl_backend="bigdl"
    )
    one = resolve.resolve(queue, settings)
    return loader.load(one, settings, slots=1, progress=lambda _share, _what: None)


def test_a_written_folder_holds_the_very_weights_that_are_served_from_the_original(shelf: Path):
    report = quantised()
    folder = shelf / "tiny-sym_int4"
    assert json.loads((folder / "quantization.json").read_text()) == report
    assert not list(shelf.glob(".*"))
    written, direct = loaded(shelf, "tiny-sym_int4-cpu"), loaded(shelf, "bigdl-tiny-cpu")
    assert written.card.format == "sym_int4"
    assert written.card.parameters == direct.card.parameters == report["parameters"]
    assert written.card.has_chat_template
    mine, its = (cast("Any", one.model).module.state_dict() for one in (written, direct))
    assert mine.keys() == its.keys()
    assert all(bool((mine[name] == its[name]).all()) for name in mine)


def test_more_bits_are_nearer_to_the_model(shelf: Path):
    reports = {name: quantised("--format", name) for name in ("sym_int4", "sym_int8")}
    four, eight = (reports[name]["quality"] for name in ("sym_int4", "sym_int8"))
    assert 0 < eight["logit_error"] < four["logit_error"] < 1
    assert four["agreement"] <= eight["agreement"] <= 1
    assert eight["agreement"] > 0.8
    assert eight["perplexity"] == pytest.approx(eight["perplexity_fp32"], rel=0.05)
    assert reports["sym_int4"]["bytes_after"] < reports["sym_int8"]["bytes_after"]


def test_fp8_is_measured_and_not_written(shelf: Path):
    """Between 8 bits with a scale a block and 4: three bits of a value, of activations as well."""
    before = sorted(shelf.iterdir())
    report = quantised("--format", "fp8")
    assert sorted(shelf.iterdir()) == before
    quality = report["quality"]
    others = {name: quantised("--format", name)["quality"] for name in ("sym_int8", "sym_int4")}
    errors = {name: one["logit_error"] for name, one in others.items()}
    assert errors["sym_int8"] < quality["logit_error"] < errors["sym_int4"]
    assert quality["agreement"] >= others["sym_int4"]["agreement"]
    held = footprint.measure(replace(resolve.resolve("tiny-cpu", Settings()), format="fp8"))
    assert report["bytes_after"] == pytest.approx(held.weights_bytes, rel=0.02)
    assert 'format = "fp8"' in run("quantize", "tiny", "--format", "fp8")


def test_a_text_of_ones_own_and_none(shelf: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("a few words of my own")
    assert quantised(str(shelf / "one"), "--text", str(text))["quality"]["tokens"] < 40
    assert quantised(str(shelf / "two"), "--no-report")["quality"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny", "--format", "int3"), "int3"),
        (("tiny", "--text", "/no/such/file"), "--text"),
        (("tiny", "TINY"), "exists already"),
        (("tiny-low",), "in low bit already"),
        (("tiny-low", "--format", "fp8"), "in low bit already"),
        (("tiny", "new", "--format", "fp8"), "measured, not written"),
        (("tiny", "--no-report", "--format", "fp8"), "measured, not written"),
    ],
)
def test_what_cannot_be_written(shelf: Path, arguments: tuple[str, ...], said: str):
    low = shelf / "tiny-low"
    low.mkdir()
    config = json.loads((shelf / "tiny" / "config.json").read_text())
    (low / "config.json").write_text(
        json.dumps({**config, "bigdl_transformers_low_bit": "sym_int4"})
    )
    command = ["quantize", *(str(shelf / "tiny") if one == "TINY" else one for one in arguments)]
    with pytest.raises(BadSettings, match=said):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_the_list_shows_sizes_and_where_they_fit(shelf: Path):
    quantised("--no-report")
    found = {one["queue"]: one for one in json.loads(run("models", "--json"))["local"]}
    assert {"tiny-cpu", "tiny-sym_int4-cpu"} <= found.keys()
    for queue in ("tiny-cpu", "tiny-sym_int4-cpu"):
        card, listed = loaded(shelf, queue).card, found[queue]
        assert listed["parameters"] == pytest.approx(card.parameters, rel=0.01)
        assert listed["context_length"] == card.context_length == CONTEXT
        assert listed["fits"] == ["cpu"]
        assert listed["file_bytes"] == sum(
            file.stat().st_size for file in (shelf / queue[:-4]).glob("*.safetensors")
        )
    sizes = [found[queue]["weights_bytes"] for queue in ("tiny-sym_int4-cpu", "tiny-cpu")]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("format_name", sorted(LOW_BITS))
def test_the_estimate_of_a_format_is_what_is_held(shelf: Path, format_name: str):
    quantised("--no-report", "--format", format_name)
    settings = Settings(models_dir=shelf, models_file=shelf / "none.toml")
    one = resolve.resolve(f"tiny-{format_name}-cpu", settings)
    held = loaded(shelf, one.queue).card.weights_bytes
    assert footprint.measure(one).weights_bytes == pytest.approx(held, rel=0.02)


@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_calibrated_rounding_loses_less_and_is_served(shelf: Path, tmp_path: Path, layout: str):
    pytest.importorskip("huggingface_hub")
    text = tmp_path / "text.txt"
    text.write_text("Water flows through the penstock to the turbine. " * 40)
    plain = quantised(str(shelf / "plain"), "--text", str(text))["quality"]
    report = quantised(
        str(shelf / "calibrated"),
        "--format",
        layout,
        "--text",
        str(text),
        "--calibration",
        str(text),
    )
    assert report["format"] == f"{layout}-int4"
    assert report["quality"]["logit_error"] < 0.8 * plain["logit_error"]
    config = json.loads((shelf / "calibrated" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == layout
    assert not list((shelf / "calibrated").glob("*.index.json"))
    # What is read from the folder is what was measured.
    settings = Settings(models_dir=shelf, models_file=shelf / "none.toml", threads=1)
    spec = replace(resolve.resolve("calibrated-cpu", settings), backend="transformers")
    from penstock.models import quantise
    from penstock.models.loading import checkpoint

    modules = [
        checkpoint.load_module(one, checkpoint.load_config(one), torch.float32).eval()
        for one in (resolve.resolve("tiny-cpu", settings), spec)
    ]
    windows = quantise.windows_of(spec, modules[0], text.read_text())
    before, after = (quantise.logits_of(module, windows) for module in modules)
    again = quantise.compare(before, after, windows)
    assert again.logit_error == pytest.approx(report["quality"]["logit_error"], rel=1e-3)


def test_autoround_without_its_package_is_refused_by_name(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "auto_round", None)
    done = CliRunner().invoke(app, ["quantize", "tiny", "--format", "autoround"])
    assert isinstance(done.exception, BadSettings)
    assert "needs the package auto-round: pip install" in str(done.exception)
    assert not list(shelf.glob("*autoround*"))


def test_a_model_writes_its_own_texts_to_be_calibrated_with(shelf: Path):
    report = quantised("--format", "gptq")
    assert report["quality"]["logit_error"] < 0.5
    done = CliRunner().invoke(app, ["quantize", "tiny-gptq", "--format", "gptq"])
    assert isinstance(done.exception, BadSettings)
    assert "quantised already" in str(done.exception)
