"""A LoRA adapter's folder, as PEFT's `save_pretrained` writes it: its rules, checked. Imports no torch.

`adapter_config.json` and `adapter_model.safetensors`; pickles are never read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import ModelNotLoadable
from penstock.foreign import parse_json, read_file
from penstock.models.weights import files

if TYPE_CHECKING:
    from pathlib import Path

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

MOST_MODULES: Final = 20_000
"""Matrices that one adapter may change."""
LONGEST_PATTERN: Final = 200
"""Characters of a module's pattern."""
_READ_BYTES: Final = 1 << 20

_PREFIX: Final = "base_model.model."
_DOWN: Final = (".lora_A.weight", ".lora_A.default.weight")
_UP: Final = (".lora_B.weight", ".lora_B.default.weight")
_UNSUPPORTED: Final = {
    "use_dora": "DoRA, which changes the length of the base's rows",
    "lora_bias": "biases of the adapter's own",
    "modules_to_save": "modules_to_save, whole layers in place of the base's",
    "trainable_token_indices": "embeddings of its own",
    "target_parameters": "changes to parameters that are no linear layer (experts)",
    "layer_replication": "layers that are repeated",
    "alora_invocation_tokens": "an activation by tokens (aLoRA)",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow's routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
_BASE_UNCHANGED: Final = (True, False, None, "gaussian", "eva", "orthogonal", "lora_ga")
"""`init_lora_weights` that leave the base's own weights as they are."""
_OFF: Final[tuple[Any, ...]] = (None, False, [], {}, "")


@dataclass(frozen=True, slots=True)
class Module:
    """One changed matrix: the names of its two tensors, and the factor of their product."""

    down: str
    up: str
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter that can be computed.

    `modules` are by the names of the base's modules. `base` is what its author noted as the base.
    `digest` covers its weights and rules; `nbytes` is the size of its file.
    """

    path: Path
    digest: str
    base: str
    rank: int
    nbytes: int
    modules: dict[str, Module]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest adapter that is loaded."""

    rank: int
    nbytes: int


def is_adapter(path: Path) -> bool:
    """Return whether a folder holds an adapter."""
    return (path / CONFIG).is_file()


def read(path: Path, bounds: Bounds) -> AdapterFolder:
    """Check an adapter's folder and return what it holds.

    :raises ModelNotLoadable: it holds none, one that is too large, or one that is computed in a
        way that is not supported; with one line about the reason.
    """
    rules, written = _rules(path)
    weights = path / WEIGHTS
    if not weights.is_file():
        pickled = (path / "adapter_model.bin").is_file()
        reason = "its weights are pickled; save them as safetensors" if pickled else "has none"
        raise ModelNotLoadable(f"{path}: no {WEIGHTS}: {reason}")
    nbytes = weights.stat().st_size
    if nbytes > bounds.nbytes:
        raise ModelNotLoadable(f"{path}: {nbytes} bytes of adapter; the limit is {bounds.nbytes}")
    modules = _modules(path, rules, files.header(weights), bounds)
    return AdapterFolder(
        path=path,
        digest=_digest(written, weights),
        base=str(rules.get("base_model_name_or_path") or ""),
        rank=max(module.rank for module in modules.values()),
        nbytes=nbytes,
        modules=modules,
    )


def _rules(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the adapter's configuration, and the bytes that it was read from."""
    try:
        written = read_file(path / CONFIG)
        rules: object = parse_json(written, infinities=True)
    except (OSError, ValueError) as error:
        raise ModelNotLoadable(f"{path / CONFIG}: {error}") from error
    if not isinstance(rules, dict):
        raise ModelNotLoadable(f"{path / CONFIG}: is no object")
    named = cast("dict[str, Any]", rules)
    kind = named.get("peft_type")
    if kind != "LORA":
        raise ModelNotLoadable(f"{path}: an adapter of type {kind!r}; LORA is supported")
    for name, what in _UNSUPPORTED.items():
        if named.get(name) not in _OFF:
            raise ModelNotLoadable(f"{path}: {name}: {what}: not supported; merge it into its base")
    if named.get("bias") not in (None, "none"):
        raise ModelNotLoadable(f"{path}: bias = {named['bias']!r}: changed biases: not supported")
    start = named.get("init_lora_weights")
    if start not in _BASE_UNCHANGED:
        raise ModelNotLoadable(
            f"{path}: init_lora_weights = {start!r}: its base's weights differ from the published "
            f"ones; save it with path_initial_model_for_weight_conversion"
        )
    return named, written


def _modules(
    path: Path, rules: dict[str, Any], header: dict[str, Any], bounds: Bounds
) -> dict[str, Module]:
    """Return the changed matrices by module, from the file's header."""
    shapes: dict[str, dict[str, tuple[str, list[int]]]] = {}
    for tensor, facts in header.items():
        if tensor == "__metadata__":
            continue
        for kind, endings in (("down", _DOWN), ("up", _UP)):
            ending = next((ending for ending in endings if tensor.endswith(ending)), None)
            if ending is not None:
                name = tensor.removesuffix(ending).removeprefix(_PREFIX)
                shapes.setdefault(name, {})[kind] = (tensor, _shape(facts))
                break
        else:
            raise ModelNotLoadable(f"{path}: tensor {tensor}: not a linear layer's LoRA")
    if not shapes or len(shapes) > MOST_MODULES:
        raise ModelNotLoadable(f"{path}: {len(shapes)} changed matrices; 1 to {MOST_MODULES}")
    scales = _Scales(path, rules)
    modules: dict[str, Module] = {}
    for name, pair in shapes.items():
        if len(pair) != 2 or any(len(shape) != 2 for _, shape in pair.values()):  # noqa: PLR2004  pairs of matrices
            raise ModelNotLoadable(f"{path}: {name}: not a pair of matrices")
        (down, (rank, _)), (up, (_, other)) = pair["down"], pair["up"]
        if rank != other or rank != scales.rank(name):
            raise ModelNotLoadable(f"{path}: {name}: rank {rank}, {other}, {scales.rank(name)}")
        if not 0 < rank <= bounds.rank:
            raise ModelNotLoadable(f"{path}: {name}: rank {rank}; the limit is {bounds.rank}")
        modules[name] = Module(down, up, rank, scales.of(name))
    return modules


def _shape(facts: object) -> list[int]:
    stated = cast("dict[str, Any]", facts).get("shape") if isinstance(facts, dict) else None
    sizes = cast("list[Any]", stated) if isinstance(stated, list) else []
    return [size for size in sizes if isinstance(size, int)]


class _Scales:
    """The rank and the factor of each module, by PEFT's rules: `r`, `lora_alpha` and their patterns."""

    def __init__(self, path: Path, rules: dict[str, Any]) -> None:
        self._path = path
        self._rank = self._number(rules.get("r", 8), "r")
        self._alpha = self._number(rules.get("lora_alpha", 8), "lora_alpha")
        self._ranks = self._patterns(rules, "rank_pattern")
        self._alphas = self._patterns(rules, "alpha_pattern")
        self._stabilised = bool(rules.get("use_rslora"))

    def rank(self, module: str) -> int:
        """Return a module's rank."""
        return int(self._matching(self._ranks, module, self._rank))

    def of(self, module: str) -> float:
        """Return a module's factor."""
        rank = self.rank(module)
        alpha = self._matching(self._alphas, module, self._alpha)
        return alpha / (rank**0.5 if self._stabilised else rank)

    def _number(self, value: object, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:  # noqa: PLR2004  more is no scale
            raise ModelNotLoadable(f"{self._path}: {name} = {value!r} is no number above 0")
        return value

    def _patterns(self, rules: dict[str, Any], name: str) -> dict[str, float]:
        stated: object = rules.get(name) or {}
        if not isinstance(stated, dict):
            raise ModelNotLoadable(f"{self._path}: {name} is no object")
        patterns = cast("dict[str, Any]", stated)
        if len(patterns) > MOST_MODULES or any(len(key) > LONGEST_PATTERN for key in patterns):
            raise ModelNotLoadable(f"{self._path}: {name} has too many patterns, or too long ones")
        return {key: self._number(value, f"{name}.{key}") for key, value in patterns.items()}

    def _matching(self, patterns: dict[str, float], module: str, otherwise: float) -> float:
        """Return the value of the first pattern that matches a module's name, or its end."""
        for pattern, value in patterns.items():
            if module == pattern or module.endswith(f".{pattern}"):
                return value
        for pattern, value in patterns.items():
            if self._matches(pattern, module):
                return value
        return otherwise

    def _matches(self, pattern: str, module: str) -> bool:
        if not any(sign in pattern for sign in "^$*+?{}[]|()\\"):
            return False
        import regex  # noqa: PLC0415 - it comes with Transformers; its matching has a timeout

        try:
            expression = rf"(.*\.)?({pattern})$"
            return regex.match(expression, module, timeout=1) is not None
        except (regex.error, TimeoutError) as error:
            raise ModelNotLoadable(f"{self._path}: the pattern {pattern!r}: {error}") from error


def _digest(rules: bytes, weights: Path) -> str:
    """Return what identifies an adapter's contents."""
    content = hashlib.blake2b(rules, digest_size=16)
    with weights.open("rb") as opened:
        while some := opened.read(_READ_BYTES):
            content.update(some)
    return content.hexdigest()
