"""docs/models.md's table, written from the package's: `python -m tests.architectures.table`."""

from __future__ import annotations

from pathlib import Path

from penstock.models.catalogue import ways

ROOT = Path(__file__).parents[2]
_FROM = "<!-- table: python -m tests.architectures.table -->"
_TO = "<!-- end of table -->"


def of(known: ways.Ways) -> str:
    """The Markdown of the table, its two marks included."""
    lines = [
        _FROM,
        f"Seen with Transformers {known.transformers} on a CPU.",
        "",
        "| model_type | 16 and 32 bit | 4 bit (`sym_int4`) |",
        "|---|---|---|",
        *(_row(name, way) for name, way in known.text.items()),
        "",
        "Checkpoints that take images, served for text:",
        "",
        "| model_type | 16 and 32 bit | 4 bit (`sym_int4`) |",
        "|---|---|---|",
        *(_row(name, way) for name, way in known.images.items()),
        "",
        "In Transformers' list, and not built by the tests:",
        "",
        *(f"- `{name}`: {why}" for name, why in known.unbuilt.items()),
        _TO,
    ]
    return "\n".join(lines)


def _row(name: str, way: ways.Way) -> str:
    if way.refusal:
        why = way.refusal.replace("|", " or ")  # a regular expression
        return f"| {name} | refused: {why} | |"
    return f"| {name} | {way.full} | {way.low_bit} |"


def main() -> None:
    """Write the table into the documentation."""
    page = ROOT / "docs/models.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(_FROM)
    after = rest.partition(_TO)[2]
    page.write_text(before + of(ways.read()) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
