#!/usr/bin/env bash
# Compares token ids with llama.cpp's on 10,000 lines, for the tokenizer of a real model.
#
#   tests/golden/tokenizer/run.sh [MODEL.gguf...]
#
# Without a model: SmolLM2-135M-Instruct, fetched by `tests/real/fetch.sh`.
set -euo pipefail
cd "$(dirname "$0")/../../.."

cache="${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1"
python="${PYTHON:-$cache/tokenizer-venv/bin/python}"

mkdir -p "$cache"
if ! [ -x "$python" ]; then
  python3 -m venv "$cache/tokenizer-venv"
  "$python" -m pip install --quiet gguf xllamacpp
fi
if [ $# -eq 0 ]; then set -- "$(tests/real/fetch.sh "$cache/models" smollm2)"; fi
ids="$(mktemp)"
trap 'rm -f "$ids"' EXIT
for model in "$@"; do
  "$python" tests/golden/tokenizer/ids.py "$model" >"$ids" 2>/dev/null
  said="$(TOKENIZER_MODEL="$(realpath "$model")" TOKENIZER_IDS="$ids" cargo test --locked --lib \
    tokenization::gguf::tests::ids_of_a_real_model -- --exact --ignored)"
  # A filter that matches no test would pass.
  grep -q "^test result: ok. 1 passed" <<<"$said"
  echo "$model: $(wc -l <"$ids") lines"
done
