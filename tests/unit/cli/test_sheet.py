"""Tables on narrow and wide terminals: nothing is cut."""

from __future__ import annotations

import io

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console

from penstock.cli.sheet import Sheet

NAME = "bigdl-meta-llama--Llama-3.1-8B-Instruct-with-a-long-name-cpu"


def shown(sheet: Sheet, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(sheet)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def sheet() -> Sheet:
    made = Sheet(
        "Workers",
        ("host", "queue", "format", "step", "tokens", "state"),
        frozenset({"step", "tokens"}),
        key="queue",
        caption="A caption that is longer than what stands above it, and goes on.",
        box=SIMPLE_HEAD,
    )
    made.add_row("gpu-host-17.example", NAME, "sym_int4", "12.5 ms", "123456", "[red]draining[/]")
    return made


@pytest.mark.parametrize("width", [80, 40])
def test_a_narrow_terminal_cuts_no_name(width: int) -> None:
    text = shown(sheet(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert NAME in text.replace("\n", "")
    for pair in ("host gpu-host-17.example", "step 12.5 ms", "tokens 123456", "state draining"):
        assert pair in text


def test_a_wide_terminal_has_a_table() -> None:
    lines = shown(sheet(), 200).splitlines()
    row = next(line for line in lines if NAME in line)
    assert "gpu-host-17.example" in row
    assert "draining" in row


def test_cells_of_several_lines_and_empty_ones_fold() -> None:
    made = Sheet("Keys", ("id", "limits", "note"))
    made.add_row("key-" + "1" * 60, "5 requests/min\n100 tokens/min", "")
    text = shown(made, 50)
    assert "  limits 5 requests/min, 100 tokens/min" in text
    assert "note" not in text
