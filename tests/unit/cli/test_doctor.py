"""`penstock doctor` on machines that are not at hand: several GPUs, faked at torch's border."""

from __future__ import annotations

import pytest
import torch

from penstock.cli import doctor, machine
from penstock.models import devices


@pytest.fixture(autouse=True)
def fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (devices.Cuda, devices.Xpu):
        monkeypatch.setattr(kind, "lacks_fp8", lambda self: "an old one has no FP8")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [machine.Accelerator("cuda", "NVIDIA H100"), machine.Accelerator("cuda", "NVIDIA H100")]
    monkeypatch.setattr(machine, "accelerators", lambda: cards)


def said(backends: set[str], monkeypatch: pytest.MonkeyPatch, *, reach: bool) -> doctor.Finding:
    monkeypatch.setattr("torch.distributed.is_backend_available", lambda name: name in backends)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda _one, _other: reach)
    (found,) = [one for one in doctor._devices() if one.subject == "cuda, together"]
    return found


@pytest.mark.usefixtures("two_gpus")
def test_two_gpus_hold_a_model_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = said({"nccl"}, monkeypatch, reach=True)
    assert found.mark == "ok"
    assert "<model>-cuda.0-1" in found.found
    assert "each other's memory" in found.found
    assert not found.advice


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_do_not_reach_each_other_sum_up_by_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = said({"nccl"}, monkeypatch, reach=False)
    assert found.found.endswith("their sums go by NCCL")
    assert "NVLink" in found.advice


@pytest.mark.usefixtures("two_gpus")
def test_a_torch_without_the_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = said(set(), monkeypatch, reach=True)
    assert found.mark == "note"
    assert "no NCCL" in found.found


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("lack", [None, "an old one has no FP8"])
def test_fp8_is_reported(monkeypatch: pytest.MonkeyPatch, lack: str | None) -> None:
    monkeypatch.setattr(devices.Cuda, "lacks_fp8", lambda self: lack)
    monkeypatch.setattr("torch.distributed.is_backend_available", lambda name: False)
    (found,) = [one for one in doctor._devices() if one.subject == "cuda, FP8"]
    assert (found.mark, found.found) == (
        ("note", lack) if lack else ("ok", "format = 'fp8' in models.toml is served here")
    )


def test_one_gpu_needs_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "accelerators", lambda: [machine.Accelerator("xpu", "Arc A770")])
    assert not [one for one in doctor._devices() if "together" in one.subject]
