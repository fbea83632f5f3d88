#!/bin/sh
# Makes the environments that the suites of others run in; a second run costs a moment.
# Usage: scripts/foreign/setup.sh langchain|litellm|lm-eval|node|agents ...     PYTHON=/path/to/python picks one
# by hand, TORCH_INDEX_URL is one more index for torch, as in `make setup`. Node comes from the
# system (20 or newer); without it its suites are left out.
set -eu
cd "$(dirname "$0")/../.."

make_environment() { # folder, pins
    wanted=$(cat "$2" scripts/foreign/setup.sh | cksum)
    if [ "$(cat "$1/penstock-setup.txt" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    printf 'penstock: making %s (%s)\n' "$1" "$2" >&2
    rm -rf "$1"
    "${PYTHON:-python3.11}" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r "$2"
    printf '%s\n' "$wanted" >"$1/penstock-setup.txt"
}

install_node_packages() { # folder, what it holds
    if ! command -v npm >/dev/null 2>&1; then
        printf 'penstock: no npm here: %s are left out\n' "$2" >&2
        return
    fi
    printf 'penstock: installing %s\n' "$2" >&2
    (cd "scripts/foreign/$1" && npm install --silent --no-audit --no-fund --no-package-lock)
}

for name in "$@"; do
    case $name in
    langchain | litellm | lm-eval) make_environment ".venv-foreign-$name" "scripts/foreign/$name.txt" ;;
    node) install_node_packages node 'the Node SDKs' ;;
    agents) install_node_packages agents 'coding agents' ;;
    *)
        printf 'usage: %s langchain|litellm|lm-eval|node|agents ...\n' "$0" >&2
        exit 2
        ;;
    esac
done
