#!/usr/bin/env bash
# Time from the start of `server serve` until it is ready, and its memory at that point: with the
# bundled models, and as a gateway without a model.
#
#   benches/load/startup.sh SERVER
#
# Run it in the project's folder. ROUNDS (7) is how often each is started; medians count.
set -euo pipefail
server=$(realpath "${1:?usage: startup.sh SERVER}")
rounds=${ROUNDS:-7}
address=127.0.0.1:18094
export LC_ALL=C RUST_LOG=warn
scratch=$(mktemp -d)
pid=
finish() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi
    rm -rf "$scratch"
}
trap finish EXIT

is_ready() {
    local status=
    { exec 3<>"/dev/tcp/${address/:/\/}"; } 2>/dev/null || return 1
    printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
    read -r -t 2 _ status _ <&3 || true
    exec 3>&-
    [ "$status" = 200 ]
}
middle() { sort -n | awk '{ at[NR] = $1 } END { print at[int((NR + 1) / 2)] }'; }
# once NAME FLAGS...: one start; appends milliseconds and MB.
once() {
    local name=$1 begun limit
    shift
    begun=$(date +%s%N)
    limit=$((begun + 30 * 1000000000))
    "$server" serve --listen "$address" "$@" 2>"$scratch/log" &
    pid=$!
    until is_ready; do
        if [ "$(date +%s%N)" -gt "$limit" ] || ! kill -0 "$pid" 2>/dev/null; then
            cat "$scratch/log" >&2
            exit 1
        fi
        sleep 0.002
    done
    echo "$((($(date +%s%N) - begun) / 1000000))" >>"$scratch/$name.ms"
    awk '/^VmRSS/ { printf "%.0f\n", $2 / 1024 }' "/proc/$pid/status" >>"$scratch/$name.mb"
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
}

for round in $(seq "$rounds"); do
    once bundled
    once native --policy models/policy --policy-engine native
    once gateway --large-model-url http://127.0.0.1:1/v1 --large-model m
done
echo "| models | start to ready, ms | memory, MB |"
echo "|---|---|---|"
row() { echo "| $2 | $(middle <"$scratch/$1.ms") | $(middle <"$scratch/$1.mb") |"; }
row bundled "bundled, policy on mistral.rs"
row native "bundled, policy on the native engine"
row gateway "none: gateway only"
