"""Files and batches in S3-compatible storage, by boto3.

boto3 takes account and region as it always does: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, ~/.aws, or the role of the machine.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from api.openai.batches.objects import STALE_S, too_large
from penstock.errors import BadSettings, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

CONNECT_S: Final = 5
READ_S: Final = 30
ATTEMPTS: Final = 3
CONNECTIONS: Final = 32
FALLBACK_REGION: Final = "us-east-1"
PART_BYTES: Final = 8 * 1024 * 1024
"""A part of an upload whose size is not known before; one is in memory at a time."""
MOST_DELETED: Final = 1_000
"""Objects that one call may delete."""
ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})


class Bucket:
    """Objects of one bucket, below a prefix."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._errors: Any = importlib.import_module("botocore.exceptions")

    @classmethod
    def at(cls, url: str, endpoint: str | None) -> Self:
        """Return the storage at `s3://bucket/prefix`, of AWS or of the server at `endpoint`.

        :raises BadSettings: boto3 is not installed.
        """
        try:
            boto3: Any = importlib.import_module("boto3")
            config: Any = importlib.import_module("botocore.config")
        except ImportError as error:
            raise BadSettings("PENSTOCK_FILES_URL: pip install 'penstock[s3]' first") from error
        session = boto3.session.Session()
        parts = urlsplit(url)
        client = session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=session.region_name or os.environ.get("AWS_REGION") or FALLBACK_REGION,
            config=config.Config(
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=CONNECTIONS,
            ),
        )
        return cls(client, parts.netloc, parts.path.strip("/"))

    def put(self, name: str, content: bytes) -> None:
        """Store content whole."""
        with self._calling():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def put_from(self, name: str, source: IO[bytes], most_bytes: int | None) -> int:
        """Store what `source` holds, in parts if it can be read only once."""
        if not source.seekable():
            return self._put_stream(name, source)
        start = source.tell()
        size = source.seek(0, os.SEEK_END) - start
        source.seek(start)
        if most_bytes is not None and size > most_bytes:
            raise too_large(most_bytes)
        with self._calling():
            self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + name, Body=source, ContentLength=size
            )
        return size

    def _put_stream(self, name: str, source: IO[bytes]) -> int:
        transfer: Any = importlib.import_module("boto3.s3.transfer")
        config = transfer.TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False
        )
        key = self._prefix + name
        with self._calling():
            self._client.upload_fileobj(source, self._bucket, key, Config=config)
            return int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])

    def append(self, name: str, content: bytes) -> None:
        """Store content as one more piece; the pieces' names sort by the time of their writing."""
        self.put(f"{name}.{time.time_ns():020}", content)

    def get(self, name: str) -> bytes | None:
        """Return an object's content."""
        try:
            with self._calling():
                found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
                return found["Body"].read()
        except _Absent:
            return None

    def open(self, name: str) -> IO[bytes] | None:
        """Return a copy of an object on this machine's disk: a reader may take hours."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with self._calling():
                self._client.download_fileobj(self._bucket, self._prefix + name, file)
        except _Absent:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    def scan(self, prefix: str) -> Iterator[str]:
        """Yield the names of objects that begin so; a page of the list is in memory at a time."""
        with self._calling():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for listed in page.get("Contents", ()):
                    yield str(listed["Key"]).removeprefix(self._prefix)

    def delete(self, *names: str) -> None:
        """Delete objects."""
        with self._calling():
            for some in _batched(names, MOST_DELETED):
                keys = [{"Key": self._prefix + name} for name in some]
                done = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True}
                )
                for failure in done.get("Errors", ()):
                    code = failure.get("Code", "unknown")
                    raise StoreUnavailable(f"The storage of files deletes nothing ({code})")

    def sweep(self) -> None:
        """Delete the parts of uploads whose process has died."""
        oldest = datetime.now(UTC) - timedelta(seconds=STALE_S)
        with self._calling():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for upload in (one for page in pages for one in page.get("Uploads", ())):
                if upload["Initiated"] < oldest:
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def _is_absent(self, error: Any) -> bool:
        response: dict[str, Any] = error.response
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = str(response.get("Error", {}).get("Code", ""))
        return status == HTTPStatus.NOT_FOUND and code in ABSENT

    @contextmanager
    def _calling(self) -> Generator[None]:
        """Map boto3's errors.

        :raises StoreUnavailable: the storage refuses a call, or does not answer.
        """
        try:
            yield
        except self._errors.ClientError as error:
            if self._is_absent(error):
                raise _Absent from error
            code = error.response.get("Error", {}).get("Code", "unknown")
            raise StoreUnavailable(f"The storage of files refuses a call ({code})") from error
        except (self._errors.BotoCoreError, self._errors.HTTPClientError, OSError) as error:
            what = type(error).__name__
            raise StoreUnavailable(f"The storage of files does not answer ({what})") from error


class _Absent(Exception):
    """There is no object of this name."""


def _batched(names: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
