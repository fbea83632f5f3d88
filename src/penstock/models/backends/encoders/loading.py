"""From a spec to an encoder that is ready to serve: module, head, tokenizer, card."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from penstock.contract.worker import EmbeddingCard, ModelCard
from penstock.engine.encoder import EncoderInput
from penstock.errors import ModelNotLoadable
from penstock.models import devices
from penstock.models.backends.encoders import recipe as recipes
from penstock.models.backends.encoders.head import Head
from penstock.models.backends.encoders.padded import CrossEncoder, Embedder, PaddedModule
from penstock.models.backends.transformers import dtypes
from penstock.models.loading import checkpoint
from penstock.models.loading.libraries import transformers as library
from penstock.models.loading.weight_files import check_weights
from penstock.models.text import tokenizer_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.backends.encoders.recipe import Recipe
    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec
    from penstock.models.text.tokenizer import Tokenizer
    from penstock.settings import Settings

SLOTS: Final = 64
"""Texts that a worker takes at once: they are small, and go in batches."""
CPU_BATCH_TOKENS: Final = 4_096
GPU_BATCH_TOKENS: Final = 32_768
_PROBE: Final = 5


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """An encoder, its tokenizer and its card."""

    encoder: Embedder | CrossEncoder
    tokenizer: Tokenizer
    card: ModelCard
    batch_tokens: int


def load(
    spec: ModelSpec, settings: Settings, *, slots: int | None, progress: Progress
) -> LoadedEncoder:
    """Load an embedding model or a cross-encoder.

    :raises ModelNotLoadable: with one line about the reason.
    """
    if spec.backend != "transformers":
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: {spec.path} generates no text ({spec.task}): "
            f"the backend 'transformers' serves it, {spec.backend!r} does not"
        )
    recipe = recipes.read(spec.path)
    folder = recipe.transformer or spec.path
    check_weights(folder or spec.path, pickles=spec.low_bit_folder or spec.allow_pickle)
    config = _config(spec, folder)
    dtype = dtypes.choose_dtype(spec, config)
    progress(0.05, f"reading {folder} as {dtypes.NAMES[dtype]}")
    module = _module(spec, folder, config, dtype)
    module = module.to(devices.torch_device(spec)).eval().requires_grad_(requires_grad=False)
    progress(0.8, "trying the model")
    encoder = _encoder(spec, recipe, module)
    words = tokenizer_files.load(
        spec, encoder.vocab_size, folder=folder,
        context_length=encoder.context_length, lower_case=recipe.lower_case,
    )  # fmt: skip
    count = settings.slots or spec.slots or slots or SLOTS
    progress(1.0, "ready")
    name = dtypes.NAMES[dtype]
    card = _card(spec, recipe, module, encoder, format_name=name, slots=count)
    batch_tokens = CPU_BATCH_TOKENS if spec.device == "cpu" else GPU_BATCH_TOKENS
    return LoadedEncoder(encoder, words, card, batch_tokens)


def _config(spec: ModelSpec, folder: Any) -> Any:
    try:
        return library().AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=spec.trust_remote_code
        )
    except Exception as error:
        raise ModelNotLoadable(f"{folder}: config.json: {checkpoint.first_line(error)}") from error


def _module(spec: ModelSpec, folder: Any, config: Any, dtype: torch.dtype) -> Any:
    """:raises ModelNotLoadable: the weights are damaged, incomplete, or of another shape."""
    if spec.task == "score":
        kind = library().AutoModelForSequenceClassification
        if config.num_labels != 1:
            raise ModelNotLoadable(
                f"{folder}: a classifier of {config.num_labels} labels; one with a single label, "
                f"a cross-encoder, can be served"
            )
    elif type(config) in library().MODEL_FOR_TEXT_ENCODING_MAPPING:  # of T5 the encoder alone
        kind = library().AutoModelForTextEncoding
    else:
        kind = library().AutoModel
    module, lacking = checkpoint.from_folder(kind, spec, folder, config, dtype)
    # BERT's own pooler is no part of an embedding, and often is not in the file.
    missing = [key for key in lacking if not key.startswith("pooler.")]
    if missing:
        raise ModelNotLoadable(f"{folder}: {len(missing)} weights are missing: {missing[0]}")
    return module


def _encoder(spec: ModelSpec, recipe: Recipe, module: Any) -> Embedder | CrossEncoder:
    """Put the head on a module, and try both.

    :raises ModelNotLoadable: its vectors are not those that the files describe.
    """
    device = devices.torch_device(spec)
    limits = {
        "vocab_size": int(module.config.get_text_config().vocab_size),
        "context_length": _context_length(spec, recipe, module),
    }
    try:
        with torch.inference_mode():
            if spec.task == "score":
                return CrossEncoder(module, device, _activation(module), **limits)
            states: torch.Tensor = (
                PaddedModule(module, device, **limits)
                .run([EncoderInput([1] * _PROBE), EncoderInput([1])])
                .last_hidden_state
            )
            return Embedder(module, device, Head(recipe, states.shape[-1]), **limits)
    except ModelNotLoadable:
        raise
    except Exception as error:
        name = type(module).__name__
        raise ModelNotLoadable(
            f"{spec.path}: {name} cannot be served: {checkpoint.first_line(error)}"
        ) from error


def _activation(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes a score of a logit: the files' word, else the logistic function.

    sentence-transformers notes it as the name of a class of torch.
    """
    noted = cast("dict[str, Any]", getattr(module.config, "sentence_transformers", None) or {})
    name = str(noted.get("activation_fn") or "").rpartition(".")[2]
    if name == "Identity":
        return lambda logits: logits
    if name not in ("", "Sigmoid"):
        raise ModelNotLoadable(f"the activation {name!r} of a cross-encoder is not known here")
    return torch.sigmoid


def _context_length(spec: ModelSpec, recipe: Recipe, module: Any) -> int:
    made_for = checkpoint.context_length(spec, module)
    embeddings = getattr(getattr(module, "base_model", module), "embeddings", None)
    positions = getattr(embeddings, "position_embeddings", None)
    offset = getattr(positions, "padding_idx", None)
    if isinstance(offset, int):  # RoBERTa's positions begin after it
        made_for = min(made_for, int(cast("Any", positions).num_embeddings) - offset - 1)
    return min(made_for, recipe.most_tokens or made_for)


def _card(
    spec: ModelSpec,
    recipe: Recipe,
    module: Any,
    encoder: Embedder | CrossEncoder,
    *,
    format_name: str,
    slots: int,
) -> ModelCard:
    embeds = isinstance(encoder, Embedder)
    return ModelCard(
        name=spec.name,
        queue=spec.queue,
        device=spec.device,
        backend=spec.backend,
        format=format_name,
        architecture=type(module).__name__,
        parameters=checkpoint.parameters(module),
        weights_bytes=checkpoint.weights_bytes(module),
        context_length=encoder.context_length,
        vocab_size=encoder.vocab_size,
        slots=slots,
        kv_cache_tokens=0,
        aliases=spec.aliases,
        batching="padded",
        capabilities=("embed",) if embeds else ("score",),
        created_s=int(time.time()),
        embedding=_embedding(spec, recipe, module, encoder) if embeds else None,
    )


def _embedding(spec: ModelSpec, recipe: Recipe, module: Any, encoder: Embedder) -> EmbeddingCard:
    config = module.config
    lengths = spec.matryoshka
    if lengths is None:
        lengths = getattr(config, "matryoshka_dimensions", None) or bool(
            getattr(config, "is_matryoshka", False)
        )
    return EmbeddingCard(
        dimensions=encoder.head.dimensions,
        normalized=recipe.normalized,
        any_length=lengths is True,
        matryoshka=() if isinstance(lengths, bool) else tuple(lengths),
        prompts=recipe.prompts if recipe.pools_prompt else {},
        default_prompt=recipe.default_prompt if recipe.pools_prompt else "",
    )
