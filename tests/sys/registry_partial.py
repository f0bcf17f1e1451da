#!/usr/bin/python3
"""podman pulls zstd:chunked layers in part: what it has of an image already it does not ask for, and
the rest comes as many ranges of one request. Registries mostly fail at that. What podman sends goes
through a proxy here that counts ranges and bytes. Then the same from layers that are kept condensed."""
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from registryclient import INDEX, MANIFEST, call, checks, target  # noqa: E402


class Proxy:
    """Between podman and the registry: hands bytes on, and notes what was asked and answered."""

    def __init__(self, to):
        self.to, self.port = to, lamina.free_port()
        self.ranges, self.statuses, self.sent_bytes = [], [], 0
        listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def reset(self):
        self.ranges, self.statuses, self.sent_bytes = [], [], 0

    def accept(self, listener):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", self.to))
            threading.Thread(target=self.pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, False), daemon=True).start()

    def pump(self, source, sink, asks):
        tail = b""
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                if not asks:
                    self.sent_bytes += len(data)
                    self.statuses += re.findall(rb"^HTTP/1\.1 (\d+)", data)
                    continue
                tail += data  # a header may come in pieces
                for match in re.findall(rb"\r\nRange: bytes=([^\r]*)\r\n", tail):
                    self.ranges.append(len(match.split(b",")))
                tail = tail[tail.rfind(b"\r\n"):]
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def storage(host, name, partial):
    conf = f'{host.dir}/{name}.conf'
    with open(conf, "w", encoding="utf-8") as f:
        f.write(f'[storage]\ndriver = "overlay"\ngraphroot = "{host.dir}/{name}"\nrunroot = "{host.dir}/{name}-run"\n')
        if partial:
            f.write('[storage.options]\npull_options = {enable_partial_images = "true", use_hard_links = "false"}\n')
    return dict(os.environ, CONTAINERS_STORAGE_CONF=conf)


def podman(env, *args):
    return subprocess.run(["podman", *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
                          check=False)


def make_trees(where, rng):
    """Two versions of a tree: most of the second is in the first."""
    words = [rng.randbytes(12) for _ in range(400)]
    for version in ("one", "two"):
        for i in range(600):
            os.makedirs(f"{where}/{version}/d{i % 20}", exist_ok=True)
    for i in range(600):
        content = b"".join(rng.choices(words, k=rng.randint(10, 4000)))
        for version in ("one", "two"):
            with open(f"{where}/{version}/d{i % 20}/f{i}", "wb") as f:
                f.write(content + (b"changed" * 50 if version == "two" and i % 3 == 0 else b""))


def layer_of(repo):
    manifest = json.loads(call("GET", f"/v2/{repo}/manifests/1", headers={"Accept": f"{MANIFEST}, {INDEX}"}).body)
    return manifest["layers"][0]


def pull(env, proxy, name, where):
    proxy.reset()
    done = podman(env, "--log-level=debug", "pull", "--tls-verify=false", f"docker://127.0.0.1:{proxy.port}/partial/{name}:1")
    if not checks.check(done.returncode == 0, f"{name}: podman pull", done.stdout[-2000:]):
        return
    partial = "Retrieved partial blob" in done.stdout
    checks.check(partial, f"{name}: in part", done.stdout[-2000:])
    mounted = podman(env, "image", "mount", f"127.0.0.1:{proxy.port}/partial/{name}:1").stdout.strip()
    same = subprocess.run(["diff", "-r", f"{where}/{name}", mounted], stdout=subprocess.PIPE, check=False)
    checks.check(same.returncode == 0, f"{name}: what was pulled is what was pushed", same.stdout[:500])
    podman(env, "image", "umount", "--all")


def test(host, proxy, rng):
    where = host.dir + "/trees"
    make_trees(where, rng)
    pusher = storage(host, "pusher", False)
    for name in ("one", "two"):
        tar = f"{host.dir}/{name}.tar"
        subprocess.run(["tar", "-C", f"{where}/{name}", "-cf", tar, "."], check=True)
        podman(pusher, "import", tar, "localhost/" + name)
        done = podman(pusher, "push", "--tls-verify=false", "--compression-format", "zstd:chunked", "localhost/" + name,
                      f"docker://127.0.0.1:{target.port}/partial/{name}:1")
        if done.returncode != 0 or "zstd" not in layer_of(f"partial/{name}")["mediaType"]:
            lamina.skip("this podman does not push zstd:chunked: " + done.stdout[-300:])
    size = layer_of("partial/two")["size"]

    puller = storage(host, "puller", True)
    pull(puller, proxy, "one", where)
    checks.check(proxy.ranges, "one: ranges were asked for", str(proxy.ranges))
    pull(puller, proxy, "two", where)
    checks.check(max(proxy.ranges, default=0) > 1 and b"400" not in proxy.statuses and b"416" not in proxy.statuses,
                 "two: several ranges in one request", f"{proxy.ranges} {proxy.statuses}")
    checks.check(proxy.sent_bytes < size * 3 // 4, "two: less than the layer came", f"{proxy.sent_bytes} of {size}")
    print(f"second image: {proxy.sent_bytes} of {size} bytes came, ranges {proxy.ranges}", flush=True)

    print(host.run("condense", "--all").stdout.strip()[-600:], flush=True)
    again = storage(host, "again", True)
    pull(again, proxy, "one", where)
    pull(again, proxy, "two", where)


def main():
    lamina.need("podman", "tar", "diff")
    lamina.isolate(200)
    with lamina.Host(parent="/var/tmp" if os.path.isdir("/var/tmp") else None) as host:
        target.port = lamina.free_port()
        process = host.start("serve", "--listen", f"127.0.0.1:{target.port}", stdout=subprocess.DEVNULL)
        try:
            lamina.wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", target.port)) == 0, what="the registry")
            test(host, Proxy(target.port), random.Random(1))
        finally:
            process.terminate()
            process.wait(timeout=30)
            for name in ("pusher", "puller", "again"):
                for point in (f"{host.dir}/{name}/overlay", f"{host.dir}/{name}"):
                    subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL, check=False)
                shutil.rmtree(f"{host.dir}/{name}", ignore_errors=True)
    checks.finish()


main()
