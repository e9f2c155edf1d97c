#!/usr/bin/env bash
# Time and memory of reading and checking many rows of JSON Lines: `server check` of a GRPO run whose
# tasks are in a file, in GSM8K's form and with the lengths of its texts.
#
#   benches/load/rows.sh SERVER
#
# SERVER is the built binary. Run it in the project's folder. ROWS (1000000) is how many, ROUNDS (3)
# how often they are read; needs 600 MB of disk, python3 and GNU time.
set -euo pipefail
server=$(realpath "${1:?usage: rows.sh SERVER}")
rows=${ROWS:-1000000}
rounds=${ROUNDS:-3}
export LC_ALL=C RUST_LOG=warn
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 - "$scratch/rows.jsonl" "$rows" <<'PY'
import json, random, sys

draw = random.Random(1)
words = "Natalia sold clips to 48 of her friends in April and then half as many in May how much".split()


def text(mean):
    """Words of about `mean` bytes, as evenly long as published questions are."""
    count = max(8, round(draw.gauss(mean, mean / 3) / 4.53))
    return " ".join(draw.choices(words, k=count))


with open(sys.argv[1], "w") as out:
    for number in range(int(sys.argv[2])):
        answer = f"{text(285)}\n#### {draw.randrange(2000)}"
        out.write(json.dumps({"question": f"{text(234)}?", "answer": answer}) + "\n")
PY
cat >"$scratch/grpo.toml" <<TOML
schema_version = 1
output = "$scratch/run"
model = { path = "models/policy" }
large_model = { path = "models/large-model" }
tasks = { kind = "file", path = "$scratch/rows.jsonl" }
TOML

echo "$(nproc) cores, load average before: $(cut -d ' ' -f 1 /proc/loadavg); $(stat -c %s "$scratch/rows.jsonl") bytes"
for _ in $(seq "$rounds"); do
    /usr/bin/time -f '%e s, %M kB at most' "$server" check "$scratch/grpo.toml" >"$scratch/said"
done
grep -m 1 questions: "$scratch/said"
