#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stopping while others keep us waiting: pulls, mounts, pull-through and webhooks whose other end
takes connections and never answers. The end is told to all, and comes soon."""
import http.client
import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # pylint: disable=wrong-import-position

END_S = 8


class Silent:
    """Takes connections, and says nothing."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.taken = []
        threading.Thread(target=self.take, daemon=True).start()

    def take(self):
        while True:
            self.taken.append(self.socket.accept()[0])


def serve(host, silent):
    with open(host.dir + "/serve.ini", "w", encoding="utf-8") as f:
        f.write("[registry]\nlisten = 127.0.0.1:0\n"
                f"[upstream far]\nhost = 127.0.0.1:{silent.port}\nplain_http = yes\n"
                f"[webhook ci]\nurl = http://127.0.0.1:{silent.port}/\n")
    with open(host.dir + "/log", "w", encoding="utf-8") as log:
        process = host.start("serve", "--config", host.dir + "/serve.ini", stderr=log)

    def port():
        with open(host.dir + "/log", encoding="utf-8") as f:
            return next((int(line.split(" port=")[1].split()[0]) for line in f if " port=" in line), None)
    return process, lamina.wait_for(port, what="the registry")


def main():
    lamina.isolate(120)
    c = lamina.Checks()
    silent = Silent()
    with lamina.Host() as host:
        process, port = serve(host, silent)
        # a webhook has something to say
        there = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        there.request("POST", "/v2/own/blobs/uploads/?digest=sha256:"
                      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        answer = there.getresponse()
        c.check(answer.status == 201, "a blob is pushed", answer.read())
        there.request("PUT", "/v2/own/manifests/one", headers={"Content-Type": "application/vnd.oci.image.index.v1+json"},
                      body='{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}')
        answer = there.getresponse()
        c.check(answer.status == 201, "a tag is pushed", answer.read())
        there.close()
        lamina.wait_for(lambda: len(silent.taken) >= 1, what="the webhook's request")
        # a client of what comes from elsewhere
        waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        waiting.request("GET", "/v2/far/app/manifests/latest")
        # operations of this owner
        operations = {
            "pull": host.start("pull", "--plain-http", f"127.0.0.1:{silent.port}/app:1", stderr=-3),
            "mount": host.start("mount", f"127.0.0.1:{silent.port}/app:1", host.dir, stderr=-3),
        }
        lamina.wait_for(lambda: len(silent.taken) >= 4, what="all of the requests")
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        answer = waiting.getresponse()
        c.check(answer.status == 503, "who waits for an upstream is told", answer.status)
        waiting.close()
        status = None
        try:
            status = process.wait(60)
        except Exception:  # pylint: disable=broad-except
            process.kill()
        took = time.monotonic() - start
        c.check(status == 0 and took < END_S, "the end comes soon", f"status {status}, {took:.1f} s")
        for name, operation in operations.items():
            c.check(operation.wait(60) != 0, f"{name} fails")
    c.finish()


if __name__ == "__main__":
    main()
