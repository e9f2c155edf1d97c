#!/usr/bin/env bash
# A real model, SmolLM2-135M: the server in front of a real llama.cpp server with it, and the model
# from its file alone: queried, trained for a step, and exported to llama.cpp again. With --tokens also policies
# behind llama.cpp servers that are asked by token ids: the bundled one, token by token, and SmolLM2.
# Needs python3; installs llama.cpp's server and fetches the model (98 MB), and fails where it cannot.
# Usage: tests/real/run.sh SERVER_BINARY [--tokens]
set -euo pipefail
binary="$(realpath "${1:?usage: tests/real/run.sh SERVER_BINARY}")"
cd "$(dirname "$0")"

root="${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1"
cache="$root/real"
mkdir -p "$cache"
[ -x "$cache/venv/bin/python" ] || python3 -m venv "$cache/venv"
"$cache/venv/bin/pip" install --quiet --disable-pip-version-check xllamacpp
model="$(./fetch.sh "$root/models" smollm2)"

scratch="$(mktemp -d)"
children=()
finish() {
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  rm -rf "$scratch"
}
trap finish EXIT

line_of() { # line_of FILE PATTERN CHILD: waits for a line that matches, and prints the match
  for _ in $(seq 600); do
    if grep -m1 -oE "$2" "$1"; then return; fi
    kill -0 "$3" 2>/dev/null || break
    sleep 0.1
  done
  echo "no line of \`$1\` matches \`$2\`:" >&2
  cat "$1" >&2
  return 1
}

llama() { # llama NAME [TEMPLATE]: sets PORT
  "$cache/venv/bin/python" llama.py "$model" "$1" 2 2048 "${@:2}" >"$scratch/$1" 2>"$scratch/$1.log" &
  children+=($!)
  port="$(line_of "$scratch/$1" '^[0-9]+$' $!)"
}
serve() { # serve NAME: the server by $scratch/NAME.toml; sets SERVER
  "$binary" serve --config "$scratch/$1.toml" --listen 127.0.0.1:0 2>"$scratch/$1.server.log" &
  children+=($!)
  # Other addresses in the log are those of its models.
  server="$(line_of "$scratch/$1.server.log" 'listening on http://127[.]0[.]0[.]1:[0-9]+' $! | head -n 1)"
  server="${server#listening on }"
}
llama plain
plain="http://127.0.0.1:$port"
llama strict "$PWD/strict.jinja"
strict="http://127.0.0.1:$port"

cat >"$scratch/server.toml" <<TOML
schema_version = 1
default_large_model = "plain"

[policy]
engine = "large_model"

[episode]
max_turns = 2
max_turn_tokens = 96

[large_models.plain]
url = "$plain/v1"
model = "plain"
api_key_env = ""

[large_models.strict]
url = "$strict/v1"
model = "strict"
api_key_env = ""
TOML
serve server
"$cache/venv/bin/python" suite.py "$server" "$plain" || { tail -20 "$scratch/server.server.log" >&2; exit 1; }

# The file alone, as the policy and as the large model.
cat >"$scratch/solve.toml" <<TOML
schema_version = 1
[episode]
max_turns = 2
max_turn_tokens = 48
TOML
"$binary" solve "What is the capital of France?" --config "$scratch/solve.toml" --json \
  --policy "$model" --policy-engine native --large-model-path "$model" >"$scratch/solve.json"
echo "ok   solve, with the file as policy and as large model"

# The other engine, which is slow where it is not optimised.
cat >"$scratch/mistralrs.toml" <<TOML
schema_version = 1
[episode]
max_turns = 1
max_turn_tokens = 8
deadline_ms = 600000
TOML
"$binary" solve "What is the capital of France?" --config "$scratch/mistralrs.toml" --json \
  --policy "$model" --policy-engine mistralrs --large-model-path "$model" >"$scratch/solve.json"
echo "ok   solve, with the file as policy of mistral.rs"

cat >"$scratch/chat.jsonl" <<'JSONL'
{"messages": [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}]}
{"messages": [{"role": "user", "content": "What is the capital of Italy?"}, {"role": "assistant", "content": "Rome."}]}
JSONL
cat >"$scratch/sft.toml" <<TOML
schema_version = 1
output = "$scratch/sft"
steps = 1
batch_size = 2
schedule = { peak = 1e-4 }
data = { kind = "chat", path = "$scratch/chat.jsonl" }
[model]
path = "$model"
lora = { rank = 4, alpha = 8, targets = ["q_proj", "v_proj"] }
TOML
trained="$("$binary" train sft --config "$scratch/sft.toml")"
echo "ok   a step of supervised training"

cat >"$scratch/tasks.jsonl" <<'JSONL'
{"question": "What is the capital of France?", "answer": "Paris"}
{"question": "What is the capital of Italy?", "answer": "Rome"}
JSONL
cat >"$scratch/grpo.toml" <<TOML
schema_version = 1
output = "$scratch/grpo"
steps = 1
groups_per_step = 2
group_size = 2
reward = { external = { command = ["wc", "-c"] } } # of episodes of which hardly two are alike
large_model = { path = "$model", params = { max_tokens = 16 } }
tasks = { kind = "file", path = "$scratch/tasks.jsonl" }
limits = { max_turns = 2, max_turn_tokens = 24, max_policy_tokens = 48 }
[model]
path = "$model"
lora = { rank = 4, alpha = 8, targets = ["q_proj", "v_proj"] }
TOML
"$binary" train grpo --config "$scratch/grpo.toml" >/dev/null
grep -q gradient_norm "$scratch/grpo/metrics.jsonl"
echo "ok   a step of GRPO"

"$binary" export "$trained" --gguf "$scratch/trained.gguf" --type q8_0 >/dev/null
"$cache/venv/bin/python" export.py "$model" "$scratch/trained.gguf"
# In four and five bits, texts of so small a model soon differ.
"$binary" export "$trained" --gguf "$scratch/small.gguf" --type q4_k >/dev/null
"$cache/venv/bin/python" export.py "$model" "$scratch/small.gguf" 2

[ "${2:-}" = --tokens ] || exit 0

# The bundled policy behind two llama.cpp servers.
models="$(realpath ../../models)"
"$binary" export "$models/policy" --gguf "$scratch/policy.gguf" --type f32 --ids-only >/dev/null
urls=()
for name in first second; do
  "$cache/venv/bin/python" llama.py --exact "$scratch/policy.gguf" policy 2 512 >"$scratch/$name" 2>"$scratch/$name.log" &
  children+=($!)
  urls+=("\"http://127.0.0.1:$(line_of "$scratch/$name" '^[0-9]+$' $!)\"")
done
cat >"$scratch/native.toml" <<TOML
schema_version = 1
models_dir = "$models"
[policy]
engine = "native"
model = "$models/policy"
TOML
cat >"$scratch/tokens.toml" <<TOML
schema_version = 1
models_dir = "$models"
[policy]
model = "$models/policy"
sampling = { temperature = 0.7, top_p = 1.0 }
[policy.tokens]
servers = [${urls[0]}, ${urls[1]}]
dialect = "llama_cpp"
model = "policy"
TOML
"$binary" check "$scratch/tokens.toml"
serve native
native="$server"
serve tokens
"$cache/venv/bin/python" tokens.py "$native" "$server" "$models/policy/tokenizer.json" ||
  { tail -20 "$scratch/tokens.server.log" >&2; exit 1; }

# SmolLM2 as the policy by its ids, and a server with another model than the policy's.
cat >"$scratch/smollm2.toml" <<TOML
schema_version = 1
[policy]
model = "$model"
sampling = { temperature = 0 }
[policy.tokens]
servers = ["$plain"]
dialect = "completions"
model = "plain"
[episode]
max_turns = 2
max_turn_tokens = 48
TOML
"$binary" solve "What is the capital of France?" --config "$scratch/smollm2.toml" --json \
  --large-model-path "$model" >"$scratch/smollm2.json"
grep -q '"log_probs"' "$scratch/smollm2.json"
echo "ok   SmolLM2 as the policy, by token ids"
sed "s#model = \"$models/policy\"#model = \"$model\"#" "$scratch/tokens.toml" >"$scratch/wrong.toml"
if "$binary" solve "Where?" --config "$scratch/wrong.toml" >"$scratch/wrong" 2>&1; then
  echo "a server with another model was taken" >&2
  exit 1
fi
grep -q "has another model than the policy" "$scratch/wrong" || { cat "$scratch/wrong" >&2; exit 1; }
echo "ok   a server with another model is refused by name"
