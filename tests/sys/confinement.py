#!/usr/bin/python3
"""Layers are decoded by a process that can do nothing else: what it has is looked at while it is at
work, as root and as a user; it is killed in the middle; bad layers keep their errors; and a system
that lets no such process be, with each setting of [decode] confine."""
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from layouts import Layout  # noqa: E402

LARGE_BYTES = 96 << 20
BAD = os.path.join(lamina.ROOT, "tests/golden-fail/layer")


def make_tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def layout_of(path, layer):
    layout = Layout(path)
    layout.image("image", layer, "sha256:" + hashlib.sha256(layer).hexdigest())
    layout.close()
    return "oci:" + path + ":image"


def decoder_of(pid):
    """The child that decodes, stopped; None when the import ended without one being seen."""
    while os.path.exists(f"/proc/{pid}"):
        for child in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{child}/stat", encoding="utf-8", errors="replace") as f:
                    text = f.read()
            except OSError:
                continue
            rest = text.rsplit(")", 1)[1].split()
            # Behind the filter it is at work, and reads.
            if "(lamina-decoder)" in text and int(rest[1]) == pid and status_of(int(child)).get("Seccomp") == "2":
                os.kill(int(child), signal.SIGSTOP)
                return int(child)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return None
    return None


def status_of(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as f:
            return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    except OSError:
        return {}


def limits_of(pid):
    with open(f"/proc/{pid}/limits", encoding="utf-8") as f:
        return {line[:26].strip(): line[26:].split()[:2] for line in f.readlines()[1:]}


def check_process(checks, who, decoder, owner):
    status, limits = status_of(decoder), limits_of(decoder)
    checks.check(status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", f"{who}: no new privileges, a filter", str(status))
    caps = [status[k] for k in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
    checks.check(all(int(c, 16) == 0 for c in caps), f"{who}: no capabilities", str(caps))
    checks.check(status["Uid"].split() == ["65534"] * 4 and status["Gid"].split() == ["65534"] * 4,
                 f"{who}: nobody's ids", status["Uid"] + status["Gid"])
    checks.check(status["Threads"] == "1", f"{who}: one thread")
    fds = {fd: os.readlink(f"/proc/{decoder}/fd/{fd}") for fd in os.listdir(f"/proc/{decoder}/fd")}
    checks.check(sorted(fds) == ["0", "1"] and all(v.startswith("pipe:") for v in fds.values()),
                 f"{who}: two pipes and no more", str(fds))
    wanted = {"Max core file size": "0", "Max file size": "0", "Max open files": "0", "Max processes": "0",
              "Max address space": str(4 << 30), "Max cpu time": str(24 * 3600)}
    for name, value in wanted.items():
        checks.check(limits[name] == [value, value], f"{who}: {name}", str(limits[name]))
    with open(f"/proc/{decoder}/environ", "rb") as f:
        checks.check(f.read() == b"", f"{who}: no environment")
    for kind in ("mnt", "ipc", "uts"):
        ours, its = (os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (owner, decoder))
        checks.check(ours != its, f"{who}: a namespace of its own: {kind}", its)
    root = os.readlink(f"/proc/{decoder}/root")
    checks.check(root != "/", f"{who}: its root is elsewhere", root)


def import_watched(host, source, prefix=(), store=None):
    """Starts an import; its process, and that which decodes, stopped."""
    env = dict(host.env, LAMINA_STORE=store or host.store)
    proc = subprocess.Popen([*prefix, lamina.PROGRAM, "import", source, "image:1"], env=env, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    return proc, decoder_of(proc.pid)


def check_at_work(checks, host, source):
    proc, decoder = import_watched(host, source)
    if not checks.check(decoder is not None, "root: a process decodes"):
        return
    check_process(checks, "root", decoder, proc.pid)
    os.kill(decoder, signal.SIGCONT)
    out, err = proc.communicate(timeout=120)
    checks.check(proc.returncode == 0, "root: the image is imported", out + err)
    checks.check(not os.path.exists(f"/proc/{decoder}"), "root: the process is gone")


def check_user(checks, host, source):
    path = host.dir + "/user"
    os.mkdir(path)
    os.chmod(host.dir, 0o755)
    os.chown(path, 65534, 65534)
    as_user = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    proc, decoder = import_watched(host, source, as_user, path + "/store")
    if not checks.check(decoder is not None, "user: a process decodes", "" if proc.poll() is None else proc.stderr.read()):
        return
    check_process(checks, "user", decoder, proc.pid)
    os.kill(decoder, signal.SIGCONT)
    out, err = proc.communicate(timeout=120)
    checks.check(proc.returncode == 0, "user: the image is imported", out + err)


def check_killed(checks, host, source):
    store = host.dir + "/killed"
    proc, decoder = import_watched(host, source, store=store)
    if not checks.check(decoder is not None, "killed: a process decodes"):
        return
    os.kill(decoder, signal.SIGKILL)
    _, err = proc.communicate(timeout=120)
    checks.check(proc.returncode != 0 and "the decoder was killed" in err, "killed: the error says so", err)
    done = host.run("--store", store, "import", source, "image:1", check=False)
    checks.check(done.returncode == 0, "killed: the next import does it", done.stderr)
    done = host.run("--store", store, "fsck", check=False)
    checks.check(done.returncode == 0, "killed: the store is whole", done.stdout + done.stderr)


def check_owner_killed(checks, host, source):
    proc, decoder = import_watched(host, source, store=host.dir + "/orphan")
    if not checks.check(decoder is not None, "orphan: a process decodes"):
        return
    proc.kill()
    proc.communicate()
    os.kill(decoder, signal.SIGCONT)
    lamina.wait_for(lambda: status_of(decoder).get("State", "Z")[0] in "ZX", 10, "the decoder's end")
    checks.check(True, "orphan: the process ends with its owner")


def check_bad(checks, host):
    """The errors of layers that are bad say which they are."""
    words = {"invalid-hard-link-to-itself.tar": "itself", "corrupt-checksum.tar": "damaged header",
             "limit-path-3000-deep.tar": "2048 directories", "corrupt-gzip-checksum.tar": "gzip: wrong checksum",
             "limit-sparse-hole-of-terabytes.tar": "sparse files"}
    for name, word in words.items():
        with open(f"{BAD}/{name}", "rb") as f:
            layer = f.read()
        source = layout_of(f"{host.dir}/{name}", layer)
        done = host.run("import", source, "bad:1", check=False)
        if done.returncode == 0:  # it is kept as it is, and cannot be mounted
            done = host.run("mount", "bad:1", host.dir + "/nowhere-" + name, check=False)
        checks.check(done.returncode != 0 and word in done.stderr, f"{name}: its error", done.stderr)


def serve(host, store, confine):
    config = f"{host.dir}/{confine}.conf"
    with open(config, "w", encoding="utf-8") as f:
        f.write(f"[decode]\nconfine = {confine}\n")
    log = open(f"{host.dir}/{confine}.log", "wb")
    proc = host.start("--store", store, "serve", "--no-registry", "--config", config, stderr=log, stdout=log)
    lamina.wait_for(lambda: b"start=ok" in open(f"{host.dir}/{confine}.log", "rb").read() or proc.poll() is not None, 20,
                    "the owner")
    return proc


def check_setting(checks, host, source, confine, ok, logged):
    store = f"{host.dir}/store-{confine}-{ok}-{logged}"
    proc = serve(host, store, confine)
    done = host.run("--store", store, "import", source, "image:1", check=False)
    proc.terminate()
    proc.wait(timeout=30)
    with open(f"{host.dir}/{confine}.log", encoding="utf-8") as f:
        log = f.read()
    what = f"confine = {confine}, " + ("it can be: " if not logged and ok else "it cannot be: ")
    checks.check((done.returncode == 0) == ok, what + ("decoded" if ok else "refused"), done.stderr)
    if not ok:
        checks.check("confine = require" in done.stderr, what + "the error says why", done.stderr)
    checks.check(("confined=no" in log) == logged, what + "the log", log)


def main():
    lamina.isolate(240)
    checks = lamina.Checks()
    with lamina.Host() as host:
        large = layout_of(host.dir + "/large", make_tar([("big", os.urandom(LARGE_BYTES))]))
        small = layout_of(host.dir + "/small", make_tar([("a", b"a" * 100), ("b", b"b")]))
        check_at_work(checks, host, large)
        check_user(checks, host, large)
        check_killed(checks, host, large)
        check_owner_killed(checks, host, large)
        check_bad(checks, host)
        for confine in ("auto", "require", "off"):
            check_setting(checks, host, small, confine, True, False)
        try:  # of this PID namespace: no program in memory can be run any more
            with open("/proc/sys/vm/memfd_noexec", "w", encoding="ascii") as f:
                f.write("2")
        except OSError:
            checks.finish()
        check_setting(checks, host, small, "auto", True, True)
        check_setting(checks, host, small, "require", False, False)
    checks.finish()


if __name__ == "__main__":
    main()
