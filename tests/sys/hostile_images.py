#!/usr/bin/python3
"""Hostile images and upper directories: links that lead out of the root, device nodes, FIFOs in
place of files, directories deeper than any path, a terminal that must not be typed into."""
import hashlib
import json
import os
import pty
import shutil
import stat
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

RUNTIMES = ("bwrap", "crun")


def make_root(path, links=()):
    os.makedirs(path + "/bin")
    os.makedirs(path + "/etc")
    shutil.copy(shutil.which("busybox"), path + "/bin/busybox")
    for name in ("sh", "id", "cat", "ls", "mkdir", "touch", "echo", "grep", "env"):
        os.symlink("busybox", path + "/bin/" + name)
    for name, target in links:
        os.symlink(target, path + name)


def sandbox(host, runtime, image, *args, options=()):
    return host.run("run", "--runtime", runtime, *options, image, "--", *args, check=False, stdin=subprocess.DEVNULL)


def check_links_out(checks, host, runtime):
    """bwrap builds a root while the host's is at /oldroot: dangling links must not reach it."""
    done = sandbox(host, runtime, "out:1", "cat", "/etc/resolv.conf", "/data/deep/file",
                   options=("--bind", f"{host.dir}/given:/data/deep/file:ro"))
    checks.check(done.returncode == 0 and "given" in done.stdout, f"{runtime}: binds over links that lead nowhere",
                 done.stdout + done.stderr)
    checks.check(os.listdir(host.dir + "/outside") == [], f"{runtime}: ... make nothing on the host",
                 str(os.listdir(host.dir + "/outside")))


def check_devices(checks, host, runtime):
    done = sandbox(host, runtime, "devices:1", "sh", "-c", "echo >/null-like", options=("-u", "1000"))
    checks.check(done.returncode != 0, f"{runtime}: device nodes of an image are dead",
                 done.stdout + done.stderr)


def check_sys(checks, host, runtime):
    script = "while read -r d p o r; do case $p in /sys|/sys/*) case ,$o, in *,rw,*) echo $p;; esac;; esac; done </proc/mounts"
    done = sandbox(host, runtime, "plain:1", "sh", "-c", script)
    checks.check(done.returncode == 0 and done.stdout == "", f"{runtime}: nothing below /sys can be written",
                 done.stdout + done.stderr)


def check_proc(checks, host, runtime):
    """Root of the sandbox is the host's: what it writes to /proc/sys would be the host's, too."""
    script = "p=/proc/sys/kernel/core_pattern; v=$(cat $p); echo \"$v\" >$p"
    done = sandbox(host, runtime, "plain:1", "sh", "-c", script)
    checks.check(done.returncode != 0 and "Read-only" in done.stderr, f"{runtime}: /proc/sys cannot be written", done.stderr)
    done = sandbox(host, runtime, "plain:1", "sh", "-c", "cat /proc/self/status /proc/1/status")
    wanted = {"00000000800404fb"}  # CAP_SETFCAP and those below it
    for name in ("CapPrm", "CapEff", "CapBnd"):
        got = {line.split("\t")[1] for line in done.stdout.splitlines() if line.startswith(name)}
        checks.check(got == wanted, f"{runtime}: {name} of root", str(got))


def check_rights(checks, host, runtime):
    done = sandbox(host, runtime, "plain:1", "sh", "-c", "cat /proc/self/status; ls /proc/self/fd",
                   options=("-u", "1000"))
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    for name in ("CapEff", "CapPrm", "CapAmb", "CapInh"):
        checks.check(fields.get(name, "x").strip("0") == "", f"{runtime}: {name} of a user is empty", str(fields.get(name)))
    checks.check(fields.get("NoNewPrivs") == "1", f"{runtime}: no way to gain privileges")
    fds = [line for line in done.stdout.splitlines() if line.isdigit()]
    checks.check(fds == ["0", "1", "2", "3"], f"{runtime}: no descriptor but three, and ls's own", str(fds))


def check_environment(checks, host, runtime):
    os.environ["SECRET"] = "1"
    done = subprocess.run([lamina.PROGRAM, "run", "--runtime", runtime, "plain:1", "--", "env"],
                          env=dict(host.env, SECRET="1"), cwd="/etc", stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False)
    names = sorted(line.split("=")[0] for line in done.stdout.splitlines())
    checks.check(set(names) <= {"HOME", "PATH", "PWD", "SHLVL"} and "/etc" not in done.stdout,
                 f"{runtime}: the host's environment stays there", done.stdout)


def check_deep(checks, host, runtime):
    script = "i=0; while [ $i -lt 900 ]; do mkdir 0123456789 && cd 0123456789 2>/dev/null || break; i=$((i+1)); done; echo $i"
    done = sandbox(host, runtime, "plain:1", "sh", "-c", script)
    left = os.listdir(host.store + "/sandboxes")
    checks.check(int(done.stdout or 0) > 300 and left == [], f"{runtime}: a deep tree is removed",
                 f"{done.stderr} {left}")


def check_terminal(checks, host, runtime):
    """A program in a sandbox must not type into the terminal that it shares with a shell."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(lamina.PROGRAM, [lamina.PROGRAM, "run", "--runtime", runtime, "terminal:1", "--",
                                    "/tiocsti"], host.env)
    out = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        if not piece:
            break
        out += piece
    _, status = os.waitpid(pid, 0)
    os.close(master)
    checks.check(b"refused" in out and os.waitstatus_to_exitcode(status) == 0,
                 f"{runtime}: TIOCSTI is refused", out.decode(errors="replace"))


def check_accounts(checks, host):
    for image in ("fifo:1", "loop:1"):
        done = sandbox(host, "bwrap", image, "id", options=("-u", "app"))
        checks.check(done.returncode == 1 and "etc/passwd" in done.stderr, f"{image}: refused at once", done.stderr)


def check_uppers(checks, host):
    point = host.dir + "/point"
    os.mkdir(point)

    def refused(upper, what):
        done = host.run("mount", "--upper", upper, "plain:1", point, check=False, timeout=60)
        if not checks.check(done.returncode == 1, what, done.stdout):
            host.umount(point)
        return done

    victim = host.dir + "/victim"
    os.mkdir(victim)
    for name in ("upper", "work"):
        upper = f"{host.dir}/link-{name}"
        os.mkdir(upper)
        os.symlink(victim, upper + "/" + name)
        refused(upper, f"an upper directory whose {name} is a link is refused")
        checks.check(os.listdir(victim) == [], "... and nothing is written behind it", str(os.listdir(victim)))
    upper = host.dir + "/fifo-binding"
    os.mkdir(upper)
    os.mkfifo(upper + "/lamina.json")
    refused(upper, "a binding that is a FIFO is refused")
    upper = host.dir + "/others"
    os.mkdir(upper)
    os.chown(upper, 1000, 1000)
    refused(upper, "an upper directory of another user is refused")
    upper = host.dir + "/open"
    os.mkdir(upper)
    os.chmod(upper, 0o777)
    refused(upper, "an upper directory that others can write is refused")
    host.run("mount", "--rw", "plain:1", point)
    host.umount(point)


def check_run_dirs(checks, host):
    shared = host.dir + "/shared-run"
    os.mkdir(shared)
    os.chmod(shared, 0o1777)
    kept, host.env["LAMINA_RUN"] = host.env["LAMINA_RUN"], shared
    done = host.run("mounts", check=False)
    host.env["LAMINA_RUN"] = kept
    checks.check(done.returncode == 1 and "written by others" in done.stderr, "a shared runtime directory is refused",
                 done.stdout + done.stderr)
    checks.check(os.stat(shared).st_mode & 0o7777 == 0o1777, "... and left as it is")


def check_umask(checks, host):
    old = os.umask(0o077)
    done = sandbox(host, "bwrap", "plain:1", "ls", "/", options=("-u", "1000"))
    os.umask(old)
    checks.check(done.returncode == 0, "a root directory does not depend on the umask", done.stderr)


def write_blob(layout, data):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as f:
        f.write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}


def check_nested_indexes(checks, host):
    """Indexes that name each other often: a walk that does not remember takes 100^6 steps."""
    layout, index = host.dir + "/nested", "application/vnd.oci.image.index.v1+json"
    os.makedirs(layout + "/blobs/sha256")
    config = dict(write_blob(layout, b"{}"), mediaType="application/vnd.test")
    top = dict(write_blob(layout, json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()),
               mediaType="application/vnd.oci.image.manifest.v1+json")
    other = dict(write_blob(layout, b"no manifest"), mediaType="application/vnd.test")
    for _ in range(7):
        top = dict(write_blob(layout, json.dumps({"schemaVersion": 2, "mediaType": index,
                                                  "manifests": [top] * 100 + [other]}).encode()), mediaType=index)
    with open(layout + "/oci-layout", "w", encoding="utf-8") as f:
        f.write('{"imageLayoutVersion": "1.0.0"}')
    with open(layout + "/index.json", "w", encoding="utf-8") as f:
        json.dump({"schemaVersion": 2, "manifests": [top]}, f)
    for words in (("import", f"oci:{layout}", "nested/a:1"), ("tag", "nested/a:1", "nested/b:1"),
                  ("inspect", "nested/b:1"), ("rm", "nested/a:1"), ("gc", "--grace", "0"), ("rm", "nested/b:1")):
        try:
            done = host.run(*words, check=False, timeout=20)
            checks.check(done.returncode == 0, f"{words[0]} of nested indexes", done.stderr)
        except subprocess.TimeoutExpired:
            checks.check(False, f"{words[0]} of nested indexes does not end")
            return
    done = host.run("mount", "nested/a:1", layout, check=False, timeout=20)
    checks.check(done.returncode == 1, "a mount of what is gone", done.stderr)


def check_many_names(checks, host):
    """A large document under many names costs its reading each time."""
    layout, manifest = host.dir + "/names", "application/vnd.oci.image.manifest.v1+json"
    os.makedirs(layout + "/blobs/sha256")
    config = dict(write_blob(layout, b"{}"), mediaType="application/vnd.test")
    top = dict(write_blob(layout, json.dumps({"schemaVersion": 2, "config": config, "layers": [],
                                              "annotations": {"x": "y" * 4000000}}).encode()), mediaType=manifest)
    with open(layout + "/oci-layout", "w", encoding="utf-8") as f:
        f.write('{"imageLayoutVersion": "1.0.0"}')
    names = [dict(top, annotations={"org.opencontainers.image.ref.name": f"many/a:{i}"}) for i in range(50000)]
    with open(layout + "/index.json", "w", encoding="utf-8") as f:
        json.dump({"schemaVersion": 2, "manifests": names}, f)
    done = host.run("import", f"oci:{layout}", check=False, timeout=100)
    checks.check(done.returncode == 1 and "MiB of manifests" in done.stderr, "many names of a large manifest", done.stderr)


def make_images(host):
    roots = host.dir + "/roots"
    os.mkdir(host.dir + "/outside")
    with open(host.dir + "/given", "w", encoding="utf-8") as f:
        f.write("given\n")
    make_root(roots + "/plain")
    out = "/../oldroot" + host.dir + "/outside"
    make_root(roots + "/out", [("/etc/resolv.conf", ".." + out + "/resolv"), ("/data", "." + out)])
    make_root(roots + "/devices")
    os.mknod(roots + "/devices/null-like", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(roots + "/devices/null-like", 0o666)
    make_root(roots + "/fifo")
    os.mkfifo(roots + "/fifo/etc/passwd")
    make_root(roots + "/loop", [("/etc/passwd", "passwd")])
    make_root(roots + "/terminal")
    with open(host.dir + "/tiocsti.c", "w", encoding="utf-8") as f:
        f.write("#include <stdio.h>\n#include <sys/ioctl.h>\n#include <errno.h>\n"
                "int main(void) { int r = ioctl(0, TIOCSTI, \"E\");"
                " puts(r < 0 && errno == EPERM ? \"refused\" : \"TYPED\"); return r == 0; }\n")
    subprocess.run(["cc", "-static", "-o", roots + "/terminal/tiocsti", host.dir + "/tiocsti.c"], check=True)
    for name in os.listdir(roots):
        host.run("pack", f"{roots}/{name}", f"{name}:1", "--cmd", "id")


def main():
    lamina.need("unshare", "busybox", "bwrap", "crun", "cc")
    lamina.isolate(240)
    checks = lamina.Checks()
    with lamina.Host() as host:
        make_images(host)
        for runtime in RUNTIMES:
            check_links_out(checks, host, runtime)
            check_devices(checks, host, runtime)
            check_sys(checks, host, runtime)
            check_proc(checks, host, runtime)
            check_rights(checks, host, runtime)
            check_environment(checks, host, runtime)
            check_deep(checks, host, runtime)
            check_terminal(checks, host, runtime)
        check_accounts(checks, host)
        check_uppers(checks, host)
        check_umask(checks, host)
        check_nested_indexes(checks, host)
        check_many_names(checks, host)
        host.shutdown()
        check_run_dirs(checks, host)
    checks.finish()


main()
