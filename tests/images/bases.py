"""The images that ours begin with: pulled, or, if no registry is reachable, made by debootstrap.

What is made bears the name of what it stands for: Debian 12 with its Python, Redis and Caddy. It has
pip's settings of this machine, its certificates, and the folders of packages that pip looks into.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.install.checkout import copy_pip_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.images.engine import Docker

PYTHON, REDIS, CADDY = "python:3.11-slim", "redis:7-bookworm", "caddy:2"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
MADE = "penstock.test.base"

REDIS_FILE = f"""FROM {PYTHON}
RUN apt-get update && apt-get install -y --no-install-recommends redis-server
RUN install -d -o redis -g redis /data
VOLUME /data
WORKDIR /data
"""
# The published image's program has this right in its file: it does not start without it.
CADDY_FILE = f"""FROM {PYTHON}
RUN apt-get update && apt-get install -y --no-install-recommends caddy wget libcap2-bin
RUN setcap cap_net_bind_service=+ep /usr/bin/caddy
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
"""


def provide(docker: Docker, folder: Path) -> str:
    """Have the three base images; return `pulled` or `made`."""
    if docker.tried("pull", PYTHON, timeout_s=900).returncode == 0:
        for name in (REDIS, CADDY):
            docker("pull", name)
        return "pulled"
    known = docker.tried("inspect", "--format", "{{json .Config.Labels}}", PYTHON)
    if MADE not in known.stdout:
        _make_python(docker, folder)
    for name, text in ((REDIS, REDIS_FILE), (CADDY, CADDY_FILE)):
        context = folder / name.partition(":")[0]
        context.mkdir(parents=True, exist_ok=True)
        (context / "Dockerfile").write_text(text)
        docker("build", "--network", "host", "--tag", name, context, env={"DOCKER_BUILDKIT": "0"})
    return "made"


def _make_python(docker: Docker, folder: Path) -> None:
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        pytest.fail("no registry of images is reachable, and debootstrap is missing or not root's")
    root, archive = folder / "root", folder / "root.tar"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm"]
    _run(*command, str(root), MIRROR)
    _set_up(root)
    _run("tar", "--create", "--file", str(archive), "--directory", str(root), ".")
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    changes = ("--change", f"ENV {path}", "--change", f"LABEL {MADE}=debootstrap")
    docker("import", *changes, archive, PYTHON)
    archive.unlink()
    shutil.rmtree(root)


def _set_up(root: Path) -> None:
    """Make of Debian what the official image is: `python` and a pip that installs for all."""
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
    copy_pip_settings(root)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
