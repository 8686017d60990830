#!/bin/sh
# Make what the tls profile of docker-compose.yml needs, for a first try and for tests: an authority of one's own, a server
# certificate of it, and one bearer token. Real ones come from your own authority.
#
#   deploy/certificates.sh FOLDER [NAME...]    NAMEs that clients call the server by  [localhost server-tls]
set -eu
[ $# -gt 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1; shift
[ $# -gt 0 ] || set -- localhost server-tls
for file in ca.crt tls.crt tls.key tokens; do
    [ ! -e "$folder/$file" ] || { echo "$folder/$file is there already: move it away, or choose another folder." >&2; exit 1; }
done
# Only the owner enters the folder; the files in it are readable, because the container's user is another.
mkdir -p "$folder" && chmod 700 "$folder"
umask 022
names=$(printf 'DNS:%s,' "$@")IP:127.0.0.1
work=$(mktemp -d) && trap 'rm -r "$work"' EXIT
new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

new_key "$work/ca.key"
openssl req -x509 -new -key "$work/ca.key" -days 825 -subj "/CN=hangtag test authority" \
    -addext keyUsage=critical,keyCertSign,cRLSign -out "$folder/ca.crt"
new_key "$folder/tls.key" && chmod 644 "$folder/tls.key"
openssl req -new -key "$folder/tls.key" -subj "/CN=$1" -addext "subjectAltName=$names" \
    | openssl x509 -req -CA "$folder/ca.crt" -CAkey "$work/ca.key" -days 90 -copy_extensions copy -out "$folder/tls.crt" 2>/dev/null
openssl rand -hex 32 >"$folder/tokens"
echo "made ca.crt, tls.crt, tls.key and tokens in $folder, for $names"
