#!/usr/bin/env bash
# The cost of keys, limits and telemetry together: the same request, passed through by a server
# without them and by one with a key that has every limit, a store with writes, and a trace of each
# request sent to a collector. One client; the two servers alternate, and the added latency is the
# median of the differences within a round. Everything is on loopback and ends with the script.
#
#   benches/load/overhead.sh SERVER
#
# SERVER is the built binary. Needs nginx and wrk. SECONDS_EACH (5) is how long each figure is
# measured, ROUNDS (5) how often.
set -euo pipefail
server=$(realpath "${1:?usage: overhead.sh SERVER}")
seconds=${SECONDS_EACH:-5}
rounds=${ROUNDS:-5}
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C RUST_LOG=warn

declare -A port=([upstream]=18095 [without]=18096 [with]=18097 [collector]=18098)
children=()
scratch=$(mktemp -d)
cd "$scratch"
finish() {
    if [ ${#children[@]} -gt 0 ]; then kill "${children[@]}" 2>/dev/null || true; fi
    wait || true
    rm -rf "$scratch"
}
trap finish EXIT

url() { echo "http://127.0.0.1:${port[$1]}/v1/chat/completions"; }
# Waits at most half a minute for a good answer.
await() {
    for _ in $(seq 120); do
        if curl -sf -m 5 -o answer -H 'content-type: application/json' -H "$authorization" \
            -d '{"model":"m","messages":[{"role":"user","content":"hello"}]}' "$(url "$1")" \
            && grep -q Padford answer; then
            return
        fi
        sleep 0.25
    done
    echo "$1 does not answer" >&2
    tail -n 20 "$1.log" >&2
    exit 1
}

cat >without.toml <<TOML
[large_models.m]
url = "http://127.0.0.1:${port[upstream]}/v1"
model = "m"
api_key_env = ""
prices = { input_per_million = 0.15, output_per_million = 0.6 }

[access]
store = "$scratch/without.db"
TOML
sed 's/without[.]db/with.db/' without.toml >with.toml
cat >>with.toml <<TOML

[telemetry]
otlp_url = "http://127.0.0.1:${port[collector]}"
TOML
# Limits that are checked and never reached.
key=$("$server" keys create benchmark --config with.toml --models 'prompt-r1,m' \
    --requests-per-minute 1000000000 --tokens-per-minute 1000000000000 \
    --budget-per-day 1000000 2>keys.log) || { cat keys.log >&2; exit 1; }
authorization="Authorization: Bearer $key"

# A real collector runs on another machine, so it must not compete here with the upstream, the client
# or the server.
for name in upstream collector; do
    sed "s/UPSTREAM_PORT/${port[$name]}/; s/nginx[.]pid/$name.pid/" "$here/nginx.conf" >"$name.conf"
done
nginx -p "$scratch" -c "$scratch/upstream.conf" >upstream.log 2>&1 &
children+=($!)
nice -n 19 nginx -p "$scratch" -c "$scratch/collector.conf" >collector.log 2>&1 &
children+=($!)
for name in without with; do
    "$server" serve --config "$name.toml" --listen "127.0.0.1:${port[$name]}" >"$name.log" 2>&1 &
    children+=($!)
done
for name in upstream without with; do await "$name"; done
status=$(curl -s -o /dev/null -w '%{http_code}' -d '{"model":"m"}' "$(url with)")
[ "$status" = 401 ] || { echo "a request without a key is a $status" >&2; exit 1; }

# measure NAME: appends "p50 p99 requests/s" in microseconds to the file of that name.
measure() {
    local figures
    figures=$(wrk -t 1 -c 1 -d "${seconds}s" --timeout 10s -s "$here/wrk.lua" -H "$authorization" \
        "$(url "$1")" | sed -n 's/^figures //p')
    if [ "${figures##* }" != 0 ]; then
        echo "$1 failed ${figures##* } times" >&2
        exit 1
    fi
    echo "${figures% *}" >>"$1.figures"
}
for name in without with; do measure "$name"; done
rm -f ./*.figures # figures of the warm-up
load=$(cut -d ' ' -f 1 /proc/loadavg)
for round in $(seq "$rounds"); do
    if [ $((round % 2)) = 1 ]; then order=(without with); else order=(with without); fi
    for name in "${order[@]}"; do measure "$name"; done
done

middle() { sort -n | awk '{ at[NR] = $1 } END { print at[int((NR + 1) / 2)] }'; }
# median NAME COLUMN
median() { awk -v column="$2" '{ print $column }' "$1.figures" | middle; }
ms() { awk -v us="$1" 'BEGIN { printf "%.3f", us / 1e3 }'; }
# added COLUMN, microseconds
added() {
    paste -d ' ' with.figures without.figures \
        | awk -v column="$1" '{ print $column - $(column + 3) }' | middle
}
echo "$(nproc) cores, load average before: $load; medians of $rounds rounds of $seconds s"
echo
echo "| keys, limits, telemetry | requests/s | p50 ms | p99 ms | added p50 ms | added p99 ms |"
echo "|---|---|---|---|---|---|"
for name in without with; do
    printf '| %s | %s | %s | %s |' "$name" "$(median "$name" 3)" "$(ms "$(median "$name" 1)")" \
        "$(ms "$(median "$name" 2)")"
    if [ "$name" = with ]; then
        echo " $(ms "$(added 1)") | $(ms "$(added 2)") |"
    else
        echo " | |"
    fi
done
