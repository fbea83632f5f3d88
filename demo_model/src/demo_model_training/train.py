"""Train the demo model and export it as a Transformers folder.

    python -m demo_model_training.train --out build/demo --minutes 8    # one data-centre GPU
    python -m demo_model_training.train --out build/demo --steps 1600   # a CPU: hours, a bit worse

The loss is on the assistant's tokens alone. In the last part of the run most steps see the weights
through 4-bit blocks (quantisation-aware, straight-through), so that 4 bit costs the model nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer
from torch import Tensor, nn

from demo_model_training import tokenizer as tokenizers_of_ours
from demo_model_training.batches import Ids, Mask, stream, twice
from demo_model_training.model import Llama, Shape, checkpoint, export
from demo_model_training.weight_formats import BLOCK, q4_0

if TYPE_CHECKING:
    from collections.abc import Iterator

WARM_UP_STEPS = 200
QUANTISED_FROM = 0.6  # of the run


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Warm-up, then a cosine to zero; `progress` runs from 0 to 1."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * progress))


@contextmanager
def in_four_bits(weights: list[Tensor]) -> Iterator[None]:
    """The weights hold their 4-bit values inside; gradients go to the full ones afterwards."""
    whole = torch.cat([w.data.reshape(-1) for w in weights])
    rounded = q4_0(whole.view(-1, BLOCK)).view(-1)
    sizes = [w.numel() for w in weights]
    for weight, part in zip(weights, rounded.split(sizes), strict=True):
        weight.data.copy_(part.view_as(weight))
    try:
        yield
    finally:
        for weight, part in zip(weights, whole.split(sizes), strict=True):
            weight.data.copy_(part.view_as(weight))


def loss_of(model: Llama, ids: Ids, mask: Mask, device: torch.device, quantised: bool) -> Tensor:
    """Mean cross-entropy of the assistant's tokens."""
    tokens = torch.from_numpy(ids.astype("int64"))  # (B, T)
    targets = tokens[:, 1:][torch.from_numpy(mask[:, 1:])]
    keep = torch.zeros(tokens.shape, dtype=torch.bool)
    keep[:, :-1] = torch.from_numpy(mask[:, 1:])
    where = keep.view(-1).nonzero().squeeze(1)
    if device.type == "cuda":
        tokens, targets, where = (
            t.pin_memory().to(device, non_blocking=True) for t in (tokens, targets, where)
        )
    hidden = model(tokens).flatten(0, 1).index_select(0, where)  # (N, hidden)
    head = model.embed_tokens.weight
    if quantised:
        head = head + (q4_0(head.detach()) - head.detach())
    return F.cross_entropy(F.linear(hidden, head).float(), targets)


def optimizer_of(model: Llama, peak: float, fused: bool) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=fused)


def plot(losses: list[tuple[int, float]], path: Path) -> None:
    """The loss as a PNG, where matplotlib is installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("matplotlib is not installed: no loss plot")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    figure, axes = plt.subplots(figsize=(8, 4))
    axes.plot([s for s, _ in losses], [value for _, value in losses], linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss on the assistant's tokens", yscale="log")
    axes.set_title("Penstock demo model")
    axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def run(model: Llama, options: argparse.Namespace, device: torch.device) -> list[tuple[int, float]]:
    """The training loop. Returns (step, loss) pairs."""
    optimizer = optimizer_of(model, options.learning_rate, device.type == "cuda")
    layer_weights = [m.weight for m in model.layers.modules() if isinstance(m, nn.Linear)]
    if options.compile:
        # All layers share one code object, and four row lengths twice over need room in its cache.
        torch._dynamo.config.recompile_limit = 64  # noqa: SLF001
        for layer in model.layers:
            layer.compile(dynamic=False)
    cuda = device.type == "cuda"
    batches = stream(options.out, options.seed, options.tokens, options.workers)
    if options.twice:
        batches = twice(batches)
    losses: list[tuple[int, float]] = []
    pending: list[tuple[int, Tensor]] = []  # read late, so that the GPU never waits for a print
    started, step, progress = time.monotonic(), 0, 0.0
    begun, waited = started, 0.0
    while progress < 1:
        asked = time.monotonic()
        ids, mask = next(batches)
        waited += time.monotonic() - asked
        quantised = progress >= QUANTISED_FROM and step % 3 != 0
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options.learning_rate, step, progress)
        with in_four_bits(layer_weights) if quantised else nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                loss = loss_of(model, ids, mask, device, quantised)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pending.append((step, loss.detach()))
        step += 1
        if step == 10:  # compiling is over for one length at least: time from here
            begun, waited = time.monotonic(), 0.0
        elapsed = time.monotonic() - started
        progress = max(
            step / options.steps if options.steps else 0.0,
            elapsed / 60 / options.minutes if options.minutes else 0.0,
        )
        if step % 100 == 0 or progress >= 1:
            losses += [(s, value.item()) for s, value in pending]
            pending = []
            rate = (step - 10) * options.tokens / max(1e-9, time.monotonic() - begun)
            mean = sum(value for _, value in losses[-100:]) / len(losses[-100:])
            print(f"step {step} progress {progress:.3f} loss {mean:.4f} {rate / 1e6:.3f} M tokens/s "
                  f"{elapsed:.0f} s, {waited:.1f} s of it waiting for text", flush=True)  # fmt: skip
        if step % options.checkpoint_every == 0:
            checkpoint(model, step, options.out / "checkpoint.pt")
    batches.close()  # ends the worker processes
    return losses


def main() -> None:
    """Train, export, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer; else one is trained")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop at steps or minutes")
    parser.add_argument("--tokens", type=int, default=65_536, help="tokens a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--twice", action="store_true", help="use every batch of text twice")
    parser.add_argument("--checkpoint-every", type=int, default=2000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None)
    options = parser.parse_args()
    if not options.steps and not options.minutes:
        parser.error("give --steps or --minutes")
    device = torch.device(options.device)
    if options.compile is None:
        options.compile = device.type == "cuda"
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    if device.type == "cuda":
        torch.set_num_threads(1)  # the other cores write text

    if options.tokenizer:
        tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    else:
        tokenizer = tokenizers_of_ours.train()
    tokenizers_of_ours.save(tokenizer, options.out)
    shape = Shape(vocabulary=tokenizer.get_vocab_size(), layers=options.layers)
    model = Llama(shape).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f} million parameters, vocabulary {shape.vocabulary}", flush=True)

    started = time.monotonic()
    losses = run(model, options, device)
    export(model, tokenizer.get_vocab(), options.out)
    plot(losses, options.out / "loss.png")
    history: dict[str, Any] = {
        "parameters": parameters, "steps": len(losses), "tokens": len(losses) * options.tokens,
        "seconds": round(time.monotonic() - started),
        "loss": [round(value, 5) for _, value in losses][::20],
    }  # fmt: skip
    if device.type == "cuda":
        history["device"] = torch.cuda.get_device_name(device)
    (options.out / "history.json").write_text(json.dumps(history), encoding="utf-8")


if __name__ == "__main__":
    main()
