"""Reads the description of the decoder in a `config.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture.facts import Facts, NotDescribed
from penstock.models.architecture.families import (
    chatglm,
    convolutions,
    delta_nets,
    fused,
    gemma,
    gemma4,
    kimi,
    latent_attention,
    layernorm,
    llama,
    mixtures,
    postnorm,
    shared_mixtures,
    sparse_attention,
    state_spaces,
    zamba,
)
from penstock.models.catalogue.text_part import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.models.architecture.description import Architecture
    from penstock.models.architecture.families.parts import Family

_MODULES: Final = (
    chatglm,
    convolutions,
    delta_nets,
    fused,
    gemma,
    gemma4,
    kimi,
    latent_attention,
    layernorm,
    llama,
    mixtures,
    postnorm,
    shared_mixtures,
    sparse_attention,
    state_spaces,
    zamba,
)

FAMILIES: Final[dict[str, Family]] = {
    kind: family for module in _MODULES for family in module.FAMILIES for kind in family.model_types
}
"""Each family by the `model_type` of its configuration."""


def describe(config: Mapping[str, Any]) -> Architecture:
    """Return the decoder in a configuration; for one with images, its language model.

    `config` is the content of config.json, or Transformers' reading of it (`config.to_dict()`),
    which alone certainly has every default.

    :raises NotDescribed: another architecture, or an option that the description cannot express.
    """
    text = as_text(config)
    kind = str(text.get("model_type"))
    family = FAMILIES.get(kind)
    if family is None:
        raise NotDescribed(f"the architecture {kind!r} is not described")
    try:
        return family.describe(Facts(text, family.defaults))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise NotDescribed(f"the configuration of {kind!r} is inconsistent: {error}") from error
