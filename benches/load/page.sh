#!/usr/bin/env bash
# The page at `/`: when it is first painted, and what a server passes through beside it. The page is
# open in Chromium or closed, in turns; Chromium runs all the time, with the lowest priority. Everything
# is on loopback and ends with the script.
#
#   benches/load/page.sh SERVER
#
# SERVER is the built binary. Run it in the project's folder. Needs nginx and wrk; Chromium is installed
# where it is missing. SECONDS_EACH (2) is how long each figure is measured, ROUNDS (9) how often.
set -euo pipefail
server=$(realpath "${1:?usage: page.sh SERVER}")
seconds=${SECONDS_EACH:-2}
rounds=${ROUNDS:-9}
. tests/browser/install.sh
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C RUST_LOG=warn
upstream=18099 port=18100
scratch=$(mktemp -d)
children=()
finish() {
    if [ ${#children[@]} -gt 0 ]; then kill "${children[@]}" 2>/dev/null || true; fi
    wait || true
    rm -rf "$scratch"
}
trap finish EXIT

sed "s/UPSTREAM_PORT/$upstream/" "$here/nginx.conf" >"$scratch/nginx.conf"
nginx -p "$scratch" -c "$scratch/nginx.conf" >"$scratch/upstream.log" 2>&1 &
children+=($!)
"$server" serve --listen "127.0.0.1:$port" --large-model-url "http://127.0.0.1:$upstream/v1" \
    --large-model m >"$scratch/server.log" 2>&1 &
children+=($!)
for _ in $(seq 120); do
    curl -sf -o /dev/null "http://127.0.0.1:$port/readyz" && break
    sleep 0.25
done
coproc browser { NODE_PATH="$cache/node_modules" nice -n 19 node "$here/page.cjs" "http://127.0.0.1:$port/"; }
children+=("$browser_PID")
# tell WORD: what the browser says to it.
tell() {
    local said
    echo "$1" >&"${browser[1]}"
    read -r -t 60 said <&"${browser[0]}"
    echo "$said"
}
middle() { sort -n | awk '{ at[NR] = $1 } END { print at[int((NR + 1) / 2)] }'; }

load=$(cut -d ' ' -f 1 /proc/loadavg)
tell paint >/dev/null # that was to warm up
for _ in $(seq "$rounds"); do tell paint; done >"$scratch/paint"

# measure NAME: requests a second of 4 clients.
measure() {
    local figures
    figures=$(wrk -t 1 -c 4 -d "${seconds}s" --timeout 10s -s "$here/wrk.lua" \
        "http://127.0.0.1:$port/v1/chat/completions" | sed -n 's/^figures //p')
    if [ "${figures##* }" != 0 ]; then
        echo "$1 failed ${figures##* } times" >&2
        exit 1
    fi
    echo "$figures" | awk '{ print $3 }' >>"$scratch/$1"
}
measure warm
for round in $(seq "$rounds"); do
    if [ $((round % 2)) = 1 ]; then order=(closed open); else order=(open closed); fi
    for name in "${order[@]}"; do
        if [ "$name" = open ]; then tell open >/dev/null; fi
        measure "$name"
        if [ "$name" = open ]; then tell close >/dev/null; fi
    done
done
echo "$(nproc) cores, load average before: $load; medians of $rounds"
echo "first paint: $(middle <"$scratch/paint") ms ($(sort -n "$scratch/paint" | tr '\n' ' '))"
echo "requests/s: $(middle <"$scratch/closed") without the page, $(middle <"$scratch/open") beside it"
paste -d ' ' "$scratch/closed" "$scratch/open" | awk '{ print 100 * (1 - $2 / $1) }' | middle \
    | awk '{ printf "lost beside the page: %.1f %% (median of the differences within a round)\n", $1 }'
