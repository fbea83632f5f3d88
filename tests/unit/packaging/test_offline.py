"""A worker's libraries ask no hub and send no figures, unless the operator says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.unit.deploy.test_web_deploy import ROOT

pytest.importorskip("huggingface_hub", reason="a worker's libraries are not installed")

CODE = """
import socket
import penstock.models
def refuse(*_): raise SystemExit("it has asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
import huggingface_hub
from huggingface_hub import constants
try:
    huggingface_hub.hf_hub_download("org/model", "config.json", cache_dir="/nowhere")
except Exception as error:
    print(constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY, type(error).__name__)
"""


def run(**environment: str) -> str:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**kept, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_hub_is_not_asked() -> None:
    shown = run()
    assert shown.startswith("True True "), shown
    assert "it has asked the network" not in shown


@pytest.mark.parametrize("value", ["0"])
def test_an_operator_may_override_it(value: str) -> None:
    assert "it has asked the network" in run(HF_HUB_OFFLINE=value)
