"""Open FastChat's web UI, unmodified, on the running fleet.

Usage: `python scripts/fastchat_ui.py [--controller URL] [what gradio_web_server takes ...]`. The
environment `.venv-fastchat` must be there (`make fastchat-ui` makes it). Without `--controller`
the first of FastChat's and Penstock's default ports that answers is used.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-fastchat" / "bin" / "python"
USUAL = ("http://127.0.0.1:21001", "http://127.0.0.1:8000")


def is_controller(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/test_connection", timeout=3.0) as answer:
            return answer.read() == b'"success"'
    except (urllib.error.URLError, OSError, ValueError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--controller", action="append")
    parser.add_argument("--host", default="127.0.0.1")
    chosen, rest = parser.parse_known_args()
    if not PYTHON.exists():
        print(f"there is no {PYTHON}; run: make fastchat-ui", file=sys.stderr)
        return 1
    candidates = chosen.controller or USUAL
    controller = next((url.rstrip("/") for url in candidates if is_controller(url)), None)
    if controller is None:
        print(f"nothing answers at {', '.join(candidates)}; run: make demo", file=sys.stderr)
        return 1
    logs = ROOT / ".penstock" / "fastchat"
    logs.mkdir(parents=True, exist_ok=True)
    # FastChat writes its logs to the current folder, and creates an OpenAI client without using it.
    environment = {"GRADIO_ANALYTICS_ENABLED": "False", "LOGDIR": str(logs), **os.environ}
    os.chdir(logs)
    command = [str(PYTHON), "-m", "fastchat.serve.gradio_web_server"]
    command += ["--controller-url", controller, "--model-list-mode", "reload"]
    command += ["--host", chosen.host, *rest]
    os.execve(PYTHON, command, environment)
    return 1


if __name__ == "__main__":
    sys.exit(main())
