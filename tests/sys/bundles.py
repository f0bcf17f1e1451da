#!/usr/bin/python3
"""Bundles for OCI runtimes: crun and runc run what `lamina bundle` made, as the image says."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import smallroot  # noqa: E402

FIRST = 300000


def start(host, runtime, bundle, name):
    return subprocess.run([runtime, "--root", f"{host.dir}/{runtime}", "run", "--bundle", bundle, name],
                          capture_output=True, text=True, errors="replace", timeout=60, check=False,
                          stdin=subprocess.DEVNULL)


def bundle_of(host, *options, words=()):
    host.count = getattr(host, "count", 0) + 1
    path = f"{host.dir}/bundle-{host.count}"
    host.run("bundle", *options, "app:1", path, *(("--", *words) if words else ()))
    return path


def taken_away(checks, host, path, what):
    host.run("umount", path)
    checks.check(os.listdir(path) == [], what + ": umount takes the bundle away", str(os.listdir(path)))


def check_runtime(checks, host, runtime):
    name = runtime + ": "
    path = bundle_of(host)
    done = start(host, runtime, path, "as-the-image-says")
    checks.check(done.stdout == "1000 /srv of the image\n", name + "user, directory, environment and command",
                 done.stdout + done.stderr)
    taken_away(checks, host, path, name)
    path = bundle_of(host, "--user", "root", words=("sh", "-c", "echo x > /made"))
    done = start(host, runtime, path, "read-only")
    checks.check(done.returncode != 0 and "ead-only" in done.stderr, name + "read-only unless told", done.stderr)
    taken_away(checks, host, path, name)
    upper = f"{host.dir}/upper-{runtime}"
    os.mkdir(upper)
    path = bundle_of(host, "--upper", upper, "--user", "0", "--env", "WORD=mine", "--network", "none", "--hostname",
                     "box", words=("sh", "-c", "echo $WORD > /made; hostname; id -u; exit 7"))
    done = start(host, runtime, path, "writable")
    checks.check(done.returncode == 7 and done.stdout == "box\n0\n", name + "status, name, root",
                 done.stdout + done.stderr)
    with open(upper + "/upper/made", encoding="utf-8") as f:
        checks.check(f.read() == "mine\n", name + "what it writes is in the upper")
    taken_away(checks, host, path, name)
    path = bundle_of(host, "--rw", "--uid-range", f"{FIRST}:65536", "--user", "0",
                     words=("sh", "-c", "cat /proc/self/uid_map; stat -c %u /srv/of-app; touch /f && stat -c %u /f"))
    os.chmod(path, 0o755)
    done = start(host, runtime, path, "mapped")
    checks.check(done.stdout.split() == ["0", str(FIRST), "65536", "1000", "0"], name + "a range of owners",
                 done.stdout + done.stderr)
    taken_away(checks, host, path, name)


def check_refusals(checks, host):
    path = bundle_of(host)
    with open(path + "/config.json", encoding="utf-8") as f:
        config = json.load(f)
    caps = config["process"]["capabilities"]
    checks.check(set(caps) == {"bounding"}, "a user other than root has no capabilities", str(caps))
    checks.check(not {"CAP_SYS_ADMIN", "CAP_SETPCAP"} & set(caps["bounding"]), "nor any great one within bounds")
    checks.check(config["process"]["noNewPrivileges"] is True, "no new privileges")
    again = host.run("bundle", "app:1", path, check=False)
    checks.check(again.returncode == 1 and "config.json" in again.stderr, "a second one in one place", again.stderr)
    checks.check(os.path.exists(path + "/rootfs/bin/busybox"), "... leaves the first")
    host.run("umount", path + "/rootfs")
    checks.check(os.listdir(path) == [], "umount of rootfs takes all away as well", str(os.listdir(path)))
    bad = host.dir + "/bad"
    failed = host.run("bundle", "--user", "nobody-here", "app:1", bad, check=False)
    checks.check(failed.returncode == 1 and os.listdir(bad) == [], "a failed one leaves nothing", failed.stderr)
    other = host.dir + "/other"
    os.mkdir(other)
    with open(other + "/config.json", "w", encoding="utf-8") as f:
        f.write("{}")
    refused = host.run("umount", other, check=False)
    checks.check(refused.returncode == 1 and os.path.exists(other + "/config.json"), "a foreign bundle is left alone",
                 refused.stderr)
    path = bundle_of(host)
    host.run("umount", "--all")
    checks.check(os.listdir(path) == [], "umount --all takes bundles away", str(os.listdir(path)))


def main():
    lamina.need("unshare", "busybox", "crun", "runc")
    lamina.isolate(200)
    # Where both hierarchies of cgroups are mounted, runtimes take neither.
    subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=False, stderr=subprocess.DEVNULL)
    checks = lamina.Checks()
    with lamina.Host() as host:
        os.chmod(host.dir, 0o755)
        smallroot.make(host.dir + "/root", ("proc", "sys", "dev"))
        host.run("pack", host.dir + "/root", "app:1", "--user", "app", "--env", "WORD=of the image", "--workdir", "/srv",
                 "--cmd", "sh", "--cmd", "-c", "--cmd", "echo $(id -u) $PWD $WORD")
        for runtime in ("crun", "runc"):
            check_runtime(checks, host, runtime)
        check_refusals(checks, host)
        left = host.json("mounts")
        checks.check(left in ([], {"mounts": []}), "nothing is mounted at the end", str(left))
    checks.finish()


if __name__ == "__main__":
    main()
