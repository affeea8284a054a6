#!/usr/bin/env bash
# The API with curl, from making an instance to deleting it. Needs a running daemon, curl and python3.
#   LLAMACTL_API_KEY=llamactl-mgmt-... ./curl.sh /path/to/model.gguf
# LLAMACTL_URL is the daemon's address, and LLAMACTL_API_KEY a management key, as for the llamactl command: the first one is in
# the file management.key of the daemon's data directory.
set -euo pipefail
URL=${LLAMACTL_URL:-http://127.0.0.1:8080}
MODEL=${1:?usage: curl.sh /path/to/model.gguf}
: "${LLAMACTL_API_KEY:?is not set; it is in the file management.key of the data directory of the daemon}"
NAME=curl-example

manage() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer $LLAMACTL_API_KEY" "$@" && echo; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# Whatever happens, what was made here is deleted; what was there before stays.
HAS_INSTANCE='' KEY_ID=''
clean_up() {
  local code=$?
  if [ -n "$HAS_INSTANCE" ]; then manage -X DELETE "$URL/api/v1/instances/$NAME?force=true" || true; fi
  if [ -n "$KEY_ID" ]; then manage -X DELETE "$URL/api/v1/auth/keys/$KEY_ID" || true; fi
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# An error's JSON is shown, and ends the script.
failed() { printf '%s\n' "$1" >&2; exit 1; }

echo "== options from a command line"
COMMAND=$(python3 -c 'import json, shlex, sys; print(json.dumps({"command": shlex.join(sys.argv[1:])}))' \
  llama-server -m "$MODEL" -c 2048)
OPTIONS=$(manage "$URL/api/v1/backends/parse-command" -d "$COMMAND") || failed "$OPTIONS"
echo "$OPTIONS"

echo "== make an instance of them"
manage "$URL/api/v1/instances/$NAME" -d "$OPTIONS"
HAS_INSTANCE=yes

echo "== a key for clients"
CREATED=$(manage "$URL/api/v1/auth/keys" -d "{\"name\": \"$NAME\"}") || failed "$CREATED"
KEY=$(field key <<<"$CREATED")
KEY_ID=$(field id <<<"$CREATED")

echo "== chat with it: it is started for this request"
curl --silent --show-error --fail-with-body --no-buffer "$URL/v1/chat/completions" -H "Authorization: Bearer $KEY" \
  -d "{\"model\": \"$NAME\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 5, \"stream\": true}"

echo "== its state, its log, stop; then it and the key are deleted"
manage "$URL/api/v1/instances/$NAME" | field state
manage "$URL/api/v1/instances/$NAME/logs?lines=3"
manage -X POST "$URL/api/v1/instances/$NAME/stop" | field state
