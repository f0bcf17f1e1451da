#!/usr/bin/python3
"""The broker: a normal user gets the mount of an image that the policy allows, with the owners of
its namespace and the pages that root's mounts have; others get a clear refusal; mounts go when their
users do, also over a restart of the broker."""
import json
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

USER, OTHER = 61234, 61235

# A client in a user and mount namespace of its own: asks, attaches, prints what it sees, waits.
CLIENT = r"""
import array, ctypes, json, os, socket, sys
path, image, point = sys.argv[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(path)
s.send(json.dumps({"image": image}).encode())
text, control, _, _ = s.recvmsg(65536, socket.CMSG_SPACE(4))
if not text.startswith(b"ok\n"):
    print(text.decode(), flush=True)
    sys.exit(3)
fd = array.array("i", control[0][2])[0]
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(429, fd, b"", -100, point.encode(), 4) != 0:
    print("move_mount:", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit(4)
st, sub = os.stat(point + "/file"), os.stat(point + "/other")
with open(point + "/file", "rb") as f:
    content = f.read()
try:
    open(point + "/new", "w")
    written = True
except OSError:
    written = False
print(json.dumps({"uid": st.st_uid, "other": sub.st_uid, "bytes": len(content), "written": written,
                  "reply": json.loads(text[3:])}), flush=True)
sys.stdin.readline()
"""


def client(host, socket, image, uid, map_root=True):
    point = f"{host.dir}/point"
    inside = [sys.executable, "-c", CLIENT, socket, image, point]
    if map_root:
        inside = ["unshare", "--user", "--map-root-user", "--mount"] + inside
    return subprocess.Popen(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] + inside,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def mounts(host):
    return host.json("mounts")["mounts"] if isinstance(host.json("mounts"), dict) else host.json("mounts")


def wait_for(what, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


def start_broker(host, socket, policy):
    broker = host.start("broker", "--listen", socket, "--policy", policy, stderr=subprocess.DEVNULL)
    wait_for(lambda: os.path.exists(socket))
    return broker


def check_grants(host, checks, socket):
    allowed = client(host, socket, "public/base:1", USER)
    answer = allowed.stdout.readline()
    seen = json.loads(answer) if answer.startswith("{") else {}
    checks.check(seen.get("uid") == 0 and seen.get("bytes") == 300000, "an allowed image is mounted", answer)
    checks.check(seen.get("other") == 65534, "ids that the namespace lacks are nobody's", answer)
    checks.check(seen.get("written") is False, "it cannot be written")
    checks.check(seen.get("reply", {}).get("config", {}).get("cmd") == ["/bin/true"], "the config comes with it")
    for image, uid, map_root, what in (("private/base:1", USER, True, "an image that the policy does not name"),
                                       ("private/absent:1", USER, True, "one that is not there looks the same"),
                                       ("public/base:1", OTHER, True, "a user whom the policy does not name"),
                                       ("public/base:1", USER, False, "one in the host's user namespace")):
        refused = client(host, socket, image, uid, map_root)
        text = refused.stdout.readline()
        checks.check(text.startswith("failed DENIED"), f"refused: {what}", text)
        refused.communicate()
    return allowed


def check_lives(host, checks, socket, policy, broker, allowed):
    checks.check(len(mounts(host)) == 1, "it is listed")
    broker.terminate()
    broker.wait(10)
    checks.check(len(mounts(host)) == 1, "the mount outlives the broker")
    broker = start_broker(host, socket, policy)
    second = client(host, socket, "public/base:1", USER)
    second.stdout.readline()
    checks.check(len(mounts(host)) == 2, "another broker goes on beside it")
    second.communicate("\n")
    checks.check(wait_for(lambda: len(mounts(host)) == 1), "a mount goes with its user")
    allowed.communicate("\n")
    checks.check(wait_for(lambda: len(mounts(host)) == 0), "and so does one of an earlier broker")
    return broker


def check_run(host, checks, socket):
    """lamina run of the user: the image is the host's, changes are the user's."""
    home = host.dir + "/home"
    os.mkdir(home)
    os.mkdir(home + "/run", 0o700)
    for path in (home, home + "/run"):
        os.chown(path, USER, USER)
    env = dict(os.environ, HOME=home, LAMINA_BROKER=socket, LAMINA_STORE=home + "/store", LAMINA_RUN=home + "/run")

    def run(image, script, *options):
        return subprocess.run(["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", lamina.PROGRAM,
                               "run", "--broker", *options, image, "--", "/bin/sh", "-c", script], env=env,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)

    done = run("public/base:1", "echo changed >/file; cat /file; mkdir /made; id -u; wc -c </unchanged")
    checks.check(done.stdout.split() == ["changed", "0", "300000"], "lamina run over the broker's mount",
                 done.stdout + done.stderr)
    upper = home + "/kept"
    run("public/base:1", "echo one >/made; rm /unchanged", "--upper", upper)
    done = run("public/base:1", "cat /made; ls /unchanged /file", "--upper", upper)
    checks.check(done.stdout.split() == ["one", "/file"], "changes are found again", done.stdout + done.stderr)
    done = run("private/base:1", "true")
    checks.check(done.returncode == 1 and "policy" in done.stderr, "the policy holds for it", done.stderr)
    left = subprocess.run(["find", home + "/store/sandboxes", home + "/run/run"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True)
    checks.check("upper" not in left.stdout and "root" not in left.stdout, "nothing is left behind", left.stdout)
    checks.check(wait_for(lambda: len(mounts(host)) == 0), "and no mount of the broker")


def busybox_root(root):
    """A root file system with a shell."""
    for path in ("bin", "tmp", "proc", "dev", "etc"):
        os.makedirs(f"{root}/{path}")
    shutil.copy(shutil.which("busybox"), root + "/bin/busybox")
    for name in ("sh", "cat", "mkdir", "id", "wc", "rm", "ls", "true"):
        os.symlink("busybox", f"{root}/bin/{name}")


def main():
    lamina.isolate(120)
    lamina.need("setpriv", "unshare", "busybox", "bwrap")
    checks = lamina.Checks()
    with lamina.Host() as host:
        os.chmod(host.dir, 0o755)
        busybox_root(host.dir + "/root")
        os.mkdir(host.dir + "/point")
        for name in ("file", "unchanged"):
            with open(f"{host.dir}/root/{name}", "wb") as f:
                f.write(os.urandom(300000))
        with open(host.dir + "/root/other", "wb") as f:
            f.write(b"other")
        os.chown(host.dir + "/root/other", 1234, 1234)
        for name in ("public/base:1", "private/base:1"):
            host.run("pack", host.dir + "/root", name, "--cmd", "/bin/true")
        policy, socket = host.dir + "/policy", host.dir + "/broker.sock"
        with open(policy, "w") as f:
            f.write(f"[user {USER}]\nimages = public/* nothing:*\n")
        os.chmod(policy, 0o646)
        bad = host.run("broker", "--listen", socket, "--policy", policy, check=False)
        checks.check(bad.returncode == 1 and "others than root" in bad.stderr, "a policy that others can write")
        os.chmod(policy, 0o644)
        broker = start_broker(host, socket, policy)
        allowed = check_grants(host, checks, socket)
        broker = check_lives(host, checks, socket, policy, broker, allowed)
        check_run(host, checks, socket)
        broker.terminate()
        checks.check(broker.wait(10) == 0, "it ends when it is told")
    checks.finish()


if __name__ == "__main__":
    main()
