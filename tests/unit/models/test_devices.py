"""The device layer, with torch.xpu faked at torch's border."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from penstock.errors import DeviceNotFound
from penstock.models import devices
from penstock.models.backends.lean.operations.overlap import overlap_of
from penstock.models.devices import Cpu, Cuda, Xpu
from penstock.models.spec import ModelSpec

GIB = 1 << 30


class FakeXpu:
    """What of torch.xpu the device layer calls, for two GPUs."""

    def __init__(self) -> None:
        self.tells_memory = True
        self.reserved = self.peak = GIB
        self.captured: list[Any] = []
        self.XPUGraph = lambda: SimpleNamespace(replay=lambda: self.captured.append("replayed"))
        self.Stream = lambda device: SimpleNamespace(wait_stream=lambda other: None)

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def get_device_properties(self, index: int) -> Any:
        return SimpleNamespace(name="Intel(R) Arc(TM) A770", total_memory=16 * GIB)

    def synchronize(self, device: torch.device) -> None:
        assert device == torch.device("xpu", 1)

    def empty_cache(self) -> None:
        pass

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        if not self.tells_memory:
            raise RuntimeError("the device does not support querying its free memory")
        return 12 * GIB, 16 * GIB

    def memory_reserved(self, device: torch.device) -> int:
        return self.reserved

    def max_memory_reserved(self, device: torch.device) -> int:
        return self.peak

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.peak = self.reserved

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, 1)

    def current_stream(self, device: torch.device) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None)

    def stream(self, stream: Any) -> Any:
        return nullcontext()

    def graph(self, graph: Any, pool: Any, stream: Any) -> Any:
        return nullcontext()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeXpu:
    fake = FakeXpu()
    monkeypatch.setattr(torch, "xpu", fake)
    return fake


def spec_of(device: Any, index: int | None = None) -> ModelSpec:
    return ModelSpec("m", f"m-{device}", device, index, Path("m"), "transformers")


def test_an_index_names_one_of_several(library: FakeXpu):
    device = devices.device_of(spec_of("xpu", 1))
    assert device.missing() is None
    assert device.torch_device == torch.device("xpu", 1)
    assert device.describe() == "Intel(R) Arc(TM) A770, 16 GiB"
    with pytest.raises(DeviceNotFound, match="no Intel GPU with index 2: there are 2"):
        devices.check(spec_of("xpu", 2))


def test_memory_is_what_the_driver_or_torch_reports(library: FakeXpu):
    device = Xpu(1)
    assert device.free_bytes() == 12 * GIB
    library.tells_memory = False
    assert device.free_bytes() == 15 * GIB

    def work() -> None:
        library.peak = 3 * GIB

    assert device.peak_bytes(work) == 2 * GIB


def test_work_is_warmed_up_captured_and_replayed(library: FakeXpu):
    done: list[str] = []
    replay = Xpu(1).capture(lambda: done.append("run"))
    assert done == ["run"] * 3  # twice to warm up, once for the graph
    replay()
    assert library.captured == ["replayed"]


def test_fp8_is_what_a_small_product_shows(library: FakeXpu, monkeypatch: pytest.MonkeyPatch):
    device = Xpu(1)
    monkeypatch.setattr(library, "synchronize", lambda place: None)
    device.torch_device = torch.device("cpu")  # where the small product is really computed
    monkeypatch.setattr(torch, "_scaled_mm", lambda *given, **how: given[0])
    assert device.lacks_fp8() is None

    def refuse(*given: Any, **how: Any) -> None:
        raise RuntimeError("not implemented for 'XPU'\nmore")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    lack = device.lacks_fp8()
    assert lack is not None
    assert "multiplies no FP8 on Intel(R) Arc(TM) A770, 16 GiB: not implemented for 'XPU'" in lack


def test_gpus_before_ada_have_no_fp8(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 6))
    monkeypatch.setattr(Cuda, "describe", lambda self: "NVIDIA RTX A6000, 48 GiB")
    assert Cuda().lacks_fp8() == (
        "NVIDIA RTX A6000, 48 GiB has no FP8: NVIDIA GPUs from compute capability 8.9 on have"
    )


def test_kernels_overlap_from_hopper_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 9))
    assert not Cuda().overlaps
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    assert overlap_of(Cuda()) == {"OVERLAPS": True, "launch_pdl": True}
    apart = {"OVERLAPS": False}
    assert overlap_of(Xpu()) == apart, "nothing of NVIDIA's is named to other compilers"
    assert overlap_of(Cpu()) == apart


@pytest.mark.parametrize("device", [Xpu(), Cuda()])
def test_a_missing_gpu_is_reported_with_a_way_out(device: Any):
    if device.missing() is None:
        pytest.skip("there is one")
    assert f"no {device.maker} GPU: " in device.missing()
    assert "pip install torch" in device.missing() or "driver" in device.missing()


def test_a_cpu_is_always_there():
    assert Cpu().missing() is None
    assert not Cpu().captures
    assert Cpu().lacks_fp8() == "a CPU multiplies no FP8"
    with pytest.raises(NotImplementedError):
        Cpu().capture(lambda: None)
