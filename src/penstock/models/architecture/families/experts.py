"""What mixtures of experts share, whatever attention they are over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.models.architecture.description import ExpertMatrices
from penstock.models.architecture.families import parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.architecture.description import Architecture, Dense, Mlp
    from penstock.models.architecture.facts import Facts


def matrices(
    name: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> ExpertMatrices:
    """Experts below `name`, by the names that most families have."""
    return ExpertMatrices(
        gate=f"{name}.{{}}.{gate}",
        up=f"{name}.{{}}.{up}",
        down=f"{name}.{{}}.{down}",
        together=f"{name}.gate_up_proj",
        down_together=f"{name}.down_proj",
    )


def count(facts: Facts, *names: str) -> int:
    """A number that configurations have under several names; a default has the last of them.

    :raises NotDescribed: they have none of them.
    """
    return facts.size(next((name for name in names if facts.has(name)), names[0]))


def with_mlps(plain: Architecture, mlp_of: Callable[[int, str], Mlp | None]) -> Architecture:
    """`mlp_of` gives a layer's MLP by its number and name; None: the one that it has."""
    layers = [
        replace(layer, mlp=mlp_of(index, parts.layer_name(index)) or layer.mlp)
        for index, layer in enumerate(plain.layers)
    ]
    return replace(plain, layers=tuple(layers))


def shared(facts: Facts, name: str, inner: int) -> Dense:
    """The gated MLP below `name` that all tokens have."""
    size = replace(parts.sizes(facts), inner=inner)
    return parts.gated(name, size, facts.activation("hidden_act"))
