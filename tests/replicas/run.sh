#!/usr/bin/env bash
# tests/replicas/run.sh SERVER: three replicas behind nginx, with keys and spending in one PostgreSQL,
# limits in one Redis, and records of episodes in the PostgreSQL, while one replica is killed every
# 20 s and all are updated in turn. Counts what was answered, billed, charged and recorded, see
# suite.py. DURATION (600) is the time of the traffic in seconds, at least 60, RATE (12) its requests a
# second; KEEP names a folder for configurations and logs if a check fails. Needs Debian's packages
# `nginx-light` and `python3`, and those of tests/services.sh.
set -euo pipefail
server=$(realpath "${1:?usage: tests/replicas/run.sh SERVER}")
cd "$(dirname "$0")/../.."

nginx=$(PATH="$PATH:/usr/sbin" command -v nginx || true)
if [ -z "$nginx" ]; then
  echo "error: nginx is not here" >&2
  echo "hint: apt-get install nginx-light" >&2
  exit 1
fi
# A PostgreSQL and a Redis of its own.
[ -n "${PROMPT_R1_TEST_REDIS-}" ] || exec tests/services.sh "$PWD/tests/replicas/run.sh" "$server"

scratch=$(mktemp -d)
children=()
finish() {
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  wait
  rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

free_port() { # below those that the system gives to clients
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

ports=() upstreams=
for _ in 1 2 3; do
  port=$(free_port)
  ports+=("$port")
  upstreams+="server 127.0.0.1:$port max_fails=1 fail_timeout=2s; "
done
balancer=$(free_port)
user=
[ "$(id -u)" != 0 ] || user="user root;" # its temporary folders are ours
# A request goes to another replica only while nothing of it was sent, that is when no connection
# could be made: `proxy_next_upstream` is without `non_idempotent`, as a request that was sent may
# have been billed. Everything else is the client's to retry. A replica that fails once is left out
# for 2 s.
cat >"$scratch/nginx.conf" <<NGINX
daemon off;
pid $scratch/nginx.pid;
error_log $scratch/nginx.log warn;
worker_processes 1;
$user
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path $scratch/body;
  proxy_temp_path $scratch/proxy;
  fastcgi_temp_path $scratch/fastcgi;
  uwsgi_temp_path $scratch/uwsgi;
  scgi_temp_path $scratch/scgi;
  upstream replicas {
    least_conn;
    $upstreams
    keepalive 16;
  }
  server {
    listen 127.0.0.1:$balancer;
    location / {
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_connect_timeout 1s;
      proxy_read_timeout 120s;
      proxy_next_upstream error timeout;
      add_header X-Replica \$upstream_addr always;
    }
  }
}
NGINX
"$nginx" -c "$scratch/nginx.conf" -e "$scratch/nginx.log" &
children+=($!)

python3 tests/replicas/suite.py "$server" "$scratch" "$balancer" "${ports[@]}" &
children+=($!)
wait $!
