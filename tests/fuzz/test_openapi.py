"""Every endpoint of our own OpenAPI, with values that fit it and values that do not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import httpx
import hypothesis
import pytest
import schemathesis

if TYPE_CHECKING:
    from tests.fuzz.conftest import Target

EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "3"))
"""Of each endpoint; `make fuzz` takes many more."""
DOCUMENTED = {503, 504}
SECONDS = 30.0


@pytest.mark.timeout(60 + 20 * EXAMPLES)
def test_no_request_that_the_document_allows_breaks_it(target: Target) -> None:
    document = httpx.get(f"{target.api.url}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=target.api.url)
    before = target.resident_bytes()
    wrong: list[str] = []
    count = 0
    with httpx.Client(base_url=target.api.url, timeout=SECONDS) as http:
        found: Any
        for found in schema.get_all_operations():
            operation = found.ok()
            for case in cases(operation):
                count += 1
                told = f"{operation.label}: {case.body!r} {case.query!r} {case.path_parameters!r}"
                try:
                    status = send(http, case)
                except httpx.TimeoutException:
                    wrong.append(f"hangs: {told[:600]}")
                    continue
                if status >= 500 and status not in DOCUMENTED:
                    wrong.append(f"{status}: {told[:600]}")
    assert not wrong, "\n".join(wrong) + target.api.output()[-6000:]
    assert count >= EXAMPLES * 20
    target.check_alive()
    assert target.resident_bytes() - before < 100 * 2**20


def cases(operation: Any) -> list[Any]:
    """Return examples; every other body asks for the model that is there."""
    drawn: list[Any] = []

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=cast("Any", list(hypothesis.HealthCheck)),
    )
    @hypothesis.given(case=operation.as_strategy())
    def draw(case: Any) -> None:
        drawn.append(case)

    draw()
    for case in drawn[::2]:
        if isinstance(case.body, dict) and operation.method == "post":
            case.body = {**case.body, "model": "tiny"}
    return drawn


def send(http: httpx.Client, case: Any) -> int:
    """Send a case, read all of the answer, return its status."""
    parts = case.as_transport_kwargs()
    parts.pop("cookies", None)
    url = parts.pop("url")
    sent = httpx_parts(parts)
    try:
        request = http.build_request(parts["method"], url, **sent)
        request.read()
    except (AttributeError, TypeError, ValueError, httpx.InvalidURL):
        return 0  # nothing that HTTP could carry
    return http.send(request).status_code


def httpx_parts(parts: dict[str, Any]) -> dict[str, Any]:
    """Return requests' arguments as httpx has them."""
    names = {"params": "params", "headers": "headers", "json": "json", "files": "files"}
    sent = {names[name]: value for name, value in parts.items() if name in names and value}
    if "json" in parts:
        sent["json"] = parts["json"]
    data = parts.get("data")
    if data is not None:
        sent["data" if isinstance(data, dict) else "content"] = data
    return sent
