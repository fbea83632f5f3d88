"""/docs in a real browser: Swagger UI shows the API under the page's policy, from own files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fixtures.api import ApiServer, Fleet
    from tests.fixtures.browser import Browser


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api()


def test_the_description_is_shown(browser: Browser, server: ApiServer) -> None:
    browser.open(f"{server.url}/docs")
    browser.until(
        lambda: "/v1/chat/completions" in " ".join(browser.texts(".opblock-summary-path")), 30
    )
    loaded = browser.script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert loaded
    assert all(str(name).startswith((server.url, "data:")) for name in loaded)
    assert browser.problems() == []
