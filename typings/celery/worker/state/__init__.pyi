from typing import Any

should_stop: Any
should_terminate: Any

def __getattr__(name: str) -> Any: ...
