"""Images on the lean decoder in 16 bit, on a GPU if there is one: the answers are those of `generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from penstock.contract.worker import IMAGES
from tests.architectures.serve import ROUNDING
from tests.fixtures import vision
from tests.integration.models.vision.test_images import CHATS, error_of, gap, serve

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("PIL", reason="Pillow is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("kind", ["llava", "mistral3"])
def test_tower_and_decoder_in_16_bit(kind: str, tmp_path: Path) -> None:
    """`generate` rounds the same values on the CPU, in another order."""
    served = serve(vision.write(kind, tmp_path / kind), f"{kind}-{DEVICE}", format="bf16")
    card = served.loaded.card
    assert (card.running, card.format, card.device) == ("lean", "bf16", DEVICE)
    assert IMAGES in card.capabilities
    served.reference.to(torch.bfloat16)
    for name, answer in zip(CHATS, served.answers(list(CHATS)), strict=True):
        wanted, rows = served.generate_with_logits(name)
        assert gap(answer, wanted, rows) < 2 * ROUNDING, name
        assert error_of(served, name, rows[0]) < 0.05, name
