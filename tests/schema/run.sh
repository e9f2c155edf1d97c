#!/usr/bin/env bash
# Sends valid and invalid requests generated from the OpenAPI document to the server with the bundled
# models: no 500, no undocumented response, no 400 that does not name a field.
# Needs python3; installs schemathesis, and fails where it cannot.
# Usage: tests/schema/run.sh SERVER_BINARY [OPTION OF SCHEMATHESIS]...
set -euo pipefail
binary="$(realpath "${1:?usage: tests/schema/run.sh SERVER_BINARY}")"
shift
cd "$(dirname "$0")/../.."
here="$PWD/tests/schema"

venv="${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1/schemathesis"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --upgrade schemathesis

scratch="$(mktemp -d)"
child=
finish() {
  [ -z "$child" ] || kill "$child" 2>/dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT

# Short episodes: the test is about requests.
cat >"$scratch/server.toml" <<'TOML'
schema_version = 1

[episode]
max_turns = 2
max_turn_tokens = 32
deadline_ms = 5000
TOML
"$binary" serve --config "$scratch/server.toml" --listen 127.0.0.1:0 2>"$scratch/log" &
child=$!
url=
for _ in $(seq 600); do
  url="$(grep -m1 -oE 'http://127[.]0[.]0[.]1:[0-9]+' "$scratch/log" 2>/dev/null || true)"
  [ -z "$url" ] || break
  kill -0 "$child" 2>/dev/null || break
  sleep 0.1
done
if [ -z "$url" ]; then
  echo "the server did not start:" >&2
  cat "$scratch/log" >&2
  exit 1
fi

# It writes its cache to the working directory.
cd "$scratch"
SCHEMATHESIS_HOOKS="$here/hooks.py" "$venv/bin/schemathesis" \
  --config-file "$here/schemathesis.toml" run "$url/openapi.json" \
  --generation-deterministic "$@"
kill -0 "$child" || { echo "the server did not survive" >&2; exit 1; }
