#!/bin/sh
# Create the secrets of docker-compose.yml's tls profile for trials and tests: a certificate authority (CA), a server
# certificate signed by it, and one bearer token. In production use certificates of your own CA.
#
#   deploy/certificates.sh FOLDER [NAME...]    NAMEs: host names that clients use [localhost server-tls]
set -eu
[ $# -gt 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1; shift
[ $# -gt 0 ] || set -- localhost server-tls
for file in ca.crt tls.crt tls.key tokens; do
    [ ! -e "$folder/$file" ] || { echo "$folder/$file exists already: move it away, or choose another folder." >&2; exit 1; }
done
# The folder admits its owner only. The files in it are readable by all, because the container runs as another user.
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
echo "created ca.crt, tls.crt, tls.key and tokens in $folder, for $names"
