"""A registry that repeats the password in its refusal; prints its port."""

import base64
import http.server
import json


class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        shown = self.headers.get("Authorization", "")
        pair = base64.b64decode(shown.partition(" ")[2]).decode()
        body = json.dumps({"errors": [{"code": "DENIED", "message": f"denied: {shown} {pair}"}]}).encode()
        self.send_response(403 if shown else 401)
        if not shown:
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
print(server.server_address[1], flush=True)
server.serve_forever()
