"""Lists what is installed (an SBOM in CycloneDX), and looks for known vulnerabilities in it.

    python scripts/audit sbom  FILE [PYTHON]
    python scripts/audit vulnerabilities [PYTHON [OSV_URL]]

`OSV_URL` is a mirror of OSV's API, such as `https://osv.example/v1/query`; without one, PyPI is asked.
Both programs are installed in `.venv-audit`, apart from what they look at. The audit fails on a known
vulnerability. Where no advisory data can be reached, it reports that in one line and passes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ROOT / ".venv-audit"
PINS: Final = Path(__file__).parent / "requirements.txt"
TIMEOUT_S: Final = 10
"""Of one request for advisories."""
AUDIT_S: Final = 240
ACCEPTED: Final[dict[str, str]] = {}
"""Advisories that do not concern Penstock or have no fix yet, each with the reason."""
OFFLINE: Final = (
    "ConnectionError",
    "ServiceError",
    "Could not connect",
    "timed out",
    "Max retries",
)


def report(text: str) -> None:
    """Write a line."""
    print(f"penstock audit: {text}", flush=True)


def tools() -> Path:
    """Return the folder of the two programs, installed once for each set of pins."""
    stamp = TOOLS / "penstock-setup.txt"
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != pins:
        shutil.rmtree(TOOLS, ignore_errors=True)
        venv.create(TOOLS, with_pip=True)
        pip = [str(TOOLS / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", "-r", str(PINS)], check=True)
        stamp.write_text(pins)
    return TOOLS / "bin"


def write_sbom(file: Path, python: str) -> int:
    """Write the SBOM of what `python` has installed; return the exit status."""
    command = [str(tools() / "cyclonedx-py"), "environment", python, "--pyproject"]
    status = subprocess.run(
        [*command, str(ROOT / "pyproject.toml"), "--output-reproducible", "-o", str(file)],
        check=False,
    ).returncode
    if not status:
        count = len(json.loads(file.read_text())["components"])
        report(f"{file} lists {count} packages (CycloneDX)")
    return status


def folders_of(python: str) -> list[str]:
    """Return the folders of packages of an interpreter."""
    code = "import json, sys; print(json.dumps([p for p in sys.path if 'site-packages' in p]))"
    return json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True).stdout)


def audit(python: str, osv_url: str = "") -> int:
    """Look for known vulnerabilities; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "audit.json"
        command = [str(tools() / "pip-audit"), "--format", "json", "--output", str(file)]
        command += ["--progress-spinner", "off", "--timeout", str(TIMEOUT_S)]
        if osv_url:
            command += ["--vulnerability-service", "osv", "--osv-url", osv_url]
        for path in folders_of(python):
            command += ["--path", path]
        for advisory in ACCEPTED:
            command += ["--ignore-vuln", advisory]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=AUDIT_S
            )
        except subprocess.TimeoutExpired:
            return unreachable(f"no answer in {AUDIT_S} s")
        if not file.is_file():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            if any(word in done.stderr for word in OFFLINE):
                return unreachable(last)
            report(f"pip-audit failed: {last}")
            return done.returncode or 1
        return judge(json.loads(file.read_text())["dependencies"])


def unreachable(why: str) -> int:
    """Report that nothing could be looked up; that is no failure."""
    report(f"NOT AUDITED: no advisory data could be reached from here ({why[:200]})")
    return 0


def judge(packages: list[dict[str, Any]]) -> int:
    """Return the exit status of what pip-audit has written."""
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return unreachable("the index knows none of the packages")
    vulnerable = [package for package in audited if package["vulns"]]
    for package in vulnerable:
        for advisory in package["vulns"]:
            fixes = ", ".join(advisory["fix_versions"]) or "no release"
            report(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixes}")
    skipped = sorted(package["name"] for package in packages if "skip_reason" in package)
    unknown = f"; unknown to the index: {', '.join(skipped)}" if skipped else ""
    report(f"{len(audited)} packages audited, {len(vulnerable)} vulnerable{unknown}")
    return 1 if vulnerable else 0


def main(arguments: list[str]) -> int:
    """Run a command; return the exit status."""
    match arguments:
        case ["sbom", file]:
            return write_sbom(Path(file), sys.executable)
        case ["sbom", file, python]:
            return write_sbom(Path(file), python)
        case ["vulnerabilities"]:
            return audit(sys.executable)
        case ["vulnerabilities", python]:
            return audit(python)
        case ["vulnerabilities", python, osv_url]:
            return audit(python, osv_url)
    report("usage: python scripts/audit sbom FILE [PYTHON] | vulnerabilities [PYTHON [OSV_URL]]")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
