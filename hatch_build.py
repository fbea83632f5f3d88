"""The build hook: puts the native kernels, compiled, into wheels and beside the sources."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = Path(__file__).parent / "src/penstock/models/backends/native/kernels/build.py"


def _builder() -> Any:
    """The module that compiles, by its path: the package itself is not installed here."""
    spec = importlib.util.spec_from_file_location("penstock_native_build", BUILD)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it is a file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class NativeHook(BuildHookInterface[Any]):
    """Without a compiler the wheel has no library, and is good for every platform."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build needs: a hundred megabytes, so only where it was asked for."""
        build = _builder()
        return [build.ZIG_PACKAGE] if build.mode() == "zig" and build.is_possible() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say so to the wheel."""
        del version
        build = _builder()
        try:
            platform = build.build()
        except build.NotBuilt as reason:
            build.remove()
            if build.mode() == "zig" and build.is_possible():
                raise
            self.app.display_warning(f"the native backend is left out: {reason}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(str(build.LIBRARY.relative_to(self.root)))
