"""Models of a Hugging Face hub: which of their files a worker reads, and how they come here.

`huggingface_hub` does the transfer: several files at once, resumed where one broke off, each checked
for its size. Its own settings apply (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`). Imports no torch.
"""

from __future__ import annotations

import importlib
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import BadSettings, ModelNotFound, first_line

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

PULLING: Final = ".pulling"
"""The folder of unfinished downloads, beside the models."""
MOST_FILES: Final = 10_000
"""Files of a model at a hub."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_READ: Final = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.spm", "*.tiktoken",
    "sentencepiece.bpe.model", "spiece.model", "chat_template.json", "chat_template.jinja",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "image_processor_config.json", "quantize_config.json", "quant_config.json",
    "quantization_config.json", "hf_quant_config.json", "bigdl_config.json",
    "adapter_config.json", "modules.json", "config_sentence_transformers.json",
    "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json",
    "2_Dense/*.safetensors", "LICENSE*", "USE_POLICY*", "NOTICE*", "README.md",
)  # fmt: skip
"""What is fetched: data that a worker reads, and what its publisher has to say. No code, no pickles."""
_NOT_READ: Final = ("consolidated*.safetensors", "original/*")
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at the hub."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A model at the hub: what would be fetched, of which commit, under which licence."""

    name: str
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]
    left_out: int

    @property
    def nbytes(self) -> int:
        """The size of what would be fetched."""
        return sum(file.nbytes for file in self.files)


def offer(name: str, revision: str | None = None, file: str | None = None) -> Offer:
    """Return what the hub has under a name; of GGUF files, `file` chooses one.

    :raises BadSettings: it is no name, has too many files, or leaves a choice; or huggingface_hub is
        not installed.
    :raises ModelNotFound: the hub has no such model, or cannot be reached.
    """
    if _NAME.fullmatch(name) is None:
        raise BadSettings(f"{name!r:.200} is not the name of a model: NAME or ORG/NAME")
    hub = _hub()
    with _one_line(name):
        info: Any = hub.HfApi().model_info(name, revision=revision, files_metadata=True)
    siblings: list[Any] = info.siblings or []
    if len(siblings) > MOST_FILES:
        raise BadSettings(f"{name} has {len(siblings)} files; at most {MOST_FILES} are fetched")
    files = [RemoteFile(str(one.rfilename), int(one.size or 0)) for one in siblings]
    card: Any = getattr(info, "card_data", None) or {}
    chosen = choose(name, files, file)
    return Offer(
        name=name,
        revision=str(info.sha or revision or "main"),
        licence=str(card.get("license_name") or card.get("license") or ""),
        files=tuple(chosen),
        left_out=len(files) - len(chosen),
    )


def choose(name: str, files: Iterable[RemoteFile], wanted: str | None) -> list[RemoteFile]:
    """Return the files of a model that a worker reads.

    :raises BadSettings: which of its GGUF files is not clear, or it has no weights that are read.
    """
    files = [file for file in files if _is_inside(file.name)]
    if wanted is not None:
        own = [file for file in files if fnmatch(file.name, wanted)]
        if len(own) != 1 or not own[0].name.endswith(".gguf"):
            raise BadSettings(f"--file: {wanted!r} fits {len(own)} files of {name}; name one .gguf")
        return own
    read = [
        file
        for file in files
        if any(fnmatch(file.name, pattern) for pattern in _READ)
        and ("/" not in file.name or file.name.startswith(("1_Pooling/", "2_Dense/")))
        and not any(fnmatch(file.name, pattern) for pattern in _NOT_READ)
    ]
    if any(file.name.endswith(".safetensors") for file in read):
        return read
    gguf = [file for file in files if file.name.endswith(".gguf")]
    if len(gguf) == 1:
        return gguf
    if gguf:
        names = ", ".join(file.name for file in gguf[:12])
        raise BadSettings(f"{name} has {len(gguf)} GGUF files; choose one with --file: {names}")
    pickled = any(fnmatch(file.name, pattern) for file in files for pattern in _PICKLES)
    reason = "its weights are pickled" if pickled else "it has no weights that are read here"
    raise BadSettings(f"{name}: {reason}; models in safetensors or GGUF are fetched")


def fetch(offered: Offer, models_dir: Path) -> Path:
    """Fetch what was offered into `models_dir / name`, with a bar; a later call goes on with the rest.

    The folder appears when all of it is there.

    :raises BadSettings: there is a folder of this name, or not enough room.
    :raises ModelNotFound: the hub cannot be reached, or no longer has a file.
    """
    target = models_dir / offered.name
    if target.exists():
        raise BadSettings(f"{target} exists: remove it to fetch {offered.name} again")
    unfinished = models_dir / PULLING / offered.name
    unfinished.mkdir(parents=True, exist_ok=True)
    here = sum(file.stat().st_size for file in unfinished.rglob("*") if file.is_file())
    free = shutil.disk_usage(unfinished).free
    if offered.nbytes - here > free:
        raise BadSettings(
            f"{models_dir}: {free / 1e9:,.1f} GB are free, {offered.name} needs "
            f"{(offered.nbytes - here) / 1e9:,.1f} GB more"
        )
    with _one_line(offered.name):
        _hub().snapshot_download(
            offered.name,
            revision=offered.revision,
            local_dir=unfinished,
            allow_patterns=[_literal(file.name) for file in offered.files],
        )
    for file in offered.files:
        path = unfinished / file.name
        if not path.is_file() or (file.nbytes and path.stat().st_size != file.nbytes):
            raise ModelNotFound(f"{offered.name}: {file.name} has not come whole; pull it again")
    shutil.rmtree(unfinished / ".cache", ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished.rename(target)
    for empty in (unfinished.parent, models_dir / PULLING):
        with suppress(OSError):  # another download is under way
            empty.rmdir()
    return target


def _literal(name: str) -> str:
    """A pattern for this name alone."""
    return re.sub(r"([\[*?])", r"[\1]", name)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name
    return inside and name.isprintable()


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise BadSettings(
            "huggingface_hub is not installed: pip install 'penstock[worker]'"
        ) from error


@contextmanager
def _one_line(name: str) -> Generator[None]:
    """:raises ModelNotFound: whatever the hub's library raised, in one line."""
    errors: Any = importlib.import_module("huggingface_hub.errors")
    endpoint = str(importlib.import_module("huggingface_hub.constants").ENDPOINT)
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelNotFound(
            f"{name} is gated: accept its licence at {endpoint}/{name}, then set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"{endpoint} has no model {name}, or it is private: set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{name} has no such revision at {endpoint}") from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelNotFound("HF_HUB_OFFLINE is set: nothing is fetched") from error
    except errors.HfHubHTTPError as error:
        raise ModelNotFound(f"{endpoint}: {first_line(error)}") from error
    except (OSError, ValueError, _transport_error()) as error:
        raise ModelNotFound(
            f"{endpoint} cannot be reached ({type(error).__name__}: {first_line(error)}); put the "
            f"model's folder into the models directory by hand, or set HF_ENDPOINT"
        ) from error


def _transport_error() -> type[Exception]:
    kind: type[Exception] = importlib.import_module("httpx").HTTPError
    return kind
