#!/bin/sh
# Finds a Python that can run Penstock and hands over to bootstrap.py.
# Usage: scripts/setup.sh [demo|dev]      PYTHON=/path/to/python picks one by hand.
set -eu
cd "$(dirname "$0")/.."

usable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

say() {
    printf 'penstock setup: %s\n' "$1" >&2
}

found=""
if [ -n "${PYTHON:-}" ]; then
    if ! usable "$PYTHON"; then
        say "PYTHON=$PYTHON does not run, or is older than Python 3.11."
        exit 1
    fi
    found=$PYTHON
else
    for candidate in python3.11 python3 python3.12 python3.13; do
        if usable "$candidate"; then
            found=$candidate
            break
        fi
    done
fi

if [ -z "$found" ]; then
    say "Python 3.11 or newer is needed and was not found. On Debian or Ubuntu:"
    say "    sudo apt install python3.11 python3.11-venv"
    exit 1
fi

exec "$found" scripts/bootstrap.py "${1:-demo}"
