#!/usr/bin/python3
"""Clients who may push somewhere and mean harm: what they cannot learn of others' repositories, and what
they cannot use up."""
import hashlib
import http.client
import http.server
import io
import json
import os
import re
import socket
import sys
import tarfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from registryaccess import basic, htpasswd  # noqa: E402

OCI = "application/vnd.oci.image."
checks = lamina.Checks()
BOB, EVE = basic("bob", "secret"), basic("eve", "secret")
CONFIG = """[web]
enabled = yes
[access]
htpasswd = {users}
[rule private]
repositories = ${{user}}/**
users = *
actions = all
[quota all]
repositories = ${{user}}/**
bytes = 40MiB
"""


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    def __init__(self, host, more=""):
        self.config, self.log = host.dir + "/c.ini", host.dir + "/log"
        with open(host.dir + "/users", "w", encoding="utf-8") as f:
            f.write(htpasswd({"bob": "secret", "eve": "secret"}))
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(CONFIG.format(users=host.dir + "/users") + more)
        self.process = host.start("serve", "--listen", "127.0.0.1:0", "--config", self.config,
                                  stderr=open(self.log, "wb"))

        def find_port():
            with open(self.log, encoding="utf-8") as f:
                found = re.search(r"registry port=(\d+)", f.read())
            return int(found.group(1)) if found else None
        self.port = lamina.wait_for(find_port, 20, "the registry")

    def end(self):
        self.process.terminate()
        self.process.wait(30)
        checks.check(self.process.returncode == 0, "ends")

    def call(self, who, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(who, **headers))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def blob(self, who, repo, data):
        return self.call(who, "POST", f"/v2/{repo}/blobs/uploads/?digest={digest_of(data)}", data)[0]

    def put(self, who, repo, ref, document):
        data = json.dumps(document).encode()
        status, _, body = self.call(who, "PUT", f"/v2/{repo}/manifests/{ref or digest_of(data)}", data,
                                    **{"Content-Type": document["mediaType"]})
        checks.check(status == 201, f"push of {repo}:{ref}", f"{status} {body[:200]}")
        return {"mediaType": document["mediaType"], "digest": digest_of(data), "size": len(data)}


def manifest(config, layers, **more):
    return dict({"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers}, **more)


def descriptor(data, kind):
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def pages_tell_nothing(r):
    """A layer that is not distributable need not be in the repository: nothing is told of it."""
    secret, absent, config = b"bob's own" * 100, b"nobody's" * 100, b"{}"
    checks.check(r.blob(BOB, "bob/x", secret) == 201, "the victim's blob")
    checks.check(r.blob(EVE, "eve/x", config) == 201, "a config")
    rows = []
    for data in (secret, absent):
        layer = descriptor(data, OCI + "layer.nondistributable.v1.tar")
        r.put(EVE, "eve/x", "probe", manifest(descriptor(config, "application/x"), [layer]))
        status, _, page = r.call(EVE, "GET", "/web/image?name=eve/x&ref=probe")
        checks.check(status == 200, "the page", str(status))
        table = re.search(r"<h2>Layers</h2>.*", page.decode(), re.S)
        rows.append(re.sub(r"<code.*?</code>", "", table.group(0)) if table else None)
        checks.check(r.call(EVE, "HEAD", f"/v2/eve/x/blobs/{digest_of(data)}")[0] == 404, "the API tells nothing")
    sizes = [re.sub(r"[0-9.]+&nbsp;K?i?B", "", row or "") for row in rows]
    checks.check("not here" in (rows[0] or "") and sizes[0] == sizes[1], "what others have looks as what nobody has", rows[0])


def referrers_are_bounded(r):
    """What annotations hold is in the list: a page of it is no more than a manifest may be, or one entry."""
    config = b"{}"
    r.blob(EVE, "eve/r", config)
    subject = r.put(EVE, "eve/r", "v1", manifest(descriptor(config, "application/x"), []))
    count = 8
    for i in range(count):
        r.put(EVE, "eve/r", None, manifest(descriptor(config, "application/x"), [], subject=subject,
                                           annotations={"n": str(i), "x": "y" * (2 << 20)}))
    path, seen = f"/v2/eve/r/referrers/{subject['digest']}", []
    while path:
        status, headers, body = r.call(EVE, "GET", path)
        checks.check(status == 200 and len(body) < 7 << 20, "a page is bounded", f"{status} {len(body)}")
        seen += [m["annotations"]["n"] for m in json.loads(body)["manifests"]]
        path = re.match("<(.*)>", headers["Link"]).group(1) if headers["Link"] else None
    checks.check(sorted(seen) == [str(i) for i in range(count)], "and all are listed once", str(seen))


def sessions_count(r):
    """What lies in sessions counts, though none of them ever ends."""
    piece, taken, sessions = b"z" * (10 << 20), 0, []
    for _ in range(8):
        status, headers, _ = r.call(EVE, "POST", "/v2/eve/q/blobs/uploads/", b"")
        checks.check(status == 202, "a session", str(status))
        status, _, _ = r.call(EVE, "PATCH", headers["Location"], piece)
        checks.check(status in (202, 403), "a piece", str(status))
        taken += status == 202
        sessions.append(headers["Location"])
    checks.check(taken == 4, "no more than the quota", str(taken))
    checks.check(r.blob(EVE, "eve/q", b"whole" * 1000) == 403, "and nothing beside")
    time.sleep(5)
    checks.check(r.blob(EVE, "eve/q", b"whole" * 1000) == 403, "nor when all was counted again")
    status, _, _ = r.call(EVE, "PUT", sessions[0] + "?digest=" + digest_of(piece), b"")
    checks.check(status == 201, "what was counted may be ended", str(status))
    for session in sessions[1:]:
        checks.check(r.call(EVE, "DELETE", session)[0] == 204, "a session goes")
    checks.check(r.blob(EVE, "eve/q", b"other" * 1000) == 201, "then there is room")
    time.sleep(5)
    checks.check(r.blob(EVE, "eve/q", b"o" * (29 << 20)) == 201, "all of it")
    checks.check(r.blob(EVE, "eve/q", b"p" * (1 << 20)) == 403, "and no more")


def log_lines_are_whole(r):
    """What clients send stays between its quotes, and says nothing to a terminal."""
    for byte in (b'"', b"\\", b"\x9b", b"\x7f"):
        with socket.create_connection(("127.0.0.1", r.port), 20) as s:
            s.sendall(b"GET /v2/%zz" + byte + b"x HTTP/1.1\r\nHost: a\r\n\r\n")
            checks.check(s.recv(100).startswith(b"HTTP/1.1 400"), "refused")
    with open(r.log, "rb") as f:
        lines = [line for line in f.read().split(b"\n") if b"/v2/%zz" in line]
    checks.check(lines != [] and all(b'target="/v2/%zz?x" status=400' in line for line in lines),
                 "and told in a line", repr(lines))


def pages_are_limited(host):
    """The list of repositories costs most of all pages."""
    r = Registry(host, "[limits]\nrequests = 1/m per client burst 3\n")
    found = [r.call({}, "GET", "/web/?q=x")[0] for _ in range(5)]
    checks.check(found == [200, 200, 200, 429, 429], "pages are counted", str(found))
    r.end()


def other_sites_change_nothing(r):
    """A browser that knows bob's password is made to post by somebody's page."""
    path = "/v2/bob/y/blobs/uploads/"
    for site, wanted in (("cross-site", 403), ("same-site", 403), ("same-origin", 202), ("none", 202), (None, 202)):
        more = {"Sec-Fetch-Site": site} if site else {}
        status, _, _ = r.call(BOB, "POST", path, b"", **more)
        checks.check(status == wanted, f"a post, {site}", str(status))
    status, _, _ = r.call(BOB, "GET", "/v2/bob/x/tags/list", **{"Sec-Fetch-Site": "cross-site"})
    checks.check(status == 200, "links to it are followed", str(status))


class Trap(http.server.BaseHTTPRequestHandler):
    """A registry that knows digests, and may have the bytes."""
    documents, blobs = {}, {}

    def do_GET(self):
        kind, name = self.path.split("/")[-2:]
        found = (self.documents if kind == "manifests" else self.blobs).get(name)
        self.send_response(200 if found or self.path == "/v2/" else 404)
        self.send_header("Content-Type", OCI + "manifest.v1+json" if kind == "manifests" else "application/octet-stream")
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(found or b"")

    do_HEAD = do_GET

    def log_message(self, *unused):
        pass


def images_prove_what_they_name(r, host):
    """A manifest with digests of somebody's image is no image for others, where that is asked for."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("secret")
        info.size = 6
        tar.addfile(info, io.BytesIO(b"secret"))
    layer = out.getvalue()
    config = json.dumps({"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine),
                         "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}).encode()
    for data in (layer, config):
        checks.check(r.blob(BOB, "bob/image", data) == 201, "bob's blobs")
    document = json.dumps(manifest(descriptor(config, OCI + "config.v1+json"),
                                   [descriptor(layer, OCI + "layer.v1.tar")])).encode()
    Trap.documents = {"1": document, digest_of(document): document}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    there = f"127.0.0.1:{server.server_port}/trap:1"

    def has(repo):
        done = host.run("inspect", f"{repo}:1", check=False)
        return done.returncode == 0
    done = host.run("pull", "--plain-http", "--proved", there, "eve/got:1", check=False)
    checks.check(done.returncode != 0 and not has("eve/got"), "nothing is given for a digest", repr(done.stderr))
    checks.check(r.call(EVE, "HEAD", f"/v2/eve/got/blobs/{digest_of(layer)}")[0] == 404, "nor linked")
    done = host.run("mount", "--pull", "proved", there, host.dir, check=False)
    checks.check(done.returncode != 0 and "HTTP 404" in str(done.stderr), "nor mounted", repr(done.stderr))
    done = host.run("pull", "--plain-http", there, "own/got:1", check=False)
    checks.check(done.returncode == 0, "unless it is wanted so", repr(done.stderr))
    Trap.blobs = {digest_of(data): data for data in (layer, config)}
    done = host.run("pull", "--plain-http", "--proved", there, "eve/got:1", check=False)
    checks.check(done.returncode == 0 and has("eve/got"), "who has the bytes has the image", repr(done.stderr))
    checks.check(r.call(EVE, "GET", f"/v2/eve/got/blobs/{digest_of(layer)}")[2] == layer, "and gets it")
    server.shutdown()


def main():
    lamina.isolate(240)
    with lamina.Host() as host:
        r = Registry(host)
        for part in (pages_tell_nothing, referrers_are_bounded, sessions_count, log_lines_are_whole,
                     other_sites_change_nothing):
            part(r)
        images_prove_what_they_name(r, host)
        r.end()
        pages_are_limited(host)
    checks.finish()


main()
