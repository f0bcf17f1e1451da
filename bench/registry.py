#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The registry beside nginx serving the same bytes from files and Debian's docker-registry, in one
run; and pushes beside writing, hashing and syncing the same bytes.

    bench/registry.py [--full] [--out FILE.json] [--only NAME ...]

Ratios are requests (or bytes) a second, ours / theirs: above 1 is faster. Without --full each
measurement is short. Needs wrk; what is not installed of nginx and docker-registry is left out.
Nothing else should run meanwhile.
"""
import argparse
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../tests/support")]
import lamina  # noqa: E402

MIB = 1 << 20
CONNECTIONS = (1, 32, 512)
REPO = "bench/a"


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Server:
    """A process that serves one port, and its directory."""

    def __init__(self, name, base, argv, env=None):
        self.name = name
        self.dir = os.path.join(base, name)
        self.port = lamina.free_port()
        os.makedirs(self.dir)
        self.prepare()
        with open(os.path.join(self.dir, "log"), "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([a.format(dir=self.dir, port=self.port) for a in argv],
                                            stdout=log, stderr=log, env=env)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{name} does not start: see {self.dir}/log")

    def prepare(self):
        pass

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w", encoding="utf-8") as f:
            f.write(text)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)

    def status(self, key):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            return int(re.search(key + r":\s+(\d+)", f.read()).group(1)) * 1024

    def request(self, method, path, body=b"", headers=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request(method, path, body, headers or {})
        answer = c.getresponse()
        data = answer.read()
        location = answer.headers.get("Location", "")
        c.close()
        if answer.status >= 300:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.status} {data[:200]}")
        return location

    def push_blob(self, data):
        location = self.request("POST", f"/v2/{REPO}/blobs/uploads/")
        location = re.sub(r"^http://[^/]*", "", location)
        mark = "&" if "?" in location else "?"
        self.request("PUT", f"{location}{mark}digest={digest_of(data)}", data,
                     {"Content-Type": "application/octet-stream"})

    def push_manifest(self, data, media_type):
        self.request("PUT", f"/v2/{REPO}/manifests/latest", data, {"Content-Type": media_type})


class Lamina(Server):
    def __init__(self, base):
        super().__init__("lamina", base, [lamina.PROGRAM, "--store", "{dir}/s", "serve", "--listen",
                                          "127.0.0.1:{port}", "--config", "{dir}/c.ini"])

    def prepare(self):
        self.write("c.ini", "[condense]\nbackground = no\n")


class DockerRegistry(Server):
    def __init__(self, base):
        super().__init__("docker-registry", base, ["docker-registry", "serve", "{dir}/c.yml"])

    def prepare(self):
        self.write("c.yml", "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
                   f"storage:\n  filesystem:\n    rootdirectory: {self.dir}/data\n"
                   f"  cache:\n    blobdescriptor: inmemory\n"
                   f"http:\n  addr: 127.0.0.1:{self.port}\n")


class Nginx(Server):
    """Serves files; what is pushed is written to them."""

    def __init__(self, base):
        super().__init__("nginx", base, ["nginx", "-c", "{dir}/c.conf"])

    def prepare(self):
        self.write("c.conf", f"worker_processes auto; daemon off; pid {self.dir}/pid;\n"
                   f"error_log {self.dir}/errors; worker_rlimit_nofile 8192;\n"
                   "events { worker_connections 4096; }\n"
                   "http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n"
                   " open_file_cache max=1000; default_type application/octet-stream;\n"
                   f" server {{ listen 127.0.0.1:{self.port}; root {self.dir}/www; }} }}\n")

    def put(self, path, data):
        path = f"{self.dir}/www/v2/{REPO}/{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.chmod(self.dir, 0o755)
        with open(path, "wb") as f:
            f.write(data)

    def push_blob(self, data):
        self.put("blobs/" + digest_of(data), data)

    def push_manifest(self, data, media_type):
        self.put("manifests/latest", data)
        self.put("manifests/" + digest_of(data), data)


def latency_ms(text):
    """NaN when no request was over in time."""
    found = re.match(r"([\d.]+)(us|ms|s|m)", text)
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[found[2]] if found else float("nan")


def bytes_of(text):
    number, unit = re.match(r"([\d.]+)([KMGT]?)B", text).groups()
    return float(number) * 1024 ** "KMGT".index(unit) * 1024 if unit else float(number)


def wrk(server, path, connections, seconds, is_large):
    """Requests a second, of large blobs MiB a second; and the 99th percentile of latency."""
    out = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "20s",
                          "-H", "Accept: application/vnd.oci.image.manifest.v1+json",
                          f"http://127.0.0.1:{server.port}/v2/{REPO}/{path}"],
                         check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in out:
        raise RuntimeError(f"{server.name} {path}: {out}")
    p99 = latency_ms(re.search(r"^\s+99%\s+(\S+)", out, re.M)[1])
    if is_large:
        return bytes_of(re.search(r"Transfer/sec:\s+(\S+)", out)[1]) / MIB, p99
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), p99


class Bench:
    def __init__(self, full):
        self.full = full
        self.seconds = 6 if full else 1
        self.rounds = 3 if full else 2
        self.rows = []
        self.base = tempfile.mkdtemp(prefix="lamina-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        os.chmod(self.base, 0o755)

    def row(self, name, **figures):
        self.rows.append({"name": name, **figures})
        print(f"{name:<36} " + " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
                                        for k, v in figures.items()), flush=True)

    def servers(self):
        found = [Lamina(self.base)]
        if shutil.which("nginx"):
            found.append(Nginx(self.base))
        if shutil.which("docker-registry"):
            found.append(DockerRegistry(self.base))
        return found

    def requests(self):
        """Manifests and blobs, by every number of connections."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Env": ["A=" + "b" * 3000]},
                             "rootfs": {"type": "layers", "diff_ids": []}}).encode()
        small, large = os.urandom(40000), os.urandom((256 if self.full else 64) * MIB)
        layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config),
                       "size": len(config)},
            "layers": [{**layer, "digest": digest_of(d), "size": len(d)} for d in (small, large)]}).encode()
        paths = {"manifest by tag": "manifests/latest", "manifest by digest": "manifests/" + digest_of(manifest),
                 "config": "blobs/" + digest_of(config), "blob of 40 kB": "blobs/" + digest_of(small),
                 f"blob of {len(large) // MIB} MiB": "blobs/" + digest_of(large)}
        servers = self.servers()
        try:
            for s in servers:
                for data in (config, small, large):
                    s.push_blob(data)
                s.push_manifest(manifest, "application/vnd.oci.image.manifest.v1+json")
            for name, path in paths.items():
                for connections in CONNECTIONS:
                    self.compare(name, path, connections, servers)
            peak = servers[0].status("VmHWM")
            self.row("peak memory after that", MiB=peak / MIB, aim="below 64 MiB")
        finally:
            for s in servers:
                s.stop()

    def compare(self, name, path, connections, servers):
        """In turn, as often as there are rounds; the median of the rounds' ratios."""
        rates, worst = {s.name: [] for s in servers}, {s.name: [] for s in servers}
        for _ in range(self.rounds):
            for s in servers:
                rate, p99 = wrk(s, path, connections, self.seconds, "MiB" in name)
                rates[s.name].append(rate)
                worst[s.name].append(p99)
        figures = {}
        for s in servers[1:]:
            figures["/ " + s.name] = statistics.median(a / b for a, b in zip(rates["lamina"], rates[s.name]))
        for s in servers:
            figures[f"{s.name} a second"] = statistics.median(rates[s.name])
            figures[f"{s.name} p99 ms"] = statistics.median(worst[s.name])
        self.row(f"{name}, {connections} connections", **figures)

    def pushes(self):
        """Blobs in one request each, several at a time, beside their bytes written, hashed, synced."""
        server = Lamina(self.base + "/pushes")
        try:
            for bytes_each, threads in ((MIB, 1), (MIB, 8), (16 * MIB, 1), (16 * MIB, 4)):
                total = (1024 if self.full else 192) * MIB
                ratios, ours, theirs = [], [], []
                for _ in range(self.rounds):
                    blobs = [os.urandom(bytes_each) for _ in range(total // bytes_each)]
                    ours.append(total / MIB / spread(blobs, threads, Pusher, server))
                    theirs.append(total / MIB / spread(blobs, threads, Writer, Directory(self.base)))
                    ratios.append(ours[-1] / theirs[-1])
                self.row(f"push {bytes_each // MIB} MiB, {threads} at a time",
                         **{"/ baseline": statistics.median(ratios), "MiB a second": statistics.median(ours),
                            "baseline MiB a second": statistics.median(theirs)})
        finally:
            server.stop()


def spread(items, threads, worker_class, shared):
    """Seconds that it takes the workers to do all items."""
    workers = [worker_class(shared) for _ in range(threads)]
    prepared = [[w.prepare(item) for item in items[i::threads]] for i, w in enumerate(workers)]
    failed = []

    def run(worker, mine):
        try:
            for item in mine:
                worker.do(item)
        except Exception as error:  # told by the caller
            failed.append(error)
    all_threads = [threading.Thread(target=run, args=pair) for pair in zip(workers, prepared)]
    start = time.monotonic()
    for t in all_threads:
        t.start()
    for t in all_threads:
        t.join()
    if failed:
        raise failed[0]
    return time.monotonic() - start


class Pusher:
    """A raw client: its cost is a copy into the socket, and little else."""

    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def prepare(self, data):
        head = (f"POST /v2/{REPO}/blobs/uploads/?digest={digest_of(data)} HTTP/1.1\r\nHost: x\r\n"
                f"Content-Length: {len(data)}\r\n\r\n").encode()
        return head, data

    def do(self, item):
        head, data = item
        self.socket.sendall(head)
        self.socket.sendall(data)
        out = b""
        while b"\r\n\r\n" not in out:
            out += self.socket.recv(4096)
        if not out.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(out[:300])


class Directory:
    """A directory whose changes are synced together: who comes while a sync is under way waits for
    the next one, which is for all who wait."""

    def __init__(self, base):
        self.path = tempfile.mkdtemp(dir=base)
        self.fd = os.open(self.path, os.O_RDONLY)
        self.change = threading.Condition()
        self.begun = self.done = 0
        self.busy = False
        self.names = 0

    def name(self):
        with self.change:
            self.names += 1
            return f"{self.path}/{self.names}"

    def sync(self):
        with self.change:
            wanted = self.begun + 1
            while self.done < wanted:
                if self.busy:
                    self.change.wait()
                    continue
                self.busy = True
                self.begun = mine = self.begun + 1
                self.change.release()
                os.fsync(self.fd)
                self.change.acquire()
                self.busy, self.done = False, mine
                self.change.notify_all()


class Writer:
    def __init__(self, directory):
        self.directory = directory

    def prepare(self, data):
        return data

    def do(self, data):
        path = self.directory.name()
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        digest = hashlib.sha256()
        view = memoryview(data)
        for at in range(0, len(data), 256 * 1024):
            piece = view[at:at + 256 * 1024]
            os.write(fd, piece)
            digest.update(piece)
        os.fsync(fd)
        os.close(fd)
        os.rename(path + ".new", path)
        self.directory.sync()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--only", nargs="*", choices=["requests", "pushes"])
    args = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed")
    bench = Bench(args.full)
    try:
        for name in args.only or ["requests", "pushes"]:
            getattr(bench, name)()
    finally:
        shutil.rmtree(bench.base, ignore_errors=True)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(bench.rows, f, indent=1)


main()
