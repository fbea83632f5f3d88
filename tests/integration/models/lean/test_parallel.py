"""One model over several ranks: the same text as one process says, and a clear end when one dies.

On the CPU the ranks meet by Gloo; on GPUs (marked) by NCCL or XCCL.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.errors import EngineFailed
from penstock.models.backends.lean import shape as shapes
from penstock.models.backends.lean.products import low_bit
from penstock.models.backends.lean.shape import NotLean
from penstock.models.backends.tensor_parallel import loading
from penstock.models.backends.tensor_parallel.part import Part
from penstock.models.devices import Cpu
from penstock.models.spec import ModelSpec
from tests.fixtures.engine import Transcript, WordTokenizer, serve
from tests.fixtures.lean import COMMON, gpu, lean_of, module_of
from tests.fixtures.models import write_model

if TYPE_CHECKING:
    from penstock.engine.model import Model

SLOTS = 4
BLOCKS = 16
NEW = 20
PROMPTS = [[(7 * job + 3 * place) % 256 for place in range(9 + 8 * job)] for job in range(5)]


def spec_of(path: Any, backend: str = "transformers", device: str = "cpu") -> ModelSpec:
    queue = f"m-{device}"
    return ModelSpec("m", queue, device, None, path, backend, tensor_parallel=2)  # type: ignore[arg-type]


def quiet(share: float, what: str) -> None:
    del share, what


def request(job: int, prompt: list[int], temperature: float) -> SequenceRequest:
    sampling = Sampling(seed=job, temperature=temperature, max_tokens=NEW, ignore_eos=True)
    return SequenceRequest(f"{job}", prompt, sampling)


def texts(model: Any, temperature: float = 0.0) -> list[list[int]]:
    """What an engine over the model says; chunked, batched, some steps ahead."""
    model.max_sequences = SLOTS
    model.allocate(BLOCKS)
    told = Transcript()
    options = EngineOptions(SLOTS, BLOCKS, prefill_chunk_tokens=19)
    engine = Engine(model, WordTokenizer([]), options, told)
    serve(engine, *(request(job, prompt, temperature) for job, prompt in enumerate(PROMPTS)))
    return [list(told.tokens[f"{job}"]) for job in range(len(PROMPTS))]


def served(model: Model) -> Any:
    """A model over ranks, which is closed in the end."""
    assert hasattr(model, "close")
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Any]:
    """A model with fewer key heads than ranks and biases, and one of whole sym_int4 blocks."""
    root = tmp_path_factory.mktemp("parallel")
    sizes: dict[str, Any] = COMMON | {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    config = transformers.LlamaConfig(**sizes)
    torch.manual_seed(1)
    whole = transformers.LlamaForCausalLM(config)
    write_model(root / "qwen2", module_of("qwen2"))
    write_model(root / "blocks", whole)
    return {"qwen2": root / "qwen2", "blocks": root / "blocks"}


@pytest.mark.timeout(300)  # it starts a process that imports torch, beside all other tests
def test_two_ranks_answer_as_one_until_one_is_killed(folders):
    alone = lean_of(module_of("qwen2"))
    wanted, drawn = texts(alone), texts(alone, temperature=0.8)
    with closing(served(loading.load(spec_of(folders["qwen2"]), quiet).model)) as model:
        assert model.weights.layers[0].down.weight.shape[1] == COMMON["intermediate_size"] // 2
        assert texts(model) == wanted
        assert texts(model, temperature=0.8) == drawn
        assert model.team.meeting.stat().st_nlink == 0  # in no folder, whoever is killed

        told = Transcript()
        engine = Engine(model, WordTokenizer([]), EngineOptions(SLOTS, BLOCKS), told)
        engine.start()
        engine.submit(request(0, PROMPTS[0], 0.0))
        (pid,) = model.team.pids
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while engine.failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert isinstance(engine.failure, EngineFailed)
        assert f"rank 1 of 2 (process {pid}) was ended by signal 9" in str(engine.failure)
        engine.stop()
        assert not any("error" in str(end).lower() for end in told.ends.values())


@pytest.mark.timeout(300)
def test_four_ranks_answer_as_one(folders):
    wanted = texts(lean_of(module_of("qwen2")))
    spec = replace(spec_of(folders["qwen2"]), tensor_parallel=4)
    with closing(served(loading.load(spec, quiet).model)) as model:
        assert len(model.team.pids) == 3
        assert model.weights.layers[0].down.weight.shape[1] == COMMON["intermediate_size"] // 4
        assert texts(model) == wanted


@pytest.mark.timeout(300)
def test_blocks_of_four_bits_are_divided_as_they_are(folders):
    one: Any = low_bit.load(spec_of(folders["blocks"], "bigdl"), Cpu(), quiet).model
    with closing(served(loading.load(spec_of(folders["blocks"], "bigdl"), quiet).model)) as model:
        half = model.weights.layers[1].down
        assert torch.equal(
            half.packed, one.weights.layers[1].down.packed[:, : half.packed.shape[1]]
        )
        assert texts(model) == texts(one)


def test_a_model_that_cannot_be_divided_is_refused():
    shape = shapes.read(module_of("qwen2"), 64)
    with pytest.raises(NotLean, match="rows have no whole blocks of 64 for 2 ranks"):
        Part(shape, 0, 2).check(block=64)
    with pytest.raises(NotLean, match="4 heads and an MLP of 96 are not divisible by 5"):
        Part(shape, 0, 5).check()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["transformers", "bigdl"])
def test_two_gpus_answer_as_one(folders, backend):
    device = gpu()
    if device is None or torch.accelerator.device_count() < 2:
        pytest.skip("torch sees no two GPUs here")
    spec = spec_of(folders["blocks"], backend, device.kind)
    if backend == "bigdl":
        wanted = texts(low_bit.load(spec, device, quiet).model)
    else:
        module = transformers.AutoModelForCausalLM.from_pretrained(folders["blocks"])
        wanted = texts(lean_of(module, device))
    with closing(served(loading.load(spec, quiet).model)) as model:
        assert texts(model) == wanted


@pytest.mark.gpu
def test_two_gpus_hold_a_model_in_fp8(folders):
    """Each rounds its own part of a row, so that the text need not be one GPU's; the logits are tried."""
    device = gpu()
    if device is None or torch.accelerator.device_count() < 2:
        pytest.skip("torch sees no two GPUs here")
    if (lack := device.lacks_fp8()) is not None:
        pytest.skip(lack)
    spec = replace(spec_of(folders["blocks"], device=device.kind), format="fp8")
    with closing(served(loading.load(spec, quiet).model)) as model:
        assert model.weights.layers[0].down.weight.dtype == torch.float8_e4m3fn
        assert [len(text) for text in texts(model)] == [NEW] * len(PROMPTS)
