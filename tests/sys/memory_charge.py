#!/usr/bin/python3
# test: alone
"""Pages of a base belong to the server: a sandbox with little memory reads a large base cold, is not
killed, and is charged for little of it."""
import os
import random
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

MIB = 1 << 20
LIMIT = 64 * MIB
LARGE, LARGE_COUNT = 100 * MIB, 4
MIDDLE, MIDDLE_COUNT = 3 * MIB, 30
SMALL, SMALL_COUNT = 20000, 1500

READER = """
import os, sys
with open(sys.argv[1], "w") as f:
    f.write(str(os.getpid()))
total = 0
for base, _, names in os.walk(sys.argv[2]):
    for name in sorted(names):
        with open(os.path.join(base, name), "rb", 0) as f:
            while piece := f.read(1 << 17):
                total += len(piece)
print(total)
"""


class Group:
    """A control group for memory, of either version."""

    def __init__(self, name):
        self.v1 = os.path.isdir("/sys/fs/cgroup/memory")
        self.path = ("/sys/fs/cgroup/memory/" if self.v1 else "/sys/fs/cgroup/") + name
        os.makedirs(self.path, exist_ok=True)

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as f:
            f.write(str(value))

    def limit(self, value):
        self.write("memory.limit_in_bytes" if self.v1 else "memory.max", value)

    def stat(self, v1, v2):
        with open(self.path + "/memory.stat") as f:
            values = dict(line.split() for line in f)
        return int(values[v1 if self.v1 else v2])

    def pages(self):
        return self.stat("cache", "file")

    def killed(self):
        name, key = ("memory.oom_control", "oom_kill") if self.v1 else ("memory.events", "oom_kill")
        with open(f"{self.path}/{name}") as f:
            return int(dict(line.split() for line in f)[key])

    def remove(self):
        parent = os.path.dirname(self.path) + "/cgroup.procs"
        with open(self.path + "/cgroup.procs") as f:
            for pid in f.read().split():
                with open(parent, "w") as out:
                    out.write(pid)
        os.rmdir(self.path)


def make_root(root):
    rng = random.Random(7)
    for size, count in ((LARGE, LARGE_COUNT), (MIDDLE, MIDDLE_COUNT), (SMALL, SMALL_COUNT)):
        os.makedirs(f"{root}/{size}")
        for i in range(count):
            with open(f"{root}/{size}/{i}", "wb") as f:
                left = size
                while left:
                    piece = (rng.randbytes(2048) * 8)[:left]
                    f.write(piece)
                    left -= len(piece)
    return LARGE * LARGE_COUNT + MIDDLE * MIDDLE_COUNT + SMALL * SMALL_COUNT


def read_cold(box, mount, total, checks, what):
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")
    done = subprocess.run([sys.executable, "-c", READER, box.path + "/cgroup.procs", mount], timeout=120,
                          stdout=subprocess.PIPE, text=True)
    checks.check(done.returncode == 0 and done.stdout.strip() == str(total), f"{what}: all was read",
                 f"{done.returncode} {done.stdout}")
    checks.check(box.killed() == 0, f"{what}: nobody was killed")


def main():
    lamina.isolate(240)
    checks = lamina.Checks()
    try:
        groups = server, box = [Group(f"lamina-{os.urandom(4).hex()}") for _ in range(2)]
        box.limit(LIMIT)
    except OSError as e:
        lamina.skip(f"no control group for memory: {e}")
    try:
        with lamina.Host() as host:
            total = make_root(host.dir + "/root")
            host.run("pack", host.dir + "/root", "base:1")
            point = host.mount("base:1", "--rw", "--driver", "overlay")
            for pid in host.pids("fs") + host.pids("opener"):
                server.write("cgroup.procs", pid)
            read_cold(box, point, total, checks, "overlay driver")
            ours = server.pages()
            checks.check(ours > 0.8 * total, "pages are charged to the server", f"{ours >> 20} MiB of {total >> 20}")
            print(f"of {total >> 20} MiB read by a sandbox of {LIMIT >> 20} MiB, {ours >> 20} are the server's")
    finally:
        for group in groups:
            group.remove()
    checks.finish()


if __name__ == "__main__":
    main()
