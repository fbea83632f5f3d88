"""Loading a model leaves torch's compiler out, and whoever wants it gets it whole."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOADS = """
import sys
from pathlib import Path
from penstock.models import loader, spec
from penstock.settings import Settings

settings = Settings(models_dir=Path(sys.argv[1]), kv_cache_bytes=2**20)
for queue in ("tiny-llama-cpu", "bigdl-tiny-cpu"):
    loader.load(spec.resolve(queue, settings), settings, slots=None, progress=lambda *_: None)
assert "torch._dynamo" not in sys.modules

import torch
from transformers.masking_utils import TransformGetItemToIndex

with TransformGetItemToIndex():  # brings the compiler
    assert torch._dynamo.is_compiling() is False
assert type(sys.modules["torch._dynamo"]).__name__ == "module"
"""

WANTS_IT = """
import sys, torch
from penstock.models.without_compiler import without_compiler

with without_compiler():
    @torch.compiler.disable(recursive=False)
    def left_alone(x):
        return torch.compiler.is_compiling(), x + 1

    assert left_alone(1) == (False, 2)
    assert "torch._dynamo.config" not in sys.modules
    import torch._dynamo.config
    from torch._dynamo import utils
assert torch._dynamo.config is sys.modules["torch._dynamo.config"]
assert torch._dynamo.utils is utils
assert utils.config is torch._dynamo.config, "it is there once"
assert sys.modules["torch._dynamo.config"].__spec__.origin
assert not [one for one in sys.meta_path if type(one).__module__.startswith("penstock")]

compiled = torch.compile(lambda x: left_alone(x)[1] * 2, backend="eager")
assert compiled(torch.ones(2)).tolist() == [4.0, 4.0]
compiled = torch.compile(lambda x: left_alone(x)[0], backend="eager")
assert compiled(torch.ones(2)) is False, "the compiler leaves it alone"
"""


def run(code: str, *arguments: str) -> None:
    """Run it where nobody has imported torch's compiler yet."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_models_load_without_the_compiler_which_is_there_when_it_is_wanted(
    models_dir: Path,
) -> None:
    run(LOADS, str(models_dir))


def test_a_submodule_or_an_unknown_name_brings_the_real_package_once() -> None:
    run(WANTS_IT)
