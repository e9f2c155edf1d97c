#!/usr/bin/env bash
# published.sh: renders conversations with the chat templates of published models as transformers
# does, and compares the renderings of this program with them. The templates are all those in TRL and
# Axolotl, Mistral's own among them, and Qwen3-Thinking-2507's from Unsloth (they are downloaded and
# not in this repository, since some have their own licences); those of published GGUF files can be
# named: published.sh NAME=FILE.gguf ...
set -euo pipefail
cd "$(dirname "$0")/../../.."
venv="$HOME/.cache/prompt-r1/chat-templates"
[ -d "$venv" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q transformers==5.24.0 jinja2 gguf
# bring NAME VERSION: the files of a package, without installing it
bring() {
  [ -d "$venv/$1" ] && return
  "$venv/bin/pip" download -q --no-deps --ignore-requires-python --only-binary :all: "$1==$2" -d "$venv/download"
  python3 -m zipfile -e "$venv/download/$1-$2"-*.whl "$venv/$1"
}
bring trl 1.16.0
bring axolotl 0.19.0
bring unsloth 2026.10.9
python3 - "$venv" <<'PY'
import ast, pathlib, sys
venv = pathlib.Path(sys.argv[1])
for node in ast.parse((venv / "unsloth/unsloth/chat_templates.py").read_text()).body:
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "qwen3_thinking_template":
        (venv / "qwen3_thinking_2507.jinja").write_text(ast.literal_eval(node.value))
PY
named=("$@" "qwen3_thinking_2507=$venv/qwen3_thinking_2507.jinja")
for template in "$venv"/trl/trl/chat_templates/*.jinja "$venv"/axolotl/axolotl/utils/chat_templates/templates/*.jinja; do
  package=${template#"$venv/"}
  named+=("${package%%/*}/$(basename "$template" .jinja)=$template")
done
"$venv/bin/python" tests/golden/chat_templates/make.py "${named[@]}" > "$venv/cases.json" 2>/dev/null
CHAT_TEMPLATES="$venv/cases.json" cargo test --locked --lib chat_template::
