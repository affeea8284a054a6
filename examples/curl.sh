#!/usr/bin/env bash
# The API with curl, from making an instance to deleting it. Needs a running daemon, curl and python3.
#   URL=http://127.0.0.1:8080 MANAGEMENT_KEY=llamactl-mgmt-... ./curl.sh /path/to/model.gguf
set -euo pipefail
URL=${URL:-http://127.0.0.1:8080}
MODEL=${1:?usage: curl.sh MODEL.gguf}

manage() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer $MANAGEMENT_KEY" "$@"; echo; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

echo "== options from a command line"
OPTIONS=$(manage "$URL/api/v1/backends/parse-command" -d "{\"command\": \"llama-server -m '$MODEL' -c 2048\"}")
echo "$OPTIONS"

echo "== make an instance of them"
manage "$URL/api/v1/instances/curl-example" -d "$OPTIONS"

echo "== a key for clients"
CREATED=$(manage "$URL/api/v1/auth/keys" -d '{"name": "curl-example"}')
KEY=$(field key <<<"$CREATED")

echo "== chat with it: it is started for this request"
curl --silent --show-error --fail-with-body --no-buffer "$URL/v1/chat/completions" -H "Authorization: Bearer $KEY" \
  -d '{"model": "curl-example", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "stream": true}'

echo "== its state, its log, stop, delete"
manage "$URL/api/v1/instances/curl-example" | field state
manage "$URL/api/v1/instances/curl-example/logs?lines=3"
manage -X POST "$URL/api/v1/instances/curl-example/stop" | field state
manage -X DELETE "$URL/api/v1/instances/curl-example"
manage -X DELETE "$URL/api/v1/auth/keys/$(field id <<<"$CREATED")"
