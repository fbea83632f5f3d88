"""A fresh Debian or Ubuntu below a folder, by debootstrap."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.install.checkout import copy_checkout, copy_pip_settings

CHECKOUT = "root/penstock"
ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_OFFLINE": "1",  # no systemd runs in a chroot: units are enabled, not started
}
LONGEST_S = 3600.0


@dataclass(frozen=True)
class System:
    """A release."""

    title: str
    suite: str
    distribution: str = "debian"

    @property
    def mirror(self) -> str:
        """Return where its packages are."""
        hosts = {"debian": "deb.debian.org", "ubuntu": "archive.ubuntu.com"}
        return f"http://{hosts[self.distribution]}/{self.distribution}"

    @property
    def keyring(self) -> Path:
        """Return the file with its archive's keys."""
        return Path(f"/usr/share/keyrings/{self.distribution}-archive-keyring.gpg")

    @property
    def sources(self) -> str:
        """Return what an installed system has in sources.list."""
        parts = "main" if self.distribution == "debian" else "main universe"
        suites = (self.suite, f"{self.suite}-updates")
        return "".join(f"deb {self.mirror} {suite} {parts}\n" for suite in suites)


class Chroot:
    """A system's root. Its processes have mounts and process ids of their own, and end together."""

    def __init__(self, system: System, folder: Path, *, cache: Path | None) -> None:
        """Say where the root is to be; `cache` is a folder of pip's downloads to share."""
        self.root = folder / system.suite
        self._system = system
        self._cache = cache

    def make(self, log: IO[str]) -> None:
        """Install the system, what every installed one has, and a checkout."""
        if not self._system.keyring.exists():
            sys.exit(
                f"{self._system.keyring} is missing: apt install ubuntu-keyring (in Debian 13)"
            )
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        scripts = Path("/usr/share/debootstrap/scripts")
        known = scripts / self._system.suite
        older = scripts / {"debian": "bookworm", "ubuntu": "jammy"}[self._system.distribution]
        command = ["debootstrap", "--variant=minbase", f"--keyring={self._system.keyring}"]
        command += [self._system.suite, str(self.root), self._system.mirror]
        command += [str(known if known.exists() else older)]
        subprocess.run(command, check=True, stdout=log, stderr=log)
        (self.root / "etc/apt/sources.list").write_text(self._system.sources)
        # Somebody at the keyboard answers apt's question.
        (self.root / "etc/apt/apt.conf.d/90yes").write_text('APT::Get::Assume-Yes "true";\n')
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        self.run("apt-get update && apt-get install sudo ca-certificates", log, cwd="/")
        copy_pip_settings(self.root)
        copy_checkout(self.root / CHECKOUT)

    def run(self, commands: str, log: IO[str], *, cwd: str = f"/{CHECKOUT}") -> int:
        """Run a shell's lines up to the first that fails, and return its exit status."""
        root = str(self.root)
        mounts = [
            'mount -t proc proc "$1/proc"',
            'mount --rbind /dev "$1/dev"',
            'mount --rbind /sys "$1/sys"',
        ]
        if self._cache is not None:
            (self.root / "root/.cache/pip").mkdir(parents=True, exist_ok=True)
            mounts.append('mount --bind "$2" "$1/root/.cache/pip"')
        inside = 'cd "$1" && eval "$2"'
        script = " && ".join([*mounts, 'exec chroot "$1" sh -c "$3" sh "$4" "$5"'])
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
        command += ["sh", root, str(self._cache), inside, cwd, f"set -e\n{commands}"]
        log.write(f"\n$ {commands}\n")
        log.flush()
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**ENVIRONMENT, "USER": "root"},
            timeout=LONGEST_S,
        ).returncode

    def megabytes(self, path: str) -> int:
        """Return the size of a folder in the checkout."""
        files = (self.root / CHECKOUT / path).rglob("*")
        return sum(one.lstat().st_size for one in files if not one.is_dir()) // 10**6

    def remove(self) -> None:
        """Delete the root."""
        shutil.rmtree(self.root)


def check_rights(*programs: str) -> None:
    """End this program if no root can be made here, or a program is missing."""
    missing = [name for name in ("debootstrap", *programs) if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        sys.exit(f"this needs root, and the programs {', '.join(('debootstrap', *programs))}")
