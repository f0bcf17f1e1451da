"""A root file system that is small and runs: for tests of sandboxes."""
import os
import shutil
import subprocess

APPLETS = ("sh", "cat", "id", "ls", "stat", "chown", "touch", "hostname", "mount", "ip", "ping", "mkdir", "grep",
           "env", "echo", "rm", "ln", "mv", "chmod", "head", "sleep", "kill", "umount", "wc")


def make(path, points=()):
    """busybox, util-linux's unshare, two users and a file of each; points: more directories."""
    for name in ("bin", "etc", "tmp", "home", "srv", "var/lib/data", *points):
        os.makedirs(path + "/" + name)
    shutil.copy(shutil.which("busybox"), path + "/bin/busybox")
    for name in APPLETS:
        os.symlink("busybox", path + "/bin/" + name)
    shutil.copy(shutil.which("unshare"), path + "/bin/real-unshare")
    libraries = subprocess.run(["ldd", path + "/bin/busybox", path + "/bin/real-unshare"], capture_output=True,
                               text=True, check=False).stdout
    for word in libraries.split():
        if word.startswith("/") and os.path.exists(word):
            os.makedirs(path + os.path.dirname(word), exist_ok=True)
            shutil.copy(word, path + word)
    with open(path + "/etc/passwd", "w", encoding="utf-8") as f:
        f.write("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n")
    with open(path + "/etc/group", "w", encoding="utf-8") as f:
        f.write("root:x:0:\napp:x:1000:\n")
    with open(path + "/etc/hosts", "w", encoding="utf-8") as f:
        f.write("127.0.0.1 localhost")
    with open(path + "/srv/of-app", "w", encoding="utf-8") as f:
        f.write("app's\n")
    os.chown(path + "/srv/of-app", 1000, 1000)
    os.chown(path + "/var/lib/data", 1000, 1000)
    os.chmod(path + "/var/lib/data", 0o750)
    os.chmod(path + "/tmp", 0o1777)
