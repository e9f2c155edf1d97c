#!/usr/bin/env bash
# Other trainers in our loop: TRL trains the warm start of the bundled policy for two steps on a CPU, in the
# environment that `server env` offers. Installs TRL, and PyTorch with it, into the cache; fails where it cannot.
# Usage: tests/env/run.sh SERVER_BINARY
set -euo pipefail
binary="$(realpath "${1:?usage: tests/env/run.sh SERVER_BINARY}")"
cd "$(dirname "$0")"
models="$(realpath ../../models)"

cache="${PROMPT_R1_ENV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1/env}"
mkdir -p "$cache"
[ -x "$cache/venv/bin/python" ] || python3 -m venv "$cache/venv"
"$cache/venv/bin/python" -c 'import trl; assert trl.__version__ == "1.16.0"' 2>/dev/null ||
  "$cache/venv/bin/pip" install --quiet --disable-pip-version-check torch trl==1.16.0

scratch="$(mktemp -d)"
child=""
finish() {
  [ -z "$child" ] || kill "$child" 2>/dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT

cat >"$scratch/env.toml" <<TOML
schema_version = 1
model = "$models/policy-warm"
large_model = { path = "$models/large-model" }
limits = { max_turns = 4, max_turn_tokens = 64 }
TOML
"$binary" check "$scratch/env.toml"
"$binary" env --config "$scratch/env.toml" --listen 127.0.0.1:0 2>"$scratch/log" &
child=$!
for _ in $(seq 300); do
  url="$(grep -m1 -oE 'http://127[.]0[.]0[.]1:[0-9]+' "$scratch/log" || true)"
  [ -z "$url" ] || break
  kill -0 "$child" 2>/dev/null || break
  sleep 0.1
done
[ -n "$url" ] || { cat "$scratch/log" >&2; exit 1; }

# The golds are the trained policy's answers. The warm start is right about some of them only, so that
# rewards differ within a group.
cat >"$scratch/solve.toml" <<TOML
schema_version = 1
models_dir = "$models"
[policy]
model = "$models/policy"
sampling = { temperature = 0 }
TOML
for question in "What is Grania's president's birthplace?" "What is Grania's president's birthplace's country's language?" \
  "What is the currency of the country of the birthplace of Padford?" "What is the language of Grania?"; do
  "$binary" solve "$question" --config "$scratch/solve.toml" --json 2>/dev/null |
    QUESTION="$question" python3 -c 'import json, os, sys
print(json.dumps({"question": os.environ["QUESTION"], "golds": [json.load(sys.stdin)["answer"]]}))'
done >"$scratch/tasks.jsonl"
OUTPUT="$scratch/run" "$cache/venv/bin/python" trl_grpo.py "$url" "$models/policy-warm" "$scratch/tasks.jsonl" 2 ||
  { tail -20 "$scratch/log" >&2; exit 1; }
