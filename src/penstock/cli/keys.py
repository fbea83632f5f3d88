"""`penstock keys`: make, list and revoke API keys; `penstock usage`: what they have used."""

from __future__ import annotations

import csv
import re
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.markup import escape

from penstock.cli import running
from penstock.cli.console import note, out
from penstock.cli.sheet import Sheet
from penstock.errors import BadSettings, InvalidParameter
from penstock.transport.accounts import quotas, usage_log
from penstock.transport.accounts.keyring import KeyDesk
from penstock.transport.accounts.usage_log import UsageRow
from penstock.transport.store.connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.transport.accounts.keyring import KeyCard

PATIENCE_S: Final = 3.0
UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@keys.command(
    epilog="Examples:\n\npenstock keys create anna\n\n"
    "penstock keys create batch-team --model bigdl-7b --tokens-per-day 1000000 --expires 30d"
)
def create(
    name: Annotated[str, typer.Argument(help="The key's owner, for lists and logs.")],
    *,
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    tokens_per_day: Annotated[int, typer.Option(min=0, help="A quota; days are in UTC.")] = 0,
    tokens_per_month: Annotated[int, typer.Option(min=0, help="A quota; months are in UTC.")] = 0,
    priority: Annotated[
        int | None, typer.Option(min=0, max=9, help="Best priority of its jobs; 0 goes first.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; repeatable.")] = None,
    expires: Annotated[str | None, typer.Option(help="Lifetime: 12h, 30d, ...")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may operate the fleet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: only its hash is stored."""
    lifetime_s = None if expires is None else seconds(expires)
    desk = _desk()
    card, secret = desk.make(
        name,
        expires_s=None if lifetime_s is None else int(desk.now_s()) + lifetime_s,
        requests_per_min=requests_per_minute,
        tokens_per_min=tokens_per_minute,
        tokens_per_day=tokens_per_day,
        tokens_per_month=tokens_per_month,
        priority=priority,
        models=tuple(model or ()),
        admin=admin,
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode({"key": secret, **_fields(card)}).decode() + "\n")
        return
    note(f"{card.id} for {name!r}; it cannot be shown again")
    sys.stdout.write(secret + "\n")


@keys.command("list", epilog="Examples:\n\npenstock keys list\n\npenstock keys list --json")
def list_keys(*, as_json: AsJson = False) -> None:
    """List the keys and their limits."""
    settings = running.settings()
    with connect(settings) as client:
        cards = KeyDesk(client, PATIENCE_S).cards()
        used = {card.id: quotas.used(client, card, PATIENCE_S) for card in cards}
    if as_json:
        rows = [{**_fields(card), "used_tokens": used[card.id]} for card in cards]
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return
    headings = ("id", "name", "ends in", "limits", "priority", "models", "created", "expires")
    table = Sheet("Keys", headings)
    for card in cards:
        table.add_row(
            card.id,
            escape(card.name) + (" (admin)" if card.admin else ""),
            f"...{card.hint}",
            "\n".join(_limits(card, used[card.id])) or "-",
            "-" if card.priority is None else str(card.priority),
            escape(", ".join(card.models)) or "all",
            _date(card.created_s),
            "never" if card.expires_s is None else _date(card.expires_s),
        )
    out.print(table if cards else "No key has been made.")


@keys.command(epilog="Examples:\n\npenstock keys revoke anna\n\npenstock keys revoke key-1a2b3c")
def revoke(
    name: Annotated[str, typer.Argument(help="A key's id, or a name that one or more keys have.")],
) -> None:
    """Revoke keys; every API process knows within about a second."""
    gone = _desk().revoke(name)
    if not gone:
        raise InvalidParameter(f"no key has the id or the name {name!r}")
    for card in gone:
        note(f"{card.id} of {card.name!r} is revoked")


def usage(
    *,
    since: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d, ...")] = "30d",
    key: Annotated[str | None, typer.Option(help="Only this key, by id or name.")] = None,
    total: Annotated[bool, typer.Option("--total", help="One line a key and model.")] = False,
) -> None:
    """Print the usage log as CSV."""
    settings = running.settings()
    with connect(settings) as client:
        since_ms = int((KeyDesk(client, PATIENCE_S).now_s() - seconds(since)) * 1000)
        rows = (
            row
            for row in usage_log.read(client, since_ms, PATIENCE_S)
            if key in (None, row.key, row.key_name)
        )
        if total:
            _write_totals(rows)
        else:
            _write_rows(rows)


def _write_rows(rows: Iterable[UsageRow]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(UsageRow.__struct_fields__)
    writer.writerows([_cell(cell) for cell in msgspec.structs.astuple(row)] for row in rows)


def _write_totals(rows: Iterable[UsageRow]) -> None:
    sums: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        figures = sums.setdefault((row.key, row.key_name, row.model), [0, 0, 0, 0])
        used = (1, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
        for position, figure in enumerate(used):
            figures[position] += figure
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ("key", "key_name", "model", "requests", "prompt_tokens", "cached_tokens",
         "completion_tokens")
    )  # fmt: skip
    for names in sorted(sums):
        writer.writerow([*map(_cell, names), *sums[names]])


def _cell(value: object) -> object:
    """Return a cell that no spreadsheet evaluates as a formula: clients choose the names."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


def seconds(text: str) -> int:
    """Return the seconds in a time such as "36h".

    :raises BadSettings: it is not such a time.
    """
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if match is None:
        raise BadSettings(f"{text!r} is not a time such as 90m, 24h or 30d")
    return int(match[1]) * UNITS_S[match[2]]


def _fields(card: KeyCard) -> dict[str, object]:
    return msgspec.structs.asdict(card)


def _limits(card: KeyCard, used: dict[str, int]) -> list[str]:
    """Return a key's limits, and how much of its quotas is used."""
    limits = {"day": card.tokens_per_day, "month": card.tokens_per_month}
    return [
        *([f"{card.requests_per_min} requests/min"] if card.requests_per_min else []),
        *([f"{card.tokens_per_min} tokens/min"] if card.tokens_per_min else []),
        *(f"{count} of {limits[period]} tokens/{period}" for period, count in used.items()),
    ]


def _date(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))


def _desk() -> KeyDesk:
    settings = running.settings()
    return KeyDesk(connect(settings), PATIENCE_S)
