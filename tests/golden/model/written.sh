#!/usr/bin/env bash
# Has transformers read the folders that this program writes, of every case here.
#
#   tests/golden/model/written.sh [PYTHON]
set -euo pipefail
python="$(command -v "${1:-python3}")"
cd "$(dirname "$0")/../../.."
written="$(mktemp -d)"
trap 'rm -rf "$written"' EXIT
said="$(WRITTEN="$written" cargo test --locked --lib \
  model::tests::golden::writes_every_configuration -- --exact --ignored)"
# A filter that matches no test would pass.
grep -q "^test result: ok. 1 passed" <<<"$said"
"$python" tests/golden/model/make.py --written "$written"
