#!/usr/bin/python3
"""`kill -9` in the middle of builds: while a build runs in a sandbox of each driver and page mode,
`lamina fs`, the owner, and both at once are killed at random moments, ten builds over. Every build
finishes, and leaves what it leaves where nobody is killed. Files, maps and locks that were open
all the time go on.

    kill_build.py [--of overlay,passthrough,inode] [--builds N] [--seed N]"""
import argparse
import fcntl
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import buildwork  # noqa: E402
import fsops  # noqa: E402
import lamina  # noqa: E402
import sides  # noqa: E402

IMAGE = "build/kill:1"
ROUNDS = 6


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--of", default="overlay,passthrough,inode")
    parser.add_argument("--builds", type=int, default=int(os.environ.get("LAMINA_KILL_BUILDS", "3")))
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2), "big"))
    return parser.parse_args()


class Owner:
    """`lamina serve`, there all the time but for kills."""

    def __init__(self, host):
        self.host, self.process = host, None
        self.start()

    def start(self):
        self.process = self.host.start("serve", "--listen", "127.0.0.1:0", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait(self):
        lamina.wait_for(lambda: os.path.exists(self.host.store + "/control.sock"), what="the owner")


class Killer(threading.Thread):
    """Kills in turn."""

    def __init__(self, host, owner, seed):
        super().__init__(daemon=True)
        self.host, self.owner, self.random = host, owner, random.Random(seed)
        self.stop, self.kills = threading.Event(), {"fs": 0, "serve": 0}

    def kill(self, command):
        for pid in self.host.pids(command):
            try:
                os.kill(pid, signal.SIGKILL)
                self.kills[command] += 1
            except ProcessLookupError:
                pass

    def run(self):
        turn = 0
        while not self.stop.wait(0.05 + self.random.random() * 0.7):
            what = (("fs",), ("serve",), ("fs", "serve"), ("fs",))[turn % 4]
            turn += 1
            for command in what:
                self.kill(command)
            if "serve" in what:
                self.owner.process.wait()
                self.owner.start()

    def finish(self):
        self.stop.set()
        self.join(60)
        self.owner.wait()


class Lasting:
    """Descriptors, maps and locks that stay open over all kills."""

    def __init__(self, point):
        self.point = point
        self.reader = os.open(point + "/still", os.O_RDONLY)
        self.read = os.pread(self.reader, 1 << 20, 0)
        self.writer = os.open(point + "/lasting", os.O_RDWR | os.O_CREAT, 0o644)
        os.write(self.writer, b"x" * 8192)
        self.map = mmap.mmap(self.writer, 8192)
        self.removed = os.open(point + "/removed", os.O_RDWR | os.O_CREAT, 0o644)
        os.write(self.removed, b"still here")
        os.unlink(point + "/removed")
        self.directory = os.open(point + "/tree", os.O_RDONLY | os.O_DIRECTORY)
        self.nameless = os.open(point, os.O_TMPFILE | os.O_RDWR, 0o644)
        self.lower_map = mmap.mmap(self.reader, len(self.read), prot=mmap.PROT_READ)
        self.flock = os.open(point + "/lasting", os.O_RDWR)
        fcntl.flock(self.flock, fcntl.LOCK_EX)
        fcntl.fcntl(self.writer, fsops.OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 100, 0))
        self.count = 0

    def check(self, checks, name):
        """All of it works; called between the builds."""
        self.count += 1
        text = b"%06d" % self.count
        checks.check(os.pread(self.reader, 1 << 20, 0) == self.read, f"{name}: a file of the image, open since the start")
        checks.check(self.lower_map[:] == self.read, f"{name}: its map")
        self.map[0:6] = text
        checks.check(os.pread(self.writer, 6, 0) == text, f"{name}: what a map writes is read")
        os.pwrite(self.writer, text, 4096)
        checks.check(self.map[4096:4102] == text, f"{name}: what is written is in the map")
        os.fsync(self.writer)
        with open(self.point + "/lasting", "rb") as f:
            data = f.read()
        checks.check(data[:6] == text and data[4096:4102] == text, f"{name}: and in the file by its name")
        os.pwrite(self.removed, text, 0)
        checks.check(os.pread(self.removed, 6, 0) == text and os.fstat(self.removed).st_nlink == 0, f"{name}: a removed file")
        os.pwrite(self.nameless, text, self.count * 10)
        checks.check(os.pread(self.nameless, 6, self.count * 10) == text, f"{name}: a file without a name")
        checks.check("large" in os.listdir(self.directory), f"{name}: an open directory")
        with open(self.point + "/lasting", "r+b") as other:
            for what, lock in (("flock", lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)),
                               ("lock", lambda: fcntl.fcntl(other, fsops.OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 9, 0)))):
                try:
                    lock()
                    checks.check(False, f"{name}: a {what} is still held")
                except BlockingIOError:
                    checks.check(True, what)

    def close(self):
        self.map.close()
        self.lower_map.close()
        for fd in (self.reader, self.writer, self.removed, self.directory, self.nameless, self.flock):
            os.close(fd)


def build(point, seed, log):
    return subprocess.Popen(["/usr/bin/python3", lamina.SUPPORT + "/buildwork.py", str(seed), str(ROUNDS)], cwd=point,
                            stdout=log, stderr=subprocess.STDOUT)


def drop_pages(directory):
    """So that what is read next is asked for."""
    for at, _, names in os.walk(directory):
        for name in names:
            try:
                fd = os.open(f"{at}/{name}", os.O_RDONLY | os.O_NOFOLLOW)
            except OSError:
                continue
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def expected(host, seed):
    """What a build leaves where nobody is killed."""
    point = f"{host.dir}/plain-{seed}"
    buildwork.image(point)
    with open(host.dir + "/log", "w+b") as log:
        if build(point, seed, log).wait(300) != 0:
            log.seek(0)
            raise RuntimeError(log.read().decode())
    return fsops.dump(point)


def without_times(tree):
    return {path: {k: v for k, v in entry.items() if k != "mtime"} for path, entry in tree.items() if path not in (".", "lasting")}


def one_build(host, owner, checks, names, number, seed):
    want = without_times(expected(host, seed))
    points = {name: host.mount(IMAGE, "--rw", *sides.DRIVERS[name]) for name in names}
    lasting = {name: Lasting(point) for name, point in points.items()}
    for point in points.values():
        drop_pages(point)
    killer = Killer(host, owner, seed)
    started = time.monotonic()
    logs = {name: open(f"{host.dir}/log-{name}", "w+b") for name in names}
    running = {name: build(point, seed, logs[name]) for name, point in points.items()}
    killer.start()
    for name, process in running.items():
        try:
            code = process.wait(180)
        except subprocess.TimeoutExpired:
            code = "longer than 180 s"
            process.kill()
        logs[name].seek(0)
        checks.check(code == 0, f"build {number}, {name}: ends", f"status {code}\n" + logs[name].read().decode()[-2000:])
        logs[name].close()
    killer.finish()
    took = time.monotonic() - started
    for name, point in points.items():
        lasting[name].check(checks, f"build {number}, {name}")
        bad = sides.tree_differences(without_times(fsops.dump(point)), want)
        checks.check(not bad, f"build {number}, {name}: leaves what it leaves undisturbed", "\n     ".join(bad))
        lasting[name].close()
        host.umount(point)
    print(f"build {number}: {took:.1f} s, killed {killer.kills}", flush=True)
    return killer.kills


def main():
    lamina.need("unshare", "gcc", "ar")
    args = arguments()
    lamina.isolate(3500 if args.builds > 10 else 580)
    checks = lamina.Checks()
    names = args.of.split(",")
    print(f"--seed {args.seed}", flush=True)
    with lamina.Host() as host:
        owner = Owner(host)
        owner.wait()
        buildwork.image(host.dir + "/root")
        host.run("pack", host.dir + "/root", IMAGE)
        for name in names:
            why = sides.supported(host, name, IMAGE)
            if why:
                lamina.skip(f"{name}: {why}")
        totals = {"fs": 0, "serve": 0}
        for number in range(args.builds):
            for what, n in one_build(host, owner, checks, names, number, args.seed + number).items():
                totals[what] += n
        checks.check(min(totals.values()) >= args.builds, "processes were killed in every build", str(totals))
        owner.process.terminate()
        owner.process.wait(30)
        done = host.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck after the kills", done.stdout + done.stderr)
    checks.finish()


if __name__ == "__main__":
    main()
