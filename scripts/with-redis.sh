#!/usr/bin/env bash
# Runs a command with a private redis-server on a free port, which it finds by REDIS_HOST and REDIS_PORT.
# Where REDIS_HOST or REDIS_URL is set already, that server is used and none is started.
set -euo pipefail

if [ -n "${REDIS_HOST:-}${REDIS_URL:-}" ]; then
    exec "$@"
fi

command -v redis-cli >/dev/null || { echo "with-redis: redis-cli is missing" >&2; exit 1; }
dir=$(mktemp -d)
server=
cleanup() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap cleanup EXIT

# True once the server that we started answers; false when it has ended, as it does when the port is taken.
answers() {
    while kill -0 "$server" 2>/dev/null; do
        if redis-cli -p "$1" INFO server 2>/dev/null | grep -q "^process_id:$server[[:space:]]*$"; then
            return 0
        fi
        sleep 0.02
    done
    return 1
}

for _ in $(seq 20); do
    port=$((20000 + RANDOM % 20000))
    redis-server --bind 127.0.0.1 --port "$port" --unixsocket "$dir/redis.sock" --dir "$dir" --save "" --appendonly no \
        >"$dir/log" 2>&1 &
    server=$!
    if answers "$port"; then
        unset REDIS_DB REDIS_USERNAME REDIS_PASSWORD
        REDIS_HOST=127.0.0.1 REDIS_PORT=$port "$@"
        exit
    fi
done
echo "with-redis: redis-server does not start:" >&2
cat "$dir/log" >&2
exit 1
