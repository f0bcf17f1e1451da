"""What the system tests share: a sandbox of namespaces that always cleans up, a store in a
private directory, the program under test.

A test script calls `isolate()` first: it starts itself again as the first process of new mount, PID
and network namespaces, under a time limit. When it ends, for whatever reason, the kernel kills every
process that it started, and with them go their mounts and FUSE connections. Its loopback is its own:
no test that runs at the same time can take its ports.
"""
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("LAMINA", os.path.join(ROOT, "build/release/lamina"))
SUPPORT = os.path.join(ROOT, "tests/support")
SKIP = 77


def skip(why):
    print("skipped: " + why)
    sys.exit(SKIP)


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            skip(program + " is not installed")


def isolate(seconds):
    """Goes on as process 1 of new mount, PID and network namespaces, for at most `seconds`."""
    if os.geteuid() != 0:
        skip("needs root: it mounts")
    if os.environ.get("LAMINA_ISOLATED"):
        del os.environ["LAMINA_ISOLATED"]
        loopback_up()
        return
    os.environ["LAMINA_ISOLATED"] = "1"
    sys.stdout.flush()
    os.execvp("timeout", ["timeout", "-k", "10", str(seconds), "unshare", "--mount", "--pid", "--net", "--fork",
                          "--kill-child", "--mount-proc", "--propagation", "private",
                          "/usr/bin/python3", *sys.argv])


def loopback_up():
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(s, siocgifflags, request))[1]
        fcntl.ioctl(s, siocsifflags, struct.pack("16sH14x", b"lo", flags | iff_up))


def free_port():
    """A port of loopback that nobody listens at; the kernel does not give it out again soon."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Checks:
    """Counts checks; prints each failure, and the closing line."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, ok, what, detail=""):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAIL {what}" + (f"\n     {detail}" if detail else ""), flush=True)
        return ok

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed else 0)


class Host:
    """A store and a runtime directory of its own, and the program on them."""

    def __init__(self, parent=None):
        self.dir = tempfile.mkdtemp(prefix="lamina-test-", dir=parent)
        self.store = self.dir + "/store"
        self.env = dict(os.environ, LAMINA_STORE=self.store, LAMINA_RUN=self.dir + "/run", LC_ALL="C.UTF-8")
        os.mkdir(self.dir + "/run", 0o700)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.shutdown()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, *args, **kw):
        return subprocess.Popen([PROGRAM, *args], env=self.env, **kw)

    def run(self, *args, check=True, timeout=300, **kw):
        done = subprocess.run([PROGRAM, *args], env=self.env, timeout=timeout, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, errors="replace", **kw)
        if check and done.returncode != 0:
            raise RuntimeError(f"lamina {' '.join(args)}: status {done.returncode}\n{done.stderr}")
        return done

    def json(self, *args, **kw):
        return json.loads(self.run("--json", *args, **kw).stdout)

    def mount(self, name, *args):
        point = tempfile.mkdtemp(prefix="mnt-", dir=self.dir)
        self.run("mount", *args, name, point)
        return point

    def umount(self, point):
        self.run("umount", point)

    def pids(self, command):
        """Processes `lamina COMMAND` that work on this store."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    argv = f.read().split(b"\0")
                with open(f"/proc/{pid}/environ", "rb") as f:
                    environ = f.read()
            except OSError:
                continue
            ours = self.store.encode() in b" ".join(argv) + environ
            if ours and command.encode() in argv[1:] and b"lamina" in os.path.basename(argv[0]):
                found.append(int(pid))
        return sorted(found)

    def shutdown(self):
        subprocess.run([PROGRAM, "umount", "--all"], env=self.env, timeout=60, check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition, seconds=20, what="condition"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise RuntimeError(f"{what}: not within {seconds} s")


def layout_tags(layout):
    with open(layout + "/index.json", encoding="utf-8") as f:
        return [m["annotations"]["org.opencontainers.image.ref.name"] for m in json.load(f)["manifests"]]


def corpus():
    """The layout of real images, if one was made (see bench/README.md), else None."""
    layout = os.environ.get("LAMINA_CORPUS", "")
    return layout if layout and os.path.exists(layout + "/index.json") else None


def unpack_reference(layout, tag, out):
    """The tree of an image as another program unpacks it."""
    done = subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:{tag}", out],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode == 0
