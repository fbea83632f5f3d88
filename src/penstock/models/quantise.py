"""Writes a model in low bit, and measures the loss of quality."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any, Final

import msgspec
import torch

from penstock.contract.job import TextPrompt
from penstock.errors import BadSettings, ModelNotLoadable
from penstock.models.backends import bigdl, low_bit_folders
from penstock.models.backends.lean import adoption
from penstock.models.backends.lean import weights as all_weights
from penstock.models.backends.lean.products import fp8_check, low_bit
from penstock.models.backends.lean.products.weight_formats import FP8
from penstock.models.backends.lean.shape import NotLean
from penstock.models.loading import checkpoint
from penstock.models.text import chatglm_tokenizer, tokenizer_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec

WINDOW_TOKENS: Final = 256
"""Tokens in one forward pass; each window starts without context."""
MOST_TOKENS: Final = 2_048
REPORT_FILE: Final = "quantization.json"
_NOT_COPIED: Final = (".safetensors", ".bin", ".pt", ".index.json", ".gguf", ".onnx", ".h5")


class Quality(msgspec.Struct, frozen=True):
    """The low-bit model compared with the same weights in fp32, on one text.

    `logit_error` is the root mean square difference of all logits, relative to the logits' own
    deviation from their mean. `agreement` is the share of positions with the same likeliest next
    token.
    """

    tokens: int
    logit_error: float
    agreement: float
    perplexity_fp32: float
    perplexity: float


class Report(msgspec.Struct, frozen=True):
    """What was written, or for FP8 what a worker will have in memory.

    `bits_a_weight` counts everything, including embeddings and norms.
    """

    format: str
    parameters: int
    bytes_before: int
    bytes_after: int
    bits_a_weight: float
    quality: Quality | None = None


def quantise(
    spec: ModelSpec, target: Path, format_name: str, text: str, progress: Progress
) -> Report:
    """Write a model as bigdl-llm's `save_low_bit` does, and return a report.

    An empty `text` skips measuring. The folder appears complete or not at all. Measuring needs
    memory for the model in fp32; otherwise for the model as it is stored.

    :raises BadSettings: the target exists, or the model is already in low bit.
    :raises ModelNotLoadable: with one line about the reason.
    """
    if target.exists():
        raise BadSettings(f"{target} exists already")
    _refuse_low_bit(spec)
    quantiser = bigdl.Quantiser(bigdl.import_library(), format_name)
    config = checkpoint.load_config(spec)
    stored = checkpoint.dtype(spec, config)
    progress(0.0, f"reading {spec.path}")
    module = checkpoint.load_module(spec, config, torch.float32 if text else stored)
    parameters = checkpoint.parameters(module)
    windows = windows_of(spec, module, text) if text else []
    progress(0.1, "computing in fp32")
    before = logits_of(module, windows)
    quantiser.convert(module, lambda share, what: progress(0.2 + share * 0.7, what))
    progress(0.8, f"computing in {format_name}")
    quality = compare(before, logits_of(module, windows), windows) if windows else None
    progress(0.9, f"writing {target}")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    low_bit_folders.save(module, part, format_name, rest=stored)
    chatglm_tokenizer.save_beside(spec.path, part)
    for file in spec.path.iterdir():
        if file.is_file() and not (part / file.name).exists() and not is_weights(file):
            shutil.copy2(file, part)
    for file in part.glob("*.safetensors"):
        file.chmod(spec.path.joinpath("config.json").stat().st_mode)
    after = sum(file.stat().st_size for file in part.glob("*.safetensors"))
    report = Report(
        format=format_name,
        parameters=parameters,
        bytes_before=checkpoint.file_bytes(spec),
        bytes_after=after,
        bits_a_weight=8 * after / parameters,
        quality=quality,
    )
    (part / REPORT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    part.rename(target)
    progress(1.0, "done")
    return report


@torch.inference_mode()
def try_fp8(spec: ModelSpec, text: str, progress: Progress) -> Report:
    """Return a report on FP8, by rounding on the CPU; nothing is written.

    Workers convert to FP8 when they load the checkpoint. Measuring needs memory for the model in
    fp32 and a quarter more.

    :raises BadSettings: the model is in low bit.
    :raises ModelNotLoadable: with one line about the reason.
    """
    _refuse_low_bit(spec)
    config = checkpoint.load_config(spec)
    progress(0.0, f"reading {spec.path}")
    module = checkpoint.load_module(spec, config, torch.float32)
    parameters = checkpoint.parameters(module)
    windows = windows_of(spec, module, text)
    progress(0.1, "computing in fp32")
    before = logits_of(module, windows)
    try:
        shape = low_bit.prepare(spec, module, FP8)
        adopted = adoption.adopt(module, shape)
    except NotLean as reason:
        raise ModelNotLoadable(f"{spec.path}: no fp8 for this model ({reason})") from reason
    quantised = all_weights.quantized(adopted, torch.device("cpu"), torch.bfloat16, FP8, progress)
    fp8_check.round_inputs(module, quantised, shape)
    progress(0.8, "computing in fp8")
    quality = compare(before, logits_of(module, windows), windows)
    progress(1.0, "done")
    return Report(
        format=FP8.format,
        parameters=parameters,
        bytes_before=checkpoint.file_bytes(spec),
        bytes_after=quantised.nbytes,
        bits_a_weight=8 * quantised.nbytes / parameters,
        quality=quality,
    )


def _refuse_low_bit(spec: ModelSpec) -> None:
    if spec.low_bit_folder:
        raise BadSettings(f"{spec.path} is in low bit already ({spec.format})")


def is_weights(file: Path) -> bool:
    """Return whether a file holds weights, which are not copied."""
    return file.name.endswith(_NOT_COPIED) or ".part" in file.suffixes


def windows_of(spec: ModelSpec, module: Any, text: str, most: int = MOST_TOKENS) -> list[list[int]]:
    """Return a text's first `most` token ids, in windows that the model can process at once.

    :raises ModelNotLoadable: the text is too short.
    """
    words = tokenizer_files.load(spec, checkpoint.vocab_size(module))
    token_ids = words.encode(TextPrompt(text))[:most]
    length = min(WINDOW_TOKENS, checkpoint.context_length(spec, module))
    windows = [token_ids[start : start + length] for start in range(0, len(token_ids), length)]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise ModelNotLoadable("the text for the quality report has fewer than two tokens")
    return windows


@torch.inference_mode()
def logits_of(module: Any, windows: Sequence[list[int]]) -> list[torch.Tensor]:
    """Return each window's (T, vocab) float32 logits."""
    module.eval()
    return [
        module(input_ids=torch.tensor([window]), use_cache=False).logits[0].float()
        for window in windows
    ]


def compare(
    before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], windows: Sequence[list[int]]
) -> Quality:
    """Return how a model's logits differ from those of before."""
    pairs = list(zip(before, after, strict=True))
    spread = sum(float((a - a.mean(-1, keepdim=True)).square().sum()) for a, _ in pairs)
    error = sum(float((a - b).square().sum()) for a, b in pairs)
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs)
    tokens = sum(map(len, windows))
    return Quality(
        tokens=tokens,
        logit_error=math.sqrt(error / spread) if spread else 0.0,
        agreement=same / tokens,
        perplexity_fp32=_perplexity(before, windows),
        perplexity=_perplexity(after, windows),
    )


def _perplexity(logits: Sequence[torch.Tensor], windows: Sequence[list[int]]) -> float:
    losses = [
        torch.nn.functional.cross_entropy(rows[:-1], torch.tensor(window[1:]), reduction="sum")
        for rows, window in zip(logits, windows, strict=True)
    ]
    return math.exp(min(float(sum(losses)) / sum(len(window) - 1 for window in windows), 700.0))
