#!/usr/bin/env bash
# run.sh SERVER [TIMES]: interrupts training runs TIMES times (30) at random moments, by SIGTERM, by
# SIGKILL and by a full disk, and resumes them each time; each must end with the weights of an
# uninterrupted run. The full disk is a small tmpfs, which needs root; without root that case is
# skipped with a message. SEED repeats the moments of an earlier run.
set -euo pipefail
server=$(realpath "$1") times=${2:-30}
RANDOM=${SEED:=$RANDOM}
echo "SEED=$SEED"
work=$(mktemp -d)
mounted=
cleanup() { [ -z "$mounted" ] || umount "$work/disk"; rm -rf "$work"; }
trap cleanup EXIT

recipe() { # recipe FILE OUTPUT
  cat > "$1" <<TOML
schema_version = 1
output = "$2"
seed = 3
steps = 60
batch_size = 2
checkpoint_every = 3
schedule = { peak = 3e-3, warmup_steps = 5, decay = "cosine" }
data = { kind = "world_facts", world = { people = 12, companies = 3, cities = 6, countries = 3 } }
[model.new]
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 8
max_position_embeddings = 128
TOML
}

mkdir "$work/disk"
kinds=(TERM KILL)
if mount -t tmpfs -o size=8m tmpfs "$work/disk" 2>/dev/null; then
  mounted=yes kinds+=(full)
else
  echo "no full disk: a tmpfs cannot be mounted"
fi
run=$work/disk/run filler=$work/disk/filler
recipe "$work/whole.toml" "$work/whole"
recipe "$work/cut.toml" "$run"
began=$(date +%s%N)
"$server" train sft --config "$work/whole.toml" >/dev/null 2>"$work/log"
millis=$((($(date +%s%N) - began) / 1000000))
echo "a run that is not ended: $millis ms"

same() { # the run's weights equal those of the uninterrupted run
  cmp "$work/whole/model/model.safetensors" "$run/model/model.safetensors"
  [ "$(wc -l < "$run/metrics.jsonl")" = 60 ] || { echo "a step is missing, or there twice"; exit 1; }
}

finished=0
for ((n = 1; n <= times; n++)); do
  kind=${kinds[n % ${#kinds[@]}]}
  resume=()
  if compgen -G "$run/checkpoints/step-*" >/dev/null; then resume=(--resume); fi
  "$server" train sft --config "$work/cut.toml" "${resume[@]}" >/dev/null 2>"$work/log" &
  pid=$!
  # Any moment, the beginning included; a resumed run is shorter than a whole one.
  sleep "$(awk "BEGIN { print $millis * $((RANDOM % 600)) / 1000000 }")"
  if [ $kind = full ]; then
    dd if=/dev/zero of="$filler" bs=4k 2>/dev/null || true
  else
    kill -$kind $pid 2>/dev/null || true
  fi
  code=0
  wait $pid || code=$?
  rm -f "$filler"
  echo "$n $kind: exit $code, $(grep -c . "$run/metrics.jsonl" 2>/dev/null || true) steps"
  if [ $code = 0 ]; then
    same
    finished=$((finished + 1))
    rm -rf "$run"
  elif [ $kind = full ]; then
    grep -q "No space left" "$work/log" || { cat "$work/log"; exit 1; }
  fi
done
resume=()
if compgen -G "$run/checkpoints/step-*" >/dev/null; then resume=(--resume); fi
"$server" train sft --config "$work/cut.toml" "${resume[@]}" >/dev/null 2>"$work/log" || { cat "$work/log"; exit 1; }
same
echo "$times ends, $((finished + 1)) runs: all have the weights of the run that was not ended"
