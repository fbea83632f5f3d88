"""4 bit by the package auto-round, which tunes each layer's rounding by sign descent."""

from __future__ import annotations

import importlib
import shutil
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.errors import BadSettings, ModelNotLoadable, first_line
from penstock.models.calibration.rounding import BITS
from penstock.models.loading.libraries import transformers

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.spec import ModelSpec

STEPS: Final = 200
"""Of tuning, for each layer: the package's own default."""


def library() -> Any:
    """Return the package.

    :raises BadSettings: it is not installed.
    """
    try:
        return importlib.import_module("auto_round")
    except ImportError as error:
        raise BadSettings(
            "--format autoround needs the package auto-round: pip install 'auto-round>=0.16,<0.17'"
        ) from error


def write(
    spec: ModelSpec,
    module: Any,
    part: Path,
    group: int,
    windows: list[list[int]],
) -> None:
    """Round a module's layers, which changes them, and write all of it to the folder `part`.

    :raises ModelNotLoadable: with the package's reason.
    """
    length = max(map(len, windows))
    samples = [
        {"input_ids": torch.tensor(one), "attention_mask": torch.ones(len(one), dtype=torch.int64)}
        for one in windows
        if len(one) == length
    ]
    own = part.with_name(f"{part.name}.autoround")
    shutil.rmtree(own, ignore_errors=True)
    try:
        rounding = library().AutoRound(
            module,
            transformers().AutoTokenizer.from_pretrained(spec.path),
            scheme={
                "bits": BITS,
                "group_size": group,
                "sym": True,
                "data_type": "int",
                "act_bits": 16,
            },
            dataset=torch.utils.data.DataLoader(samples, batch_size=1),  # pyright: ignore[reportArgumentType]  a list is a dataset
            iters=STEPS,
            seqlen=length,
            nsamples=len(samples),
            batch_size=1,
            device_map="cpu",
            enable_torch_compile=False,
        )
        rounding.quantize_and_save(str(own), format="auto_round")
        _move(own, part)
    except Exception as error:
        raise ModelNotLoadable(f"auto-round: {first_line(error)}") from error
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _move(own: Path, part: Path) -> None:
    """The package writes below the folder that it is given, unless it has done so into it."""
    written = next(own.rglob("config.json")).parent
    for file in written.iterdir():
        if file.is_file():
            shutil.move(file, part / file.name)
