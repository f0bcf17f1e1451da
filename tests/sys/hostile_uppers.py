#!/usr/bin/python3
"""Uppers and trees that lie, through a real writable mount of the fuse driver: redirects out of the
root, metacopies that are no files, marks that make no sense, damaged handles, links that take the
place of directories while the server works, trees whose bytes change under the map. Every operation
answers, the server lives on, and what is outside of the upper is neither seen nor changed.

    hostile_uppers.py [--of passthrough,inode] [--seed N]"""
import argparse
import os
import random
import stat
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import fsops  # noqa: E402
import lamina  # noqa: E402
import oddimages  # noqa: E402
import sides  # noqa: E402

IMAGE = "hostile/app:1"
SECRET = b"secret of the host"
LARGE = 100_000
# Errors that say what is wrong with an upper or its tree; others would be a crash or an end.
FATAL = ("ENOTCONN", "ECONNABORTED", "ENXIO", "EFAULT")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--of", default="passthrough,inode")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2), "big"))
    return parser.parse_args()


def make_image(host):
    base, app = oddimages.Layer(), oddimages.Layer()
    base.dir("etc").add("etc/passwd", data=b"of the image")
    for d in ("d", "full", "full/sub", "swap", "swap/in", "deep"):
        base.dir(d).add(d + "/file", data=b"of the image").add(d + "/large", data=fsops.content(LARGE, 3))
    for i in range(40):
        base.add(f"f{i}", data=fsops.content(LARGE if i % 2 else 50, i))
    base.add("link-a", data=fsops.content(500, 77)).hardlink("link-b", "link-a")
    app.dir("full").add("full/app", data=b"app").whiteout("full/large").symlink("to-etc", "/etc")
    out = oddimages.Layout(host.dir + "/layout")
    low, high = base.bytes(), app.bytes()
    out.image("base", [oddimages.RawLayer(low)], "plain")
    out.image("app", [oddimages.RawLayer(low), oddimages.RawLayer(high)], "plain")
    out.finish()
    host.run("import", f"oci:{host.dir}/layout:base", "hostile/base:1")
    host.run("import", f"oci:{host.dir}/layout:app", IMAGE)


class Canary:
    """What is outside: it must not change, nor show."""

    def __init__(self, host):
        self.dir = host.dir + "/outside"
        os.makedirs(self.dir + "/sub")
        for name in ("file", "secret", "large", "sub/file"):
            with open(f"{self.dir}/{name}", "wb") as f:
                f.write(SECRET)
        os.mkfifo(self.dir + "/outside")  # a name that is nowhere else
        self.before = self.state()

    def state(self):
        return {path: (st.st_mtime_ns, st.st_ctime_ns, st.st_mode, st.st_size, st.st_nlink)
                for at, dirs, files in os.walk(self.dir) for path in (at, *(f"{at}/{n}" for n in dirs + files))
                for st in [os.lstat(path)]}

    def check(self, checks, what):
        checks.check(self.state() == self.before, f"{what}: nothing outside has changed")


# ---- uppers that were bad when they were mounted ----

def mark(path, **xattrs):
    for name, value in xattrs.items():
        os.setxattr(path, "trusted.overlay." + name, value, follow_symlinks=False)


def bad_upper(upper, outside, r):
    """One of everything; returns the names that are there."""
    root = upper + "/upper"
    redirects = [b"/../../../../" + outside.encode().lstrip(b"/"), b"../outside", b"..", b".", b"/", b"", b"//etc", b"/etc/../d",
                 b"/d/./file", b"a/b", outside.encode(), b"/" + b"x" * 300, b"/d" * 2000, b"/d\0/etc", b"\xff\xfe", b"/f1", b"/to-etc",
                 b"/to-etc/passwd", b"etc", b"/redirect-0"]
    for i, text in enumerate(redirects):
        os.mkdir(f"{root}/redirect-{i}")
        mark(f"{root}/redirect-{i}", redirect=text)
        with open(f"{root}/meta-{i}", "wb") as f:
            f.truncate(LARGE)
        mark(f"{root}/meta-{i}", metacopy=b"", redirect=text)
    os.symlink("x", root + "/meta-link")
    os.mkfifo(root + "/meta-fifo")
    os.mknod(root + "/meta-device", stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root + "/meta-socket", stat.S_IFSOCK)
    os.mkdir(root + "/meta-dir")
    for name in ("link", "fifo", "device", "socket", "dir"):
        mark(f"{root}/meta-{name}", metacopy=b"", redirect=b"/f1")
    for i, size in ((1, 5), (3, 10 * LARGE), (5, 1 << 43), (0, 0), (2, LARGE)):  # sizes that are not those below
        with open(f"{root}/f{i}", "wb") as f:
            f.truncate(size)
        mark(f"{root}/f{i}", metacopy=r.choice((b"", b"\0\4\0\1", b"\0\x24\0\1" + b"z" * 32, b"z" * 500)))
    os.mkfifo(root + "/f7")
    mark(root + "/f7", metacopy=b"")
    os.symlink(outside, root + "/swap")  # over a directory of the image
    os.symlink(outside + "/secret", root + "/f9")
    os.mkdir(root + "/f11")  # over a file of the image, as if merged
    for i, text in enumerate((b"", b"z" * 4000, b"Y", b"yy", b"x", b"\0", b"xy")):
        os.mkdir(f"{root}/opaque-{i}")
        mark(f"{root}/opaque-{i}", opaque=text)
        with open(f"{root}/opaque-{i}/whiteout", "wb"):
            pass
        mark(f"{root}/opaque-{i}/whiteout", whiteout=b"")
    mark(root, redirect=b"/etc", opaque=b"x")
    for name in ("origin", "upper", "nlink", "impure", "protattr", "uuid", "whiteout"):
        for i, text in enumerate((b"", os.urandom(29), b"\x00\xfb" + os.urandom(60), b"U+9999999999999", b"U-5", b"z" * 3000)):
            path = f"{root}/{name}-{i}"
            with open(path, "wb") as f:
                f.write(b"data")
            mark(path, **{name: text})
    for i, text in enumerate((b"", b"0:0", b"0:0:7777777", b"-1:0:0644", b"99999999999999999999:0:0644", b"0:0:0644:device-1-1",
                              b"0:0:0644:dir", b"z" * 2000)):
        with open(f"{root}/override-{i}", "wb") as f:
            f.write(b"data")
        os.setxattr(f"{root}/override-{i}", "user.containers.override_stat", text)
    mark(root + "/override-0", nlink=b"U+1")
    os.link(root + "/override-1", root + "/override-1-linked")
    with open(root + "/.wh.f13", "wb"):
        pass
    path = root + "/deep"
    os.mkdir(path)
    at = os.open(path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=at)
        below = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    bad_work(upper, outside)


def bad_work(upper, outside):
    work = upper + "/work"
    os.makedirs(work + "/index", exist_ok=True)
    os.makedirs(work + "/work", exist_ok=True)
    names = ["00fb1d0001" + "ab" * 24, "00", "z", "00fb" * 60, "#1", "00fb2100810000000000000000000000000000000000000000000000000000"]
    for i, name in enumerate(names):
        path = f"{work}/index/{name}"
        (lambda p: os.mkfifo(p), lambda p: os.symlink(outside, p), os.mkdir, lambda p: open(p, "wb").close(),
         lambda p: os.mknod(p, stat.S_IFCHR, 0), lambda p: os.link(upper + "/upper/override-2", p))[i](path)
    os.symlink(outside, work + "/work/link")
    os.makedirs(work + "/work/a/b/c")
    os.mkfifo(work + "/work/fifo")
    os.symlink(outside + "/file", work + "/work/#hidden")
    os.symlink(outside, work + "/incompat")


def operations(r, names):
    """Something of every kind on the given names."""
    out = []
    for name in names:
        out += [["lstat", name], ["get", name], ["listxattr", name], ["list", name], ["readlink", name],
                ["getxattr", name, "trusted.overlay.redirect"]]
    for name in r.sample(names, len(names)):
        out += [["open", 0, name, "RDWR|NONBLOCK|NOFOLLOW"], ["pwrite", 0, 5, 5, 1], ["fstat", 0], ["close", 0], ["chmod", name, 0o640],
                ["lchown", name, 1, 1], ["put", name + "/new", 20, 2], ["mkdir", name + "/newdir"], ["list", name],
                ["truncate", name, 7], ["setxattr", name, "user.x", "1"], ["rename", name, name + "-moved"], ["lstat", name + "-moved"],
                ["link", name + "-moved", name], ["rename", name + "-moved/file", "stolen"], ["get", "stolen"], ["unlink", "stolen"]]
    for name in r.sample(names, len(names)):
        out += [["unlink", name], ["unlink", name + "-moved"], ["rmdir", name], ["rmdir", name + "-moved"]]
    return out + [["list", "."], ["put", "alive", 10, 3], ["get", "alive"], ["unlink", "alive"]]


def judge(checks, ops, results, what):
    """Nothing of the host shows, and no error is the end of the mount."""
    for op, result in zip(ops, results):
        text = repr(result)
        if "secret of the host" in text or "'outside'" in text:
            checks.check(False, f"{what}: {op} shows what is outside", text[:200])
        if result[0] == "err" and result[1] in FATAL and not (result[1] == "ENXIO" and op[0] in ("open", "get", "put", "truncate")):
            checks.check(False, f"{what}: {op}", result[1])
    checks.check(results[-2] == ["ok", fsops.short(fsops.content(10, 3))], f"{what}: the mount works", str(results[-2]))


def static(host, checks, name, canary, seed):
    r = random.Random(seed)
    side = sides.Mounted(host, name, IMAGE, "static-" + name)
    pids = host.pids("fs")
    side.unmount()
    bad_upper(side.upper, canary.dir, r)
    done = host.run("mount", "--upper", side.upper, *sides.DRIVERS[name], IMAGE, side.point, check=False)
    if not checks.check(done.returncode == 0, f"{name}: an odd upper is mounted", done.stderr):
        return
    side.side = fsops.Side(name, side.point, True)
    names = sorted(set(os.listdir(side.upper + "/upper")) | {"etc", "d", "full", "f15", "link-a", "link-b"} - {"deep"})
    ops = operations(r, names)
    side.side.ask("run", ".", ops)
    judge(checks, ops, side.side.answer(120), f"{name}, odd upper")
    deep = subprocess.run(["timeout", "100", "rm", "-rf", side.point + "/deep"], check=False, stderr=subprocess.PIPE, text=True)
    checks.check(deep.returncode in (0, 1), f"{name}: a deep upper", deep.stderr[-300:])
    checks.check(host.pids("fs") == pids, f"{name}: the server lives on", f"{pids} {host.pids('fs')}")
    canary.check(checks, f"{name}, odd upper")
    side.remove()


# ---- an upper that changes while it is served ----

class Swapper(threading.Thread):
    """Puts links in the place of directories and files of the upper, and back, all the time."""

    def __init__(self, upper, outside):
        super().__init__(daemon=True)
        self.root, self.outside, self.stop, self.turns = upper + "/upper", outside, threading.Event(), 0

    def swap(self, name, target, make):
        path, aside = f"{self.root}/{name}", f"{self.root}/aside-{name.replace('/', '-')}"
        os.rename(path, aside)
        make(target, path)
        self.stop.wait(0.0005)
        os.unlink(path)
        os.rename(aside, path)

    def run(self):
        work = self.root + "/../work"
        while not self.stop.is_set():
            self.turns += 1
            for name, target, make in (("swap", self.outside, os.symlink), ("swap/in", self.outside + "/sub", os.symlink),
                                       ("swap/file", self.outside + "/secret", os.symlink), ("f1", self.outside + "/file", os.symlink),
                                       ("swap", "", lambda _, p: os.mkfifo(p)), ("f1", "", lambda _, p: os.mkfifo(p)),
                                       ("swap/in", "", lambda _, p: open(p, "wb").close())):
                try:
                    self.swap(name, target, make)
                except OSError:
                    for left in (name,):
                        self.repair(left)
            try:
                os.rename(work, work + "-aside")
                os.symlink(self.outside, work)
                self.stop.wait(0.0005)
                os.unlink(work)
                os.rename(work + "-aside", work)
            except OSError:
                pass

    def repair(self, name):
        path, aside = f"{self.root}/{name}", f"{self.root}/aside-{name.replace('/', '-')}"
        try:
            if os.path.lexists(aside) and not os.path.lexists(path):
                os.rename(aside, path)
        except OSError:
            pass


def dynamic(host, checks, name, canary, seed):
    r = random.Random(seed)
    side = sides.Mounted(host, name, IMAGE, "dynamic-" + name)
    pids = host.pids("fs")
    side.side.stop()
    side.side = fsops.Side(name, side.point, True)
    # So that all of it is in the upper.
    made = [["chmod", n, 0o750] for n in ("swap", "swap/in", "swap/file", "swap/in/file", "f1")]
    side.side.ask("run", ".", made)
    side.side.answer()
    swapper = Swapper(side.upper, canary.dir)
    swapper.start()
    names = ["swap", "swap/in", "swap/file", "swap/in/file", "swap/sub/file", "swap/secret", "swap/large", "f1", "f3"]
    for turn in range(60):
        ops = []
        for _ in range(40):
            n = r.choice(names)
            ops.append(r.choice((["get", n], ["put", n, 30, 5], ["lstat", n], ["list", n], ["chmod", n, 0o600], ["put", n + "/x", 9, 6],
                                 ["unlink", n + "/x"], ["mkdir", n + "/y"], ["rmdir", n + "/y"], ["rename", n + "/x", "f5"],
                                 ["truncate", n, 3], ["setxattr", n, "user.x", "1"], ["unlink", n + "/secret"], ["lchown", n, 5, 5],
                                 ["link", n, "swap/linked"], ["unlink", "swap/linked"], ["open", 0, n, "RDWR|NONBLOCK"],
                                 ["pwrite", 0, 0, 10, 7], ["utimens", n, 5, 5], ["symlink", "x", n + "/s"], ["unlink", n + "/s"],
                                 ["rename", n, "f7"], ["rename", "f7", n], ["open", 1, "swap", "TMPFILE|RDWR"], ["fdlink", 1, n + "/t"])))
        ops += [["put", "alive", 10, 3], ["get", "alive"], ["unlink", "alive"]]
        side.side.ask("run", ".", ops)
        results = side.side.answer(120)
        for op, result in zip(ops, results):
            if "of the host" in repr(result) or (op[0] == "list" and "'outside'" in repr(result)):
                checks.check(False, f"{name}: {op} shows what is outside", repr(result)[:200])
        if turn % 10 == 0:
            sides.drop_caches()
    swapper.stop.set()
    swapper.join()
    checks.check(swapper.turns > 5, f"{name}: directories were swapped", str(swapper.turns))
    checks.check(host.pids("fs") == pids, f"{name}: the server lives on", f"{pids} {host.pids('fs')}")
    canary.check(checks, f"{name}, swapped directories")
    side.remove()


# ---- trees whose bytes are not those that were verified ----

def damaged_trees(host, checks, name, canary, seed):
    r = random.Random(seed)
    side = sides.Mounted(host, name, IMAGE, "trees-" + name)
    pids = host.pids("fs")
    trees = [f"{host.store}/trees/{n}" for n in os.listdir(host.store + "/trees")]
    whole = {path: open(path, "rb").read() for path in trees}
    for turn in range(40):
        path = r.choice(trees)
        with open(path, "r+b") as f:
            for _ in range(r.choice((1, 5, 60))):
                f.seek(r.randrange(1024, len(whole[path])))
                f.write(bytes([r.randrange(256)]))
        names = r.sample(["etc", "d", "full", "deep", "link-a", *(f"f{i}" for i in range(40))], 12)
        ops = [["list", "."], *(op for n in names for op in (
            ["lstat", n], ["get", n], ["list", n], ["listxattr", n], ["readlink", n], ["chmod", n, 0o600 + turn], ["put", n + "/new", 5, 1],
            ["get", n + "/file"], ["rename", n, f"moved-{turn}-{n}"])), ["put", "alive", 10, 3], ["get", "alive"], ["unlink", "alive"]]
        sides.drop_caches()
        side.side.ask("run", ".", ops)
        side.side.answer(120)
        with open(path, "r+b") as f:
            f.write(whole[path])
    sides.drop_caches()
    ops = [["put", "alive", 10, 3], ["get", "alive"], ["unlink", "alive"]]
    side.side.ask("run", ".", ops)
    judge(checks, ops, side.side.answer(120), f"{name}, damaged trees")
    checks.check(host.pids("fs") == pids, f"{name}: the server lives on", f"{pids} {host.pids('fs')}")
    canary.check(checks, f"{name}, damaged trees")
    side.remove()


def main():
    lamina.need("unshare")
    args = arguments()
    lamina.isolate(560)
    checks = lamina.Checks()
    print(f"--seed {args.seed}", flush=True)
    with lamina.Host() as host:
        make_image(host)
        canary = Canary(host)
        anchor = host.mount(IMAGE, "--driver", "overlay")
        for name in args.of.split(","):
            why = sides.supported(host, name, IMAGE)
            if why:
                lamina.skip(f"{name}: {why}")
            static(host, checks, name, canary, args.seed)
            dynamic(host, checks, name, canary, args.seed)
            damaged_trees(host, checks, name, canary, args.seed)
        host.umount(anchor)
    checks.finish()


if __name__ == "__main__":
    main()
