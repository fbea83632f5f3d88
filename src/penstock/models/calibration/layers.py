"""Walks through a module layer by layer: what its linear layers take in, given all that are rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn

from penstock.errors import ModelNotLoadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from penstock.models.loading.assembled import Progress

    Round = Callable[[str, nn.Linear, torch.Tensor], None]
    """Called with a linear layer's name, itself and its inputs' moments; changes its weight."""

_SAME: Final = 1e-3
"""Relative difference up to which hidden states by single layers are those of the whole module."""
LEAST_SHARE: Final = 0.9
"""Of a layer's weights, what must be in linear layers."""


def decoder_layers(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of a module's layers.

    :raises ModelNotLoadable: there is none, or the layers hold most of their weights elsewhere.
    """
    parts = cast("Iterable[tuple[str, nn.Module]]", module.named_modules())
    lists = [(name, part) for name, part in parts if isinstance(part, nn.ModuleList)]
    if not lists:
        raise ModelNotLoadable(f"{type(module).__name__} has no list of layers to calibrate")
    name, layers = max(lists, key=lambda one: sum(p.numel() for p in one[1].parameters()))
    linear = sum(layer.weight.numel() for _, layer in linear_layers(layers))
    if linear < LEAST_SHARE * sum(parameter.numel() for parameter in layers.parameters()):
        raise ModelNotLoadable(
            f"{type(module).__name__} has weights outside of linear layers (experts): not calibrated"
        )
    return name, layers


def linear_layers(part: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers of a part, by name."""
    parts = cast("Iterable[tuple[str, nn.Module]]", part.named_modules())
    for name, layer in parts:
        if type(layer) is nn.Linear:
            yield name, layer


@torch.inference_mode()
def walk(
    module: nn.Module, windows: Sequence[list[int]], round_one: Round, progress: Progress
) -> None:
    """Call `round_one` for each linear layer in the order in which they compute.

    :raises ModelNotLoadable: its layers are not called one after another.
    """
    prefix, layers = decoder_layers(module)
    calls, states, expected = _recorded(module, layers, windows)
    for index, layer in enumerate(layers):
        progress(index / len(layers), f"layer {index + 1} of {len(layers)}")
        if index == 0:
            _check(_outputs(layer, states, calls[index]), expected)
        for group in _by_input(layer, states[0], calls[index][0]):
            moments = _moments(layer, group, states, calls[index])
            for name, linear in group:
                round_one(f"{prefix}.{index}.{name}", linear, moments)
        states = _outputs(layer, states, calls[index])


def _recorded(
    module: nn.Module, layers: nn.ModuleList, windows: Sequence[list[int]]
) -> tuple[list[list[Any]], list[torch.Tensor], list[torch.Tensor]]:
    """Run the module; return each layer's other arguments, and the first one's inputs and outputs."""
    calls: list[list[Any]] = [[] for _ in layers]
    states: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def note(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if index == 0:
                states.append(args[0] if args else kwargs["hidden_states"])
            calls[index].append((args[1:], kwargs))

        return hook

    hooks = [
        layer.register_forward_pre_hook(note(index), with_kwargs=True)
        for index, layer in enumerate(layers)
    ]
    hooks.append(layers[0].register_forward_hook(lambda _, __, out: outputs.append(_first(out))))
    try:
        for window in windows:
            module(input_ids=torch.tensor([window]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if any(len(own) != len(windows) for own in calls):
        raise ModelNotLoadable(f"{type(module).__name__} does not call its layers one by one")
    return calls, states, outputs


def _outputs(
    layer: nn.Module, states: Sequence[torch.Tensor], calls: Sequence[Any]
) -> list[torch.Tensor]:
    return [_call(layer, state, call) for state, call in zip(states, calls, strict=True)]


def _call(layer: nn.Module, state: torch.Tensor, call: Any) -> torch.Tensor:
    args, kwargs = call
    if "hidden_states" in kwargs:
        return _first(layer(**{**kwargs, "hidden_states": state}))
    return _first(layer(state, *args, **kwargs))


def _first(output: Any) -> torch.Tensor:
    return cast("Any", output)[0] if isinstance(output, tuple) else output


def _length(states: torch.Tensor) -> float:
    return float(states.square().sum().sqrt())


def _check(outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    for own, other in zip(outputs, expected, strict=True):
        if own.shape != other.shape or _length(own - other) > _SAME * _length(other):
            raise ModelNotLoadable("its layers compute something else alone: not calibrated")


def _by_input(
    layer: nn.Module, state: torch.Tensor, call: Any
) -> list[list[tuple[str, nn.Linear]]]:
    """A layer's linear layers in the order of their calls, those of one input together."""
    groups: list[tuple[torch.Tensor, list[tuple[str, nn.Linear]]]] = []

    def note(name: str, linear: nn.Linear) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            for taken, own in groups:
                if taken is inputs[0]:
                    own.append((name, linear))
                    return
            groups.append((inputs[0], [(name, linear)]))

        return hook

    hooks = [
        linear.register_forward_pre_hook(note(name, linear))
        for name, linear in linear_layers(layer)
    ]
    try:
        _call(layer, state, call)
    finally:
        for hook in hooks:
            hook.remove()
    return [own for _, own in groups]


def _moments(
    layer: nn.Module,
    group: list[tuple[str, nn.Linear]],
    states: Sequence[torch.Tensor],
    calls: Sequence[Any],
) -> torch.Tensor:
    """The sum of the outer products of what a group of linear layers takes in."""
    linear = group[0][1]
    moments = torch.zeros((linear.in_features, linear.in_features))

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].reshape(-1, linear.in_features).float()
        moments.addmm_(rows.T, rows)

    hook = linear.register_forward_pre_hook(note)
    try:
        _outputs(layer, states, calls)
    finally:
        hook.remove()
    return moments
