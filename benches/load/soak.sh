#!/usr/bin/env bash
# Measures the server's memory under mixed traffic: questions and conversations, streamed or not,
# passed-through requests, invalid ones, and clients that disconnect. The policy is the bundled one,
# the large model a script on loopback. Fails when a request ends in anything but an answer or a
# proper error.
#
#   benches/load/soak.sh SERVER [PLOT]
#
# SERVER is the built binary, PLOT where an SVG of the memory goes. SECONDS_LONG (60) is how long
# the traffic lasts, CLIENTS (4) how many ask at one time. Needs python3.
set -euo pipefail
server=$(realpath "${1:?usage: soak.sh SERVER [PLOT]}")
plot=$(realpath -m "${2:-soak.svg}")
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
scratch=$(mktemp -d)
children=()
finish() {
    if [ ${#children[@]} -gt 0 ]; then kill "${children[@]}" 2>/dev/null || true; fi
    wait || true
    rm -rf "$scratch"
}
trap finish EXIT

# Waits for what a child writes to match, and prints that.
line_of() { # line_of FILE PATTERN CHILD
    for _ in $(seq 600); do
        if grep -m1 -oE "$2" "$1" | head -n 1 | grep .; then return; fi
        kill -0 "$3" 2>/dev/null || break
        sleep 0.1
    done
    cat "$1" >&2
    return 1
}

python3 "$project/tests/sdk/upstream.py" >"$scratch/upstream" 2>"$scratch/upstream.log" &
children+=($!)
upstream=http://127.0.0.1:$(line_of "$scratch/upstream" '^[0-9]+$' $!)/v1
cat >"$scratch/server.toml" <<TOML
[policy]
model = "$project/models/policy"
# Small enough to fill up and be cleared within a minute.
mistralrs = { prefix_cache_mib = 16 }

[large_models.large]
url = "$upstream"
model = "large"
api_key_env = ""

[access]
store = "$scratch/keys.db"
TOML
RUST_LOG=warn "$server" serve --config "$scratch/server.toml" --listen 127.0.0.1:0 \
    2>"$scratch/server.log" &
children+=($!)
process=$!
url=$(line_of "$scratch/server.log" 'http://127[.]0[.]0[.]1:[0-9]+' "$process")

echo "$(nproc) cores, load average before: $(cut -d ' ' -f 1 /proc/loadavg)"
status=0
python3 "$here/soak.py" "$url" "$process" "${SECONDS_LONG:-60}" "${CLIENTS:-4}" "$plot" || status=$?
grep ERROR "$scratch/server.log" | tail -n 5 | cut -c 1-500 >&2 || true
kill -TERM "$process"
ended=0
wait "$process" || ended=$?
echo "the server ended with status $ended"
[ "$ended" = 0 ] || status=1
exit "$status"
