"""A registry's front that fails on demand: cuts answers and bodies, asks for patience, wants tokens.

Faults is what goes wrong; a test changes it while the proxy runs. Counters say what went through."""
import base64
import http.client
import http.server
import json
import secrets
import threading
import time
import urllib.parse


class Faults:
    def __init__(self):
        self.cut_answer_after = 0  # bytes of a blob's answer; 0: whole
        self.cut_body_after = 0    # bytes of a body that is uploaded; 0: whole
        self.cuts_left = 1000000   # then all is well
        self.refuse = []           # (status, Retry-After or None), one for each request to come
        self.bytes_per_second = 0  # of blobs, both ways; 0: as fast as it goes
        self.no_ranges = False
        self.token = None          # (user, password) of a token server that must be asked
        self.realm = None          # another realm than our own


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused):
        pass

    def say(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def give_token(self, front):
        user, password = front.faults.token
        wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if self.headers.get("Authorization") != wanted:
            return self.say(401, {})
        token = secrets.token_urlsafe(16)
        front.tokens[token] = query.get("scope", [])
        front.token_requests += 1
        body = json.dumps({"token": token, "expires_in": 300}).encode()
        return self.say(200, {"Content-Type": "application/json"}, body)

    def token_fits(self, front):
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        parts = urllib.parse.urlsplit(self.path).path.removeprefix("/v2/").split("/")
        repo = "/".join(parts[:-2]) if "uploads" not in parts else "/".join(parts[:parts.index("blobs")])
        action = "pull" if self.command in ("GET", "HEAD") else "push"
        for scope in front.tokens.get(given, []):
            kind, name, actions = scope.split(":")
            if kind == "repository" and name == repo and action in actions.split(","):
                return True
        realm = front.faults.realm or f"http://127.0.0.1:{front.port}/token"
        challenge = f'Bearer realm="{realm}",service="test",scope="repository:{repo}:pull{",push" * (action == "push")}"'
        self.close_connection = self.command in ("PATCH", "PUT")
        self.say(401, {"WWW-Authenticate": challenge})
        return False

    def body(self, front, up):
        left = int(self.headers.get("Content-Length", 0))
        sent, faults = 0, front.faults
        while left > 0:
            data = self.rfile.read(min(left, 65536))
            if not data:
                return False
            if faults.cut_body_after and faults.cuts_left and sent + len(data) > faults.cut_body_after:
                data = data[:faults.cut_body_after - sent]
            left -= len(data)
            sent += len(data)
            front.body_bytes += len(data)
            up.send(data)
            if faults.bytes_per_second:
                time.sleep(len(data) / faults.bytes_per_second)
            if faults.cut_body_after and faults.cuts_left and sent >= faults.cut_body_after and left > 0:
                faults.cuts_left -= 1
                front.cuts += 1
                return False
        return True

    def answer(self, front, reply, blob):
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server") and not (
                    front.faults.no_ranges and name.lower() == "accept-ranges"):
                self.send_header(name, value)
        if reply.getheader("Content-Length") is None:
            self.send_header("Content-Length", "0")
        self.end_headers()
        sent, faults = 0, front.faults
        while self.command != "HEAD":
            data = reply.read1(65536)
            if not data:
                return
            if blob and faults.cut_answer_after and sent + len(data) >= faults.cut_answer_after:
                self.wfile.write(data[:faults.cut_answer_after - sent])
                front.blob_bytes += faults.cut_answer_after - sent
                front.cuts += 1
                self.close_connection = True
                self.connection.shutdown(2)
                return
            self.wfile.write(data)
            sent += len(data)
            front.blob_bytes += len(data) if blob else 0
            if blob and faults.bytes_per_second:
                time.sleep(len(data) / faults.bytes_per_second)

    def handle_any(self):
        front = self.server.front
        front.requests.append((self.command, self.path))
        if self.path.startswith("/token"):
            return self.give_token(front)
        if front.faults.refuse:
            status, after = front.faults.refuse.pop(0)
            self.close_connection = True
            return self.say(status, {"Retry-After": after} if after else {}, b"{}")
        if front.faults.token and not self.token_fits(front):
            return None
        up = http.client.HTTPConnection("127.0.0.1", front.upstream, timeout=20)
        try:
            up.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                skip = front.faults.no_ranges and name.lower() == "range"
                skip = skip or (front.faults.token and name.lower() == "authorization")
                if not skip:
                    up.putheader(name, value)
            up.endheaders()
            if not self.body(front, up):
                self.close_connection = True
                self.connection.shutdown(2)
                return None
            blob = self.command == "GET" and "/blobs/" in self.path and "/uploads/" not in self.path
            return self.answer(front, up.getresponse(), blob)
        except (OSError, http.client.HTTPException):
            self.close_connection = True
            return None
        finally:
            up.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *unused):
        pass  # clients that are killed, and what we cut ourselves


class Front:
    """Listens on a port of its own in front of 127.0.0.1:upstream."""

    def __init__(self, upstream):
        self.upstream = upstream
        self.faults = Faults()
        self.tokens, self.token_requests = {}, 0
        self.reset()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.front = self
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self):
        self.requests, self.cuts, self.blob_bytes, self.body_bytes = [], 0, 0, 0
        self.faults.__init__()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
