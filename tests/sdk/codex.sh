#!/usr/bin/env bash
# The Codex CLI, unmodified, against the server: it streams a response, runs the command that the
# large model requests, sends back its output, and shows the answer.
# Usage: tests/sdk/codex.sh SERVER_URL FOLDER_WITH_CODEX
set -euo pipefail
server="$1"
codex="$2/node_modules/.bin/codex"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/home" "$scratch/work"

cat >"$scratch/home/config.toml" <<TOML
model = "prompt-r1"
model_provider = "here"
[model_providers.here]
name = "here"
base_url = "$server/v1"
wire_api = "responses"
TOML

events="$scratch/events"
# The command is an `echo`, in an empty folder.
if ! (cd "$scratch/work" && CODEX_HOME="$scratch/home" timeout 120 "$codex" exec --json \
  --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
  "Where is Lyon?" </dev/null) >"$events" 2>"$scratch/log"; then
  cat "$events" "$scratch/log" >&2
  exit 1
fi
python3 - "$events" <<'PYTHON'
import json
import sys

events = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
items = [event["item"] for event in events if event["type"] == "item.completed"]
ran = [item for item in items if item["type"] == "command_execution"]
said = [item["text"] for item in items if item["type"] == "agent_message"]
thoughts = [item["text"] for item in items if item["type"] == "reasoning"]
assert [item["exit_code"] for item in ran] == [0], items
assert "in the east of France" in ran[0]["aggregated_output"], ran
assert len(said) == 1 and "in the east of France" in said[0], said
assert events[-1]["type"] == "turn.completed", events[-1]
assert events[-1]["usage"]["input_tokens"] > 0, events[-1]
print(f"codex: a command was run and answered, with {len(thoughts)} thoughts")
PYTHON
