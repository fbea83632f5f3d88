"""From a `config.json` to the description of the decoder in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture.facts import Facts, NotDescribed
from penstock.models.architecture.families import (
    chatglm,
    fused,
    gemma,
    layernorm,
    llama,
    mixtures,
    postnorm,
    shared_mixtures,
)
from penstock.models.catalogue.text_part import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.models.architecture.description import Architecture
    from penstock.models.architecture.families.parts import Family

FAMILIES: Final[dict[str, Family]] = {
    kind: family
    for module in (chatglm, fused, gemma, layernorm, llama, mixtures, postnorm, shared_mixtures)
    for family in module.FAMILIES
    for kind in family.model_types
}
"""Each family by the `model_type` of its configuration."""


def describe(config: Mapping[str, Any]) -> Architecture:
    """The decoder that a configuration states; of one with an image tower, its language model.

    `config` is what config.json holds, or what Transformers made of that (`config.to_dict()`),
    which alone is sure to have every default.

    :raises NotDescribed: another architecture, or a switch that the description has no word for.
    """
    text = as_text(config)
    kind = str(text.get("model_type"))
    family = FAMILIES.get(kind)
    if family is None:
        raise NotDescribed(f"the architecture {kind!r} is not described")
    try:
        return family.describe(Facts(text, family.defaults))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise NotDescribed(f"the configuration of {kind!r} makes no sense: {error}") from error
