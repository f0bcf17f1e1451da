#!/usr/bin/python3
"""What a sandbox changed: commit makes an image whose mount, and whose unpacking by another program,
is the sandbox's tree; diff tells the difference and nothing else; clone and reset; uppers of limited
size. For a made-up image, by hand and by random operations (LAMINA_SEED repeats them); for images of the
corpus too, when LAMINA_CORPUS names its layout."""
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import overlaycases  # noqa: E402
import overlayrandom  # noqa: E402
import treedump  # noqa: E402

SEQUENCES, STEPS = 25, 80
BIG = bytes((i * i >> 7) & 255 for i in range(300000))


def write(path, data, mode="wb"):
    with open(path, mode) as f:
        f.write(data)


def make_base(dir):
    """A tree with something for every way of changing it."""
    os.makedirs(dir + "/tree/a/b/c")
    os.makedirs(dir + "/tree/links/in")
    os.makedirs(dir + "/opaque/sub/deep")
    os.makedirs(dir + "/gone/below")
    os.makedirs(dir + "/quiet/inner")
    os.mkdir(dir + "/tree/empty")
    for name in ("tree/a/one", "tree/a/b/two", "tree/a/b/c/three", "opaque/keep", "opaque/drop", "opaque/sub/x",
                 "opaque/sub/deep/y", "gone/f", "gone/below/g", "quiet/inner/f", "append", "chmod", "chown", "moved",
                 "xattr", "todir", "same", "truncate", "delete"):
        write(f"{dir}/{name}", BIG[: 1000 + len(name) * 7] + name.encode())
    write(dir + "/small", b"small")
    write(dir + "/large", BIG * 10)
    write(dir + "/tree/links/first", BIG[:5000])
    os.link(dir + "/tree/links/first", dir + "/tree/links/in/second")
    os.link(dir + "/tree/links/first", dir + "/outside-link")
    write(dir + "/group1", BIG[:6000])
    os.link(dir + "/group1", dir + "/group2")
    os.link(dir + "/group1", dir + "/quiet/inner/group3")
    os.mkdir(dir + "/dir-to-link")
    write(dir + "/dir-to-link/f", b"x" * 100)
    os.symlink("tree/a", dir + "/link")
    os.mkfifo(dir + "/fifo", 0o640)
    os.mknod(dir + "/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(dir + "/xattr", "user.kept", b"1")
    os.setxattr(dir + "/tree", "trusted.mark", b"\x00\x01")
    for root, dirs, files in os.walk(dir, topdown=False):
        for name in dirs + files:
            os.utime(f"{root}/{name}", ns=(0, 1600000000123456789), follow_symlinks=False)
    os.utime(dir, ns=(0, 1600000000123456789))


def change(p):
    """Everything that a program does to a file system."""
    write(p + "/added", b"new")
    with open(p + "/sparse", "wb") as f:
        f.truncate(3 << 20)
        f.seek(1 << 20)
        f.write(BIG)
    write(p + "/append", b"tail", "ab")
    os.chmod(p + "/chmod", 0o4711)
    os.chown(p + "/chown", 1234, 4321)
    os.chmod(p + "/large", 0o600)
    os.rename(p + "/large", p + "/tree/large-moved")
    os.rename(p + "/moved", p + "/quiet/moved-there")
    os.setxattr(p + "/xattr", "user.more", b"2" * 300)
    os.removexattr(p + "/xattr", "user.kept")
    os.truncate(p + "/truncate", 10)
    os.unlink(p + "/delete")
    os.unlink(p + "/todir")
    os.mkdir(p + "/todir")
    write(p + "/todir/in", b"in")
    shutil.rmtree(p + "/dir-to-link")
    os.symlink("nowhere", p + "/dir-to-link")
    shutil.rmtree(p + "/gone")
    shutil.rmtree(p + "/opaque")
    os.makedirs(p + "/opaque/sub")
    write(p + "/opaque/keep", b"again")
    write(p + "/opaque/sub/z", b"z")
    os.rename(p + "/tree/a/b", p + "/tree/a/renamed")
    write(p + "/tree/a/renamed/more", b"more")
    os.unlink(p + "/tree/a/renamed/c/three")
    os.rename(p + "/tree/a", p + "/elsewhere")
    os.mkdir(p + "/tree/a")
    write(p + "/tree/a/one", b"another")
    os.rename(p + "/tree/links", p + "/links-moved")
    write(p + "/group2", b"grown", "ab")
    os.link(p + "/added", p + "/tree/added-link")
    os.link(p + "/same", p + "/same-link")
    write(p + "/passing", b"x")
    os.unlink(p + "/passing")
    os.mkfifo(p + "/tree/fifo")
    os.mknod(p + "/tree/zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    os.chmod(p + "/quiet", 0o1777)
    write(os.fsencode(p) + b"/odd \xff\n\\name", b"odd")
    write(p + "/" + "n" * 255, b"long")
    os.makedirs(p + "/x" + "/y" * 60)
    os.utime(p + "/small", ns=(5, -1500000000))
    shutil.rmtree(p + "/tree/empty")
    for name in ("/socket", "/tree/empty"):
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(p + name)


def without_sockets(tree):
    return {k: v for k, v in tree.items() if v["type"] != "socket"}


def differences(expected, found):
    out = []
    for path in sorted(set(expected) | set(found)):
        a, b = expected.get(path), found.get(path)
        if a != b:
            out.append(f"{treedump.quote(path) or '.'}: expected {a}, found {b}")
    return out


def check_equal(checks, expected, found, what):
    bad = differences(expected, found)
    checks.check(not bad, what, "\n     ".join(bad[:12]))


def unescape(path):
    out, i = bytearray(), 0
    while i < len(path):
        if path[i:i + 1] == b"\\":
            out.append(int(path[i + 1:i + 4], 8))
            i += 4
        else:
            out.append(path[i])
            i += 1
    return bytes(out)


def check_diff(checks, host, args, before, after, what):
    raw = subprocess.run([lamina.PROGRAM, "diff", *args], env=host.env, stdout=subprocess.PIPE, check=True).stdout
    told = {"A": set(), "M": set(), "D": set()}
    paths = []
    for line in raw.split(b"\n")[:-1]:
        path = unescape(line[2:])[1:]
        told[line[:1].decode()].add(path)
        paths.append(path)
    checks.check(paths == sorted(paths, key=lambda p: p.split(b"/")), what + ": sorted")
    gone = set(before) - set(after)
    tops = {p for p in gone if after.get(os.path.dirname(p), {}).get("type") == "dir"}
    checks.check(told["D"] == tops, what + ": deletions", str(told["D"] ^ tops))
    added = set(after) - set(before)
    checks.check(told["A"] == added, what + ": additions", str(told["A"] ^ added))
    changed = {p for p in set(before) & set(after) if before[p] != after[p]}
    checks.check(changed <= told["M"], what + ": changes", str(changed - told["M"]))
    return told


def unpacked_elsewhere(host, name):
    """The tree of an image after skopeo and umoci."""
    out, copy, tree = host.dir + "/out", host.dir + "/copy", host.dir + "/tree-of-umoci"
    host.run("export", name, f"oci:{out}:t")
    subprocess.run(["skopeo", "copy", "-q", "--insecure-policy", f"oci:{out}:t", f"oci:{copy}:t"], check=True)
    ok = lamina.unpack_reference(copy, "t", tree)
    found = treedump.dump(tree)[0] if ok else {}
    for path in (out, copy, tree):
        shutil.rmtree(path, ignore_errors=True)
    return found


def check_commit(checks, host, driver, base, changes, what):
    """Changes a sandbox, commits it live and unmounted, and looks at what came of it."""
    upper = f"{host.dir}/upper-{driver}"
    point = host.mount(base, "--upper", upper, "--driver", driver)
    before = treedump.dump(point)[0]
    checks.check(host.run("diff", point).stdout == "", what + ": nothing changed, nothing told")
    changes(point)
    after = treedump.dump(point)[0]
    check_diff(checks, host, [point], before, after, what + " diff of the mount")
    done = host.run("commit", point, "made/live:1", "-m", "why", "-e", "NEW=1")
    live = host.json("inspect", "made/live:1")
    host.umount(point)
    told = check_diff(checks, host, [upper], before, after, what + " diff of the upper")
    host.run("commit", "--upper", upper, "made/still:1", "-m", "why", "-e", "NEW=1")
    still = host.json("inspect", "made/still:1")
    checks.check(live["digest"] == still["digest"], what + ": committed twice, the same image")
    checks.check("NEW=1" in still["config"]["config"]["Env"], what + ": the configuration")
    checks.check(still["config"]["history"][-1]["comment"] == "why", what + ": the history")
    image = host.mount("made/still:1")
    check_equal(checks, without_sockets(after), treedump.dump(image)[0], what + ": the image's mount is the sandbox")
    host.umount(image)
    if shutil.which("skopeo") and shutil.which("umoci"):
        check_equal(checks, without_sockets(after), unpacked_elsewhere(host, "made/still:1"),
                    what + ": the image as others unpack it")
    return upper, after, told, done


def check_made_up(checks, host, driver):
    os.mkdir(host.dir + "/base")
    make_base(host.dir + "/base")
    host.run("pack", host.dir + "/base", "base:1", "--cmd", "/bin/x", "-e", "OLD=1")
    upper, after, told, done = check_commit(checks, host, driver, "base:1", change, driver)
    checks.check("2 sockets" in done.stderr, "sockets are counted", done.stderr)
    checks.check(b"passing" not in told["D"], "a file that came and went is no deletion")
    config = host.json("inspect", "made/still:1")["config"]
    checks.check(config["config"]["Cmd"] == ["/bin/x"] and "OLD=1" in config["config"]["Env"],
                 "the base's configuration is kept")
    # Over the committed image: its chain is cut or flat, as it comes.
    shutil.rmtree(upper)
    check_commit(checks, host, driver, "made/still:1", change_again, driver + ", second layer")
    shutil.rmtree(upper)
    point = host.mount("base:1", "--upper", upper, "--driver", driver)
    host.run("commit", point, "made/nothing:1")
    nothing = host.json("inspect", "made/nothing:1")
    checks.check(len(nothing["layers"]) == 1 and nothing["config"]["history"][-1]["empty_layer"],
                 "no changes, no layer")
    write(point + "/.wh.name", b"x")
    refused = host.run("commit", point, "made/wh:1", check=False)
    checks.check(refused.returncode == 1 and ".wh." in refused.stderr, "what layers cannot hold is refused")
    host.umount(point)
    shutil.rmtree(upper)


def change_again(p):
    os.rename(p + "/elsewhere", p + "/tree/back")
    os.rename(p + "/links-moved", p + "/tree/links")
    os.chmod(p + "/same", 0o600)
    write(p + "/group1", b"more", "ab")
    os.unlink(p + "/group2")
    shutil.rmtree(p + "/opaque/sub")
    os.rename(p + "/opaque", p + "/transparent")
    os.rename(p + "/tree/large-moved", p + "/large")
    os.rename(p + "/x/y/y", p + "/yy")


def operate(seed):
    """Random operations, in as many directories as there are sequences: in a process of its own, which
    changes directory, umask and users."""
    def run(point):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for i in range(SEQUENCES):
                    overlayrandom.sequence(seed + i, STEPS, f"{point}/r{i:03}")
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(pid, 0)[1] != 0:
            raise RuntimeError("random operations failed")
    return run


def check_random(checks, host, driver):
    seed = int(os.environ.get("LAMINA_SEED") or random.SystemRandom().randrange(10**6))
    layout = host.dir + "/random"
    overlaycases.image(layout, [], SEQUENCES)
    for tag in ("base", "app"):
        host.run("import", f"oci:{layout}:{tag}", f"random/{tag}:1")
    base = "random/app:1"
    for turn in range(2):  # the second over the first one's commit
        print(f"{driver}: LAMINA_SEED={seed}", flush=True)
        upper = check_commit(checks, host, driver, base, operate(seed + turn * SEQUENCES), f"{driver}, random {turn}")[0]
        shutil.rmtree(upper)
        host.run("tag", "made/still:1", "random/next:1")
        base = "random/next:1"


def work(point, seed, end):
    """A program that goes on while it is looked at."""
    r = random.Random(seed)
    os.chdir(point)
    while time.monotonic() < end:
        d = f"r{r.randrange(SEQUENCES):03}"
        new = f"{d}/t{r.randrange(9)}"
        try:
            r.choice((lambda: os.makedirs(new + "/u/v", exist_ok=True), lambda: shutil.rmtree(new, ignore_errors=True),
                      lambda: os.rename(d + "/a", f"{d}/z{r.randrange(3)}"),
                      lambda: os.rename(f"{d}/z{r.randrange(3)}", d + "/a"),
                      lambda: write(new + "/f", b"x" * r.randrange(5000), "ab"),
                      lambda: os.chmod(d + "/a/b/f", r.randrange(512) | 0o400),
                      lambda: os.link(d + "/d/f", f"{new}/l{r.randrange(5)}"),
                      lambda: os.unlink(f"{new}/l{r.randrange(5)}")))()
        except OSError:
            pass


def check_live(checks, host, driver):
    upper = host.dir + "/live"
    point = host.mount("random/app:1", "--upper", upper, "--driver", driver)
    end, workers = time.monotonic() + 4, []
    for seed in range(2):
        workers.append(os.fork())
        if workers[-1] == 0:
            try:
                work(point, seed, end)
            finally:
                os._exit(0)
    failed = []
    while time.monotonic() < end:
        for command in (("commit", point, "made/live:1"), ("diff", point), ("clone", point, host.dir + "/live-clone")):
            done = host.run(*command, check=False)
            if done.returncode:
                failed.append((command[0], done.stderr))
        shutil.rmtree(host.dir + "/live-clone", ignore_errors=True)
    for pid in workers:
        os.waitpid(pid, 0)
    checks.check(not failed, driver + ": a sandbox that works is committed, compared and cloned", str(failed[:4]))
    image = host.mount("made/live:1")
    checks.check(len(os.listdir(image)) == SEQUENCES, driver + ": and what came of it mounts")
    for path in (image, point):
        host.umount(path)
    shutil.rmtree(upper)


def check_clone(checks, host, driver, *options):
    what = " ".join((driver, *options))
    upper, second, snapshot, third = (f"{host.dir}/{n}" for n in ("first", "second", "snapshot", "third"))
    point = host.mount("base:1", "--upper", upper, "--driver", driver, *options)
    change(point)
    after = treedump.dump(point)[0]
    told = host.json("clone", point, second)
    checks.check(told["files"] > 5, what + ": files cloned", str(told))
    host.run("clone", "--frozen", point, snapshot)
    other = host.mount("base:1", "--upper", second, "--driver", driver)
    check_equal(checks, after, treedump.dump(other)[0], what + ": a clone of a live sandbox")
    write(other + "/append", b"other", "ab")
    write(other + "/group1", b"other", "ab")
    checks.check(os.stat(other + "/group2").st_size == os.stat(other + "/group1").st_size,
                 what + ": hard links go on in the clone")
    check_equal(checks, after, treedump.dump(point)[0], what + ": the original did not change")
    host.umount(other)
    host.umount(point)
    refused = host.run("mount", "base:1", "--upper", snapshot, point, check=False)
    checks.check(refused.returncode == 1 and "snapshot" in refused.stderr, what + ": a snapshot is not mounted")
    host.run("clone", "--upper", "--frozen", snapshot, third)
    host.run("commit", "--upper", third, "made/snapshot:1")
    image = host.mount("made/snapshot:1")
    check_equal(checks, without_sockets(after), treedump.dump(image)[0], what + ": a snapshot's snapshot committed")
    host.umount(image)
    refused = host.run("diff", host.dir + "/base", check=False)
    checks.check(refused.returncode == 1, what + ": a directory of somebody else's is none of these")
    refused = host.run("clone", "--upper", upper, second, check=False)
    checks.check(refused.returncode == 1, what + ": a directory with files is not cloned into")
    for path in (upper, second, snapshot, third):
        shutil.rmtree(path)


def check_reset(checks, host, driver, *options):
    what = " ".join((driver, *options))
    for upper in (None, host.dir + "/reset"):
        how = ["--upper", upper] if upper else ["--rw"]
        point = host.mount("base:1", *how, "--driver", driver, *options)
        before = treedump.dump(point)[0]
        change(point)
        with open(point + "/same", "rb"):
            busy = host.run("reset", point, check=False)
        checks.check(busy.returncode == 1 and os.path.exists(point + "/added"), what + ": a mount in use is not reset")
        mounted = host.json("mounts")
        host.run("reset", point)
        again = host.json("mounts")
        for mount in mounted["mounts"] + again["mounts"]:
            mount["upper"] = mount["upper"] and upper
        checks.check(mounted == again, what + ": mounted as before", str(again))
        check_equal(checks, before, treedump.dump(point)[0], what + ": reset")
        checks.check(host.run("diff", point).stdout == "", what + ": no difference after a reset")
        write(point + "/added", b"again")
        host.umount(point)
    host.run("reset", upper)
    point = host.mount("base:1", "--upper", upper, "--driver", driver)
    check_equal(checks, before, treedump.dump(point)[0], what + ": an upper that is not mounted is reset")
    refused = host.run("reset", "--upper", upper, check=False)
    checks.check(refused.returncode == 1 and point in refused.stderr, what + ": nor one that is mounted")
    host.umount(point)
    shutil.rmtree(upper)


def as_user(uid, fn, *args):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            fn(*args)
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        raise RuntimeError("as user")


def change_a_little(p):
    write(p + "/added", b"new")
    write(p + "/append", b"tail", "ab")
    os.chmod(p + "/chmod", 0o4711)
    os.rename(p + "/tree/a", p + "/elsewhere")
    os.unlink(p + "/delete")
    write(p + "/group1", b"more", "ab")


def check_owners(checks, host, driver, *options):
    """Other owners shown do not change what is committed."""
    what = " ".join((driver, "--uid-range", *options))
    upper = host.dir + "/owners"
    os.chmod(host.dir, 0o711)
    point = host.mount("base:1", "--upper", upper, "--driver", driver, "--uid-range", "200000", *options)
    os.chown(point + "/chown", 200007, 200008)
    as_user(200000, change_a_little, point)
    after = treedump.dump(point)[0]
    for entry in after.values():
        for key in ("uid", "gid"):
            entry[key] -= 200000
    host.run("commit", point, "made/owners:1")
    image = host.mount("made/owners:1")
    found = treedump.dump(image)[0]
    checks.check((found[b"chown"]["uid"], found[b"chown"]["gid"]) == (7, 8), what + ": owners that were set")
    check_equal(checks, after, found, what + ": the image is the sandbox")
    for path in (image, point):
        host.umount(path)
    shutil.rmtree(upper)


def loops():
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout


def check_loops(checks, host):
    end = time.monotonic() + 10
    while host.dir in loops() and time.monotonic() < end:
        time.sleep(0.05)
    checks.check(host.dir not in loops(), "no loop device stays", loops())


def check_size(checks, host, driver):
    upper = host.dir + "/sized"
    point = host.mount("base:1", "--upper", upper, "--size", "32M", "--driver", driver)
    vfs = os.statvfs(point)
    checks.check(20 << 20 < vfs.f_blocks * vfs.f_frsize <= 32 << 20, "statfs tells the size", str(vfs))
    try:
        write(point + "/too-large", bytes(40 << 20))
        checks.check(False, "a full upper says so")
    except OSError as e:
        checks.check(e.errno == 28, "a full upper says so", str(e))
    os.unlink(point + "/too-large")
    write(point + "/fits", bytes(10 << 20))
    fits = host.run("mount", "base:1", "--upper", upper, "--size", "64M", point + "/quiet", check=False)
    checks.check(fits.returncode == 1, "another size is refused", fits.stderr)
    told = host.run("diff", point).stdout
    checks.check(told == "M /\nA /fits\n", "diff of a sized upper that is mounted", told)
    host.umount(point)
    told = host.run("diff", "--upper", upper).stdout
    checks.check(told == "M /\nA /fits\n", "and of one that is not", told)
    point = host.mount("base:1", "--upper", upper, "--driver", driver)
    checks.check(os.path.getsize(point + "/fits") == 10 << 20, "it is found again")
    host.umount(point)
    if driver == "overlay":
        check_loops(checks, host)
    shutil.rmtree(upper)
    os.rmdir(point)


def apt_like(p):
    """What installing and removing packages comes to, on any distribution's files."""
    moved = 0
    for dir in ("/usr/share", "/usr/lib", "/etc"):
        for name in sorted(os.listdir(p + dir))[:6]:
            path = f"{p}{dir}/{name}"
            if os.path.islink(path):
                continue
            if os.path.isdir(path) and moved % 3 == 0:
                os.rename(path, path + ".moved")
            elif os.path.isdir(path) and moved % 3 == 1:
                shutil.rmtree(path)
            elif os.path.isdir(path):
                shutil.copytree(path, path + ".copy", symlinks=True)
            else:
                write(path, b"# end\n", "ab")
            moved += 1
    write(p + "/new", b"x")


def check_corpus(checks, host, driver, layout):
    tags = lamina.layout_tags(layout)
    for tag in [t for t in tags if "python" in t or "debian" in t][:2] or tags[:2]:
        host.run("import", f"oci:{layout}:{tag}", f"real/{tag}:1")
        upper = check_commit(checks, host, driver, f"real/{tag}:1", apt_like, f"{driver} {tag}")[0]
        shutil.rmtree(upper)


def main():
    lamina.need("unshare", "losetup")
    lamina.isolate(550)
    checks = lamina.Checks()
    layout = lamina.corpus()
    for driver in os.environ.get("LAMINA_DRIVERS", "overlay,fuse").split(","):
        with lamina.Host(parent="/var/tmp") as host:
            check_made_up(checks, host, driver)
            check_random(checks, host, driver)
            check_live(checks, host, driver)
            check_clone(checks, host, driver)
            check_reset(checks, host, driver)
            check_owners(checks, host, driver)
            if os.path.exists("/dev/loop-control") and shutil.which("mke2fs"):
                check_size(checks, host, driver)
                check_clone(checks, host, driver, "--size", "64M")
                check_reset(checks, host, driver, "--size", "64M")
                check_owners(checks, host, driver, "--size", "64M")
            if layout:
                check_corpus(checks, host, driver, layout)
            checks.check(host.json("mounts")["mounts"] == [], "nothing is mounted at the end")
            host.shutdown()
            for pid in host.pids("hold") + host.pids("fs"):  # fs keeps what it served for a while
                os.kill(pid, signal.SIGKILL)
            check_loops(checks, host)
    checks.finish()


if __name__ == "__main__":
    main()
