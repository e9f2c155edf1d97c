#!/usr/bin/env bash
# Latency, throughput and memory of the proxy's pass-through, beside the bare upstream, nginx as a plain
# reverse proxy and, where they are installed, LiteLLM's proxy and the Portkey gateway. Everything is on
# loopback and ends with the script.
#
#   benches/load/proxy.sh SERVER [GATEWAYS]
#
# SERVER is the built binary, GATEWAYS the folder that gateways.sh filled. Needs nginx and wrk.
# SECONDS_EACH (5) is how long each figure is measured, ROUNDS (3) how often; medians count.
set -euo pipefail
server=$(realpath "${1:?usage: proxy.sh SERVER [GATEWAYS]}")
gateways=${2:+$(realpath "$2")}
seconds=${SECONDS_EACH:-5}
rounds=${ROUNDS:-3}
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C

declare -A port=([direct]=18090 [prompt-r1]=18091 [portkey]=18092 [litellm]=18093 [nginx]=18094)
declare -A process=()
upstream=http://127.0.0.1:${port[direct]}/v1
key=sk-$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')
scratch=$(mktemp -d)
cd "$scratch"

# Each runs in a session of its own, so that its children can be counted and ended with it.
start() {
    local name=$1
    shift
    setsid "$@" >"$name.log" 2>&1 &
    process[$name]=$!
}
finish() {
    local name
    for name in "${!process[@]}"; do
        kill -- "-${process[$name]}" 2>/dev/null || true
    done
    wait || true
    rm -rf "$scratch"
}
trap finish EXIT

body='{"model":"m","messages":[{"role":"user","content":"hello"}]}'
headers=(-H "Authorization: Bearer $key")
portkey=(-H 'x-portkey-provider: openai' -H "x-portkey-custom-host: $upstream")

url() { echo "http://127.0.0.1:${port[$1]}/v1/chat/completions"; }
headers_of() {
    printf '%s\n' "${headers[@]}"
    if [ "$1" = portkey ]; then printf '%s\n' "${portkey[@]}"; fi
}
# Waits at most a minute for a good answer.
await() {
    local name=$1 at given
    mapfile -t given < <(headers_of "$name")
    for at in $(seq 240); do
        if curl -sf -m 5 -o answer -H 'content-type: application/json' "${given[@]}" -d "$body" \
            "$(url "$name")" && grep -q Padford answer; then
            return
        fi
        sleep 0.25
    done
    echo "$name does not answer" >&2
    tail -n 20 "$name.log" >&2
    exit 1
}
# Resident memory of a gateway and its children, MB.
memory() { ps -o rss= -s "${process[$1]}" | awk '{ sum += $1 } END { printf "%.0f", sum / 1024 }'; }

# measure NAME CLIENTS [QUERY]: appends "p50 p99 requests/s" to the file of that name.
measure() {
    local name=$1 clients=$2 query=${3:-} threads=2 given figures
    if [ "$clients" = 1 ]; then threads=1; fi
    mapfile -t given < <(headers_of "$name")
    figures=$(wrk -t "$threads" -c "$clients" -d "${seconds}s" --timeout 10s -s "$here/wrk.lua" \
        "${given[@]}" "$(url "$name")$query" | sed -n 's/^figures //p')
    if [ "${figures##* }" != 0 ]; then
        echo "$name failed ${figures##* } times at $clients clients" >&2
    fi
    echo "${figures% *}" >>"$name.$clients${query:+.stream}"
}
middle() { sort -n | awk '{ at[NR] = $1 } END { print at[int((NR + 1) / 2)] }'; }
# median FILE COLUMN
median() { awk -v column="$2" '{ print $column }' "$1" | middle; }
# added FILE BARE COLUMN: the median over rounds of the difference within a round, ms.
added() {
    paste -d ' ' "$1" "$2" | awk -v column="$3" '{ printf "%.3f\n", ($column - $(column + 3)) / 1e3 }' | middle
}
ms() { awk -v us="$1" 'BEGIN { printf "%.3f", us / 1e3 }'; }

sed "s/UPSTREAM_PORT/${port[direct]}/" "$here/nginx.conf" >nginx.conf
start direct nginx -p "$scratch" -c "$scratch/nginx.conf"
await direct
RUST_LOG=warn start prompt-r1 "$server" serve --listen "127.0.0.1:${port[prompt-r1]}" \
    --large-model-url "$upstream" --large-model m
await prompt-r1
idle=$(memory prompt-r1)
sed "s/UPSTREAM_PORT/${port[direct]}/; s/PORT/${port[nginx]}/" "$here/nginx-proxy.conf" >nginx-proxy.conf
start nginx nginx -p "$scratch" -c "$scratch/nginx-proxy.conf"
await nginx

others=()
if [ -n "$gateways" ]; then
    others=(portkey litellm)
    start portkey node "$gateways/portkey/node_modules/@portkey-ai/gateway/build/start-server.js" \
        --headless "--port=${port[portkey]}"
    cat >litellm.yaml <<YAML
model_list:
  - model_name: m
    litellm_params: {model: openai/m, api_base: "$upstream", api_key: none}
YAML
    # A worker for each core.
    PATH="$gateways/litellm/bin:$PATH" LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_MASTER_KEY=$key \
        LITELLM_LOG=ERROR start litellm "$gateways/litellm/bin/litellm" --config litellm.yaml \
        --host 127.0.0.1 --port "${port[litellm]}" --num_workers "$(nproc)"
    await portkey
    await litellm
fi

for name in direct nginx prompt-r1 "${others[@]}"; do measure "$name" 16; done
rm -f ./*.16 # figures of the warm-up
load=$(cut -d ' ' -f 1 /proc/loadavg)
for round in $(seq "$rounds"); do
    for clients in 1 16 64; do
        measure direct "$clients"
        measure nginx "$clients"
        measure prompt-r1 "$clients"
        if [ "$clients" = 64 ]; then continue; fi
        for other in "${others[@]}"; do measure "$other" "$clients"; done
    done
    measure direct 1 '?stream=1'
    measure nginx 1 '?stream=1'
    measure prompt-r1 1 '?stream=1'
done

echo "$(nproc) cores, load average before: $load; medians of $rounds rounds of $seconds s"
echo
echo "| clients | what | requests/s | p50 ms | p99 ms | added p50 ms | added p99 ms |"
echo "|---|---|---|---|---|---|---|"
row() {
    local name=$1 clients=$2 file=$1.$2 bare=direct.$2
    if [ "$clients" = "1, streamed" ]; then file=$name.1.stream bare=direct.1.stream; fi
    printf '%s' "| $clients | $name | $(median "$file" 3) | $(ms "$(median "$file" 1)") |" \
        " $(ms "$(median "$file" 2)") |"
    if [ "$name" = direct ]; then
        echo " | |"
    else
        echo " $(added "$file" "$bare" 1) | $(added "$file" "$bare" 2) |"
    fi
}
for clients in 1 16 64 "1, streamed"; do
    row direct "$clients"
    row nginx "$clients"
    row prompt-r1 "$clients"
    if [ "$clients" = 1 ] || [ "$clients" = 16 ]; then
        for other in "${others[@]}"; do row "$other" "$clients"; done
    fi
done
for other in "${others[@]}"; do
    echo
    echo "requests/s against $other at 16 clients:" \
        "$(awk -v ours="$(median prompt-r1.16 3)" -v theirs="$(median "$other.16" 3)" \
            'BEGIN { printf "%.1f×", ours / theirs }')"
done
for clients in 1 16 64; do
    echo
    echo "against nginx at $clients clients: added p50" \
        "$(awk -v ours="$(added "prompt-r1.$clients" "direct.$clients" 1)" -v theirs="$(added "nginx.$clients" "direct.$clients" 1)" \
            'BEGIN { printf "%.2f×", ours / theirs }'), requests/s" \
        "$(awk -v ours="$(median "prompt-r1.$clients" 3)" -v theirs="$(median "nginx.$clients" 3)" \
            'BEGIN { printf "%.2f×", ours / theirs }')"
done
echo
echo "memory after the load: prompt-r1 $(memory prompt-r1) MB (idle $idle MB)$(
    for other in "${others[@]}"; do printf ', %s %s MB' "$other" "$(memory "$other")"; done)"
