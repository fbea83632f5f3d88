"""Answers of a model as a worker serves it: one of its backends, in the batching engine."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal
from unittest import mock

from demo_model_training.tokenizer import CONTEXT
from penstock import settings
from penstock.contract.events import Failed, Finished, FinishReason
from penstock.contract.job import Sampling, TextPrompt
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.devices import Cpu
from penstock.models.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.engine.events import AttemptEvent


def answers(
    folder: Path,
    backend: str,
    format_name: str,
    prompts: Sequence[str],
    *,
    device: Literal["cpu", "cuda"],
    slots: int,
    most: int,
) -> list[tuple[str, bool]]:
    """Greedy answers of at most `most` tokens, and whether each ended by itself.

    FP8, which workers serve on GPUs alone, is computed on a CPU by the reference of its kernels.
    """
    spec = ModelSpec(
        name="demo", queue=f"demo-{device}", device=device, device_index=None, path=folder,
        backend=backend, format=format_name,
    )  # fmt: skip
    with mock.patch.object(Cpu, "lacks_fp8", return_value=None):
        loaded = loader.load(spec, settings.load(), slots=slots, progress=_untold)
    if not isinstance(loaded, loader.LoadedModel):
        raise SystemExit(f"{folder} holds no model that generates text")
    arrived: SimpleQueue[list[AttemptEvent]] = SimpleQueue()
    engine = Engine(loaded.model, loaded.tokenizer, loaded.options, arrived.put)
    engine.start()
    for number, prompt in enumerate(prompts):
        token_ids = loaded.tokenizer.encode(TextPrompt(prompt, add_special_tokens=False))
        room = CONTEXT - len(token_ids)
        sampling = Sampling(seed=0, temperature=0.0, max_tokens=min(most, room))
        engine.submit(SequenceRequest(str(number), token_ids, sampling))
    texts, ended = [""] * len(prompts), [False] * len(prompts)
    left = len(prompts)
    while left:
        for event in (one.event for one in arrived.get()):
            number = int(event.job_id)
            if isinstance(event, Failed):
                raise SystemExit(f"prompt {number}: {event.message}")
            texts[number] += event.text
            if isinstance(event, Finished):
                ended[number] = event.reason is FinishReason.STOP
                left -= 1
    engine.stop()
    return list(zip(texts, ended, strict=True))


def _untold(share: float, what: str) -> None:
    del share, what
