#!/usr/bin/env bash
# Compares the greedy tokens of a GGUF file with those that transformers computed for it.
#
#   tests/golden/model/run.sh MODEL.gguf [TOKENS.jsonl]
#
# `greedy.py MODEL.gguf > TOKENS.jsonl` makes the tokens; those of SmolLM2-135M-Instruct-Q4_1 are here.
set -euo pipefail
model="$(realpath "$1")"
cd "$(dirname "$0")/../../.."
tokens="$(realpath "${2:-tests/golden/model/smollm2.jsonl}")"
said="$(GREEDY_MODEL="$model" GREEDY_TOKENS="$tokens" cargo test --locked --lib \
  model::tests::gguf::greedy_tokens_of_a_real_model -- --exact --ignored)"
# A filter that matches no test would pass.
grep -q "^test result: ok. 1 passed" <<<"$said"
echo "$model: $(wc -l <"$tokens") prompts"
