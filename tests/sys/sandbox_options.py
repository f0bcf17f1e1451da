#!/usr/bin/python3
"""Options of sandboxes and mounts: owners of their own (--uid-range), network, resolver, names,
volumes where overlays nest no further, pages."""
import os
import stat
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import smallroot  # noqa: E402

FIRST = 300000
# Permitted and effective: CAP_NET_RAW. Revision 2 is for root of all; 3 names the root that it is for.
CAPS = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
CAPS_OF_FIRST = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, FIRST)


def owner(path):
    st = os.lstat(path)
    return st.st_uid, st.st_gid


def refused(path, what):
    try:
        with open(path, what):
            return False
    except OSError:
        return True


def check_mount_ranges(checks, host, driver):
    def mount(*options):
        return host.mount("app:1", "--driver", driver, *options)
    name = driver + ": "
    upper = host.dir + "/upper-" + driver
    os.mkdir(upper)
    plain = mount()
    one = mount("--uid-range", f"{FIRST}:65536")
    again = mount("--uid-range", f"{FIRST}:65536")
    other = mount("--uid-range", f"{FIRST + 65536}:65536")
    checks.check(owner(plain + "/srv/of-app") == (1000, 1000), name + "owners of an image as they are")
    checks.check(owner(one + "/srv/of-app") == (FIRST + 1000, FIRST + 1000), name + "owners of a range")
    checks.check(owner(one) == (FIRST, FIRST), name + "the root's owner")
    checks.check(owner(other + "/srv/of-app") == (FIRST + 66536, FIRST + 66536), name + "owners of another range")
    if driver == "overlay":
        checks.check(os.stat(one).st_dev == os.stat(again).st_dev, "read-only mounts of one range share an overlay")
        checks.check(os.stat(one).st_dev != os.stat(other).st_dev, "those of two do not")
    name_of_caps = "security.capability"
    checks.check(os.getxattr(plain + "/bin/capable", name_of_caps) == CAPS, name + "capabilities of a file")
    if driver == "fuse":
        checks.check(os.getxattr(one + "/bin/capable", name_of_caps) == CAPS_OF_FIRST,
                     name + "with a range they are its root's")
    point = mount("--uid-range", f"{FIRST}:65536", "--upper", upper)
    if driver == "fuse":
        os.chmod(point + "/bin/capable", 0o700)
        checks.check(os.getxattr(point + "/bin/capable", name_of_caps) == CAPS_OF_FIRST, name + "... copied up, too")
        checks.check(os.getxattr(upper + "/upper/bin/capable", name_of_caps) == CAPS, name + "... and the image's on disk")
        os.setxattr(point + "/bin/capable", name_of_caps, CAPS_OF_FIRST)
        checks.check(os.getxattr(upper + "/upper/bin/capable", name_of_caps) == CAPS, name + "... also when they are set")
        try:
            os.setxattr(point + "/bin/capable", name_of_caps, CAPS)
            checks.check(False, name + "capabilities of the host's root are refused")
        except OSError:
            checks.check(True, name + "capabilities of the host's root are refused")
    with open(point + "/srv/of-app", "a", encoding="utf-8") as f:
        f.write("more\n")
    checks.check(refused(point + "/made", "w"), name + "who has no id in the range makes nothing")
    subprocess.run(["/bin/sh", "-c", f"echo x > {point}/made && mkdir {point}/dir && ln {point}/made {point}/dir/link"],
                   user=FIRST, group=FIRST, extra_groups=[], check=True)
    checks.check(owner(point + "/made") == (FIRST, FIRST), name + "files of the range's root")
    os.chown(point + "/made", FIRST + 7, FIRST + 8)
    os.rename(point + "/srv", point + "/renamed")
    checks.check(owner(point + "/renamed/of-app") == (FIRST + 1000, FIRST + 1000), name + "copy-up keeps the owner")
    checks.check(owner(point + "/made") == (FIRST + 7, FIRST + 8), name + "chown within the range")
    try:
        os.chown(point + "/made", 5, 5)
        checks.check(False, name + "chown out of the range is refused")
    except OSError:
        checks.check(True, name + "chown out of the range is refused")
    host.umount(point)
    checks.check(owner(upper + "/upper/made") == (7, 8), name + "the upper keeps the image's ids")
    checks.check(owner(upper + "/upper/renamed/of-app") == (1000, 1000), name + "... of copied files too")
    point = mount("--uid-range", f"{FIRST + 65536}:65536", "--upper", upper)
    checks.check(owner(point + "/made") == (FIRST + 65543, FIRST + 65544), name + "an upper serves any range")
    for mounted in (point, plain, one, again, other):
        host.umount(mounted)


def check_wrong_ranges(checks, host):
    for wrong in ("0", "x", "5:", "5:0", "4294967295", "4294967290:10", "-1", "5:6:7"):
        done = host.run("mount", "--uid-range", wrong, "app:1", host.dir, check=False)
        checks.check(done.returncode == 2 and "--uid-range" in done.stderr, f"--uid-range {wrong}", done.stderr)


def check_run_ranges(checks, host, runtime, driver="overlay"):
    def run(*words, check=True, options=()):
        return host.run("run", "--runtime", runtime, "--driver", driver, "--uid-range", f"{FIRST}:65536", *options,
                        "app:1", "--", *words, check=check)
    name = f"{runtime}, {driver}: "
    checks.check(run("id", "-u").stdout == "0\n", name + "root inside")
    ids = run("cat", "/proc/self/uid_map").stdout.split()
    checks.check(ids == ["0", str(FIRST), "65536"], name + "the map", str(ids))
    checks.check(run("stat", "-c", "%u:%g", "/srv/of-app").stdout == "1000:1000\n", name + "owners inside")
    checks.check(run("id", "-u", options=("--user", "app")).stdout == "1000\n", name + "a user of the image")
    done = run("sh", "-c", "touch /new && chown 5:6 /new && stat -c %u:%g /new && echo x > /srv/of-app && "
               "stat -c %u:%g /srv/of-app")
    checks.check(done.stdout == "5:6\n1000:1000\n", name + "writes and chown", done.stdout + done.stderr)
    secret = host.dir + "/secret"
    with open(secret, "w", encoding="utf-8") as f:
        f.write("secret\n")
    os.chmod(secret, 0o600)
    done = run("cat", "/secret", check=False, options=("--bind", secret + ":/secret:ro"))
    checks.check(done.returncode != 0 and "secret\n" not in done.stdout, name + "root inside is nobody outside")
    caps = run("grep", "CapEff", "/proc/self/status").stdout.split()[1]
    checks.check(int(caps, 16) & (1 << 21) == 0, name + "no CAP_SYS_ADMIN", caps)
    bound = run("grep", "CapBnd", "/proc/self/status").stdout.split()[1]
    checks.check(int(bound, 16) & (1 << 21) == 0, name + "... nor within bounds", bound)
    sleeper = host.start("run", "--runtime", runtime, "--uid-range", f"{FIRST}:65536", "app:1", "--", "sleep", "333")
    outside = lamina.wait_for(lambda: pids_of(b"sleep\x00333"), what="sleeper")
    with open(f"/proc/{outside[0]}/status", encoding="utf-8") as f:
        uid = [line.split()[1] for line in f if line.startswith("Uid:")]
    checks.check(uid == [str(FIRST)], name + "a process as the host sees it", str(uid))
    sleeper.kill()
    sleeper.wait()
    lamina.wait_for(lambda: not pids_of(b"sleep\x00333"), what="the sandbox goes with its command")


def pids_of(argv):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if f.read().startswith(argv):
                    found.append(int(pid))
        except OSError:
            continue
    return found


def check_names(checks, host, runtime):
    def run(*words, check=True, options=()):
        return host.run("run", "--runtime", runtime, *options, "app:1", "--", *words, check=check)
    name = runtime + ": "
    done = run("cat", "/etc/resolv.conf", options=("--dns", "192.0.2.1", "--dns", "2001:db8::1", "--dns-search",
                                                   "example.org", "--dns-search", "test"))
    checks.check(done.stdout == "search example.org test\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n",
                 name + "--dns", done.stdout)
    done = run("cat", "/etc/hosts", options=("--hosts", "db:192.0.2.7", "--hosts", "six:[2001:db8::2]", "--hostname",
                                             "box"))
    checks.check(done.stdout == "127.0.0.1 localhost\n127.0.1.1\tbox\n192.0.2.7\tdb\n2001:db8::2\tsix\n",
                 name + "--hosts", done.stdout)
    checks.check(run("hostname", options=("--hostname", "box")).stdout == "box\n", name + "--hostname")
    done = run("ip", "link", "show", "lo", options=("--network", "none"))
    checks.check("LOOPBACK,UP" in done.stdout, name + "loopback is up without a network", done.stdout + done.stderr)
    links = run("ls", "/proc/self/net/dev_snmp6", check=False, options=("--network", "none")).stdout.split()
    checks.check(links in (["lo"], []), name + "--network none has nothing else", str(links))
    for option, wrong in (("--dns", "nowhere"), ("--dns-search", "a b"), ("--hosts", "x"), ("--hosts", "x:y"),
                          ("--hosts", "a\nb:127.0.0.1"), ("--hostname", "a/b"), ("--volume", "relative"),
                          ("--volume", "/"), ("--size", "many"), ("--pages", "some")):
        done = run("true", check=False, options=(option, wrong))
        checks.check(done.returncode != 0 and option in done.stderr, f"{name}{option} {wrong!r}", done.stderr)


def check_volumes(checks, host, runtime):
    upper = host.dir + "/with-volume-" + runtime
    os.mkdir(upper)

    def run(*words, options=()):
        return host.run("run", "--runtime", runtime, "--upper", upper, "--volume", "/var/lib/data", "--volume",
                        "/not/there", *options, "app:1", "--", *words)
    name = runtime + ": "
    done = run("sh", "-c", "stat -c '%u:%g %a' /var/lib/data; echo kept > /var/lib/data/file; echo x > /not/there/y")
    checks.check(done.stdout == "1000:1000 750\n", name + "a volume has the image's owner and mode", done.stdout)
    checks.check(run("cat", "/var/lib/data/file").stdout == "kept\n", name + "it is kept with the upper")
    kind = run("stat", "-f", "-c", "%T", "/var/lib/data").stdout
    checks.check("overlay" not in kind, name + "it is no overlay", kind)
    volumes = os.listdir(upper + "/volumes")
    checks.check(sorted(volumes) == ["not%2Fthere", "var%2Flib%2Fdata"], name + "names of volumes", str(volumes))
    checks.check(not os.path.exists(upper + "/upper/var/lib/data/file"), name + "nothing of it is in the upper")
    host.run("run", "--runtime", runtime, "--volume", "/v", "app:1", "--", "touch", "/v/x")
    left = os.listdir(host.store + "/sandboxes") if os.path.exists(host.store + "/sandboxes") else []
    checks.check(left == [], name + "a volume goes with its sandbox", str(left))


def check_memory(checks, host, runtime):
    eat = "head -c 200000000 /dev/zero > /dev/shm/eaten && echo eaten"
    if not any(os.path.exists("/sys/fs/cgroup/" + f) for f in ("memory/memory.limit_in_bytes", "cgroup.controllers")):
        return
    name = runtime + ": "
    free = host.run("run", "--runtime", runtime, "app:1", "--", "sh", "-c", "head -c 20000000 /dev/zero > /tmp/x; wc -c < /tmp/x")
    checks.check(free.stdout == "20000000\n", name + "without a limit", free.stdout + free.stderr)
    held = host.run("run", "--runtime", runtime, "--memory", "64M", "--bind", host.dir + "/shm:/dev/shm", "app:1", "--", "sh",
                    "-c", eat, check=False)
    checks.check(held.returncode != 0 and "eaten" not in held.stdout, name + "--memory holds", held.stdout + held.stderr)
    kept = host.run("run", "--runtime", runtime, "--memory", "64M", "app:1", "--", "sh", "-c",
                    "head -c 200000000 /dev/zero > /tmp/x && echo written")
    checks.check(kept.stdout == "written\n", name + "what is written to the upper is no such memory", kept.stderr)
    left = [d for root in ("/sys/fs/cgroup/memory/lamina", "/sys/fs/cgroup/lamina") if os.path.exists(root)
            for d in os.listdir(root) if os.path.isdir(os.path.join(root, d))]
    checks.check(left == [], name + "its group goes with it", str(left))
    for wrong in ("0", "much"):
        done = host.run("run", "--memory", wrong, "app:1", "--", "true", check=False)
        checks.check(done.returncode != 0 and "--memory" in done.stderr, f"--memory {wrong}", done.stderr)


def check_pool(checks, host):
    none = host.run("run", "--uid-range", "auto", "app:1", "--", "true", check=False)
    checks.check(none.returncode == 1 and "/etc/subuid" in none.stderr, "no pool: what to do", none.stderr)
    left = os.listdir(host.dir + "/run/run") + os.listdir(host.store + "/sandboxes")
    checks.check(left == [], "... and nothing is left of it", str(left))
    pool = host.dir + "/pool"
    with open(pool, "w", encoding="utf-8") as f:
        f.write("lamina:900000:131072\n")
    for path in ("/etc/subuid", "/etc/subgid"):
        if not os.path.exists(path):
            return
        subprocess.run(["mount", "--bind", pool, path], check=True)
    sleepers = [host.start("run", "--uid-range", "auto", "app:1", "--", "sleep", f"44{i}") for i in range(2)]
    pids = [lamina.wait_for(lambda i=i: pids_of(b"sleep\00044%d" % i), what="sleeper")[0] for i in range(2)]
    owners = sorted(os.stat(f"/proc/{pid}").st_uid for pid in pids)
    checks.check(owners == [900000, 965536], "sandboxes of the pool have ranges of their own", str(owners))
    third = host.run("run", "--uid-range", "auto", "app:1", "--", "true", check=False)
    checks.check(third.returncode == 1 and "in use" in third.stderr, "the pool has an end", third.stderr)
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.wait()
    lamina.wait_for(lambda: os.listdir(host.dir + "/run/ranges") == [], what="ranges are given back")
    checks.check(host.run("run", "--uid-range", "auto", "app:1", "--", "id", "-u").stdout == "0\n", "... and taken again")


def check_size(checks, host):
    for options in ((), ("--uid-range", f"{FIRST}:65536")):
        done = host.run("run", "--size", "16M", *options, "app:1", "--", "sh", "-c",
                        "head -c 1000000 /dev/zero > /few && echo few; head -c 100000000 /dev/zero > /many || echo full",
                        check=False)
        checks.check(done.stdout == "few\nfull\n", f"--size {options}",
                     done.stdout + done.stderr)


def check_nested_overlay(checks, host):
    """What podman in a sandbox does: an overlay in a user namespace, over and under a volume."""
    script = ("mkdir /v/l /v/u /v/w /v/m && echo low > /v/l/f && "
              "real-unshare -Urm sh -c 'mount -t overlay -o lowerdir=/v/l,upperdir=/v/u,workdir=/v/w,userxattr overlay "
              "/v/m && echo more >> /v/m/f && cat /v/m/f && echo upper && cat /v/u/f'")
    for options in ((), ("--uid-range", f"{FIRST}:65536")):
        done = host.run("run", "--volume", "/v", *options, "app:1", "--", "sh", "-c", script, check=False)
        checks.check(done.stdout == "low\nmore\nupper\nlow\nmore\n", f"an overlay on a volume {options}",
                     done.stdout + done.stderr)


def main():
    lamina.need("unshare", "busybox", "bwrap", "crun")
    lamina.isolate(280)
    checks = lamina.Checks()
    with lamina.Host() as host:
        os.chmod(host.dir, 0o755)
        os.mkdir(host.dir + "/shm")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host.dir + "/shm"], check=True)
        smallroot.make(host.dir + "/root")
        with open(host.dir + "/root/bin/capable", "w", encoding="utf-8"):
            pass
        os.setxattr(host.dir + "/root/bin/capable", "security.capability", CAPS)
        host.run("pack", host.dir + "/root", "app:1")
        for driver in ("overlay", "fuse"):
            check_mount_ranges(checks, host, driver)
            check_run_ranges(checks, host, "bwrap", driver)
        check_wrong_ranges(checks, host)
        check_run_ranges(checks, host, "crun")
        for runtime in ("bwrap", "crun"):
            check_names(checks, host, runtime)
            check_volumes(checks, host, runtime)
            check_memory(checks, host, runtime)
        check_size(checks, host)
        check_pool(checks, host)
        check_nested_overlay(checks, host)
        left = host.json("mounts")
        checks.check(left in ([], {"mounts": []}), "nothing is mounted at the end", str(left))
    checks.finish()


if __name__ == "__main__":
    main()
