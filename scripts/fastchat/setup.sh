#!/bin/sh
# Makes the environments that FastChat's own programs run in; a second run costs a moment.
# Usage: scripts/fastchat/setup.sh webui|api ...     PYTHON=/path/to/python picks one by hand,
# TORCH_INDEX_URL is one more index for torch, as in `make setup`.
set -eu
cd "$(dirname "$0")/../.."

make_environment() { # folder, pins, what to install without its dependencies
    wanted=$(cat "$2" scripts/fastchat/setup.sh | cksum)
    if [ "$(cat "$1/penstock-setup.txt" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    printf 'penstock: making %s for FastChat (%s)\n' "$1" "$2" >&2
    rm -rf "$1"
    "${PYTHON:-python3.11}" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r "$2"
    if [ -n "${3:-}" ]; then
        "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$3"
    fi
    printf '%s\n' "$wanted" >"$1/penstock-setup.txt"
}

for name in "$@"; do
    case $name in
    webui) make_environment .venv-fastchat scripts/fastchat/webui.txt ;;
    api) make_environment .venv-fastchat-api scripts/fastchat/api.txt fschat==0.2.36 ;;
    *)
        printf 'usage: %s webui|api ...\n' "$0" >&2
        exit 2
        ;;
    esac
done
