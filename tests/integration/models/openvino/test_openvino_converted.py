"""Converted weights on disk: made once, mapped after, the same logits; damage, limits, two workers."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.engine.model import Batch, SequenceSlice
from penstock.models.backends.openvino import load
from penstock.models.spec import ModelSpec
from penstock.models.weights import conversion

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def tiny_models_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "WORTH_BYTES", 0)


@pytest.fixture
def spec(tiny_llama: Path, tmp_path: Path) -> ModelSpec:
    spec = ModelSpec("tiny", "tiny-cpu", "cpu", None, tiny_llama, "openvino", format="sym_int4")
    return replace(spec, converted_dir=tmp_path / "converted", converted_limit_bytes=1 << 30)


def logits_of(spec: ModelSpec, said: list[str] | None = None) -> tuple[torch.Tensor, Any]:
    told = said if said is not None else []
    assembled = load(spec, lambda share, what: told.append(what))
    assembled.model.allocate(4)
    tokens = tuple(range(10, 30))
    return assembled.model.forward(Batch((SequenceSlice(0, tokens, 0, (0,), 0),))), assembled


def files(spec: ModelSpec) -> list[str]:
    assert spec.converted_dir is not None
    return sorted(file.name for file in spec.converted_dir.glob("*.weights"))


@pytest.mark.parametrize("form", ["sym_int4", "int4", "int8"])
def test_the_second_load_maps_what_the_first_made(spec: ModelSpec, form: str) -> None:
    spec = replace(spec, format=form)
    plain, unkept = logits_of(replace(spec, converted_dir=None))
    first_said: list[str] = []
    first, made = logits_of(spec, first_said)
    again_said: list[str] = []
    again, mapped = logits_of(spec, again_said)

    assert torch.equal(first, plain)
    assert torch.equal(again, plain)
    assert made.parameters == mapped.parameters == unkept.parameters
    assert made.weights_bytes == mapped.weights_bytes == unkept.weights_bytes
    assert any("once" in what for what in first_said)
    assert not any("once" in what for what in again_said)
    assert len(files(spec)) == 1
    assert spec.converted_dir is not None
    assert not list(spec.converted_dir.glob("*.partial"))


def test_another_format_and_a_changed_checkpoint_are_other_files(
    spec: ModelSpec, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in spec.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    names = {conversion.digest_of(copy, "int4"), conversion.digest_of(copy, "sym_int4")}
    weights = copy / "model.safetensors"
    state = weights.stat()
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    names.add(conversion.digest_of(copy, "int4"))
    assert len(names) == 3


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_file_is_made_again(spec: ModelSpec, damage: str) -> None:
    plain, _ = logits_of(spec)
    assert spec.converted_dir is not None
    (file,) = spec.converted_dir.glob("*.weights")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    again, _ = logits_of(spec)
    assert torch.equal(again, plain)
    assert file.read_bytes() == whole


def test_what_a_killed_worker_left_is_overwritten(spec: ModelSpec) -> None:
    assert spec.converted_dir is not None
    spec.converted_dir.mkdir()
    name = f"{spec.path.name}-sym_int4-{conversion.digest_of(spec.path, 'sym_int4')}"
    (spec.converted_dir / f"{name}.partial").write_bytes(b"half")
    logits_of(spec)
    assert files(spec) == [f"{name}.weights"]


def test_a_folder_that_cannot_be_written_costs_only_the_file(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, _ = logits_of(replace(spec, converted_dir=None))
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    logits, _ = logits_of(replace(spec, converted_dir=occupied / "below"))
    assert torch.equal(logits, plain)
    assert "converted weights cannot be stored" in caplog.text


def test_the_least_recently_used_go_when_the_limit_is_passed(spec: ModelSpec) -> None:
    logits_of(replace(spec, format="int4"))
    logits_of(replace(spec, format="int8"))
    logits_of(replace(spec, format="int4"))  # used again
    assert spec.converted_dir is not None
    size = sum(file.stat().st_size for file in spec.converted_dir.glob("*int4*.weights"))
    for place, file in enumerate(sorted(spec.converted_dir.glob("*int8*.weights"))):
        os.utime(file, (place, place))
    logits_of(replace(spec, format="sym_int4", converted_limit_bytes=2 * size + 4096))
    assert [name.split("-")[-2] for name in files(spec)] == ["int4", "sym_int4"]


def convert_in_a_process(spec: ModelSpec, barrier: Any, answers: Any) -> None:
    conversion.WORTH_BYTES = 0
    torch.set_num_threads(1)
    said: list[str] = []
    barrier.wait(60)
    logits, _ = logits_of(spec, said)
    answers.put((any("once" in what for what in said), logits.sum().item()))


def test_two_workers_that_start_at_once_convert_once(spec: ModelSpec) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=convert_in_a_process, args=(spec, barrier, answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    try:
        found = [answers.get(timeout=90) for _ in processes]
    finally:
        for process in processes:
            process.join(30)
    assert sorted(made for made, _ in found) == [False, True]
    assert found[0][1] == found[1][1]
    assert len(files(spec)) == 1
