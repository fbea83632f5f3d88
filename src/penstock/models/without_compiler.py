"""Loads models without importing `torch._dynamo`, torch's compiler front end, which nothing here uses.

Transformers asks it for decorators as its modules are imported, torch once more as modules are made
on the meta device, and the import takes over a second of a processor: a quarter of a worker's
start. Inside `without_compiler()` a stand-in gives those decorators, as what they are to code that
nobody compiles: the function itself. Whatever else is wanted of it brings the real package.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from importlib.machinery import ModuleSpec

_NAME = "torch._dynamo"
_INDEXING = f"{_NAME}._trace_wrapped_higher_order_op"
"""Where Transformers takes a context from that it enters for masks made by `vmap`."""


@contextmanager
def without_compiler() -> Generator[None]:
    """Keep `torch._dynamo` from being imported for decorators alone; for the thread that loads.

    Nothing happens where it is there already, as inside another `without_compiler()`.
    """
    if _NAME in sys.modules:
        yield
        return
    finder, package, indexing = _Finder(), _StandIn(_NAME), ModuleType(_INDEXING)
    vars(package)["__path__"] = []
    vars(indexing)["TransformGetItemToIndex"] = _indexing
    sys.meta_path.insert(0, finder)
    sys.modules.update({_NAME: package, _INDEXING: indexing})
    try:
        yield
    finally:
        _make_way()


class _StandIn(ModuleType):
    """`torch._dynamo`, as far as whoever compiles nothing can tell."""

    @staticmethod
    def disable(
        function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any
    ) -> Callable[..., Any]:
        """Give the function, which asks the compiler to leave it alone once there is one."""
        if function is None:
            return functools.partial(_StandIn.disable, recursive=recursive, **options)

        @functools.wraps(function)
        def left_alone(*args: Any, **kwargs: Any) -> Any:
            compiler = sys.modules.get(_NAME)
            if compiler is None or isinstance(compiler, _StandIn):
                return function(*args, **kwargs)
            return compiler.disable(function, recursive, **options)(*args, **kwargs)

        return left_alone

    @staticmethod
    def allow_in_graph(function: Callable[..., Any]) -> Callable[..., Any]:
        """Give the function: a hint for a graph that nobody makes."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for what a module may lack
            raise AttributeError(name)
        return getattr(_real(), name)


class _Finder(importlib.abc.MetaPathFinder):
    """Has a submodule that is wanted bring the real package."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the stand-in's, which leads nowhere
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return what imports a submodule, which the package itself may have done by now."""
        if not fullname.startswith(f"{_NAME}."):
            return None
        _real()
        # Out of the table, or the import system would run the module's code a second time.
        if module := sys.modules.pop(fullname, None):
            return importlib.util.spec_from_loader(fullname, _Present(module))
        return importlib.util.find_spec(fullname)


class _Present(importlib.abc.Loader):
    """Loads a module that is already there."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002
        """Give the module that was loaded."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Give it back the spec that it was loaded by."""
        vars(module)["__spec__"] = self._spec


def _indexing() -> Any:
    """`TransformGetItemToIndex()`, the real one."""
    return vars(importlib.import_module(_INDEXING))["TransformGetItemToIndex"]()


def _real() -> ModuleType:
    _make_way()
    return importlib.import_module(_NAME)


def _make_way() -> None:
    """Take the stand-in out, if it is still in; the next import brings the real package."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    if isinstance(sys.modules.get(_NAME), _StandIn):
        del sys.modules[_NAME]
        sys.modules.pop(_INDEXING, None)
        if torch := sys.modules.get("torch"):
            vars(torch).pop("_dynamo", None)
