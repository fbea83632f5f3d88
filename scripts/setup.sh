#!/bin/sh
# Finds the newest Python that can run Penstock and hands over to bootstrap.py.
# Usage: scripts/setup.sh [demo|dev]      PYTHON=/path/to/python picks one by hand.
set -eu
cd "$(dirname "$0")/.."

tested="3.14 3.13 3.12 3.11"

# $1 runs, is new enough, no newer than what was tested, and no release candidate (PyTorch does not
# load with that of 3.11, which Ubuntu 22.04 has).
fits() {
    "$1" -c 'import sys; v = sys.version_info
sys.exit(not ((3, 11) <= v < (3, 15) and v.releaselevel == "final"))' >/dev/null 2>&1
}

# $1 can make an environment with pip in it. Debian and Ubuntu keep that in a package of its own.
has_venv() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

say() {
    printf 'penstock setup: %s\n' "$1" >&2
}

# The newest Python that the system's packages have, such as python3.13; nothing without apt.
packaged() {
    for version in $tested; do
        package=$(apt-cache show --no-all-versions "python$version-venv" 2>/dev/null) || continue
        if printf '%s\n' "$package" | grep '^Version: ' | grep -qv '~\(a\|b\|rc\)[0-9]'; then
            echo "python$version"
            return 0
        fi
    done
}

none_fits() {
    say "Python 3.11 to 3.14 is needed and was not found."
    package=$(packaged)
    if [ -n "$package" ]; then
        say "    sudo apt install $package $package-venv"
    elif [ -z "$(apt-cache pkgnames python3 2>/dev/null)" ] && command -v apt-get >/dev/null 2>&1; then
        say "    sudo apt update && sudo apt install python3 python3-venv"
    fi
    say "or, with uv:    PYTHON=\$(uv python find 3.13) make demo    after uv python install 3.13"
    exit 1
}

if [ -n "${PYTHON:-}" ]; then
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        say "PYTHON=$PYTHON does not run, or is older than Python 3.11."
        exit 1
    fi
    exec "$PYTHON" scripts/bootstrap.py "${1:-demo}"
fi

# An environment that is there stays with its Python: a newer one on the system is no reason to
# install gigabytes again.
kept=$(.venv/bin/python -c 'import sys; print(sys._base_executable)' 2>/dev/null) || kept=""

without_venv=""
for candidate in ${kept:+"$kept"} $(printf 'python%s ' $tested) python3; do
    if fits "$candidate"; then
        if has_venv "$candidate"; then
            exec "$candidate" scripts/bootstrap.py "${1:-demo}"
        fi
        without_venv=${without_venv:-$candidate}
    fi
done
[ -n "$without_venv" ] || none_fits
exec "$without_venv" scripts/bootstrap.py "${1:-demo}" # which names the package that is missing
