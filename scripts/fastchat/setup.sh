#!/bin/sh
# Makes the environments that FastChat's own programs run in; a second run costs a moment.
# Usage: scripts/fastchat/setup.sh webui|api ...     PYTHON=/path/to/python picks one by hand,
# TORCH_INDEX_URL is one more index for torch, as in `make setup`.
set -eu
cd "$(dirname "$0")/../.."

FSCHAT=fschat-0.2.36

fail() { # folder, what went wrong
    rm -rf "$1"
    printf 'penstock: %s for FastChat could not be made: %s\n' "$1" "$2" >&2
    exit 1
}

pip() { # folder, arguments
    environment=$1
    shift
    "$environment/bin/python" -m pip "$@" --quiet --disable-pip-version-check ||
        fail "$environment" "pip $1 failed, see above (is a package index reachable?)"
}

make_environment() { # folder, pins, what else to do
    wanted=$(cat "$2" scripts/fastchat/setup.sh | cksum)
    if [ "$(cat "$1/penstock-setup.txt" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    printf 'penstock: making %s for FastChat (%s)\n' "$1" "$2" >&2
    started=$(date +%s)
    rm -rf "$1"
    python=${PYTHON:-$(command -v python3.11 || echo .venv/bin/python)}
    "$python" -m venv "$1" || fail "$1" "$python -m venv failed (PYTHON=... names another)"
    pip "$1" install --only-binary=:all: \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r "$2"
    if [ -n "${3:-}" ]; then
        "$3" "$1"
    fi
    printf '%s\n' "$wanted" >"$1/penstock-setup.txt"
    printf 'penstock: %s is there after %s s, %s MB\n' \
        "$1" "$(($(date +%s) - started))" "$(du -sm "$1" | cut -f1)" >&2
}

# fschat without what it depends on, and beside it its source distribution: that has FastChat's
# tests, and as a folder of PYTHONPATH brings its programs to an environment that has torch.
add_fschat() { # folder
    pip "$1" install --no-deps "fschat==${FSCHAT#fschat-}"
    pip "$1" download --no-deps --no-binary fschat --dest "$1" "fschat==${FSCHAT#fschat-}"
    tar -xzf "$1/$FSCHAT.tar.gz" -C "$1" || fail "$1" "$FSCHAT.tar.gz cannot be read"
    rm "$1/$FSCHAT.tar.gz"
}

for name in "$@"; do
    case $name in
    webui) make_environment .venv-fastchat scripts/fastchat/webui.txt ;;
    api) make_environment .venv-fastchat-api scripts/fastchat/api.txt add_fschat ;;
    *)
        printf 'usage: %s webui|api ...\n' "$0" >&2
        exit 2
        ;;
    esac
done
