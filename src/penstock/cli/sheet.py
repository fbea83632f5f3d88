"""A table that folds on a narrow terminal: each row's name whole, its cells below it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.box import Box
    from rich.console import Console, ConsoleOptions, RenderResult

_BETWEEN = "   "


@dataclass
class Sheet:
    """Rows of cells below headings. `key` is the heading of the cell that names a row."""

    title: str
    headings: Sequence[str]
    numbers: frozenset[str] = frozenset()
    """Headings whose cells stand at the right."""
    key: str = ""
    caption: str = ""
    box: Box | None = None
    rows: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])

    def add_row(self, *cells: str) -> None:
        """Add a row, a cell a heading; cells may have Rich's markup."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the rows out as a table if that fits, else one below the other."""
        table = self._table()
        if Measurement.get(console, options.update(width=10_000), table).maximum <= (
            options.max_width
        ):
            yield table
            return
        yield Text(self.title, style="italic")
        position = self.headings.index(self.key or self.headings[0])
        for cells in self.rows:
            yield Text.from_markup(cells[position], style="bold", overflow="fold")
            yield Padding(self._folded(cells, position, options.max_width - 2), (0, 0, 0, 2))
        if self.caption:
            yield Text(self.caption, style="dim italic")

    def _table(self) -> Table:
        table = Table(title=self.title, title_justify="left", caption_justify="left")
        table.caption = self.caption or None
        if self.box is not None:
            table.box = self.box
        for name in self.headings:
            table.add_column(
                name, justify="right" if name in self.numbers else "left", no_wrap=True
            )
        for cells in self.rows:
            table.add_row(*cells)
        return table

    def _folded(self, cells: tuple[str, ...], position: int, width: int) -> Text:
        """Return the other cells as `heading value`, as many on a line as fit into `width`."""
        lines: list[Text] = []
        for column, (heading, cell) in enumerate(zip(self.headings, cells, strict=True)):
            if column == position or not cell:
                continue
            value = Text.from_markup(cell.replace("\n", ", "))
            pair = Text.assemble((heading, "dim"), " ", value)
            if lines and lines[-1].cell_len + len(_BETWEEN) + pair.cell_len <= width:
                lines[-1] = Text.assemble(lines[-1], _BETWEEN, pair)
            else:
                lines.append(pair)
        return Text("\n", overflow="fold").join(lines)
