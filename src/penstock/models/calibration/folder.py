"""Writes a calibrated model in 4 bit, in the layouts in which GPTQ and AWQ are published."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import torch
from torch import nn

from penstock.errors import BadSettings, ModelNotLoadable
from penstock.models import quantise
from penstock.models.calibration import autoround
from penstock.models.calibration.layers import walk
from penstock.models.calibration.rounding import BITS, rounded
from penstock.models.catalogue import quantisation
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import checkpoint
from penstock.models.loading.libraries import transformers

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.calibration.rounding import Rounded
    from penstock.models.loading.assembled import Progress
    from penstock.models.quantise import Report
    from penstock.models.spec import ModelSpec

GROUPS: Final = (128, 64, 32)
WINDOWS: Final = 32
"""Texts that a model writes to be calibrated with, where none is given."""
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""The outputs of a word's eight codes, the lowest bits first."""
_PER_WORD: Final = 32 // BITS


def calibrate(
    spec: ModelSpec,
    target: Path,
    layout: str,
    *,
    text: str,
    calibration: str,
    progress: Progress,
) -> Report:
    """Write a model in 4 bit, rounded by GPTQ, and return a report.

    `layout` is `gptq`, `awq` or `autoround`. `calibration` is text as the model will see it; empty:
    the model writes some itself. An empty `text` skips measuring. Needs memory for the model in
    fp32. The folder appears complete or not at all.

    :raises BadSettings: the target exists, the model is quantised already, or the layout's package
        is not installed.
    :raises ModelNotLoadable: with one line about the reason.
    """
    if target.exists():
        raise BadSettings(f"{target} exists already")
    if spec.low_bit_folder or quantisation.is_stated(read_config(spec.path)):
        raise BadSettings(f"{spec.path} is quantised already")
    if layout == "autoround":
        autoround.library()
    config = checkpoint.load_config(spec)
    stored = checkpoint.dtype(spec, config)
    progress(0.0, f"reading {spec.path}")
    module = checkpoint.load_module(spec, config, torch.float32).eval()
    parameters = checkpoint.parameters(module)
    measured = quantise.windows_of(spec, module, text) if text else []
    before = quantise.logits_of(module, measured)
    progress(0.05, "texts to calibrate with")
    windows = (
        quantise.windows_of(spec, module, calibration, most=WINDOWS * quantise.WINDOW_TOKENS)
        if calibration
        else _written(module)
    )
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    group = _group(module)
    if layout == "autoround":
        progress(0.1, "rounding by auto-round")
        autoround.write(spec, module.to(stored), part, group, windows)
        _copy_rest(spec, part)
        rounded_module = _read_again(spec, part) if measured else module
    else:
        tensors = _rounded(module, windows, layout, group, progress)
        rounded_module = module
        progress(0.95, f"writing {target}")
        _write(spec, module, part, tensors, _rules(layout, group), stored=stored)
    quality = None
    if measured:
        after_logits = quantise.logits_of(rounded_module, measured)
        quality = quantise.compare(before, after_logits, measured)
    after = sum(file.stat().st_size for file in part.glob("*.safetensors"))
    report = quantise.Report(
        format=f"{layout}-int4",
        parameters=parameters,
        bytes_before=checkpoint.file_bytes(spec),
        bytes_after=after,
        bits_a_weight=8 * after / parameters,
        quality=quality,
    )
    (part / quantise.REPORT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    part.rename(target)
    progress(1.0, "done")
    return report


@torch.inference_mode()
def _written(module: Any) -> list[list[int]]:
    """Texts that the model writes by itself, drawn with a fixed seed."""
    length = min(quantise.WINDOW_TOKENS, checkpoint.text_config(module).max_position_embeddings)
    config = module.config.get_text_config()
    vocab = checkpoint.vocab_size(module)
    start = config.bos_token_id if isinstance(config.bos_token_id, int) else 0
    random: Any = torch.random
    with random.fork_rng(devices=[]):
        random.manual_seed(0)
        seconds = torch.randint(0, vocab, (WINDOWS, 1))
        prompts = torch.cat((torch.full((WINDOWS, 1), start), seconds), dim=1)
        settings = transformers().GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=length - 2,
            min_new_tokens=length - 2, pad_token_id=start,
        )  # fmt: skip
        texts = module.generate(
            prompts, attention_mask=torch.ones_like(prompts), generation_config=settings
        )
    return [text.tolist() for text in texts]


def _group(module: Any) -> int:
    """:raises ModelNotLoadable: no group divides all matrices' columns."""
    columns = {one.in_features for one in module.modules() if type(one) is nn.Linear}
    group = next((size for size in GROUPS if all(count % size == 0 for count in columns)), None)
    if group is None:
        raise ModelNotLoadable(f"its matrices' columns are no multiples of {GROUPS[-1]}")
    return group


def _read_again(spec: ModelSpec, part: Path) -> Any:
    """The module of what was written, in fp32."""
    written = replace(spec, path=part, backend="transformers")
    return checkpoint.load_module(written, checkpoint.load_config(written), torch.float32).eval()


def _rounded(
    module: Any, windows: list[list[int]], layout: str, group: int, progress: Progress
) -> dict[str, torch.Tensor]:
    """Round a module's layers; return the tensors in place of their weights."""
    tensors: dict[str, torch.Tensor] = {}
    plain = layout == "gptq"

    def round_one(name: str, linear: nn.Linear, moments: torch.Tensor) -> None:
        if linear.out_features % _PER_WORD:
            raise ModelNotLoadable(f"{name}: {linear.out_features} rows are no multiple of 8")
        try:
            own = rounded(linear.weight, moments, group, symmetric=plain, in_order=plain)
        except ValueError as error:
            raise ModelNotLoadable(f"{name}: {error}") from error
        linear.weight.copy_(own.values())
        pack = _gptq if plain else _awq
        tensors.update({f"{name}.{kind}": tensor for kind, tensor in pack(own).items()})

    walk(module, windows, round_one, lambda share, what: progress(0.1 + 0.8 * share, what))
    return tensors


def _gptq(own: Rounded) -> dict[str, torch.Tensor]:
    """The first version of GPTQ's layout, whose stored zeros are one less."""
    return {
        "qweight": _words(own.codes.T),
        "qzeros": _words((own.zeros - 1).contiguous()).T.contiguous(),
        "scales": own.scales.T.contiguous(),
        "g_idx": own.groups.to(torch.int32),
    }


def _awq(own: Rounded) -> dict[str, torch.Tensor]:
    """AWQ's gemm layout: words of eight outputs, in an order of their own."""

    def packed(codes: torch.Tensor) -> torch.Tensor:
        eights = codes.reshape(-1, _PER_WORD, codes.shape[1])[:, _AWQ_ORDER]
        return _words(eights.reshape(codes.shape)).T.contiguous()

    return {
        "qweight": packed(own.codes),
        "qzeros": packed(own.zeros),
        "scales": own.scales.T.contiguous(),
    }


def _words(codes: torch.Tensor) -> torch.Tensor:
    """(n, m) codes in (n / 8, m) words: eight neighbours of a column, the first one lowest."""
    eights = codes.to(torch.int64).reshape(-1, _PER_WORD, codes.shape[1])
    shifts = (torch.arange(_PER_WORD) * BITS)[None, :, None]
    return (eights << shifts).sum(1).to(torch.int32).contiguous()


def _rules(layout: str, group: int) -> dict[str, Any]:
    if layout == "awq":
        return {
            "quant_method": "awq", "bits": BITS, "group_size": group, "zero_point": True,
            "version": "gemm", "modules_to_not_convert": None, "sym": False,
        }  # fmt: skip
    return {
        "quant_method": "gptq", "bits": BITS, "group_size": group, "desc_act": True, "sym": True,
        "damp_percent": 0.01, "true_sequential": True, "static_groups": False, "lm_head": False,
        "checkpoint_format": "gptq",
    }  # fmt: skip


def _write(
    spec: ModelSpec,
    module: Any,
    part: Path,
    tensors: dict[str, torch.Tensor],
    rules: dict[str, Any],
    *,
    stored: torch.dtype,
) -> None:
    """Write weights in the type `stored`, configuration and what lies beside them."""
    hub: Any = __import__("huggingface_hub")
    taken = {name.rpartition(".")[0] for name in tensors}
    tied = set[str](getattr(module, "all_tied_weights_keys", None) or ())
    rest = {
        name: tensor.detach().to(stored if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in module.state_dict().items()
        if name not in tied and not (name.endswith(".weight") and name[:-7] in taken)
    }
    hub.save_torch_state_dict({**rest, **tensors}, part, metadata={"format": "pt"})
    config = read_config(spec.path) | {"quantization_config": rules}
    config["torch_dtype"] = str(stored).removeprefix("torch.")
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _copy_rest(spec, part)


def _copy_rest(spec: ModelSpec, part: Path) -> None:
    """What lies beside the weights, and was not written yet."""
    for file in spec.path.iterdir():
        if file.is_file() and not (part / file.name).exists() and not quantise.is_weights(file):
            shutil.copy2(file, part)
