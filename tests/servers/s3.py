"""An S3 server, moto's, that keeps a log of its requests and fails as it is told to; prints its address.

POST /_tell takes what is to come, replacing what was told before: {"fail": N, "status": 503} answers the next N requests
so, {"stop": N} ends the process after N more, {"delay_s": S} waits before each, {"large_s": S} in those of over a MiB,
{"deny": KEY} refuses what that access key signed, {"cut": N} breaks off the next N downloads of over a MiB in the middle;
{"after": N} lets N requests go before that.
GET /_log returns and forgets [[method, path], ...].
"""

import json
import os
import re
import sys
import time

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

told: dict = {}
log: list[list[str]] = []
moto = DomainDispatcherApplication(create_backend_app)


def error(code: str, status: str, start_response):
    start_response(status, [("Content-Type", "application/xml")])
    return [f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>".encode()]


def take(name: str) -> bool:
    """Count one of the faults down; returns whether there was one left."""
    told[name] = told.get(name, 0) - 1
    return told[name] >= 0


def app(environ, start_response):
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if path == "/_tell":
        told.clear()
        told.update(json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
        start_response("200 OK", [])
        return [b""]
    if path == "/_log":
        start_response("200 OK", [])
        text, log[:] = json.dumps(log).encode(), []
        return [text]
    log.append([method, path])
    time.sleep(told.get("delay_s", 0))
    if take("after"):
        return moto(environ, start_response)
    if "stop" in told and not take("stop"):
        os._exit(0)
    if take("fail"):
        return error("SlowDown", f"{told['status']} Told", start_response)
    if (key := re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))) and key[1] == told.get("deny"):
        return error("SignatureDoesNotMatch", "403 Forbidden", start_response)
    body = b"".join(moto(environ, start_response))
    if max(len(body), int(environ.get("CONTENT_LENGTH") or 0)) > 1 << 20:
        time.sleep(told.get("large_s", 0))
    body = body.replace(b".000Z</LastModified>", b".900Z</LastModified>")  # of a listing: MinIO's have milliseconds
    if method == "GET" and len(body) > 1 << 20 and take("cut"):
        return [body[: len(body) // 2]]
    return [body]


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *args):
        pass


server = make_server(sys.argv[1], 0, app, threaded=True, request_handler=Quiet)
print(f"http://{sys.argv[1]}:{server.server_port}", flush=True)
server.serve_forever()
