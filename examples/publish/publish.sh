#!/bin/sh
# Publishes an event with curl and openssl, to a server started with the same key and
# secret (--app-id 1 --key app-key --secret app-secret):
#   sh publish.sh messages create '{"text":"hello"}'
# The secret is an argument of openssl: other users of this machine can see it there.
set -eu

url=${PUSHER_URL:-http://localhost:6001}
path=/apps/${PUSHER_APP_ID:-1}/events
channel=$1 event=$2 data=$3 # the data is JSON, without line breaks

# In the body the data is a text, so its quotes and backslashes need a backslash.
text=$(printf %s "$data" | sed 's/["\\]/\\&/g')
body="{\"channel\":\"$channel\",\"name\":\"$event\",\"data\":\"$text\"}"

# The signature covers the method, the path, and the query in alphabetical order.
md5=$(printf %s "$body" | openssl md5 | sed 's/.* //')
query="auth_key=${PUSHER_APP_KEY:-app-key}&auth_timestamp=$(date +%s)&auth_version=1.0&body_md5=$md5"
signature=$(printf 'POST\n%s\n%s' "$path" "$query" |
  openssl dgst -sha256 -hmac "${PUSHER_APP_SECRET:-app-secret}" | sed 's/.* //')

exec curl --silent --show-error --fail-with-body \
  --header 'content-type: application/json' --data-raw "$body" \
  "$url$path?$query&auth_signature=$signature"
