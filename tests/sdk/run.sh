#!/usr/bin/env bash
# The official OpenAI SDKs, then Anthropic's, frameworks with default settings and the Codex CLI, all
# unmodified, against the server with a loopback large model.
# Needs python3 and node; installs the SDKs from their registries, and fails where it cannot.
# Usage: tests/sdk/run.sh [SERVER_BINARY]; without one, it is built.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The newest release of each.
python_sdks=("openai==1.99.*" "openai==2.7.*" "openai")
node_sdks=("openai@5" "openai@6" "openai@latest")
python_frameworks=("openai" "openai-agents" "pydantic-ai-slim[openai]" "langchain-openai" "anthropic")
node_frameworks=("openai" "@anthropic-ai/sdk" "ai" "@ai-sdk/openai" "zod" "@langchain/openai"
  "@langchain/core")

cache="${PROMPT_R1_SDK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1/sdk}"
mkdir -p "$cache"
scratch="$(mktemp -d)"
children=()
finish() {
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  rm -rf "$scratch"
}
trap finish EXIT

if [ $# -gt 0 ]; then
  binary="$1"
else
  cargo build --locked --bin server
  binary="${CARGO_TARGET_DIR:-target}/debug/server"
fi

# Waits for a line that matches in a file that a child writes, and prints it.
line_of() { # line_of FILE PATTERN CHILD
  for _ in $(seq 300); do
    if grep -m1 -oE "$2" "$1"; then return; fi
    kill -0 "$3" 2>/dev/null || break
    sleep 0.1
  done
  echo "no line of \`$1\` matches \`$2\`:" >&2
  cat "$1" >&2
  return 1
}

python3 tests/sdk/upstream.py >"$scratch/upstream" 2>"$scratch/upstream.log" &
children+=($!)
upstream="http://127.0.0.1:$(line_of "$scratch/upstream" '^[0-9]+$' $!)"

cat >"$scratch/server.toml" <<TOML
schema_version = 1
default_large_model = "large"

[policy.remote]
url = "$upstream/v1"
model = "policy"
api_key_env = ""
retries = { max = 0 }

[large_models.large]
url = "$upstream/v1"
model = "large"
api_key_env = ""
retries = { max = 0 }

[large_models.broken]
url = "$upstream/v1"
model = "broken"
api_key_env = ""
retries = { max = 0 }
# The suites make it fail on purpose many times.
breaker = { failures = 0 }
TOML
"$binary" serve --config "$scratch/server.toml" --listen 127.0.0.1:0 2>"$scratch/server.log" &
children+=($!)
server="$(line_of "$scratch/server.log" 'http://127[.]0[.]0[.]1:[0-9]+' $! | head -n 1)"

slug() { printf '%s' "$1" | tr -c 'a-z0-9.\n' '-'; }

for sdk in "${python_sdks[@]}"; do
  venv="$cache/python-$(slug "$sdk")"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --upgrade "$sdk"
  "$venv/bin/python" tests/sdk/suite.py "$server" "$upstream"
done

for sdk in "${node_sdks[@]}"; do
  folder="$cache/node-$(slug "$sdk")"
  mkdir -p "$folder"
  [ -f "$folder/package.json" ] || echo '{"private": true}' >"$folder/package.json"
  npm install --prefix "$folder" --silent --no-audit --no-fund "$sdk"
  suite="$PWD/tests/sdk/suite.mjs"
  (cd "$folder" && node "$suite" "$server" "$upstream")
done

venv="$cache/python-frameworks"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --upgrade "${python_frameworks[@]}"
"$venv/bin/python" tests/sdk/frameworks.py "$server"

folder="$cache/node-frameworks"
mkdir -p "$folder"
[ -f "$folder/package.json" ] || echo '{"private": true}' >"$folder/package.json"
npm install --prefix "$folder" --silent --no-audit --no-fund "${node_frameworks[@]/%/@latest}"
suite="$PWD/tests/sdk/frameworks.mjs"
(cd "$folder" && node "$suite" "$server")

folder="$cache/codex"
mkdir -p "$folder"
[ -f "$folder/package.json" ] || echo '{"private": true}' >"$folder/package.json"
npm install --prefix "$folder" --silent --no-audit --no-fund @openai/codex@latest
tests/sdk/codex.sh "$server" "$folder"
