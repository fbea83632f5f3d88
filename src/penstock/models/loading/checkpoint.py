"""Checks whether a model's folder can be loaded, and loads it through Transformers."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable, first_line
from penstock.models.catalogue import footprint, quantisation
from penstock.models.catalogue.context import positions
from penstock.models.catalogue.model_folder import CONFIG_FILE, read_config
from penstock.models.loading import chatglm, image_text, published
from penstock.models.loading.libraries import missing_parts, transformers, transformers_module
from penstock.models.loading.weight_files import check_weights
from penstock.models.weights import files
from penstock.models.weights.matrices import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from penstock.models.spec import ModelSpec

DEFAULT_CONTEXT = 4096
_LONGEST_NAMED = 3


def load_config(spec: ModelSpec) -> Any:
    """Return the model's configuration; for a checkpoint with images, its language model's.

    :raises ModelNotLoadable: an unknown architecture, one that needs its own code, or one that is
        not a causal language model.
    """
    check_weights(spec.path, pickles=spec.low_bit_folder or spec.allow_pickle)
    raw = read_config(spec.path)
    library = transformers()
    if missing_parts():
        raise ModelNotLoadable(
            f"Transformers {library.__version__} lacks {', '.join(missing_parts())}, which Penstock "
            f"needs: install a release that its pyproject.toml allows"
        )
    if chatglm.is_original(raw):
        return chatglm.configuration(spec.path, raw)
    is_known = (
        raw.get("model_type")
        in transformers_module("models.auto.configuration_auto").CONFIG_MAPPING
    )
    own_code = "auto_map" in raw
    if own_code and not is_known and not spec.trust_remote_code:
        raise ModelNotLoadable(
            f"{spec.path}: the model brings its own Python code; set trust_remote_code = true "
            f"for it in the models file if you trust it"
        )
    if not is_known and not own_code:
        raise ModelNotLoadable(
            f"{spec.path}: unknown architecture {raw.get('model_type')!r} "
            f"for Transformers {library.__version__}"
        )
    config = full_config(spec)
    if image_text.is_image_text(config) and not config.is_encoder_decoder:
        return image_text.causal_config(config) or config
    _require_causal_class(spec, config, own_code=own_code and spec.trust_remote_code)
    return config


def full_config(spec: ModelSpec) -> Any:
    """Return the folder's configuration as Transformers reads it.

    :raises ModelNotLoadable: Transformers cannot read it.
    """
    try:
        if not (spec.path / CONFIG_FILE).is_file():  # a GGUF file alone
            return transformers().AutoConfig.for_model(
                **quantisation.without(read_config(spec.path))
            )
        found = transformers().AutoConfig.from_pretrained(
            spec.path, local_files_only=True, trust_remote_code=spec.trust_remote_code
        )
        return published.without_quantisation(found)
    except Exception as error:
        raise ModelNotLoadable(f"{spec.path}: config.json: {first_line(error)}") from error


def _require_causal_class(spec: ModelSpec, config: Any, *, own_code: bool) -> None:
    name = (config.architectures or [config.model_type])[0]
    if config.is_encoder_decoder:
        raise ModelNotLoadable(f"{spec.path}: {name} is an encoder-decoder, not a causal model")
    mapping = transformers().MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in mapping and not own_code:
        raise ModelNotLoadable(f"{spec.path}: {name} is not a causal language model")


def load_module(spec: ModelSpec, config: Any, dtype: torch.dtype) -> Any:
    """Return the model with its weights, on the CPU; `config` is from `load_config`.

    :raises ModelNotLoadable: the weights are damaged, incomplete, or have wrong shapes.
    """
    if chatglm.is_original(read_config(spec.path)):
        return _complete(transformers().GlmForCausalLM, spec, config, dtype)
    whole = full_config(spec)
    if image_text.is_image_text(whole):
        return _text_module(spec, whole, dtype)
    return _complete(transformers().AutoModelForCausalLM, spec, config, dtype)


def _text_module(spec: ModelSpec, full_config: Any, dtype: torch.dtype) -> Any:
    """Return the language model of a checkpoint with images.

    :raises ModelNotLoadable: the weights are damaged, incomplete, or have wrong shapes.
    """
    library = transformers()
    causal = type(full_config) in library.MODEL_FOR_CAUSAL_LM_MAPPING
    kind = library.AutoModelForCausalLM if causal else library.AutoModelForImageTextToText
    try:
        return image_text.text_module(_complete(kind, spec, full_config, dtype), full_config, dtype)
    except ModelNotLoadable as error:
        text = image_text.causal_config(full_config)
        if not isinstance(error.__cause__, ImportError) or text is None:
            raise
        try:
            module = image_text.from_files(spec.path, text, dtype)
        except Exception as damage:
            raise ModelNotLoadable(f"{spec.path}: {first_line(damage)}") from damage
        if module is None:
            raise
        return module


def _complete(kind: Any, spec: ModelSpec, config: Any, dtype: torch.dtype) -> Any:
    """Do as `from_folder` with the spec's own folder, and require all weights.

    :raises ModelNotLoadable: the weights are damaged, incomplete, or have wrong shapes.
    """
    raw = read_config(spec.path)
    renamed = chatglm.tensors(spec.path, raw) if chatglm.is_original(raw) else None
    module, missing = from_folder(kind, spec, spec.path, config, dtype, tensors=renamed)
    if missing:
        named = ", ".join(missing[:_LONGEST_NAMED])
        raise ModelNotLoadable(f"{spec.path}: {len(missing)} weights are missing: {named}")
    return module


def from_folder(
    kind: Any,
    spec: ModelSpec,
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    *,
    tensors: dict[str, torch.Tensor] | None = None,
) -> tuple[Any, list[str]]:
    """Return a module of one of Transformers' auto classes, and the names of missing weights.

    `tensors` are the weights in place of the folder's own. Those of a quantised folder are read as
    the values that they stand for; see `published`.

    :raises ModelNotLoadable: the weights are damaged, have wrong shapes, or are too many.
    """
    transformers().utils.logging.disable_progress_bar()
    kept = Kept()
    if tensors is None and is_read_here(folder):
        tensors, kept = published.tensors(folder, dtype)
        config = published.without_quantisation(config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module, notes = _class_of(kind, spec, config, tensors).from_pretrained(
                None if tensors else folder,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=spec.trust_remote_code,
                output_loading_info=True,
            )
    except MemoryError as error:
        raise ModelNotLoadable(f"{folder}: not enough memory") from error
    except Exception as error:
        raise ModelNotLoadable(f"{folder}: {first_line(error)}") from error
    published.note(module, kept)
    return module, sorted(notes["missing_keys"])


def _class_of(
    kind: Any, spec: ModelSpec, config: Any, tensors: dict[str, torch.Tensor] | None
) -> Any:
    """Return the class that loads a module: an auto class needs a folder, only its classes take tensors."""
    if tensors is None or not hasattr(kind, "from_config"):
        return kind
    with torch.device("meta"):
        empty: object = kind.from_config(config, trust_remote_code=spec.trust_remote_code)
    return type(empty)


def is_read_here(folder: Path) -> bool:
    """Whether our own reader has a folder's weights: codes, and pickles that were asked for."""
    return not files.weight_files(folder) or quantisation.is_stated(read_config(folder))


def dtype(spec: ModelSpec, config: Any) -> torch.dtype:
    """Return the checkpoint's dtype: from its configuration, else from its first matrix."""
    stated = getattr(config, "dtype", None)
    if isinstance(stated, torch.dtype) and stated.is_floating_point:
        return stated
    safetensors: Any = __import__("safetensors")
    for file in files.weight_files(spec.path):
        try:
            with safetensors.safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a dictionary
                    found = tensors.get_tensor(key).dtype
                    if found in {torch.float32, torch.float16, torch.bfloat16}:
                        return found
        except Exception as error:
            raise ModelNotLoadable(f"{file}: {first_line(error)}") from error
    return torch.float32


def file_bytes(spec: ModelSpec) -> int:
    """Size of the weights' files; of a quantised checkpoint, of the same in 16 bit."""
    if quantisation.is_stated(read_config(spec.path)):
        return 2 * footprint.measure(spec).parameters
    return sum(file.stat().st_size for file in files.all_files(spec.path))


def text_config(module: Any) -> Any:
    """Return the language model's part of the configuration."""
    return module.config.get_text_config()


def vocab_size(module: Any) -> int:
    """Return the width of the logits."""
    head = module.get_output_embeddings()
    for name in ("out_features", "out_len"):
        width = getattr(head, name, None)
        if isinstance(width, int):
            return width
    return int(text_config(module).vocab_size)


def context_length(spec: ModelSpec, module: Any) -> int:
    """Return the longest sequence in tokens; `module` is any object with a `config`.

    :raises ModelNotLoadable: the spec asks for more than the model supports.
    """
    config = text_config(module)
    as_stated: Callable[[], dict[str, Any]] = getattr(config, "to_dict", config.__dict__.copy)
    made_for = positions(as_stated())
    if spec.context_length is None:
        return made_for or DEFAULT_CONTEXT
    if made_for is not None and spec.context_length > made_for:
        raise ModelNotLoadable(
            f"{spec.path}: context_length = {spec.context_length}: "
            f"the model was made for {made_for} positions"
        )
    return spec.context_length


def takes(module: Any, *names: str) -> bool:
    """Return whether the module's forward has these parameters."""
    parameters = inspect.signature(module.forward).parameters
    return all(name in parameters for name in names)


def parameters(module: Any) -> int:
    """Return the number of weights, counting shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def weights_bytes(module: Any) -> int:
    """Return the bytes of weights and buffers, counting shared storage once."""
    sizes: dict[int, int] = {}
    for tensor in _tensors(module):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _tensors(module: Any) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def generation_config(path: Path) -> dict[str, Any]:
    """Return the content of `generation_config.json`; {} if there is none."""
    return read_config(path, "generation_config.json")
