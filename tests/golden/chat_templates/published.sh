#!/usr/bin/env bash
# published.sh: renders conversations with the chat templates of published models as transformers
# does, and compares the renderings of this program with them. The templates are those in TRL (they
# are downloaded and not in this repository, since some have their own licences), those of published
# GGUF files can be named: published.sh NAME=FILE.gguf ...
set -euo pipefail
cd "$(dirname "$0")/../../.."
venv="$HOME/.cache/prompt-r1/chat-templates"
[ -d "$venv" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q transformers==5.24.0 jinja2 gguf
[ -d "$venv/trl" ] || {
  "$venv/bin/pip" download -q --no-deps trl==1.16.0 -d "$venv/download"
  python3 -m zipfile -e "$venv"/download/trl-*.whl "$venv/trl"
}
named=("$@")
for name in qwen2_5 qwen3 qwen3_instruct_2507 qwen3_5_think deepseek_r1_distill llama3 llama3_1 \
  llama3_2 gemma3 deepseekv3 phi3 phi3_5 gptoss glm4moe lfm2 cohere; do
  named+=("$name=$venv/trl/trl/chat_templates/$name.jinja")
done
"$venv/bin/python" tests/golden/chat_templates/make.py "${named[@]}" > "$venv/cases.json" 2>/dev/null
CHAT_TEMPLATES="$venv/cases.json" cargo test --locked --lib chat_template::
