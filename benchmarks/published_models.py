"""Random models in the forms that hubs hold, in the Llama shapes of `cpu_engine.py`: GPTQ and GGUF's Q4_K_M.

What is measured does not depend on the weights: each matrix repeats one tile of random codes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import random_gguf
from tests.fixtures.models import write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

VOCABULARY = 32_000
_GROUP = 128
_PER_WORD = 8


def gptq(cache: Path, shape: str, sizes: dict[str, Any]) -> Path:
    """A folder in 4 bit, groups of 128 columns in act-order."""

    def fill(folder: Path) -> None:
        config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=2048, **sizes)
        with torch.device("meta"):
            module = LlamaForCausalLM(config)
        torch.manual_seed(0)
        tensors: dict[str, torch.Tensor] = {}
        for name, weight in module.state_dict().items():
            if not name.endswith("proj.weight"):
                drawn = torch.empty(weight.shape, dtype=torch.bfloat16)
                tensors[name] = drawn.fill_(1) if weight.dim() == 1 else drawn.normal_(0, 0.02)
                continue
            tensors |= _codes(name.removesuffix(".weight"), *weight.shape)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        stated = config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
        rules = {"quant_method": "gptq", "bits": 4, "group_size": _GROUP, "desc_act": True}
        (folder / "config.json").write_text(json.dumps({**stated, "quantization_config": rules}))

    return _written(cache / f"llama-{shape}-gptq", fill)


def _codes(stem: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
    groups = columns // _GROUP
    whole = torch.iinfo(torch.int32)
    order = (
        torch.randperm(columns) if stem.endswith(("o_proj", "down_proj")) else _one_order(columns)
    )
    index = torch.empty(columns, dtype=torch.int32)
    index[order] = torch.arange(columns, dtype=torch.int32) // _GROUP
    words = torch.randint(whole.min, whole.max, (columns // _PER_WORD, rows), dtype=torch.int32)
    return {
        f"{stem}.qweight": words,
        f"{stem}.qzeros": torch.full((groups, rows // _PER_WORD), 0x77777777, dtype=torch.int32),
        f"{stem}.scales": torch.full((groups, rows), 0.005, dtype=torch.float16),
        f"{stem}.g_idx": index,
    }


def _one_order(columns: int) -> torch.Tensor:
    """Of matrices that one input feeds: these have the same, since they see the same inputs."""
    return torch.randperm(columns, generator=torch.Generator().manual_seed(columns))


def q4_k_m(cache: Path, shape: str, sizes: dict[str, Any]) -> Path:
    """A folder with one GGUF file, its matrices of the types that llama.cpp's Q4_K_M has."""

    def fill(folder: Path) -> None:
        own = {**sizes, "head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]}
        layers = sizes["num_hidden_layers"]
        random_gguf.write(folder / "model.gguf", shape, own, layers, random_gguf.q4_k_m(layers))

    return _written(cache / f"llama-{shape}-q4_k_m", fill)


def _written(folder: Path, fill: Callable[[Path], None]) -> Path:
    if folder.is_dir():
        return folder
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    fill(unfinished)
    write_tokenizer(unfinished)
    shutil.move(unfinished, folder)
    return folder


WRITERS: dict[str, Callable[[Path, str, dict[str, Any]], Path]] = {"gptq": gptq, "q4_k_m": q4_k_m}
"""By the format's name in a contender's: `penstock/native/gptq`."""
