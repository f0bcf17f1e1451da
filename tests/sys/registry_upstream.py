#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Pull-through: a registry in front of another one, with a proxy between them that counts, delays,
refuses and cuts. Clients are Python's http.client, and skopeo where it is installed."""
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import layouts  # noqa: E402

BIG = 6 << 20
INDEX = "application/vnd.oci.image.index.v1+json"


class Proxy(http.server.ThreadingHTTPServer):
    """Between the two registries."""

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = port
        self.port = self.server_address[1]
        self.seen = []  # method, path
        self.lock = threading.Lock()
        self.refuse = None  # status, headers
        self.delay = 0
        self.cut = None  # after so many bytes of a blob, times
        self.flip = False
        self.gate = None  # an event: the rest of a blob waits for it
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def count(self, text, method=None):
        with self.lock:
            return sum(1 for m, p in self.seen if text in p and method in (None, m))

    def forget(self):
        with self.lock:
            self.seen.clear()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused):
        pass

    def do_GET(self):
        proxy = self.server
        with proxy.lock:
            proxy.seen.append((self.command, self.path))
        if proxy.delay:
            time.sleep(proxy.delay)
        if proxy.refuse:
            status, headers = proxy.refuse
            self.send_response(status)
            for name, value in dict(headers, **{"Content-Length": "0"}).items():
                self.send_header(name, value)
            self.end_headers()
            return
        there = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=30)
        there.request(self.command, self.path, headers=dict(self.headers.items()))
        answer = there.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "date", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(body, "/blobs/" in self.path and len(body) > 100000)
        there.close()

    do_HEAD = do_GET

    def send_body(self, body, is_large):
        proxy = self.server
        if is_large and proxy.flip:
            body = body[:5000] + bytes([body[5000] ^ 1]) + body[5001:]
        if is_large and proxy.cut and proxy.cut[1] > 0:
            proxy.cut = (proxy.cut[0], proxy.cut[1] - 1)
            self.wfile.write(body[:proxy.cut[0]])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
        elif is_large and proxy.gate:
            half = len(body) // 2
            self.wfile.write(body[:half])
            self.wfile.flush()
            proxy.gate.wait(30)
            self.wfile.write(body[half:])
        else:
            self.wfile.write(body)


def make_image(layout, tag, seed):
    random.seed(seed)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in ((f"etc/{tag}", tag.encode() * 50), ("data", random.randbytes(BIG))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    blob = gzip.compress(raw.getvalue(), 1, mtime=0)
    return layout.image(tag, blob, layouts.digest_of(raw.getvalue())), blob


class Registry:
    """`lamina serve` with a configuration."""

    def __init__(self, host, config="", condense="no"):
        self.host = host
        with open(host.dir + "/serve.ini", "w", encoding="utf-8") as f:
            f.write(f"[condense]\nbackground = {condense}\n[registry]\nlisten = 127.0.0.1:0\n{config}")
        self.start()

    def start(self):
        self.process = self.host.start("serve", "--config", self.host.dir + "/serve.ini",
                                       stderr=open(self.host.dir + "/log", "w", encoding="utf-8"))

        def port():
            with open(self.host.dir + "/log", encoding="utf-8") as f:
                for line in f:
                    if " port=" in line:
                        return int(line.split(" port=")[1].split()[0])
            if self.process.poll() is not None:
                raise RuntimeError("serve ended: " + self.log())
            return None
        self.port = lamina.wait_for(port, what="the registry")

    def log(self):
        with open(self.host.dir + "/log", encoding="utf-8") as f:
            return f.read()

    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        self.process.wait(30)

    def ask(self, path, method="GET", headers=None, timeout=30):
        there = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            there.request(method, path, headers=headers or {})
            answer = there.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            there.close()


def together(count, work):
    results = [None] * count

    def one(i):
        try:
            results[i] = work()
        except Exception as e:  # pylint: disable=broad-except
            results[i] = e
    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def check_manifests(checks, edge, origin, proxy):
    status, headers, there = origin.ask("/v2/library/web/manifests/1")
    want = headers["Docker-Content-Digest"]
    proxy.delay = 0.3
    results = together(40, lambda: edge.ask("/v2/hub/library/web/manifests/1"))
    proxy.delay = 0
    checks.check(all(not isinstance(r, Exception) and r[0] == 200 and r[2] == there for r in results),
                 "40 clients get a manifest", str([r if isinstance(r, Exception) else r[0] for r in results]))
    checks.check(proxy.count("/library/web/manifests/1", "GET") == 1, "... by one request", str(proxy.seen))
    proxy.forget()
    status, headers, got = edge.ask("/v2/hub/library/web/manifests/1")
    checks.check(status == 200 and got == there and headers["Docker-Content-Digest"] == want and not proxy.seen,
                 "a fresh tag costs none", str(proxy.seen))
    status, headers, got = edge.ask("/v2/library/web/manifests/1?ns=hub.test")
    checks.check(status == 200 and got == there and headers["OCI-Namespace"] == "hub.test", "ns is understood",
                 f"{status} {headers}")
    status, headers, got = edge.ask(f"/v2/hub/library/web/manifests/{want}")
    checks.check(status == 200 and not proxy.seen, "by digest: from here", str(proxy.seen))
    status = edge.ask("/v2/hub/library/web/manifests/none")[0]
    again = edge.ask("/v2/hub/library/web/manifests/none")[0]
    checks.check((status, again) == (404, 404) and proxy.count("/manifests/none") <= 2,
                 "what is not there: 404, and not asked again at once", f"{status} {again} {proxy.seen}")
    return json.loads(there)


def check_blobs(checks, edge, proxy, manifest, blob):
    digest = manifest["layers"][0]["digest"]
    path = f"/v2/hub/library/web/blobs/{digest}"
    proxy.forget()
    status, headers, _ = edge.ask(path, "HEAD")
    checks.check(status == 200 and int(headers["Content-Length"]) == len(blob) and proxy.count(digest, "GET") == 0,
                 "HEAD of a blob that is not here", f"{status} {proxy.seen}")
    proxy.gate = threading.Event()
    results, first = [], threading.Semaphore(0)

    def client(part):
        there = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
        there.request("GET", path, headers={"Range": part} if part else {})
        answer = there.getresponse()
        got = answer.read(100000)
        first.release()
        results.append((part, answer.status, got + answer.read()))
        there.close()
    parts = [None] * 8 + ["bytes=1000-200999"]
    threads = [threading.Thread(target=client, args=(p,)) for p in parts]
    for t in threads:
        t.start()
    begun = [first.acquire(timeout=20) for _ in parts]
    checks.check(all(begun), "clients read while the blob is on its way")
    proxy.gate.set()
    for t in threads:
        t.join()
    proxy.gate = None
    good = [r for r in results if (r[2] == blob and r[1] == 200) or (r[0] and r[1] == 206 and r[2] == blob[1000:201000])]
    checks.check(len(good) == len(parts), "... and get its bytes", str([(r[1], len(r[2])) for r in results]))
    checks.check(proxy.count(digest, "GET") == 1, "... by one request", str(proxy.seen))

    def served():
        return edge.ask(path)[1]["Cache-Control"] != "no-store"
    lamina.wait_for(served, what="the blob to be here")
    status, headers, got = edge.ask(path, headers={"Range": "bytes=-100"})
    checks.check(status == 206 and got == blob[-100:] and proxy.count(digest, "GET") == 1, "then it is served from here",
                 f"{status} {proxy.seen}")
    status = edge.ask("/v2/hub/library/web/blobs/sha256:" + "0" * 64)[0]
    checks.check(status == 404, "a blob that is not there", str(status))


def check_broken(checks, edge, proxy, images):
    digest, blob = images["cut"]
    path = f"/v2/hub/library/cut/blobs/{digest}"
    proxy.cut = (300000, 2)
    proxy.forget()
    status, _, got = edge.ask(path)
    checks.check(status == 200 and got == blob and proxy.count(digest) >= 2, "a connection that is cut is taken up again",
                 f"{status} {len(got)} {proxy.seen}")
    proxy.cut = None
    digest, blob = images["flip"]
    path = f"/v2/hub/library/flip/blobs/{digest}"
    proxy.flip = True
    try:
        _, _, got = edge.ask(path)
    except (http.client.IncompleteRead, ConnectionError) as e:
        got = e.partial if isinstance(e, http.client.IncompleteRead) else b""
    checks.check(len(got) < len(blob), "a blob of other bytes is never given whole", str(len(got)))
    proxy.flip = False
    status, _, got = edge.ask(path)
    checks.check(status == 200 and got == blob, "... and is asked for again", f"{status} {len(got)}")


def check_stale(checks, edge, origin, proxy, images):
    path = "/v2/hub/library/web/manifests/1"
    before = edge.ask(path)[1]["Docker-Content-Digest"]
    origin.host.run("tag", "library/cut:1", "library/web:1")
    lamina.wait_for(lambda: edge.ask(path)[1]["Docker-Content-Digest"] != before, 10, "the moved tag to be seen")
    now = edge.ask(path)[1]["Docker-Content-Digest"]
    time.sleep(1.1)
    proxy.refuse = (429, {"Retry-After": "2"})
    proxy.forget()
    status, headers, _ = edge.ask(path)
    checks.check(status == 200 and headers["Docker-Content-Digest"] == now and "299" in headers.get("Warning", ""),
                 "a limited upstream: what is here", f"{status} {headers}")
    asked = len(proxy.seen)
    status, headers, _ = edge.ask("/v2/hub/library/app/manifests/new")
    checks.check(status == 429 and 0 < int(headers["Retry-After"]) <= 2, "... and what is not here: 429 with its Retry-After",
                 f"{status} {headers}")
    checks.check(len(proxy.seen) == asked, "it is left alone meanwhile", str(proxy.seen))
    proxy.refuse = None
    time.sleep(2.1)
    status = edge.ask("/v2/hub/library/app/manifests/1")[0]
    checks.check(status == 200, "then it is asked again", str(status))
    port, proxy.upstream = proxy.upstream, 1
    proxy.refuse = (502, {})
    time.sleep(1.1)
    status, headers, _ = edge.ask(path)
    checks.check(status == 200, "an upstream that fails: what is here", str(status))
    status = edge.ask("/v2/hub/library/app/manifests/other")[0]
    checks.check(status == 503, "... and what is not: 503", str(status))
    edge.stop(signal.SIGKILL)
    edge.start()
    status, headers, _ = edge.ask(path)
    checks.check(status == 200 and "299" in headers.get("Warning", ""), "after kill -9, too", f"{status} {headers}")
    digest, blob = images["web"]
    status, _, got = edge.ask(f"/v2/hub/library/web/blobs/{digest}")
    checks.check(status == 200 and got == blob, "a blob that is here needs nobody", str(status))
    proxy.refuse, proxy.upstream = None, port


def check_lists(checks, edge, origin):
    status, headers, got = edge.ask("/v2/hub/library/web/tags/list?n=1")
    checks.check(status == 200 and json.loads(got)["name"] == "hub/library/web" and len(json.loads(got)["tags"]) == 1,
                 "tags come from the upstream", f"{status} {got}")
    link = headers.get("Link", "")
    checks.check(link.startswith("</v2/hub/library/web/tags/list?") and 'rel="next"' in link, "... with their pages", link)
    status, _, got = edge.ask(link.split(">")[0][1:])
    checks.check(status == 200 and len(json.loads(got)["tags"]) == 1, "... that can be asked for", f"{status} {got}")
    status, headers, got = edge.ask("/v2/hub/library/web/referrers/sha256:" + "1" * 64)
    checks.check(status == 200 and headers["Content-Type"] == INDEX and json.loads(got)["manifests"] == [], "referrers",
                 f"{status} {got}")
    del origin


def check_refused(checks, edge):
    there = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
    there.request("POST", "/v2/hub/library/web/blobs/uploads/")
    status = there.getresponse().status
    checks.check(status == 405, "nothing is pushed there", str(status))
    there.close()
    there = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
    there.request("POST", "/v2/own/app/blobs/uploads/")
    status = there.getresponse().status
    checks.check(status == 202, "elsewhere it is", str(status))
    there.close()


def check_skopeo(checks, edge):
    if not shutil.which("skopeo"):
        return
    done = subprocess.run(["skopeo", "copy", "--src-tls-verify=false", f"docker://127.0.0.1:{edge.port}/hub/library/app:1",
                           f"oci:{edge.host.dir}/pulled:app"], capture_output=True, text=True, timeout=60, check=False)
    checks.check(done.returncode == 0, "skopeo pulls through", done.stderr)
    point = edge.host.dir + "/out"
    done = edge.host.run("unpack", "hub/library/app:1", point, check=False)
    checks.check(done.returncode == 0 and os.path.getsize(point + "/data") == BIG, "what came is an image of the store",
                 done.stderr)


def check_containerd(checks, edge):
    """As containerd's mirror: it names the registry by ns."""
    if not (shutil.which("containerd") and shutil.which("ctr")):
        return
    there = edge.host.dir + "/containerd"
    os.makedirs(there + "/hosts/hub.test")
    with open(there + "/hosts/hub.test/hosts.toml", "w", encoding="utf-8") as f:
        f.write(f'server = "http://127.0.0.1:1"\n[host."http://127.0.0.1:{edge.port}"]\n'
                'capabilities = ["pull", "resolve"]\n')
    with open(there + "/config.toml", "w", encoding="utf-8") as f:
        f.write('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    with open(there + "/log", "w", encoding="utf-8") as log:
        daemon = subprocess.Popen(["containerd", "--config", there + "/config.toml", "--root", there + "/root", "--state",
                                   there + "/state", "--address", there + "/sock"], stdout=log, stderr=log)
    try:
        lamina.wait_for(lambda: os.path.exists(there + "/sock"), what="containerd")
        done = subprocess.run(["ctr", "-a", there + "/sock", "images", "pull", "--snapshotter", "native", "--hosts-dir",
                               there + "/hosts", "hub.test/library/app:1"], capture_output=True, text=True, timeout=60,
                              check=False)
        checks.check(done.returncode == 0, "containerd pulls through its mirror", done.stdout[-300:] + done.stderr)
    finally:
        daemon.terminate()
        daemon.wait(20)


def main():
    lamina.isolate(150)
    checks = lamina.Checks()
    with lamina.Host() as far, lamina.Host() as near:
        layout = layouts.Layout(far.dir + "/layout")
        images = {}
        for i, name in enumerate(("web", "cut", "flip", "app")):
            digest, blob = make_image(layout, name, i)
            images[name] = digest, blob
        layout.close()
        for name in images:
            far.run("import", f"oci:{far.dir}/layout:{name}", f"library/{name}:1")
        far.run("tag", "library/web:1", "library/web:2")
        origin = Registry(far)
        proxy = Proxy(origin.port)
        edge = Registry(near, f"[upstream hub.test]\nhost = 127.0.0.1:{proxy.port}\nplain_http = yes\nprefix = hub\n"
                              "anonymous = yes\ntag_seconds = 1\nnegative_seconds = 5\n")
        manifest = check_manifests(checks, edge, origin, proxy)
        check_blobs(checks, edge, proxy, manifest, images["web"][1])
        check_broken(checks, edge, proxy, images)
        check_lists(checks, edge, origin)
        check_refused(checks, edge)
        check_stale(checks, edge, origin, proxy, images)
        lamina.wait_for(lambda: edge.ask("/v2/hub/library/app/manifests/other")[0] == 404, 15,
                        "the upstream to be asked again")
        check_skopeo(checks, edge)
        check_containerd(checks, edge)
        fds = len(os.listdir(f"/proc/{edge.process.pid}/fd"))
        checks.check(fds < 200, "no descriptor is kept", str(fds))
        # one that stops while clients wait
        proxy.delay = 5
        waiting = threading.Thread(target=lambda: together(5, lambda: edge.ask("/v2/hub/library/web/manifests/late")))
        waiting.start()
        time.sleep(0.5)
        begun = time.monotonic()
        edge.stop()
        checks.check(edge.process.returncode == 0 and time.monotonic() - begun < 4, "it stops while clients wait",
                     f"{edge.process.returncode} after {time.monotonic() - begun:.1f} s")
        waiting.join()
        origin.stop()
        done = near.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck", done.stdout + done.stderr)
        checks.check(hashlib.sha256(images["web"][1]).hexdigest() == images["web"][0].split(":")[1], "digests are what they are")
    checks.finish()


if __name__ == "__main__":
    main()
