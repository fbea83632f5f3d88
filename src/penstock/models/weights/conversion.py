"""Where converted weights are stored, and which process makes them.

One process converts a checkpoint, under a lock on a separate file; the others wait and map the
result. A process that dies in the middle leaves a `.partial` file, which the next one overwrites,
but no lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.models.catalogue.model_folder import read_config
from penstock.models.weights import files
from penstock.models.weights.checkpoint import Checkpoint
from penstock.models.weights.converted import Converted, Converting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from penstock.models.loading.assembled import Progress
    from penstock.models.spec import ModelSpec

logger = logging.getLogger(__name__)

VERSION = 1
"""Increased when the same checkpoint would be converted to different bits."""

WORTH_BYTES = 64 * 1024**2
"""Smaller checkpoints are quantised too quickly to matter."""

SUFFIX = ".weights"
_SAMPLES = 64
_SAMPLE_BYTES = 4096
_POLL_S = 0.2


def of_model(
    spec: ModelSpec,
    form: str,
    convert: Callable[[Converting, Callable[[float], None]], None],
    progress: Progress,
) -> Converted | None:
    """Return a model's converted weights; None if it is small or the folder is not writable.

    `form` names the result of `convert`, which is passed a function that reports the share done.

    :raises ModelNotLoadable: the checkpoint is damaged.
    """
    folder = spec.converted_dir
    if folder is None or sum(f.stat().st_size for f in _files(spec.path)) <= WORTH_BYTES:
        return None

    def report(share: float) -> None:
        progress(0.05 + 0.65 * share, f"converting to {form}, once")

    def wait() -> None:
        progress(0.05, "waiting for another worker that converts the model")

    return converted(
        spec.path,
        form,
        folder,
        spec.converted_limit_bytes,
        convert=lambda converting: convert(converting, report),
        wait=wait,
    )


def digest_of(path: Path, form: str) -> str:
    """Return a name for a folder's weights in a format.

    Of each file its name, size, time of change, and 64 pieces, of which the first holds the names
    and shapes of a safetensors file; and what the configuration says of a quantisation. A file changed in place has another time; a copy that lost
    its times is converted again, and no more.
    """
    digest = hashlib.blake2b(f"{VERSION} {form}".encode(), digest_size=16)
    stated = read_config(path).get("quantization_config")
    if stated:
        digest.update(repr(stated).encode())
    for file in _files(path):
        state = file.stat()
        digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}".encode())
        with file.open("rb") as content:
            for sample in range(_SAMPLES):
                content.seek(state.st_size * sample // _SAMPLES)
                digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    return files.all_files(path)


def converted(
    path: Path,
    form: str,
    folder: Path,
    limit_bytes: int,
    *,
    convert: Callable[[Converting], None],
    wait: Callable[[], None],
) -> Converted | None:
    """Return the converted weights of the checkpoint at `path`, made by `convert` if missing.

    `wait` is called now and then while another process makes them. Returns None if the folder is
    not writable, and logs the reason.

    :raises ModelNotLoadable: the checkpoint is damaged.
    """
    target = folder / f"{path.name}-{form}-{digest_of(path, form)}{SUFFIX}"
    try:
        weights = _open(target)
        if weights is None:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(target.with_suffix(".lock"), wait):
                weights = _open(target)  # made while this process waited
                if weights is None:
                    _make(path, target, convert)
                    weights = _open(target)
            _shrink(folder, target, limit_bytes)
    except OSError as error:
        logger.warning("%s: converted weights cannot be stored: %s", folder, error)
        return None
    return weights


def _open(target: Path) -> Converted | None:
    try:
        weights = Converted(target)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s; it is made again", error)
        return None
    try:
        os.utime(target)  # the least recently used are removed first
    except OSError:
        logger.debug("%s: its time of use cannot be recorded", target)
    return weights


def _make(path: Path, target: Path, convert: Callable[[Converting], None]) -> None:
    partial = target.with_suffix(".partial")
    converting = Converting(Checkpoint(path), partial)
    try:
        convert(converting)
        converting.finish()
        partial.replace(target)
    finally:
        converting.close()
        partial.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, wait: Callable[[], None]) -> Generator[None]:
    """Hold a lock that the kernel releases when this process dies, however that happens."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait()
                time.sleep(_POLL_S)
        yield


def _shrink(folder: Path, newest: Path, limit_bytes: int) -> None:
    """Remove the least recently used files over the limit; mappings of them remain valid."""
    files = sorted(folder.glob(f"*{SUFFIX}"), key=_last_used, reverse=True)
    total = 0
    for file in [newest, *(file for file in files if file != newest)]:
        try:
            total += file.stat().st_size
            if total > limit_bytes and file != newest:
                file.unlink()
                logger.info("%s: removed, because the converted weights exceed their limit", file)
        except FileNotFoundError:  # another worker was here
            continue


def _last_used(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
