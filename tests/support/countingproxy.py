"""An HTTP proxy before a server of this machine: it counts what is asked for and what is answered."""
import http.client
import http.server
import threading
import time


class Proxy(http.server.ThreadingHTTPServer):
    """Stands before a registry: counts, delays, and lies when told to."""
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.lock = upstream, threading.Lock()
        self.seen, self.bytes = [], 0
        self.lie = None  # (path, body) -> body
        self.delay = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that are killed."""

    @property
    def port(self):
        return self.server_address[1]

    def forget(self):
        with self.lock:
            self.seen, self.bytes = [], 0

    def count(self, *words):
        with self.lock:
            return sum(all(word in path for word in words) for path in self.seen)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused):
        pass

    def do_GET(self):
        proxy = self.server
        if proxy.delay:
            time.sleep(proxy.delay)
        there = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
        there.request(self.command, self.path, headers=dict(self.headers.items()))
        answer = there.getresponse()
        body = answer.read()
        if proxy.lie and answer.status == 200:
            body = proxy.lie(self.path, body)
        with proxy.lock:
            proxy.seen.append(self.path)
            proxy.bytes += len(body)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "date", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        there.close()

    do_HEAD = do_GET
