#!/usr/bin/python3
"""Root of a container (a user namespace with /dev/fuse) mounts by the fuse driver, writes, and is
served again after kills of `lamina fs` and `lamina hold`."""
import hashlib
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402


def content(i):
    return hashlib.shake_128(str(i).encode()).digest(2000 + i * 7001)


def wrong(point):
    """Names of files that are not as they were packed."""
    bad = []
    for i in range(20):
        with open(f"{point}/files/{i}", "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if f.read() != content(i):
                bad.append(i)
    return bad


def kill(host, command):
    for pid in host.pids(command):
        os.kill(pid, signal.SIGKILL)


def revived(host):
    with open(host.dir + "/run/fs.log", encoding="utf-8") as f:
        return " fs.revived_hold " in f.read()


def main():
    if len(sys.argv) == 1:
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            sys.exit(77)
        os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc",
                              "--kill-child", sys.executable, os.path.abspath(__file__), "inside"])
    signal.alarm(120)
    checks = lamina.Checks()
    with lamina.Host() as host:
        os.makedirs(host.dir + "/root/files")
        for i in range(20):
            with open(f"{host.dir}/root/files/{i}", "wb") as f:
                f.write(content(i))
        host.run("pack", host.dir + "/root", "container:1")
        shown = host.mount("container:1")
        written = host.mount("container:1", "--rw")
        drivers = {(m["driver"], m["pages"]) for m in host.json("mounts")["mounts"]}
        checks.check(drivers == {("fuse", "inode")}, "the fuse driver, pages in its inodes", str(drivers))
        denied = host.run("mount", "--driver", "fuse", "--pages", "passthrough", "container:1", host.dir + "/root",
                          check=False)
        checks.check(denied.returncode == 1 and "root" in denied.stderr, "passthrough is the host's", denied.stderr)
        checks.check(not wrong(shown) and not wrong(written), "the image is there")
        with open(written + "/files/0", "ab") as f:
            f.write(b"more")
            f.flush()
            kill(host, "fs")
            f.write(b" and more")
        checks.check(not wrong(shown), "read after fs was killed")
        kill(host, "hold")
        lamina.wait_for(lambda: revived(host), what="another hold")
        kill(host, "fs")
        checks.check(not wrong(shown), "read after hold and then fs were killed")
        with open(written + "/files/0", "rb") as f:
            checks.check(f.read() == content(0) + b"more and more", "what was written is there")
        host.umount(shown)
        host.umount(written)
        left = subprocess.run(["grep", "-c", "fuse.lamina lamina ", "/proc/self/mountinfo"], stdout=subprocess.PIPE,
                              text=True, check=False).stdout.strip()
        checks.check(left == "0", "no connection is left", left)
    checks.finish()


if __name__ == "__main__":
    main()
