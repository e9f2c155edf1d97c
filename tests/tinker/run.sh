#!/usr/bin/env bash
# GRPO with the updates made by a real Tinker server: SkyRL on JAX, on a CPU. The reward rises, both
# sides have the same adapter, and a run continues after the server was killed.
# Needs Python 3.12 or newer, which is looked for here, with pyenv and with uv; installs SkyRL and JAX
# (1 GB), and fails where it cannot.
# Usage: [STEPS=10] tests/tinker/run.sh SERVER_BINARY
set -euo pipefail
binary="$(realpath "${1:?usage: tests/tinker/run.sh SERVER_BINARY}")"
cd "$(dirname "$0")"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1/tinker"
mkdir -p "$cache"

is_new() { "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; }

find_python() {
  local found
  for found in python3.12 python3.13 python3.14 python3 "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python3; do
    if command -v "$found" >/dev/null && is_new "$found"; then
      echo "$found"
      return
    fi
  done
  [ -x "$cache/uv/bin/uv" ] || python3 -m venv "$cache/uv"
  "$cache/uv/bin/pip" install --quiet --disable-pip-version-check uv >&2
  "$cache/uv/bin/uv" python install 3.12 >&2 && "$cache/uv/bin/uv" python find 3.12
}

if [ ! -x "$cache/venv/bin/python" ]; then
  python="$(find_python)" || {
    echo "there is no Python 3.12 or newer here, and uv could not get one: SkyRL needs it" >&2
    exit 1
  }
  "$python" -m venv "$cache/venv"
fi
pip=("$cache/venv/bin/pip" install --quiet --disable-pip-version-check)
# Without the dependencies of its other backends: PyTorch for CUDA, vLLM, Ray.
"${pip[@]}" --no-deps skyrl==0.4.0 2>/dev/null
"${pip[@]}" 'jax>=0.8,<1' 'flax>=0.12.10' optax 'transformers>=5.6.1,<=5.16.1' 'tokenizers>=0.23.1' \
  safetensors numpy typer rich cloudpathlib 'tinker==0.25.0' fastapi uvicorn sqlmodel \
  'sqlalchemy[asyncio]' aiosqlite aiohttp psutil httpx zstandard xxhash 2>"$cache/pip.log" || {
  cat "$cache/pip.log" >&2
  exit 1
}

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
JAX_CACHE="$cache/jax" "$cache/venv/bin/python" suite.py "$binary" "$scratch"
