# ruff: noqa: D102  (a forward method is described by its class)
"""A Llama in plain PyTorch, with the parameter names of Transformers' `LlamaForCausalLM`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor, nn

from demo_model_training.dialogue import END_OF_TEXT, IM_END

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """Sizes of the model. All linear sizes are multiples of 64, for 4-bit blocks of 32."""

    vocabulary: int = 4608
    hidden: int = 256
    layers: int = 10
    heads: int = 8
    kv_heads: int = 4
    feed_forward: int = 768
    context: int = 1024
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def head(self) -> int:
        """Features of one head."""
        return self.hidden // self.heads


class RMSNorm(nn.Module):
    """Scales each vector to a root mean square of one, then by learnt weights."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.epsilon)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves side by side as in Transformers. x: (B, heads, T, head)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Attention(nn.Module):
    """Causal attention with grouped query heads and rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head = shape.heads, shape.kv_heads, shape.head
        kv = shape.kv_heads * shape.head
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.head).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv_heads, self.head).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv_heads, self.head).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each on the normed input and added to it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.norm_epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Token ids in, the last hidden states out; the head is the embedding, transposed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.norm_epsilon)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = (2 * shape.layers) ** -0.5 if into_residual else 1.0
                nn.init.normal_(parameter, std=0.03 * scale)

    def rope(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (length, head)."""
        steps = torch.arange(0, self.shape.head, 2, device=device).float() / self.shape.head
        angles = torch.outer(torch.arange(length, device=device).float(),
                             self.shape.rope_theta**-steps)  # fmt: skip
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    def forward(self, ids: Tensor) -> Tensor:
        cos, sin = self.rope(ids.shape[1], ids.device)
        x = self.embed_tokens(ids)  # (B, T, hidden)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


def export(model: Llama, token_ids: dict[str, int], folder: Path) -> None:
    """Write a Transformers folder in bf16; the tokenizer is saved beside it by others."""
    shape = model.shape
    tensors = {
        f"model.{name.replace('_orig_mod.', '')}": tensor.detach().to("cpu", torch.bfloat16)
        .contiguous().clone()
        for name, tensor in model.state_dict().items()
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    ends = [token_ids[IM_END], token_ids[END_OF_TEXT]]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_epsilon,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.03,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": ends,
        "pad_token_id": token_ids[END_OF_TEXT],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }
    generation = {
        "do_sample": False,
        "eos_token_id": ends,
        "pad_token_id": token_ids[END_OF_TEXT],
        "max_new_tokens": 512,
    }
    for name, content in (("config", config), ("generation_config", generation)):
        text = json.dumps(content, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def checkpoint(model: Llama, step: int, path: Path) -> None:
    """Full-precision weights and the step, to look at or to go on from."""
    torch.save({"step": step, "shape": asdict(model.shape), "weights": model.state_dict()}, path)
