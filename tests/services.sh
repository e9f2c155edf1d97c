#!/usr/bin/env bash
# tests/services.sh COMMAND...: runs COMMAND beside a PostgreSQL and a Redis of its own, on free
# ports of this machine and in a temporary folder. Tells where they are by PROMPT_R1_TEST_POSTGRES
# and PROMPT_R1_TEST_REDIS. Needs Debian's packages `postgresql` and `redis-server`.
set -euo pipefail

postgres=$(find /usr/lib/postgresql/*/bin /usr/local/bin /usr/bin -maxdepth 1 -name initdb 2>/dev/null | sort -V | tail -1 || true)
if [ -z "$postgres" ] || ! command -v redis-server >/dev/null; then
  echo "error: PostgreSQL or Redis is not here" >&2
  echo "hint: apt-get install postgresql redis-server" >&2
  exit 1
fi
postgres=$(dirname "$postgres")

folder=$(mktemp -d)
as_postgres() { # PostgreSQL does not run as root
  if [ "$(id -u)" = 0 ]; then (cd "$folder" && runuser -u postgres -- "$@"); else "$@"; fi
}

redis_pid=
cleanup() {
  as_postgres "$postgres/pg_ctl" -D "$folder/postgres" -m immediate stop >/dev/null 2>&1 || true
  [ -z "$redis_pid" ] || kill "$redis_pid" 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

mkdir "$folder/postgres"
[ "$(id -u)" != 0 ] || chown -R postgres "$folder"
as_postgres "$postgres/initdb" -D "$folder/postgres" -U test -A trust -E UTF8 --no-sync >"$folder/initdb.log"
for attempt in 1 2 3; do
  port=$(free_port)
  if as_postgres "$postgres/pg_ctl" -D "$folder/postgres" -w -l "$folder/postgres.log" \
    -o "-p $port -h 127.0.0.1 -k '' -c fsync=off" start >/dev/null; then break; fi
  [ "$attempt" -lt 3 ] || { cat "$folder/postgres.log" >&2; exit 1; }
done
export PROMPT_R1_TEST_POSTGRES="postgres://test@127.0.0.1:$port/postgres"

for attempt in 1 2 3; do
  port=$(free_port)
  redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$folder" \
    >"$folder/redis.log" 2>&1 &
  redis_pid=$!
  for _ in $(seq 100); do
    if redis-cli -p "$port" ping >/dev/null 2>&1; then break 2; fi
    kill -0 "$redis_pid" 2>/dev/null || break
    sleep 0.1
  done
  [ "$attempt" -lt 3 ] || { cat "$folder/redis.log" >&2; exit 1; }
done
export PROMPT_R1_TEST_REDIS="redis://127.0.0.1:$port/0"

"$@"
