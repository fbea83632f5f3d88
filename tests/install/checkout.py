"""What a fresh root file system needs to install Penstock as this machine would."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


def copy_checkout(target: Path) -> None:
    """Copy all files that git knows or would take."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def pip_settings() -> dict[str, str]:
    """Return pip's settings of this machine, by name."""
    settings: dict[str, str] = {}
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"")
    return settings


def copy_pip_settings(root: Path) -> None:
    """Give a root pip's settings of this machine, its certificates and the folders that these name."""
    settings = pip_settings()
    for certificates in filter(None, [settings.pop("cert", "")]):
        (root / CERTIFICATES).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(certificates, root / CERTIFICATES)
        settings["cert"] = f"/{CERTIFICATES}"
    # A local index may have gigabytes; what it holds comes from the index proper too.
    indexes = settings.pop("extra-index-url", "").split()
    if distant := [index for index in indexes if not _is_local(index)]:
        settings["extra-index-url"] = " ".join(distant)
    for name in ("find-links", "constraint"):
        for address in filter(_is_local, settings.get(name, "").split()):
            _copy(Path(unquote(urlsplit(address).path)), root)
    lines = [f"{name} = {value}" for name, value in settings.items()]
    (root / "etc/pip.conf").write_text("\n".join(["[global]", *lines, ""]))


def _is_local(address: str) -> bool:
    return urlsplit(address).scheme in ("", "file")


def _copy(source: Path, root: Path) -> None:
    target = root / source.relative_to("/")
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
