#!/usr/bin/env python3
"""How long a cold image takes to answer: mounted from a simulated disk, beside simulated NVMe.

usage: bench/coldmount.py LAYOUT [TAG] [--runs N]

An image is imported into a store whose directory counts as a disk (bench/README.md, "Simulated
devices"), with a cache of blocks on simulated NVMe. Each run begins with no process of lamina's, an
empty cache of blocks and empty page caches; it mounts the image, starts the web server of its
interpreter in it (python or node) and ends with its first answer. The order of reading is learned
by one run that is left alone for as long as lamina watches (half a minute). Needs root; all of it
happens in namespaces of its own.
"""
import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests/support"))
import lamina  # noqa: E402
import tierlist  # noqa: E402

LEARN_S = 36
CACHE_BYTES = 1 << 30
SERVERS = (
    ("usr/bin/python3", lambda port: ["/usr/bin/python3", "-m", "http.server", str(port), "--bind", "127.0.0.1"]),
    ("usr/local/bin/python3", lambda port: ["/usr/local/bin/python3", "-m", "http.server", str(port), "--bind",
                                            "127.0.0.1"]),
    ("usr/bin/node", lambda port: ["/usr/bin/node", "-e", node_code(port)]),
    ("usr/local/bin/node", lambda port: ["/usr/local/bin/node", "-e", node_code(port)]),
)


def node_code(port):
    return f"require('http').createServer((q, a) => a.end('here')).listen({port}, '127.0.0.1')"


def server_of(point):
    for path, argv in SERVERS:
        if os.path.lexists(f"{point}/{path}"):
            return argv
    sys.exit("the image has neither python3 nor node")


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, ConnectionError, OSError):
        return False


class World:
    def __init__(self, host):
        self.host = host
        self.fast = host.dir + "/fast"

    def stop(self):
        """Nothing of lamina's runs any more."""
        self.host.shutdown()
        for command in ("serve", "fs", "hold", "opener"):
            for pid in self.host.pids(command):
                try:
                    os.kill(pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass
        lamina.wait_for(lambda: not any(self.host.pids(c) for c in ("serve", "fs", "hold", "opener")), 30, "end")

    def configure(self, device, cached):
        """Packs are on that device, beside a cache or not."""
        self.stop()
        shutil.rmtree(self.fast, ignore_errors=True)
        if os.path.exists(self.host.store + "/tiers"):
            os.unlink(self.host.store + "/tiers")
        if cached:
            tierlist.write(self.host.store, [
                {"name": "own", "id": 0, "class": device},
                {"name": "fast", "id": 1, "class": "nvme", "where": self.fast, "cache": CACHE_BYTES}])
        self.host.env["LAMINA_SLOW_IO"] = f"{self.host.store}/packs={device}:{self.fast}=nvme"
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3\n")

    def run(self, linger=0):
        """Seconds of the mount, and from then to the first answer."""
        port = lamina.free_port()
        start = time.monotonic()
        point = self.host.mount("image:1")
        mounted = time.monotonic()
        argv = server_of(point)(port)
        server = subprocess.Popen(["chroot", point, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not answers(port):
                if server.poll() is not None:
                    sys.exit("the server ended")
                time.sleep(0.005)
            end = time.monotonic()
            time.sleep(linger)
        finally:
            server.kill()
            server.wait()
        self.host.umount(point)
        return mounted - start, end - mounted


def measure(world, label, device, cached, runs, base):
    mounts, served = [], []
    for _ in range(runs):
        world.configure(device, cached)
        mount, serve = world.run()
        mounts.append(mount)
        served.append(serve)
    mount, serve = statistics.median(mounts), statistics.median(served)
    ratio = f"  {(mount + serve) / base:5.2f} × NVMe" if base else ""
    print(f"{label:<44} mount {mount:6.3f} s  answer {serve:6.3f} s  sum {mount + serve:6.3f} s{ratio}", flush=True)
    return mount + serve


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("layout")
    parser.add_argument("tag", nargs="?", default="python")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    lamina.isolate(600)
    with lamina.Host("/var/tmp") as host:
        host.run("import", f"oci:{args.layout}:{args.tag}", "image:1")
        world = World(host)
        world.configure("nvme", False)
        world.run()  # the tree is made
        base = measure(world, f"{args.tag}, NVMe", "nvme", False, args.runs, None)
        measure(world, f"{args.tag}, disk alone", "hdd", False, args.runs, base)
        measure(world, f"{args.tag}, disk and cache, nothing learned", "hdd", True, args.runs, base)
        world.configure("hdd", True)
        world.run(LEARN_S)
        measure(world, f"{args.tag}, disk and cache, order learned", "hdd", True, args.runs, base)
        world.stop()


if __name__ == "__main__":
    main()
