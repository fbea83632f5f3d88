"""The steps for systemd in docs/operations.md, to the letter, in a fresh Debian that is booted then.

`make test-systemd`. The steps run in a chroot, up to the first one for systemd itself. Then
systemd-nspawn boots it, with no network but its own loopback. There the other steps run, and what they
start has to serve a chat, to survive a kill and to stop well. Prints what systemd finds exposed. Needs
root, debootstrap, systemd-nspawn, a package index and 8 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.install.checkout import ROOT
from tests.install.chroot import Chroot, System, check_rights

SYSTEM = System("Debian 12", "bookworm")
PACKAGES = "systemd systemd-sysv dbus curl procps"
BOOT_S = 1200.0
REPORT = "root/report.txt"
GOOD_END = "all is well"

CHECK_UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /root/check.sh
[Install]
WantedBy=multi-user.target
"""
CHECK = f"""
exec > /{REPORT} 2>&1
@STEPS@
chat() {{
    for attempt in $(seq 420); do
        curl -sf http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' -d '{{
            "model": "bigdl-demo", "temperature": 0,
            "messages": [{{"role": "user", "content": "What is Penstock?"}}]}}' && echo && return
        sleep 1
    done
    journalctl --no-pager -n 60; systemctl poweroff; exit 1
}}
chat
systemctl kill --kill-who=all --signal=KILL penstock-worker@bigdl-demo-cpu
sleep 6
chat
systemctl show -p NRestarts penstock-api penstock-worker@bigdl-demo-cpu
ps -o user:20,args -C uvicorn,celery,python3 | cut -c -100
ls -ld /var/lib/penstock /var/lib/penstock/files /var/cache/penstock /etc/penstock/penstock.env
systemd-analyze security --no-pager penstock-api penstock-worker@bigdl-demo-cpu | grep Overall
systemctl stop penstock-api penstock-worker@bigdl-demo-cpu
systemctl show -p Result -p ExecMainStatus penstock-api penstock-worker@bigdl-demo-cpu
systemctl is-failed penstock-api penstock-worker@bigdl-demo-cpu || echo {GOOD_END}
systemctl poweroff
"""


def steps() -> tuple[str, str]:
    """Return the commands of the section `systemd`: those before the first for systemd, and the rest."""
    text = (ROOT / "docs/operations.md").read_text()
    _, _, section = text.partition("\n## systemd\n")
    _, _, rest = section.partition("```sh\n")
    commands = rest.partition("```")[0]
    at = commands.index("systemctl ")
    return commands[:at], commands[at:]


def boot(root: Path, log: Path) -> str:
    """Boot the root, wait until it powers off, and return what the checks wrote."""
    command = ["systemd-nspawn", "--boot", "--register=no", "--keep-unit", "--private-network"]
    command += ["--quiet", "--machine=penstock-test", f"--directory={root}"]
    with log.open("a") as written:
        subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=written, stderr=written,
            timeout=BOOT_S,
        )  # fmt: skip
    report = root / REPORT
    return report.read_text() if report.exists() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build/services")
    parser.add_argument("--pip-cache", type=Path, help="a folder of pip's downloads, shared")
    parser.add_argument("--keep", action="store_true", help="leave the root there")
    options = parser.parse_args()
    check_rights("systemd-nspawn")
    options.folder.mkdir(parents=True, exist_ok=True)
    chroot = Chroot(SYSTEM, options.folder, cache=options.pip_cache)
    log_file = options.folder / "steps.log"
    installing, starting = steps()
    with log_file.open("w") as log:
        chroot.make(log)
        began_s = time.monotonic()
        code = chroot.run(f"apt install {PACKAGES}\n{installing}", log)
        seconds = time.monotonic() - began_s
    if code != 0:
        sys.exit(f"the steps failed: {log_file}")
    (chroot.root / "root/check.sh").write_text(CHECK.replace("@STEPS@", starting))
    (chroot.root / "etc/systemd/system/check.service").write_text(CHECK_UNIT)
    chroot.run("systemctl enable check.service", sys.stdout)
    report = boot(chroot.root, log_file)
    print(f"{SYSTEM.title}: the steps took {seconds:.0f} s\n{report}")
    if not options.keep:
        chroot.remove()
    return GOOD_END not in report.splitlines()


if __name__ == "__main__":
    sys.exit(main())
