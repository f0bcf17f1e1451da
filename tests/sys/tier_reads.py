#!/usr/bin/env python3
"""Files of an image whose packs are on a slow tier, read through a cache of blocks that is much too
small: no wrong byte, and no error, while blocks are evicted, twins are damaged and punched by hand,
and the owner is killed and comes back."""
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import tierlist  # noqa: E402

FILES, FILE_BYTES = 160, 200_000
READERS = 8
CACHE_BYTES = 1 << 20
SECONDS = 20


def content(number):
    rng = random.Random(number)
    return rng.randbytes(FILE_BYTES // 2) + bytes(FILE_BYTES // 2 - 16) + rng.randbytes(16)


def make_image(host):
    """An image of files with pseudo-random content; their digests."""
    root = host.dir + "/root"
    os.mkdir(root)
    digests = {}
    for i in range(FILES):
        data = content(i)
        with open(f"{root}/f{i:03}", "wb") as f:
            f.write(data)
        digests[f"f{i:03}"] = hashlib.sha256(data).digest()
    host.run("pack", root, "slow:1")
    return digests


class Readers:
    """Threads that read files and compare them until they are told to end."""

    def __init__(self, point, digests):
        self.point, self.digests = point, digests
        self.stop = False
        self.reads, self.wrong = 0, []
        self.threads = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(READERS)]
        for t in self.threads:
            t.start()

    def work(self, seed):
        rng = random.Random(seed)
        names = sorted(self.digests)
        while not self.stop and not self.wrong:
            name = rng.choice(names)
            try:
                with open(f"{self.point}/{name}", "rb") as f:
                    data = f.read()
                    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read anew the next time
            except OSError as e:
                self.wrong.append(f"{name}: {e}")
                return
            if hashlib.sha256(data).digest() != self.digests[name]:
                self.wrong.append(f"{name}: other bytes")
                return
            self.reads += 1

    def end(self):
        self.stop = True
        for t in self.threads:
            t.join(90)


def hurt_twins(directory, rng):
    """Overwrites and punches pieces of the twins."""
    hurt = 0
    for name in os.listdir(directory):
        if not name.endswith(".blocks"):
            continue
        path = f"{directory}/{name}"
        try:
            with open(path, "r+b") as f:
                at = os.lseek(f.fileno(), 0, os.SEEK_DATA)
                size = os.fstat(f.fileno()).st_size
                while at < size:
                    if rng.random() < 0.5:
                        os.pwrite(f.fileno(), b"damage", at + 1000)
                    else:
                        subprocess.run(["fallocate", "-p", "-o", str(at), "-l", "4096", path], check=False)
                    hurt += 1
                    at = os.lseek(f.fileno(), at + rng.randrange(1, 300_000), os.SEEK_DATA)
        except OSError:
            pass  # no data behind, or gone meanwhile
    return hurt


def cached_bytes(directory):
    total = 0
    for name in os.listdir(directory):
        if name.endswith(".blocks"):
            try:
                with open(f"{directory}/{name}", "rb") as f:
                    at = 0
                    while True:
                        data = os.lseek(f.fileno(), at, os.SEEK_DATA)
                        at = os.lseek(f.fileno(), data, os.SEEK_HOLE)
                        total += (at + 4095) // 4096 * 4096 - data
            except OSError:
                pass
    return total


def main():
    lamina.isolate(240)
    c = lamina.Checks()
    with lamina.Host("/var/tmp") as host:
        digests = make_image(host)
        for pid in host.pids("serve"):
            os.kill(pid, signal.SIGTERM)
        lamina.wait_for(lambda: not host.pids("serve"), 20, "the end of the owner")
        fast = host.dir + "/fast"
        tierlist.write(host.store, [
            {"name": "own", "id": 0, "class": "hdd"},
            {"name": "fast", "id": 1, "class": "nvme", "where": fast, "cache": CACHE_BYTES}])
        point = host.mount("slow:1")
        readers = Readers(point, digests)
        rng = random.Random(4711)
        end, hurt, most, kills = time.monotonic() + SECONDS, 0, 0, 0
        while time.monotonic() < end and not readers.wrong:
            most = max(most, cached_bytes(fast + "/cache"))
            if rng.random() < 0.3:
                hurt += hurt_twins(fast + "/cache", rng)
            if rng.random() < 0.04 and kills < 6:
                for pid in host.pids("serve"):
                    os.kill(pid, signal.SIGKILL)
                kills += 1
            time.sleep(0.05)
        for pid in host.pids("serve"):
            os.kill(pid, signal.SIGKILL)
        kills += 1
        before = readers.reads
        time.sleep(3)
        c.check(readers.reads > before, "reads go on without an owner, and when it is back")
        readers.end()
        c.check(not readers.wrong, "every byte is right", "; ".join(readers.wrong[:3]))
        c.check(readers.reads > 100, "files were read", str(readers.reads))
        c.check(most > 0, "the cache was used")
        # Looking takes a while: what goes and comes meanwhile may be counted twice.
        c.check(most <= CACHE_BYTES * 5 // 4, "its capacity held", str(most))
        c.check(hurt > 0, "twins were damaged")
        print(f"{readers.reads} reads, {kills} owners killed, {hurt} damages, {most} bytes cached at most")
        host.umount(point)
        c.check(host.run("fsck", check=False).returncode == 0, "the store is sound")
    c.finish()


if __name__ == "__main__":
    main()
