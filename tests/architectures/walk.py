"""`python -m tests.architectures.walk [model_type ...]`: build, serve and compare, a line each.

Prints what the package's table (`catalogue/ways.toml`) should say, with how many answers are those
of `generate`.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as MAPPING

from penstock.errors import ModelNotLoadable
from tests.architectures import build, image_text, serve


def main(names: list[str]) -> None:
    """Walk over `names`, or over all that there is."""
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        for name in names or [*MAPPING, *image_text.KINDS]:
            sys.stdout.write(f"{_line(name, folder)}\n")
            sys.stdout.flush()
    finally:
        shutil.rmtree(folder)


def _line(name: str, folder: Path) -> str:
    writer = image_text if name in image_text.KINDS else build
    path = folder / name.replace("_", "-")
    try:
        writer.write(name, path)
        parts = [_judged(path, low_bit=low_bit) for low_bit in (False, True)]
    except ModelNotLoadable as refusal:
        return f"{name} = refused: {refusal}"
    except Exception as error:  # noqa: BLE001 - a new architecture may raise anything
        return f"{name} : {type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return (
        f"{name} = [{', '.join(way for way, _ in parts)}]  # {'; '.join(how for _, how in parts)}"
    )


def _judged(path: Path, *, low_bit: bool) -> tuple[str, str]:
    judged = serve.judge(path, low_bit=low_bit)
    how = f"{judged.equal} of {judged.answers} equal, gap {judged.gap:.3f}"
    return f'"{judged.card.running}"', how


if __name__ == "__main__":
    main(sys.argv[1:])
