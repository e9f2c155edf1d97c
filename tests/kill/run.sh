#!/usr/bin/env bash
# run.sh SERVER [TIMES]: a training run is ended TIMES times (30) at random moments, by SIGTERM, by
# SIGKILL and by a full disk, resumed each time, and must end with the weights of a run that was not.
# Needs root for the full disk, a small tmpfs; without root that kind is left out, with a word.
set -euo pipefail
server=$(realpath "$1") times=${2:-30}
work=$(mktemp -d)
mounted=
cleanup() { [ -z "$mounted" ] || umount "$work/disk"; rm -rf "$work"; }
trap cleanup EXIT

recipe() { # recipe FILE OUTPUT
  cat > "$1" <<TOML
schema_version = 1
output = "$2"
seed = 3
steps = 1500
batch_size = 4
checkpoint_every = 5
eval_every = 500
schedule = { peak = 3e-3, warmup_steps = 5, decay = "cosine" }
data = { kind = "world_demonstrations", count = 200, world = { people = 12, companies = 3, cities = 6, countries = 3 } }
[model.new]
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 8
max_position_embeddings = 512
TOML
}

mkdir "$work/disk"
kinds=(TERM KILL)
if mount -t tmpfs -o size=16m tmpfs "$work/disk" 2>/dev/null; then
  mounted=yes kinds+=(full)
else
  echo "no full disk: a tmpfs cannot be mounted"
fi
recipe "$work/whole.toml" "$work/whole"
recipe "$work/cut.toml" "$work/disk/run"
"$server" train sft --config "$work/whole.toml" >/dev/null 2>&1

resume=()
for ((n = 0; n < times; n++)); do
  kind=${kinds[n % ${#kinds[@]}]}
  "$server" train sft --config "$work/cut.toml" "${resume[@]}" >/dev/null 2>"$work/log" &
  pid=$!
  sleep "0.$((RANDOM % 900 + 100))"
  case $kind in
    full) dd if=/dev/zero of="$work/disk/filler" bs=64k 2>/dev/null || true; sleep 1; kill -KILL $pid 2>/dev/null || true ;;
    *) kill -$kind $pid 2>/dev/null || true ;;
  esac
  wait $pid && break || true
  rm -f "$work/disk/filler"
  compgen -G "$work/disk/run/checkpoints/step-*" >/dev/null && resume=(--resume)
  echo "$n $kind: $(wc -l < "$work/disk/run/metrics.jsonl" 2>/dev/null || echo 0) steps"
done
"$server" train sft --config "$work/cut.toml" "${resume[@]}" >/dev/null 2>"$work/log" || { cat "$work/log"; exit 1; }
cmp "$work/whole/model/model.safetensors" "$work/disk/run/model/model.safetensors"
echo "the weights are those of the run that was not ended"
