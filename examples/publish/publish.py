"""Publishes an event with Python's standard library, to a server started with the
same key and secret (--app-id 1 --key app-key --secret app-secret):
    python3 publish.py messages create '{"text":"hello"}'
"""
import hashlib, hmac, json, os, sys, time
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

URL = os.environ.get("PUSHER_URL", "http://localhost:6001")
APP_ID = os.environ.get("PUSHER_APP_ID", "1")
KEY = os.environ.get("PUSHER_APP_KEY", "app-key")
SECRET = os.environ.get("PUSHER_APP_SECRET", "app-secret")


def trigger(channel, event, data):
    """Sends any data that has JSON; raises an error that says what is wrong."""
    # The data is JSON in a text, in the JSON of the body.
    message = {"channel": channel, "name": event, "data": json.dumps(data)}
    body = json.dumps(message).encode()
    path = f"/apps/{APP_ID}/events"
    # The signature covers the method, the path, and the query in alphabetical order.
    query = urlencode({
        "auth_key": KEY,
        "auth_timestamp": int(time.time()),
        "auth_version": "1.0",
        "body_md5": hashlib.md5(body).hexdigest(),
    })
    text = f"POST\n{path}\n{query}".encode()
    signature = hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()
    request = Request(
        f"{URL}{path}?{query}&auth_signature={signature}",
        body,
        {"content-type": "application/json"},
    )
    try:
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except HTTPError as error:
        raise RuntimeError(f"{error.code}: {error.read().decode()}") from None


if __name__ == "__main__":
    channel, event, data = sys.argv[1:]
    print(json.dumps(trigger(channel, event, json.loads(data))))
