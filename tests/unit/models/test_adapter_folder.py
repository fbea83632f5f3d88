"""An adapter's folder: its rules, its bounds, and what a model has in memory."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from penstock.errors import InvalidParameter, ModelNotLoadable, UnknownModel
from penstock.models.adapters import folder
from penstock.models.adapters.folder import Bounds

if TYPE_CHECKING:
    from pathlib import Path

BOUNDS = Bounds(rank=8, nbytes=1 << 20)


def write(path: Path, modules: dict[str, int], content: int = 0, **rules: Any) -> Path:
    """Write an adapter of 16 inputs and outputs; `modules` are ranks by name, `content` its bytes."""
    path.mkdir(parents=True, exist_ok=True)
    stated = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | rules
    (path / folder.CONFIG).write_text(json.dumps(stated))
    header: dict[str, Any] = {}
    end = 0
    for name, rank in modules.items():
        for kind, shape in (("A", [rank, 16]), ("B", [16, rank])):
            size = 4 * shape[0] * shape[1]
            key = f"base_model.model.{name}.lora_{kind}.weight"
            header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(header).encode()
    body = struct.pack("<Q", len(text)) + text + bytes([content]) * end
    (path / folder.WEIGHTS).write_bytes(body)
    return path


def test_scales_follow_pefts_rules(tmp_path: Path) -> None:
    names = ("layers.0.q_proj", "layers.1.q_proj", "layers.1.k_proj")
    path = write(
        tmp_path,
        dict(zip(names, (4, 2, 4), strict=True)),
        rank_pattern={r".*\.1\.q_proj": 2},
        alpha_pattern={"k_proj": 2, "layers.0.q_proj": 16},
    )
    modules = folder.read(path, BOUNDS).modules
    assert [modules[name].scale for name in names] == [4.0, 4.0, 0.5]
    write(path, {"q_proj": 4}, use_rslora=True)
    assert folder.read(path, BOUNDS).modules["q_proj"].scale == 4.0


def test_a_digest_is_of_weights_and_rules(tmp_path: Path) -> None:
    first = folder.read(write(tmp_path / "a", {"q_proj": 4}), BOUNDS).digest
    assert folder.read(write(tmp_path / "b", {"q_proj": 4}), BOUNDS).digest == first
    other = folder.read(write(tmp_path / "b", {"q_proj": 4}, content=1), BOUNDS).digest
    scaled = folder.read(write(tmp_path / "c", {"q_proj": 4}, lora_alpha=9), BOUNDS).digest
    assert len({first, other, scaled}) == 3


def test_an_adapter_at_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"q_proj": 4, "k_proj": 4})
    size = (path / folder.WEIGHTS).stat().st_size
    assert folder.read(path, Bounds(rank=4, nbytes=size)).rank == 4
    for bounds in (Bounds(rank=3, nbytes=size), Bounds(rank=4, nbytes=size - 1)):
        with pytest.raises(ModelNotLoadable, match="the limit is"):
            folder.read(path, bounds)
    monkeypatch.setattr(folder, "MOST_MODULES", 1)
    with pytest.raises(ModelNotLoadable, match="2 changed matrices"):
        folder.read(path, BOUNDS)
    monkeypatch.setattr(folder, "MOST_MODULES", 2)
    for length, fits in ((folder.LONGEST_PATTERN, True), (folder.LONGEST_PATTERN + 1, False)):
        write(path, {"q_proj": 4}, alpha_pattern={"x" * length: 1})
        if fits:
            folder.read(path, BOUNDS)
        else:
            with pytest.raises(ModelNotLoadable, match="too long"):
                folder.read(path, BOUNDS)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "experts"),
        ({"r": 5}, "rank"),
        ({"r": "4"}, "r = '4'"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
        ({"alpha_pattern": {"(": 1}}, "pattern"),
    ],
)
def test_what_is_not_computed_is_refused(
    tmp_path: Path, rules: dict[str, Any], message: str
) -> None:
    pytest.importorskip("regex")
    with pytest.raises(ModelNotLoadable, match=message):
        folder.read(write(tmp_path, {"q_proj": 4}, **rules), BOUNDS)


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, {"q_proj": 4})
    weights = (path / folder.WEIGHTS).read_bytes()
    for damaged in (b"", weights[:20], weights.replace(b"lora_B", b"lora_C")):
        (path / folder.WEIGHTS).write_bytes(damaged)
        with pytest.raises(ModelNotLoadable):
            folder.read(path, BOUNDS)
    (path / folder.CONFIG).write_text("[]")
    with pytest.raises(ModelNotLoadable, match="no object"):
        folder.read(path, BOUNDS)


class Model:
    """Takes adapters, and counts them."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def take_adapter(self, adapter: Any) -> str:
        self.taken.append(adapter.digest)
        return adapter.digest


def test_the_least_recently_used_adapter_leaves_memory(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from penstock.models.adapters.loaded import AdapterRules, LoadedAdapters

    named = write(tmp_path / "named", {"q_proj": 4}, content=1)
    allowed = tmp_path / "allowed"
    for number in (2, 3):
        write(allowed / str(number), {"q_proj": 4}, content=number)
    model: Any = Model()
    loaded = LoadedAdapters(model, AdapterRules(BOUNDS, 2, allowed, {"one": named}))
    (one,) = loaded.named
    assert not loaded.has(one)
    two, three = loaded.read("two", "2"), loaded.read("three", str(allowed / "3"))
    assert loaded.names() == ("three", "two")
    assert loaded.get(two).digest == bytes.fromhex(two.digest)
    loaded.get(one)
    assert loaded.names() == ("one", "two")
    assert not loaded.has(three)
    assert loaded.lost_heads() == [three.digest]
    assert loaded.lost_heads() == []
    loaded.get(three)
    loaded.get(two)  # back in memory before it was reported
    assert loaded.lost_heads() == [one.digest]
    loaded.get(one)
    order = [two, three, one, three, two, one]
    assert model.taken == [card.digest for card in order]

    write(allowed / "3", {"q_proj": 4}, content=9)
    with pytest.raises(UnknownModel, match="has changed"):
        loaded.get(three)
    for path in ("..", "/", str(named), "2/../../named", "nowhere", "a\0b"):
        with pytest.raises(InvalidParameter, match="no folder below"):
            loaded.read("other", path)
    (allowed / "link").symlink_to(named)
    with pytest.raises(InvalidParameter, match="no folder below"):
        loaded.read("other", "link")
