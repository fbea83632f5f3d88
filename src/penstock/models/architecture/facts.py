"""A configuration's values, with checked types and a family's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.models.architecture.elements import Activation

_MOST = 1 << 31
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


class NotDescribed(Exception):
    """Another architecture, or an option that the description cannot express; the message names it."""


class Facts:
    """The values of a `config.json`, by name. An explicit null has no value, not the default."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._values = {**defaults, **config}

    def with_values(self, values: Mapping[str, Any]) -> Facts:
        """Return the same, with `values` in the place of those of their names."""
        return Facts(values, self._values)

    def has(self, name: str) -> bool:
        """Return whether there is such a value."""
        return self._values.get(name) is not None

    def raw(self, name: str) -> Any:
        """Return a value unchanged, None if there is none."""
        return self._values.get(name)

    def _value(self, name: str, otherwise: Any) -> Any:
        value = self._values.get(name)
        return otherwise if value is None else value

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number from 0 on.

        :raises NotDescribed: it is missing, or not such a number.
        """
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
            raise NotDescribed(f"{name} is {value!r}")
        return value

    def size(self, name: str, default: int | None = None) -> int:
        """Return a whole number from 1 on.

        :raises NotDescribed: it is missing, or not such a number.
        """
        value = self.whole(name, default)
        if value == 0:
            raise NotDescribed(f"{name} is 0")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """Return a number.

        :raises NotDescribed: it is missing, or not a number.
        """
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise NotDescribed(f"{name} is {value!r}")
        return float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A switch."""
        return bool(self._value(name, default))

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a nested object; {} if there is none.

        :raises NotDescribed: it is not an object.
        """
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise NotDescribed(f"{name} is {value!r}")
        return cast("dict[str, Any]", value)

    def listed(self, name: str, count: int) -> list[Any] | None:
        """Return a list with at least `count` values; None if there is none.

        :raises NotDescribed: it is not a list, or shorter.
        """
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(cast("list[Any]", value)) < count:
            raise NotDescribed(f"{name} is not a list of {count}")
        return cast("list[Any]", value)[:count]

    def activation(self, *names: str) -> Activation:
        """Return the MLP's activation, from the first of `names` that has a value.

        :raises NotDescribed: it is unknown.
        """
        name = next((name for name in names if self.has(name)), names[0])
        stated = str(self._value(name, "silu"))
        if stated not in _ACTIVATIONS:
            raise NotDescribed(f"{name} {stated!r} is unknown")
        return _ACTIVATIONS[stated]
