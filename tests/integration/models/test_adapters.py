"""LoRA adapters on every backend that takes them: PEFT's own logits, several in one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models.adapters import adapter as adapters
from penstock.models.adapters.folder import Bounds
from penstock.models.backends.lean import loading as lean
from penstock.models.backends.lean.model import LeanModel
from penstock.models.backends.native import library, loading
from penstock.models.backends.transformers import model as transformers_model
from penstock.models.devices import Cpu
from penstock.models.spec import ModelSpec
from tests.fixtures.adapters import ALL_LINEAR, change_rules, merged, write_adapter
from tests.fixtures.lean import gpu
from tests.fixtures.models import randomise, write_model

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("peft")

BOUNDS = Bounds(rank=64, nbytes=1 << 30)
IDS = [7 * at % 500 + 3 for at in range(40)]

GEMMA4: dict[str, Any] = {
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "phi3": ("phi3", {}),  # qkv_proj and gate_up_proj are fused as published
    "gemma2": ("gemma2", {"head_dim": 32}),  # norms after, tied head
    "cohere": ("cohere", {}),  # rotated in pairs, parallel
    "minicpm3": (  # latent attention
        "minicpm3",
        {
            "q_lora_rank": 160,  # wider than hidden states
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "num_key_value_heads": 4,
            "dim_model_base": 32,
        },
    ),
    "gemma4": (  # inputs by layer, keys of other layers
        "gemma4_text",
        {
            **GEMMA4,
            "hidden_size_per_layer_input": 64,
            "vocab_size_per_layer_input": 512,
            "num_kv_shared_layers": 1,
        },
    ),
    "gemma4-experts": (  # beside an MLP
        "gemma4_text",
        {
            **GEMMA4,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 2,
            "top_k_experts": 2,
            "moe_intermediate_size": 64,
        },
    ),
}
LATENT = [
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
]
OWN_INPUTS = ["per_layer_input_gate", "per_layer_model_projection", "per_layer_projection"]
TARGETS: dict[str, Any] = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "minicpm3": LATENT[::-1],
    "gemma4": [*ALL_LINEAR[::-1], *OWN_INPUTS],
    "gemma4-experts": ALL_LINEAR[::-1],
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the bases by family."""
    folder = tmp_path_factory.mktemp("bases")
    return {name: _write(folder / name, *case) for name, case in BASES.items()}


def _write(path: Path, kind: str, rules: dict[str, Any]) -> Path:
    made: Any = CONFIG_MAPPING[kind]
    config = made(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **{"num_key_value_heads": 2, **rules},
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    randomise(model, std=0.08)
    for name, weight in model.named_parameters():
        if kind.startswith("gemma4") and name.endswith("q_norm.weight"):
            weight.data.mul_(0.2)  # its scores have no scale of their own: else they decide all
    return write_model(path, model)


def _native(base: Path, form: str = "int8") -> Any:
    try:
        library.library()
    except ModelNotLoadable as missing:
        pytest.skip(str(missing))
    spec = ModelSpec("m", "m-cpu", "cpu", None, base, "native", format=form, large_pages=False)
    return loading.load(spec, lambda *_: None).model


def _transformers(base: Path) -> Any:
    spec = ModelSpec("m", "m-cpu", "cpu", None, base, "transformers", format="fp32")
    return transformers_model.load(spec, lambda *_: None).model


def _paged(base: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers_model.lean, "attempt", lambda *_: None)
        return _transformers(base)


def _grouped(base: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers_model, "_can_page", lambda *_: False)
        patch.setattr(transformers_model.lean, "attempt", lambda *_: None)
        return _transformers(base)


def _built(base: Path) -> Any:
    module: Any = AutoModelForCausalLM.from_pretrained(base).eval()
    return lean.build(module, Cpu(), 512)


def _on_a_gpu(base: Path) -> Any:
    device = gpu()
    if device is None:
        pytest.skip("torch sees no GPU here")
    kind = cast("Any", device.kind)
    spec = ModelSpec("m", f"m-{kind}", kind, None, base, "transformers", format="fp32")
    model = transformers_model.load(spec, lambda *_: None).model
    assert isinstance(model, LeanModel)
    return model


LOADERS: dict[str, Any] = {
    "native": _native,
    "native-fp32": lambda base: _native(base, "fp32"),
    "lean": _transformers,
    "lean-built": _built,
    "lean-gpu": _on_a_gpu,
    "paged": _paged,
    "grouped": _grouped,
}
ERRORS = {
    "native": 0.065,
    "native-fp32": 0.01,
}  # of activations in INT8; of keys and values in fp16


def _slice(key: int, own: Any, *, start: int = 0, end: int = 40, last: int = 0) -> SequenceSlice:
    blocks = [3 * key + at for at in range(3)]
    return SequenceSlice(key, IDS[start:end], start, blocks, last, adapter=own)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def _expected(base: Path, adapter: Path | None) -> torch.Tensor:
    with torch.inference_mode():
        return merged(base, adapter)(torch.tensor([IDS])).logits[0]


@pytest.mark.parametrize(
    ("way", "family"),
    [*(("native", family) for family in ("llama", "phi3", "gemma2", "cohere")),
     *(("native-fp32", family) for family in BASES), ("lean", "llama"),
     *(("lean-built", family) for family in ("phi3", "gemma2", "cohere")),
     *(pytest.param("lean-gpu", family, marks=pytest.mark.gpu) for family in ("llama", "phi3", "gemma2", "cohere")),
     ("paged", "llama"), ("paged", "phi3"),
     ("grouped", "llama")],
)  # fmt: skip
def test_logits_are_those_of_the_merged_model(
    way: str, family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base, targets = bases[family], TARGETS.get(family, ALL_LINEAR)
    paths = [
        write_adapter(
            tmp_path / "a", base, seed=1, targets=targets, use_rslora=True,
            rank_pattern={targets[0]: 4}, alpha_pattern={r"layers\.1\..*" + targets[-1]: 40},
        ),
        write_adapter(
            tmp_path / "b", base, seed=2, rank=5, targets=rf".*layers\.[02]\..*{targets[1]}",
            dtype=torch.bfloat16,
        ),
    ]  # fmt: skip
    model = LOADERS[way](base)
    model.allocate(16)
    own = [model.take_adapter(adapters.load(path, BOUNDS)) for path in paths]
    expected = [_expected(base, path) for path in (*paths, None)]
    assert _error(expected[0], expected[2]) > 0.3
    assert _error(expected[1], expected[2]) > 0.1

    # Prompts, and single tokens after one, of both and of the base, in one step.
    model.forward(Batch((_slice(4, own[0], end=39, last=39),)))
    batch = Batch(
        (_slice(0, own[1]), _slice(1, None), _slice(4, own[0], start=39), _slice(2, own[0]))
    )
    first, base_rows, single, second = model.forward(batch).cpu().split([40, 40, 1, 40])
    most = ERRORS.get(way, 1e-3)
    assert _error(first, expected[1]) < most
    assert _error(base_rows, expected[2]) < most
    assert _error(second, expected[0]) < most
    assert _error(single, expected[0][39:]) < 2 * most
    alone = model.forward(Batch((_slice(3, None),))).cpu()
    assert _error(alone, base_rows) < 1e-5
    if way.startswith("native"):
        assert torch.equal(alone, base_rows)
        assert torch.equal(model.forward(Batch((_slice(3, own[0]),))), second)
        assert torch.equal(single[0], second[39])


def test_the_head_may_be_adapted(bases: dict[str, Path], tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a", bases["llama"], targets=["lm_head", "q_proj"])
    expected = _expected(bases["llama"], path)
    for way in ("native", "paged"):
        model = LOADERS[way](bases["llama"])
        model.allocate(16)
        own = model.take_adapter(adapters.load(path, BOUNDS))
        found = model.forward(Batch((_slice(1, None, last=40), _slice(0, own, last=30))))
        assert _error(found, expected[30:]) < ERRORS.get(way, 1e-3)


@pytest.mark.parametrize("way", LOADERS)
def test_an_adapter_of_another_model_is_refused(
    way: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    model = LOADERS[way](bases["llama"])
    other = write_adapter(tmp_path / "a", bases["phi3"], targets=["qkv_proj"])
    with pytest.raises(ModelNotLoadable, match="qkv_proj"):
        model.take_adapter(adapters.load(other, BOUNDS))
    wide = _write(tmp_path / "wide", "llama", {"head_dim": 64})
    with pytest.raises(ModelNotLoadable, match="q_proj"):
        model.take_adapter(
            adapters.load(write_adapter(tmp_path / "b", wide, targets=["q_proj"]), BOUNDS)
        )


def test_keys_and_values_behind_a_compressed_key_are_not_adapted(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "a", bases["minicpm3"], targets=["o_proj", "kv_b_proj"])
    with pytest.raises(ModelNotLoadable, match="kv_b_proj"):
        _native(bases["minicpm3"]).take_adapter(adapters.load(path, BOUNDS))


def test_what_cannot_be_computed_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a", bases["llama"], targets=["q_proj"])
    for rules, message in (
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 4}, "rank"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"alpha_pattern": {"(a+)+$x": 3}}, None),
        ({"alpha_pattern": {"(": 3}}, "pattern"),
    ):
        before = (path / "adapter_config.json").read_text()
        change_rules(path, **rules)
        if message is None:
            adapters.load(path, BOUNDS)
        else:
            with pytest.raises(ModelNotLoadable, match=message):
                adapters.load(path, BOUNDS)
        (path / "adapter_config.json").write_text(before)
    with pytest.raises(ModelNotLoadable, match="the limit is 4"):
        adapters.load(path, Bounds(rank=4, nbytes=1 << 30))
    with pytest.raises(ModelNotLoadable, match="the limit is 100"):
        adapters.load(path, Bounds(rank=64, nbytes=100))
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(ModelNotLoadable, match="pickled"):
        adapters.load(path, BOUNDS)
