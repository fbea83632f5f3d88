#!/bin/sh
# Makes the environments that the suites and programs of others run in; a second run costs a moment.
# Usage: scripts/foreign/setup.sh NAME ...     NAME is langchain, litellm, lm-eval, node, agents (all
# coding agents), or one of them: claude-code, codex, opencode, cline, qwen-code, copilot, continue,
# pi, aider, mini-swe-agent, smolagents. PYTHON=/path/to/python picks one by hand, TORCH_INDEX_URL is
# one more index for torch, as in `make setup`. Node comes from the system (20 or newer); without it
# what is written in it is left out.
set -eu
cd "$(dirname "$0")/../.."

make_environment() { # its name; scripts/foreign/NAME.txt has the pins
    folder=.venv-foreign-$1
    pins=scripts/foreign/$1.txt
    wanted=$(cat "$pins" scripts/foreign/setup.sh | cksum)
    if [ "$(cat "$folder/penstock-setup.txt" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    printf 'penstock: making %s (%s)\n' "$folder" "$pins" >&2
    rm -rf "$folder"
    "${PYTHON:-python3.11}" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r "$pins"
    printf '%s\n' "$wanted" >"$folder/penstock-setup.txt"
}

install_node_packages() { # the folder of its package.json, below scripts/foreign
    if ! command -v npm >/dev/null 2>&1; then
        printf 'penstock: no npm here: %s is left out\n' "$1" >&2
        return
    fi
    folder=scripts/foreign/$1
    wanted=$(cksum <"$folder/package.json")
    if [ "$(cat "$folder/node_modules/penstock-setup.txt" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    printf 'penstock: installing %s\n' "$folder" >&2
    rm -rf "$folder/node_modules"
    (cd "$folder" && npm install --silent --no-audit --no-fund --no-package-lock)
    printf '%s\n' "$wanted" >"$folder/node_modules/penstock-setup.txt"
}

install() {
    case $1 in
    langchain | litellm | lm-eval | aider | mini-swe-agent | smolagents) make_environment "$1" ;;
    node) install_node_packages node ;;
    claude-code | codex | opencode | cline | qwen-code | copilot | continue | pi)
        install_node_packages "agents/$1"
        ;;
    agents)
        for agent in claude-code codex opencode cline qwen-code copilot continue pi \
            aider mini-swe-agent smolagents; do
            install "$agent"
        done
        ;;
    *)
        sed -n 's/^# //p' "$0" >&2
        exit 2
        ;;
    esac
}

for name in "$@"; do
    install "$name"
done
