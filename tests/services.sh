#!/usr/bin/env bash
# tests/services.sh COMMAND...: runs COMMAND beside a PostgreSQL and a Redis of its own, on free
# ports of this machine and in a temporary folder. Sets their addresses in PROMPT_R1_TEST_POSTGRES,
# PROMPT_R1_TEST_REDIS, PROMPT_R1_TEST_REDISS (the same Redis over TLS) and
# PROMPT_R1_TEST_CERTIFICATES (a folder; its ca.pem has signed the certificate of Redis). Needs Debian's
# packages `postgresql`, `redis-server` and `openssl`.
set -euo pipefail

postgres=$(find /usr/lib/postgresql/*/bin /usr/local/bin /usr/bin -maxdepth 1 -name initdb 2>/dev/null | sort -V | tail -1 || true)
if [ -z "$postgres" ] || ! command -v redis-server >/dev/null || ! command -v openssl >/dev/null; then
  echo "error: PostgreSQL, Redis or OpenSSL is not here" >&2
  echo "hint: apt-get install postgresql redis-server openssl" >&2
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

export PROMPT_R1_TEST_CERTIFICATES="$folder/certificates"
mkdir "$PROMPT_R1_TEST_CERTIFICATES"
certificate() { # certificate NAME OPENSSL-ARGUMENTS...: NAME.pem and NAME.key, for a day
  local name="$PROMPT_R1_TEST_CERTIFICATES/$1"
  shift
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 1 \
    -keyout "$name.key" -out "$name.pem" "$@" 2>>"$folder/openssl.log" \
    || { cat "$folder/openssl.log" >&2; exit 1; }
}
signed() { # signed NAME EXTENSION: by the authority
  certificate "$1" -subj "/CN=$1" -addext "$2" -addext basicConstraints=critical,CA:FALSE \
    -CA "$PROMPT_R1_TEST_CERTIFICATES/ca.pem" -CAkey "$PROMPT_R1_TEST_CERTIFICATES/ca.key"
}
certificate ca -subj /CN=tests
certificate other -subj /CN=other
signed redis subjectAltName=IP:127.0.0.1
signed client extendedKeyUsage=clientAuth

for attempt in 1 2 3; do
  port=$(free_port)
  tls_port=$(free_port)
  redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$folder" \
    --tls-port "$tls_port" --tls-auth-clients optional \
    --tls-ca-cert-file "$PROMPT_R1_TEST_CERTIFICATES/ca.pem" \
    --tls-cert-file "$PROMPT_R1_TEST_CERTIFICATES/redis.pem" \
    --tls-key-file "$PROMPT_R1_TEST_CERTIFICATES/redis.key" \
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
export PROMPT_R1_TEST_REDISS="rediss://127.0.0.1:$tls_port/0"

"$@"
