"""Reading images together: one forward for images of one shape, each result its own image's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from penstock.engine.model import Mutual
from penstock.errors import InvalidParameter
from penstock.models.vision.prepared import PreparedImage
from penstock.models.vision.tower import VisionTower
from tests.fixtures.jobs import wait_until
from tests.fixtures.vision import picture

if TYPE_CHECKING:
    from PIL.Image import Image

pytest.importorskip("PIL", reason="Pillow is not installed")

FIRST, SECOND, THIRD = picture(1, 4, 4), picture(2, 4, 4), picture(3, 4, 4)
WIDE = picture(4, 8, 4)


class Reader:
    """A pixel a token."""

    image_token = "<image>"

    def prepare(self, image: Image) -> PreparedImage:
        if image.width > 100:
            raise ValueError("too wide")
        values = torch.as_tensor(np.array(image)).float()[None]
        tokens = image.height * image.width
        return PreparedImage("<image>" * tokens, tokens, {"pixel_values": values, "other": values})


class Tower(torch.nn.Module):
    """Doubles pixels; `shapes` are those of its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))
        self.shapes: list[tuple[int, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def get_image_features(self, pixel_values: torch.Tensor, **_: Any) -> Any:
        self.shapes.append(tuple(pixel_values.shape))
        self.gate.wait(20.0)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(pooler_output=list(pixel_values.flatten(1, 2) * self.weight))


def tower_of(module: Tower, **options: Any) -> VisionTower:
    return VisionTower(module, Reader(), image_token_id=3, mutual=Mutual.NOWHERE, **options)


def test_images_of_one_shape_are_one_forward() -> None:
    module = Tower()
    images = tower_of(module).read([FIRST, WIDE, SECOND, FIRST])
    assert module.shapes == [(2, 4, 4, 3), (1, 4, 8, 3)]
    assert images[0] is images[3]
    for image, data in zip(images, (FIRST, WIDE, SECOND, FIRST), strict=True):
        (alone,) = tower_of(Tower()).read([data])
        assert torch.equal(image.features, alone.features)
        assert (image.digest, image.text) == (alone.digest, alone.text)


def test_the_bound_of_a_forward() -> None:
    module = Tower()
    tower_of(module, most_values=2 * 48).read([FIRST, SECOND, THIRD, WIDE])
    assert sorted(module.shapes) == [(1, 4, 4, 3), (1, 4, 8, 3), (2, 4, 4, 3)]
    module = Tower()
    tower_of(module, most_values=0).read([FIRST, SECOND, THIRD])
    assert module.shapes == [(1, 4, 4, 3)] * 3


def test_kept_embeddings_at_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Tower()
    tower = tower_of(module, most_values=0)
    (first,) = tower.read([FIRST])
    monkeypatch.setattr("penstock.models.vision.tower.KEPT_BYTES", 2 * first.bytes)
    tower.read([SECOND])
    assert tower.read([FIRST]) == [first]
    assert len(module.shapes) == 2
    tower.read([THIRD])  # the least recently used one leaves, which is the second
    assert tower.read([FIRST]) == [first]
    tower.read([SECOND])
    assert len(module.shapes) == 4


def test_read_once() -> None:
    module = Tower()
    tower = tower_of(module)
    (first,) = tower.read([FIRST])
    again, _ = tower.read([FIRST, SECOND])
    assert again is first
    assert module.shapes == [(1, 4, 4, 3)] * 2


def test_prompts_that_arrive_together_are_one_forward() -> None:
    module = Tower()
    tower = tower_of(module)
    module.gate.clear()
    with ThreadPoolExecutor(4) as threads:
        try:
            running = threads.submit(tower.read, [FIRST])
            wait_until(lambda: bool(module.shapes), 20.0)
            waiting = [
                threads.submit(tower.read, images)
                for images in ([SECOND], [THIRD, FIRST], [SECOND])
            ]
            wait_until(lambda: len(tower._waiting) == 2, 20.0)
        finally:
            module.gate.set()
        (first,) = running.result(20.0)
        (second,), (third, same), (as_second,) = (one.result(20.0) for one in waiting)
    assert module.shapes == [(1, 4, 4, 3), (2, 4, 4, 3)]
    assert same is first
    assert as_second is second
    assert torch.equal(third.features, tower_of(Tower()).read([THIRD])[0].features)


def test_a_damaged_image_fails_its_own_prompt() -> None:
    tower = tower_of(Tower())
    for wrong in (FIRST[:40], picture(5, 101, 1)):
        with pytest.raises(InvalidParameter):
            tower.read([SECOND, wrong])
    assert tower.read([SECOND])[0].features.shape == (16, 3)


def test_a_tower_that_fails_keeps_nothing() -> None:
    module = Tower()
    tower = tower_of(module)
    module.error = MemoryError("no room")
    for _ in range(2):
        with pytest.raises(MemoryError):
            tower.read([FIRST, SECOND])
    module.error = None
    assert len(tower.read([FIRST, SECOND])) == 2
