#!/usr/bin/python3
"""podman within a sandbox: it loads an image onto a volume, with the kernel's overlay, and runs it; by
either driver and runtime, for root with a range of owners and for a user without privileges."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lamina  # noqa: E402
import rootless  # noqa: E402
import smallroot  # noqa: E402

SCRIPT = r"""
export XDG_RUNTIME_DIR=/run/p HOME=/root
mkdir -p -m 700 /run/p
podman load -q -i /app.tar
podman info --format '{{.Store.GraphDriverName}} {{.Host.Security.Rootless}}'
podman run --rm --network host --cgroups=disabled app:1 sh -c 'id -u; rm /srv/of-app; echo inner > /x && cat /x'
podman run --rm --network host --cgroups=disabled app:1 cat /srv/of-app
"""
FILES = {
    "passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n",
    "subuid": "root:1:65535\n", "subgid": "root:1:65535\n",
    "containers/policy.json": '{"default":[{"type":"insecureAcceptAnything"}]}',
    "containers/storage.conf": '[storage]\ndriver="overlay"\nrunroot="/run/p/c"\n'
                               'graphroot="/var/lib/containers/storage"\n',
    "containers/containers.conf": '[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\nruntime="crun"\n'
                                  '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n',
}


def make_root(path):
    """A root that has the host's programs, once /usr is bound."""
    for name in ("etc/containers", "etc/alternatives", "var/lib", "var/tmp", "root", "tmp", "usr", "run"):
        os.makedirs(path + "/" + name)
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink("/" + name):
            os.symlink("usr/" + name, path + "/" + name)
    for name, text in FILES.items():
        with open(path + "/etc/" + name, "w", encoding="utf-8") as f:
            f.write(text)
    os.chmod(path + "/tmp", 0o1777)
    os.chmod(path + "/var/tmp", 0o1777)


def check(checks, what, done):
    words = done.stdout.split()
    checks.check(words[-5:] == ["overlay", "true", "0", "inner", "app's"], what, done.stdout + done.stderr)


def main():
    lamina.need("unshare", "busybox", "bwrap", "crun", "podman", "newuidmap")
    if not os.path.islink("/bin"):
        lamina.skip("this host's /bin is not in /usr")
    lamina.isolate(300)
    # Where both hierarchies of cgroups are mounted, runtimes take neither.
    subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=False, stderr=subprocess.DEVNULL)
    checks = lamina.Checks()
    with lamina.Host() as host:
        os.chmod(host.dir, 0o755)
        rootless.make_user(host.dir)
        smallroot.make(host.dir + "/app", ("proc", "sys", "dev"))
        make_root(host.dir + "/box")
        host.run("pack", host.dir + "/app", "app:1")
        host.run("pack", host.dir + "/box", "box:1")
        archive = host.dir + "/app.tar"
        host.run("export", "app:1", "docker-archive:" + archive)
        host.run("export", "box:1", f"oci:{host.dir}/layout:box")
        os.chmod(archive, 0o644)
        subprocess.run(["chmod", "-R", "a+rX", host.dir + "/layout"], check=True)
        words = ("--nested", "--volume", "/var/lib/containers", "--bind", "/usr:/usr:ro", "--bind", archive + ":/app.tar:ro",
                 "box:1", "--", "sh", "-c", SCRIPT)
        for options in (("--driver", "overlay"), ("--driver", "fuse"), ("--runtime", "crun")):
            done = host.run("run", *options, "--uid-range", "300000:65536", *words, check=False)
            check(checks, "podman in a sandbox " + " ".join(options), done)
        refused = host.run("run", *words, check=False)
        checks.check(refused.returncode == 2 and "--uid-range" in refused.stderr, "--nested as the host's root is refused",
                     refused.stderr)
        if rootless.bind_text(host.dir, "/etc/subuid", f"{rootless.USER}:{rootless.SUB}:65536\n") and \
                rootless.bind_text(host.dir, "/etc/subgid", f"{rootless.USER}:{rootless.SUB}:65536\n"):
            shutil.copy(lamina.PROGRAM, host.dir + "/lamina")
            user = rootless.User(host.dir, host.dir + "/lamina", "nested")
            try:
                user.lamina("import", f"oci:{host.dir}/layout:box", "box:1")
                check(checks, "podman in a user's sandbox", user.lamina("run", *words, check=False))
                left = os.listdir(user.home + "/.local/share/lamina/sandboxes")
                checks.check(left == [], "what podman had there goes", str(left))
            finally:
                user.lamina("umount", "--all", check=False)
    checks.finish()


if __name__ == "__main__":
    main()
