"""Which tests of others ask for more than the demo model of 7 million parameters can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

BEYOND_THE_MODEL: Final = {
    "test_json_mode": "the model must put a joke into fields that are only described in words",
    "test_unicode_tool_call_integration": "the model must write Chinese",
    "test_structured_output_pydantic_2_v1": "the model must end the strings of a joke",
    "TestAnthropic::test_structured_output[pydantic]": "the same",
    "TestAnthropic::test_structured_output_async[pydantic]": "the same",
}


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark them as expected failures, each with its reason."""
    for item in items:
        for name, reason in BEYOND_THE_MODEL.items():
            if item.nodeid.endswith(f"::{name}"):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=False))
