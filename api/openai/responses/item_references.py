"""Items of earlier answers that a request names by their ids alone, instead of repeating them.

An item's id holds its response's (`ResponseBuilder`), so nothing has to be kept to find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from api.openai.responses.events import ITEM_NUMBER_DIGITS, output_items
from penstock.errors import InvalidParameter, UnknownObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.openai.responses.record import StoredResponse
    from api.openai.responses.schema import ResponseRequest
    from api.openai.responses.store import Shelf

KIND: Final = "item_reference"
RESPONSE: Final = "resp_"
Item = dict[str, Any]


async def resolved(
    asked: ResponseRequest, shelf: Shelf, tenant: str, chain: Sequence[StoredResponse]
) -> ResponseRequest:
    """Return the request with the items themselves in the place of references to them.

    They are those of `chain`, and what any kept response of the tenant has put out.

    :raises UnknownObject: there is no such item, or it is not kept any more.
    :raises InvalidParameter: a reference without an id.
    """
    if isinstance(asked.input, str) or not any(map(_is_reference, asked.input)):
        return asked
    known = {
        item["id"]: item
        for response in chain
        for item in (*response.input, *output_items(response))
    }
    items: list[Item] = []
    for position, item in enumerate(asked.input):
        if not _is_reference(item):
            items.append(item)
            continue
        item_id, param = item.get("id"), f"input[{position}].id"
        if not isinstance(item_id, str):
            raise InvalidParameter(f"{param}: Field required", param=param)
        if item_id not in known:
            known |= {item_["id"]: item_ for item_ in await _put_out_with(item_id, shelf, tenant)}
        if item_id not in known:
            raise UnknownObject(f"There is no item {item_id[:80]!r}", param=param)
        items.append(known[item_id])
    return asked.model_copy(update={"input": items})


def _is_reference(item: Item) -> bool:
    """OpenAI lets the type of a reference be left out."""
    return item.get("type") == KIND or (item.get("type") is None and item.keys() <= {"id", "type"})


async def _put_out_with(item_id: str, shelf: Shelf, tenant: str) -> Sequence[Item]:
    """Return the output of an item's response; empty if it is not stored."""
    job_id = item_id.partition("_")[2][:-ITEM_NUMBER_DIGITS]
    try:
        return output_items(await shelf.settled(await shelf.own(RESPONSE + job_id, tenant)))
    except UnknownObject:
        return ()
