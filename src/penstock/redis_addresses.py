"""Addresses of Redis: the forms that a URL may have, and groups of queues with a Redis of their own."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import Annotated
from urllib.parse import parse_qsl, quote, unquote, urlencode

from pydantic import (
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RedisDsn,
    TypeAdapter,
    UrlConstraints,
    field_validator,
)

HOME = ""
"""The name of the group that has all queues which no other has: those of `PENSTOCK_REDIS_URL`."""

SOCKET_SCHEMES = ("unix", "redis+socket")
SocketUrl = Annotated[
    AnyUrl, UrlConstraints(allowed_schemes=list(SOCKET_SCHEMES), host_required=False)
]
_SCHEMES = ("redis", "rediss", *SOCKET_SCHEMES)
_ENCODE = "in a password, write %23 for #, %2F for /, %3F for ?, %40 for @, %25 for %"


def parsed_address(given: str) -> str:
    """Return a Redis URL in a form that all our Redis clients parse in the same way.

    :raises ValueError: it is not one; the message contains no part of it, as it may have a
        password.
    """
    scheme, has_scheme, rest = given.strip().partition("://")
    if not has_scheme or scheme not in _SCHEMES:
        raise ValueError(f"begin with redis://, rediss:// or unix://; {_ENCODE}")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    rest = rest[len(authority) :]
    if "#" in rest or (scheme not in SOCKET_SCHEMES and "@" in rest):
        raise ValueError(f"it does not end as a Redis URL does; {_ENCODE}")
    if scheme not in SOCKET_SCHEMES:
        _, _, host = authority.rpartition("@")
        if not re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(:\d{1,5})?", host):
            raise ValueError(f"its host and port cannot be read; {_ENCODE}")
        return f"{scheme}://{authority}{rest}"
    return _socket_address(authority, rest)


def _socket_address(authority: str, rest: str) -> str:
    """Return a socket's URL with the part before its path as parameters."""
    account, at, host = authority.rpartition("@")
    path, _, query = rest.partition("?")
    if host or not path.strip("/"):
        raise ValueError("a socket is unix:///path/of/the/socket?db=0")
    parameters = dict(parse_qsl(query))
    if "virtual_host" in parameters:  # Celery's name for it
        parameters["db"] = parameters.pop("virtual_host")
    user, _, password = account.partition(":")
    if at and user:
        parameters["username"] = unquote(user)
    if at and password:
        parameters["password"] = unquote(password)
    if not parameters.get("db", "0").isdecimal():
        raise ValueError("a socket is unix:///path/of/the/socket?db=0")
    return f"unix://{path}?{urlencode(parameters, quote_via=quote)}".rstrip("?")


def redis_address(url: str) -> RedisDsn | AnyUrl:
    """Return a Redis URL, checked.

    :raises ValueError: it is not a Redis URL.
    """
    return TypeAdapter[RedisDsn | AnyUrl](RedisDsn | SocketUrl).validate_python(parsed_address(url))


def check_sentinels(value: tuple[str, ...], url: RedisDsn | AnyUrl | None) -> tuple[str, ...]:
    """Return addresses of Sentinels.

    :raises ValueError: one is not host:port, or the URL is one that no Sentinel serves.
    """
    for sentinel in value:
        host, _, port = sentinel.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and int(port) < 2**16):
            raise ValueError(f"{sentinel!r} is not host:port")
    if value and url is not None and url.scheme != "redis":
        raise ValueError("Redis behind Sentinels is reached by redis://, not by TLS or a socket")
    return value


def _read_url(value: object) -> object:
    return parsed_address(value) if isinstance(value, str) else value


RedisUrl = Annotated[RedisDsn | SocketUrl, BeforeValidator(_read_url)]
"""A Redis URL of a setting, in the form of `parsed_address`."""


class RedisGroup(BaseModel):
    """Queues, by patterns of a shell such as `bigdl-70b-*`, and the Redis of their jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    queues: tuple[str, ...] = Field(min_length=1)
    url: RedisUrl
    sentinels: tuple[str, ...] = ()
    master: str = Field(default="mymaster", min_length=1)

    @field_validator("sentinels")
    @classmethod
    def _check_sentinels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_sentinels(value, None)

    def has(self, queue: str) -> bool:
        """Return whether a queue is of this group."""
        return any(fnmatchcase(queue, pattern) for pattern in self.queues)


def parsed_groups(given: str) -> object:
    """Return the groups of a setting in JSON; none if it is empty.

    :raises ValueError: it is not JSON; the message contains no part of it, as above.
    """
    try:
        return json.loads(given or "{}")
    except ValueError:
        raise ValueError("it is not JSON") from None


def check_group_names(groups: dict[str, RedisGroup]) -> dict[str, RedisGroup]:
    """Return the groups.

    :raises ValueError: a name cannot be one.
    """
    for name in groups:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name):
            raise ValueError("a group's name has lower-case letters, digits, - and _ only")
    return groups
