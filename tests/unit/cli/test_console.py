"""What the commands write of others: it controls no terminal."""

from __future__ import annotations

import io

from rich.table import Table

from penstock.cli.console import VisibleConsole, visible


def written(renderable: object, *, markup: bool = True) -> str:
    file = io.StringIO()
    VisibleConsole(file=file, force_terminal=True, width=40).print(renderable, markup=markup)
    return file.getvalue()


def test_a_text_of_others_controls_no_terminal() -> None:
    assert visible("one\ttwo\r\nthree\x1b[2J\x9b2J\x00") == "one\ttwo\nthree\ufffd[2J\ufffd2J\ufffd"
    assert "\x1b]0;" not in written("a\x1b]0;title\x07b", markup=False)
    table = Table("model")
    table.add_row("tiny\x1b[2J\x1b[H")
    shown = written(table)
    assert "tiny\ufffd[2J" in shown
    assert "\x1b[2J" not in shown


def test_the_commands_own_styles_stay() -> None:
    assert "\x1b[31mred\x1b[0m" in written("[red]red[/]")
