#!/usr/bin/python3
"""Replays a mix of pulls through nginx and Varnish in front of lamina, configured by tools/conf:
how much of it they answer themselves, with and without addresses that repositories share.

    bench/cdn_replay.py [--pulls N] [--clients N] [--out FILE.json]

Repositories and tags are pulled by Zipf's law; repositories share base layers; a part of the
clients starts with nothing, as CI does, the others keep the layers that they have pulled. While
they pull, tags move. The same requests, from the same seed, go through each arrangement."""
import argparse
import concurrent.futures
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/support"))
import lamina  # noqa: E402
import webcaches  # noqa: E402

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REPOSITORIES, BASES, TAGS = 40, 8, 4
ZIPF = 1.1
PULLS_PER_MOVE = 25
FRESH_SHARE = 0.5  # of clients


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zipf(count):
    return [1 / (i + 1) ** ZIPF for i in range(count)]


class Images:
    """What is pushed: bases of three layers, and images of a base with a layer or two of their own."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.bases = [[self.layer(256 << 10, 3 << 20) for _ in range(3)] for _ in range(BASES)]
        self.base_of = self.random.choices(range(BASES), zipf(BASES), k=REPOSITORIES)

    def layer(self, low, high):
        return self.random.randbytes(self.random.randrange(low, high))

    def make(self, repo):
        own = [self.layer(4 << 10, 512 << 10) for _ in range(self.random.randint(1, 2))]
        return self.bases[self.base_of[repo]] + own


def post(url, method, body, kind="application/octet-stream"):
    request = urllib.request.Request(url, body, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status


def push(base, repo, tags, layers, pushed):
    for data in layers + [b"{}"]:
        if (repo, digest(data)) not in pushed:
            pushed.add((repo, digest(data)))
            post(f"{base}/v2/{repo}/blobs/uploads/?digest={digest(data)}", "POST", data)
    part = "application/vnd.oci.image.layer.v1.tar"
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "bench/x",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": [{"mediaType": part, "digest": digest(d), "size": len(d)} for d in layers]}).encode()
    for tag in tags:
        post(f"{base}/v2/{repo}/manifests/{tag}", "PUT", manifest, MANIFEST)


class Client:
    def __init__(self, base, fresh):
        self.base, self.fresh, self.have = urllib.parse.urlparse(base), fresh, set()
        self.requests = self.bytes = 0
        self.connection = None

    def ask(self, method, path):
        """Follows one redirect, as clients do."""
        self.requests += 1
        if not self.connection:
            self.connection = http.client.HTTPConnection(self.base.hostname, self.base.port, timeout=60)
        self.connection.request(method, path, headers={"Accept-Encoding": "identity"})
        answer = self.connection.getresponse()
        body = answer.read()
        self.bytes += len(body)
        if answer.status == 307:
            return self.ask(method, answer.headers["Location"])
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: status {answer.status}")
        return answer, body

    def pull(self, repo, tag):
        if self.fresh:
            self.have.clear()
        answer, _ = self.ask("HEAD", f"/v2/{repo}/manifests/{tag}")
        name = answer.headers["Docker-Content-Digest"]
        if name in self.have:
            return
        _, body = self.ask("GET", f"/v2/{repo}/manifests/{name}")
        manifest = json.loads(body)
        for part in [manifest["config"]] + manifest["layers"]:
            if part["digest"] not in self.have:
                _, body = self.ask("GET", f"/v2/{repo}/blobs/{part['digest']}")
                if digest(body) != part["digest"]:
                    raise RuntimeError("another digest: " + part["digest"])
                self.have.add(part["digest"])
        self.have.add(name)


def counters(registry):
    with urllib.request.urlopen(registry.url + "/metrics", timeout=30) as answer:
        text = answer.read().decode()

    def total(name, labels):
        return int(sum(float(v) for v in re.findall(rf"^{name}(?:{{{labels}}})? (\S+)$", text, re.M)))
    return (total("lamina_http_requests_total", r'kind="(?:blob|manifest)[^}]*method="(?:GET|HEAD)"[^}]*'),
            total("lamina_http_sent_bytes_total", "[^}]*"))


def replay(cache, shared, pulls, clients, seed):
    directory = tempfile.mkdtemp(prefix="lamina-bench-")
    stops = []
    try:
        settings = "[cache]\n" + ("redirect = **\n" if shared else "")
        port = lamina.free_port()
        if cache == "varnish":
            settings += (f"[purge varnish]\nurl = http://127.0.0.1:{port}/\nmethod = BAN\n"
                         "header = Purge-Key: {key}\n")
        os.environ["LAMINA_LOG"] = "error"
        registry = webcaches.Registry(directory, settings)
        stops.append(registry)
        images, pushed = Images(seed), set()
        names = [f"team{i % 7}/app{i}" for i in range(REPOSITORIES)]
        tags = ["latest"] + [f"v{i}" for i in range(1, TAGS)]
        for i, name in enumerate(names):
            for tag in tags:
                push(registry.url, name, [tag], images.make(i), pushed)
        front = registry
        if cache == "nginx":
            front = webcaches.Nginx(directory + "/nginx", registry)
        elif cache == "varnish":
            front = webcaches.Varnish(directory + "/varnish", registry, port)
        if front is not registry:
            stops.append(front)
        base = registry.url if front is registry else front.url()
        choose = random.Random(seed + 1)
        plan = list(zip(choose.choices(names, zipf(len(names)), k=pulls),
                        choose.choices(tags, zipf(len(tags)), k=pulls)))
        pool = [Client(base, i < clients * FRESH_SHARE) for i in range(clients)]
        before = counters(registry)
        moves = 0

        def run(index):
            for repo, tag in plan[index::clients]:
                pool[index].pull(repo, tag)

        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(clients + 1) as threads:
            running = [threads.submit(run, i) for i in range(clients)]
            mover = random.Random(seed + 2)
            while not all(r.done() for r in running):
                done = sum(c.requests for c in pool)
                if moves < pulls // PULLS_PER_MOVE and done > moves * PULLS_PER_MOVE * 4:
                    i = mover.choices(range(REPOSITORIES), zipf(REPOSITORIES))[0]
                    push(registry.url, names[i], ["latest"], images.make(i), pushed)
                    moves += 1
                time.sleep(0.005)
            for r in running:
                r.result()
        took = time.monotonic() - start
        after = counters(registry)
        asked = sum(c.requests for c in pool)
        got = sum(c.bytes for c in pool)
        return {"cache": cache or "none", "shared": shared, "pulls": pulls, "moves": moves, "seconds": round(took, 1),
                "requests": asked, "bytes": got, "origin_requests": after[0] - before[0],
                "origin_bytes": after[1] - before[1]}
    finally:
        for s in reversed(stops):
            s.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pulls", type=int, default=1500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    args = parser.parse_args()
    rows = []
    print(f"{args.pulls} pulls of {REPOSITORIES} repositories by {args.clients} clients, half of them fresh each time")
    print(f"{'':24} {'requests':>9} {'at origin':>9} {'saved':>6} {'MiB':>7} {'of origin':>9} {'saved':>6} {'s':>6}")
    for cache in (None, "nginx", "varnish"):
        for shared in (False, True):
            row = replay(cache, shared, args.pulls, args.clients, args.seed)
            rows.append(row)
            asked, origin = row["requests"], row["origin_requests"]
            print(f"{row['cache'] + (', shared addresses' if shared else ''):24} {asked:9} {origin:9} "
                  f"{1 - origin / asked:6.1%} {row['bytes'] / 2**20:7.0f} {row['origin_bytes'] / 2**20:9.0f} "
                  f"{1 - row['origin_bytes'] / row['bytes']:6.1%} {row['seconds']:6}", flush=True)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(rows, f, indent=1)


main()
