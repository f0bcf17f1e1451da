#!/usr/bin/python3
"""Mounts that go on: `lamina fs`, the owner, both at once, and `lamina hold` are killed again and
again while twenty sandboxes of either driver read uncached files and start programs. Nobody gets an
error or wrong contents."""
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

READERS = 20
KINDS = [["--driver", "overlay"], ["--driver", "overlay", "--rw"], ["--driver", "fuse"], ["--driver", "fuse", "--rw"],
         ["--driver", "fuse", "--pages", "inode"], ["--driver", "fuse", "--pages", "inode", "--rw"],
         ["--pages", "private"]]
SECONDS = float(os.environ.get("LAMINA_TAKEOVER_SECONDS", "20"))


def make_root(path):
    """A root with one static-enough program and files to read."""
    os.makedirs(path + "/bin")
    shutil.copy2("/bin/true", path + "/bin/true")
    os.makedirs(path + "/files")
    sums = {}
    for i in range(300):
        data = hashlib.shake_128(str(i).encode()).digest(3000 + i * 700)
        with open(f"{path}/files/{i}", "wb") as f:
            f.write(data)
        sums[str(i)] = hashlib.sha256(data).hexdigest()
    with open(path + "/files/large", "wb") as f:
        for i in range(64):
            f.write(hashlib.shake_128(b"large%d" % i).digest(1 << 18))
    with open(path + "/files/large", "rb") as f:
        sums["large"] = hashlib.sha256(f.read()).hexdigest()
    return sums


def drop_pages(path):
    """Makes the next read a cold one: evicts the file's pages."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reader(point, sums, stop, errors, counts, seed):
    names = sorted(sums)
    i = seed
    while not stop.is_set():
        name = names[i * 7919 % len(names)]
        i += 1
        try:
            drop_pages(f"{point}/files/{name}")
            with open(f"{point}/files/{name}", "rb") as f:
                if hashlib.sha256(f.read()).hexdigest() != sums[name]:
                    errors.append(f"{name}: wrong contents")
            if i % 10 == 0:
                subprocess.run([f"{point}/bin/true"], check=True)
            counts[seed] += 1
        except (OSError, subprocess.CalledProcessError) as e:
            errors.append(f"{name}: {e}")


def kill(host, command):
    killed = 0
    for pid in host.pids(command):
        try:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        except ProcessLookupError:
            pass
    return killed


def revived(host):
    with open(host.dir + "/run/fs.log", encoding="utf-8") as f:
        return f.read().count(" fs.revived_hold ")


def main():
    lamina.need("unshare")
    lamina.isolate(240)
    checks = lamina.Checks()
    with lamina.Host() as host:
        sums = make_root(host.dir + "/root")
        host.run("pack", host.dir + "/root", "takeover:1")
        server = host.start("serve", "--listen", "127.0.0.1:0", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        lamina.wait_for(lambda: os.path.exists(host.store + "/control.sock"), what="the owner")
        points = [host.mount("takeover:1", *KINDS[i % len(KINDS)]) for i in range(READERS)]
        stop, errors, counts = threading.Event(), [], [0] * READERS
        threads = [threading.Thread(target=reader, args=(p, sums, stop, errors, counts, i))
                   for i, p in enumerate(points)]
        for t in threads:
            t.start()
        kills = {"fs": 0, "serve": 0, "hold": 0}
        end = time.monotonic() + SECONDS
        turn = 0
        while time.monotonic() < end:
            time.sleep(0.7)
            what = (("fs",), ("serve",), ("fs", "serve"), ("hold",))[turn % 4]
            turn += 1
            before = revived(host)
            for command in what:
                kills[command] += kill(host, command)
            if "hold" in what:  # fs and hold at once are too many
                lamina.wait_for(lambda: revived(host) > before, what="another hold")
            if "serve" in what:
                server.wait()
                server = host.start("serve", "--listen", "127.0.0.1:0", stderr=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL)
        stop.set()
        for t in threads:
            t.join(60)
        checks.check(not any(t.is_alive() for t in threads), "no reader hangs")
        checks.check(not errors, "no reader saw an error", "; ".join(errors[:5]))
        checks.check(all(counts), "every sandbox went on", str(counts))
        checks.check(kills["fs"] >= 3 and kills["serve"] >= 3 and kills["hold"] >= 2, "processes were killed", str(kills))
        for i, p in enumerate(points):
            with open(p + "/files/large", "rb") as f:
                good = hashlib.sha256(f.read()).hexdigest() == sums["large"]
            checks.check(good, f"sandbox {i} reads right at the end")
        lamina.wait_for(lambda: os.path.exists(host.store + "/control.sock"), what="the owner")
        for p in points:
            host.umount(p)
        server.terminate()
        server.wait(30)
        done = host.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck after the kills", done.stdout + done.stderr)
        print(f"{sum(counts)} reads; killed: {kills}")
    checks.finish()


if __name__ == "__main__":
    main()
