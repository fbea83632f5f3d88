"""Common parts of mixtures of experts, over any attention."""

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
    """Return experts below `name`, with most families' names."""
    return ExpertMatrices(
        gate=f"{name}.{{}}.{gate}",
        up=f"{name}.{{}}.{up}",
        down=f"{name}.{{}}.{down}",
        together=f"{name}.gate_up_proj",
        down_together=f"{name}.down_proj",
    )


def count(facts: Facts, *names: str) -> int:
    """Return a number that has several names in configurations; a default has the last of them.

    :raises NotDescribed: the configuration has none of them.
    """
    return facts.size(next((name for name in names if facts.has(name)), names[0]))


def with_mlps(plain: Architecture, mlp_of: Callable[[int, str], Mlp | None]) -> Architecture:
    """Replace MLPs: `mlp_of` returns a layer's MLP by number and name; None keeps the present one."""
    layers = [
        replace(layer, mlp=mlp_of(index, parts.layer_name(index)) or layer.mlp)
        for index, layer in enumerate(plain.layers)
    ]
    return replace(plain, layers=tuple(layers))


def shared(facts: Facts, name: str, inner: int) -> Dense:
    """Return the gated MLP below `name` that all tokens pass through."""
    size = replace(parts.sizes(facts), inner=inner)
    return parts.gated(name, size, facts.activation("hidden_act"))
