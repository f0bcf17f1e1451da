#!/usr/bin/python3
# test: alone
"""Nothing is left of sandboxes that are gone: descriptors, mappings and memory of `lamina fs` and
`lamina hold`, FUSE connections, mounts, loop devices, files of the store and of the runtime directory
are after many sandboxes what they were before. One after another, and many at the same time.

    sandbox_leaks.py [--of overlay,passthrough,inode,private] [--sandboxes N]"""
import argparse
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import fsops  # noqa: E402
import lamina  # noqa: E402
import sides  # noqa: E402

IMAGES, FILES = 3, 60
# What a process may grow by: malloc's ups and downs, and less than the state of a sandbox (40 KiB).
KIB_OF_MALLOC, KIB_A_SANDBOX = 2048, 8
# A connection of its own is freed when no request of it can wait for the owner any more.
FREED_AFTER_S = {"private": 85}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--of", default="overlay,passthrough,inode,private")
    parser.add_argument("--sandboxes", type=int, default=int(os.environ.get("LAMINA_LEAK_SANDBOXES", "48")))
    return parser.parse_args()


def make_root(path, i):
    os.makedirs(path + "/dir/sub")
    for n in range(FILES):
        with open(f"{path}/dir/{n}", "wb") as f:
            f.write(fsops.content(1000 + n * 500, n))
        os.link(f"{path}/dir/{n}", f"{path}/dir/sub/linked-{n}")
    with open(path + "/own", "wb") as f:
        f.write(b"%d" % i)


def use(point):
    """A little of everything that makes a server keep something."""
    for n in range(0, FILES, 7):
        with open(f"{point}/dir/{n}", "rb") as f:
            f.read()
    with open(point + "/dir/1", "ab") as f:
        f.write(b"copied up")
    with open(point + "/dir/sub/linked-2", "r+b") as f:
        f.write(b"both names")
    os.unlink(point + "/dir/3")
    os.chmod(point + "/dir/4", 0o600)
    fd = os.open(point + "/dir/5", os.O_RDWR)
    os.unlink(point + "/dir/5")
    os.write(fd, b"unlinked")
    os.close(fd)
    os.rename(point + "/dir", point + "/renamed")
    with open(point + "/renamed/6", "rb") as f:
        f.read()
    subprocess.run(["find", point, "-ls"], check=True, stdout=subprocess.DEVNULL)


def entries(directory):
    return sum(len(dirs) + len(files) for _, dirs, files in os.walk(directory))


class Counted:
    """What there is now."""

    def __init__(self, host):
        self.exact, self.kib = {}, {}
        for command in ("fs", "hold"):
            pids = host.pids(command)
            self.exact[f"processes {command}"] = len(pids)
            for pid in pids[:1]:
                fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")
                       if os.path.lexists(f"/proc/{pid}/fd/{fd}")]
                # Packs that are read are kept open, as many as there are.
                self.exact[f"descriptors of {command}"] = sum("/packs/" not in fd for fd in fds)
                with open(f"/proc/{pid}/status", encoding="ascii") as f:
                    status = dict(line.split(":", 1) for line in f)
                self.kib[f"{command}"] = sum(int(status[k].split()[0]) for k in ("RssAnon", "RssShmem"))
        with open("/proc/self/mountinfo", encoding="ascii") as f:
            self.exact["mounts"] = len(f.readlines())
        self.exact["sandboxes in the store"] = entries(host.store + "/sandboxes") if os.path.isdir(host.store + "/sandboxes") else 0
        self.exact["files of the runtime directory"] = len(os.listdir(host.dir + "/run")) + sum(
            len(os.listdir(f"{host.dir}/run/{d}")) for d in ("mounts", "images", "trees", "private")
            if os.path.isdir(f"{host.dir}/run/{d}"))
        loops = subprocess.run(["losetup", "-n", "-O", "BACK-FILE"], check=False, stdout=subprocess.PIPE, text=True).stdout
        self.exact["loop devices"] = sum(host.dir in line for line in loops.splitlines())

    def is_no_more_than(self, before):
        return all(value <= before.exact.get(key, 0) for key, value in self.exact.items())

    def compare(self, checks, before, what, sandboxes, shared):
        """Memory is compared where sandboxes share a connection: what each has by itself is taken and
        given back in pieces that malloc keeps."""
        for key, value in self.exact.items():
            checks.check(value <= before.exact.get(key, 0), f"{what}: {key}", f"{before.exact.get(key)} before, {value} after")
        for key, value in self.kib.items():
            grown = value - before.kib.get(key, 0)
            checks.check(not shared or grown <= KIB_OF_MALLOC + KIB_A_SANDBOX * sandboxes, f"{what}: memory of {key}",
                         f"{before.kib.get(key)} KiB before, {value} after")
            print(f"{what}: memory of {key} grew by {grown} KiB in {sandboxes} sandboxes", flush=True)


def settle(host, before, seconds):
    """What the kernel forgets and the server closes takes a moment."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sides.drop_caches()
        now = Counted(host)
        if now.is_no_more_than(before):
            return now
        time.sleep(0.5)
    return Counted(host)


def image_of(n):
    return f"leak{n % IMAGES}:1"


def one(host, name, n):
    point = host.mount(image_of(n), "--rw", *sides.DRIVERS[name])
    try:
        use(point)
    finally:
        host.umount(point)
        os.rmdir(point)


def check_driver(host, checks, name, sandboxes):
    # One of each stays mounted, so that what is shared stays.
    staying = [host.mount(image_of(n), "--rw", *sides.DRIVERS[name]) for n in range(IMAGES)]
    patience, shared = FREED_AFTER_S.get(name, 15), name not in FREED_AFTER_S
    if shared:
        for n in range(2 * IMAGES):
            one(host, name, n)
        sides.drop_caches()
        time.sleep(1)
    before = Counted(host)
    for n in range(sandboxes):
        one(host, name, n)
    if shared:
        settle(host, before, patience).compare(checks, before, f"{name}, one after another", sandboxes, shared)
    points = [host.mount(image_of(n), "--rw", *sides.DRIVERS[name]) for n in range(sandboxes)]
    for point in points:
        use(point)
    most = Counted(host)
    for key, value in most.kib.items():
        print(f"{name}, {sandboxes} at once: {(value - before.kib[key]) / sandboxes:.0f} KiB of {key} each", flush=True)
    for point in points:
        host.umount(point)
        os.rmdir(point)
    settle(host, before, patience).compare(checks, before, f"{name}, at the same time", sandboxes, shared)
    for point in staying:
        with open(point + "/own", "rb") as f:
            checks.check(f.read() in (b"0", b"1", b"2"), f"{name}: what stayed is there")
        host.umount(point)


def main():
    lamina.need("unshare", "losetup")
    args = arguments()
    lamina.isolate(3500 if args.sandboxes > 100 else 560)
    checks = lamina.Checks()
    with lamina.Host() as host:
        for i in range(IMAGES):
            make_root(f"{host.dir}/root{i}", i)
            host.run("pack", f"{host.dir}/root{i}", f"leak{i}:1")
        anchor = host.mount(image_of(0), "--driver", "overlay")  # fs is there all the time
        for name in args.of.split(","):
            why = sides.supported(host, name, image_of(0))
            if why:
                print(f"{name}: {why}")
                continue
            check_driver(host, checks, name, args.sandboxes)
        host.umount(anchor)
    checks.finish()


if __name__ == "__main__":
    main()
