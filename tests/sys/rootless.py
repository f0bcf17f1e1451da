#!/usr/bin/python3
"""A user without privileges: imports, mounts, runs sandboxes by bubblewrap, writes, commits and
pushes; with subordinate ids and without them."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import smallroot  # noqa: E402

USER, UID = "laminatest", 12345
SUB = 700000
PORTS = 15711, 15712


def bind_text(directory, path, text):
    """A file of /etc with lines more, in this mount namespace only."""
    copy = directory + "/" + os.path.basename(path)
    with open(copy, "w", encoding="utf-8") as f:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as old:
                f.write(old.read().rstrip("\n") + "\n")
        f.write(text)
    os.chmod(copy, 0o644)
    if not os.path.exists(path):
        return False
    subprocess.run(["mount", "--bind", copy, path], check=True)
    return True


def make_user(directory):
    """A user with a name, and a /dev/fuse that everybody may open, as udev makes it."""
    bind_text(directory, "/etc/passwd", f"{USER}:x:{UID}:{UID}::{directory}/home:/bin/sh\n")
    bind_text(directory, "/etc/group", f"{USER}:x:{UID}:\n")
    os.mkdir(directory + "/home")
    os.chown(directory + "/home", UID, UID)
    os.mknod(directory + "/fuse", 0o20666, os.makedev(10, 229))
    os.chmod(directory + "/fuse", 0o666)
    subprocess.run(["mount", "--bind", directory + "/fuse", "/dev/fuse"], check=True)


class User:
    """The program as that user, in a home of its own."""

    def __init__(self, directory, program, name):
        self.home = f"{directory}/home/{name}"
        self.program = program
        os.makedirs(self.home + "/run")
        for path in (self.home, self.home + "/run"):
            os.chown(path, UID, UID)
        os.chmod(self.home + "/run", 0o700)
        self.env = {"PATH": os.environ["PATH"], "HOME": self.home, "XDG_RUNTIME_DIR": self.home + "/run",
                    "LC_ALL": "C.UTF-8", "USER": USER}

    def popen(self, *argv, **kw):
        return subprocess.Popen(argv, env=self.env, user=UID, group=UID, extra_groups=[], cwd=self.home, **kw)

    def do(self, *argv, timeout=120, check=True):
        process = self.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                             errors="replace")
        out, err = process.communicate(timeout=timeout)
        if check and process.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: status {process.returncode}\n{err}")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def lamina(self, *argv, **kw):
        return self.do(self.program, *argv, **kw)

    def sh(self, script, **kw):
        return self.do("/bin/sh", "-c", script, **kw)

    def mkdir(self, name):
        self.do("mkdir", "-p", f"{self.home}/{name}")
        return f"{self.home}/{name}"


def check_store(checks, user, layout):
    user.lamina("import", "oci:" + layout + ":app", "app:1")
    store = user.home + "/.local/share/lamina"
    checks.check(os.stat(store).st_uid == UID, "the store is in the user's data directory")


def check_mounts(checks, user, ranges):
    point = user.mkdir("point")
    user.lamina("mount", "app:1", point)
    done = user.sh(f"cat {point}/srv/of-app && stat -c %u:%g {point} {point}/srv/of-app && ls {point}/bin | wc -l")
    app = f"{SUB + 999}:{SUB + 999}" if ranges else f"{UID}:{UID}"
    want = ["app's", f"{UID}:{UID}", app, str(len(smallroot.APPLETS) + 3)]
    checks.check(done.stdout.split("\n")[:-1] == want, "a mount is read, its owners are the user's", done.stdout)
    done = user.sh(f"echo x > {point}/no", check=False)
    checks.check(done.returncode != 0 and "ead-only" in done.stderr, "it is read-only", done.stderr)
    done = user.lamina("mounts")
    checks.check(done.stdout.split("\t")[:3] == [point, "app:1", "fuse"], "mounts lists it", done.stdout)
    checks.check(os.listdir(user.home + "/run") == ["lamina"], "what runs is in the user's runtime directory")
    user.lamina("umount", point)
    checks.check(os.listdir(point) == [], "umount")
    user.lamina("mount", "--rw", "app:1", point)
    done = user.sh(f"echo new > {point}/new && mkdir {point}/dir && mv {point}/new {point}/dir/ && "
                   f"echo more >> {point}/bin/text && chmod 700 {point}/dir && cat {point}/dir/new {point}/bin/text")
    checks.check(done.stdout == "new\nmore\n", "a writable mount is written", done.stdout + done.stderr)
    user.lamina("umount", point)
    left = os.listdir(user.home + "/.local/share/lamina/sandboxes")
    checks.check(left == [], "what was written goes with the mount", str(left))


def run(user, *words, options=(), check=True):
    return user.lamina("run", *options, "app:1", "--", *words, check=check)


def check_sandbox(checks, user, ranges):
    done = run(user, "sh", "-c", "id -u; id -g; cat /proc/self/uid_map; stat -c %u:%g / /srv/of-app; cat /srv/of-app")
    maps = ["0", str(UID), "1"] + (["1", str(SUB), "65536"] if ranges else [])
    want = ["0", "0", *maps, "0:0", "1000:1000" if ranges else "0:0", "app's"]
    checks.check(done.stdout.split() == want, "root in a sandbox, and whose files are", done.stdout + done.stderr)
    done = run(user, "sh", "-c", "echo x > /new; mkdir /d; ln /new /d/l; ln -s new /s; chmod 4755 /new; mv /srv /renamed;"
               "rm /etc/hosts; cat /renamed/of-app; stat -c '%a %h' /new; exit 9", check=False)
    checks.check(done.returncode == 9, "the program's status", done.stderr)
    checks.check(done.stdout == "app's\n4755 2\n", "a sandbox is written", done.stdout + done.stderr)
    upper = user.mkdir("upper")
    run(user, "sh", "-c", "echo kept > /kept; rm /etc/hosts", options=("--upper", upper))
    done = run(user, "sh", "-c", "cat /kept; ls /etc/hosts", options=("--upper", upper), check=False)
    checks.check(done.stdout == "kept\n" and done.returncode != 0, "an upper is found again", done.stdout + done.stderr)
    point = user.mkdir("point")
    user.lamina("mount", "--upper", upper, "app:1", point)
    done = user.sh(f"cat {point}/kept && echo outside > {point}/outside && stat -c %u {point}/outside")
    checks.check(done.stdout == f"kept\n{UID}\n", "an upper of a sandbox is mounted as well", done.stdout)
    user.lamina("umount", point)
    done = run(user, "sh", "-c", "cat /outside; stat -c %u /outside", options=("--upper", upper))
    checks.check(done.stdout == "outside\n0\n", "and the other way round", done.stdout + done.stderr)
    holder = user.popen(user.program, "run", "--upper", upper, "app:1", "--", "sleep", "366", stdin=subprocess.DEVNULL)
    lamina.wait_for(lambda: pids_of(b"sleep\x00366"), what="holder")
    for words in (("run", "--upper", upper, "app:1", "--", "true"), ("mount", "--upper", upper, "app:1", point)):
        done = user.lamina(*words, check=False)
        checks.check(done.returncode == 1 and "in use" in done.stderr, words[0] + " over an upper in use", done.stderr)
    done = user.lamina("umount", "--all", check=False)
    checks.check(done.returncode == 1 and "in use" in done.stderr, "a sandbox that runs is not unmounted", done.stderr)
    holder.terminate()
    holder.wait()
    checks.check(run(user, "cat", "/kept", options=("--upper", upper)).stdout == "kept\n", "it is free afterwards")
    caps = run(user, "grep", "CapBnd", "/proc/self/status").stdout.split()[1]
    checks.check(int(caps, 16) & (1 << 21) == 0, "no CAP_SYS_ADMIN within bounds", caps)
    done = run(user, "sh", "-c", "hostname; cat /etc/resolv.conf; ip link show lo | head -1; stat -c %u /v; echo y > /v/y",
               options=("--hostname", "box", "--dns", "192.0.2.1", "--network", "none", "--volume", "/v"))
    checks.check(done.stdout.startswith("box\nnameserver 192.0.2.1\n") and "LOOPBACK,UP" in done.stdout and
                 done.stdout.endswith("\n0\n"), "names, network and volumes", done.stdout + done.stderr)


def check_nested(checks, user):
    """What podman in a sandbox does: overlays over its root and upon a volume."""
    script = ("mkdir /v/u /v/w /v/m && real-unshare -Urm sh -c 'mount -t overlay -o lowerdir=/srv,upperdir=/v/u,"
              "workdir=/v/w,userxattr overlay /v/m && echo more > /v/m/new && rm /v/m/of-app && ls /v/m /srv'")
    done = run(user, "sh", "-c", script, options=("--volume", "/v"), check=False)
    checks.check(done.stdout.split() == ["/srv:", "of-app", "/v/m:", "new"], "an overlay within a sandbox",
                 done.stdout + done.stderr)
    left = os.listdir(user.home + "/.local/share/lamina/sandboxes")
    checks.check(left == [], "what the kernel's overlay left in the volume goes too", str(left))


def check_runtimes(checks, user):
    done = run(user, "sh", "-c", "id -u; echo x > /srv/of-app && cat /srv/of-app", options=("--runtime", "crun"), check=False)
    checks.check(done.stdout == "0\nx\n", "a sandbox by crun", done.stdout + done.stderr)
    bundle = user.home + "/bundle"
    user.lamina("bundle", "--rw", "app:1", bundle, "--", "sh", "-c", "id -u; echo x > /new && stat -c %u /new")
    for runtime, more in (("crun", ("--cgroup-manager=disabled",)), ("runc", ())):
        done = user.do(runtime, *more, "--root", user.mkdir(runtime), "run", "--bundle", bundle, "of-user", check=False)
        checks.check(done.stdout == "0\n0\n", "a bundle by " + runtime, done.stdout + done.stderr)
    user.lamina("umount", bundle)
    checks.check(os.listdir(bundle) == [], "umount takes the bundle away")


def check_size(checks, user):
    done = run(user, "sh", "-c", "head -c 1000000 /dev/zero > /few && echo few; head -c 100000000 /dev/zero > /many || "
               "echo full; rm /few /many; head -c 1000000 /dev/zero > /again && echo again", options=("--size", "16M"),
               check=False)
    checks.check(done.stdout == "few\nfull\nagain\n", "--size", done.stdout + done.stderr)
    done = run(user, "sh", "-c", "dd if=/dev/zero of=/holes bs=1 count=1 seek=1G || echo full; "
               "for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/part bs=1M seek=1 count=1 && rm /part; done; "
               "head -c 12000000 /dev/zero > /much && echo room", options=("--size", "16M"), check=False)
    checks.check(done.stdout == "full\nroom\n", "--size counts holes, and gives all back", done.stdout + done.stderr)


def check_users(checks, user, ranges):
    done = run(user, "sh", "-c", "id -u; id -g; echo x > /home/mine && stat -c %u:%g /home/mine; cat /srv/of-app",
               options=("--user", "app"), check=False)
    if not ranges:
        checks.check(done.returncode == 1 and "usermod --add-subuids" in done.stderr,
                     "without subordinate ids another user is refused, with what to do", done.stdout + done.stderr)
        return
    checks.check(done.stdout == "1000\n1000\n1000:1000\napp's\n", "a user of the image runs and writes",
                 done.stdout + done.stderr)
    upper = user.mkdir("owners")
    done = run(user, "sh", "-c", "touch /f && chown 5:6 /f && stat -c %u:%g /f; chown 65537:0 /f || echo refused; "
               "mkdir /d && chown app /d", options=("--upper", upper), check=False)
    checks.check(done.stdout == "5:6\nrefused\n", "root in it gives files away", done.stdout + done.stderr)
    again = run(user, "stat", "-c", "%u:%g", "/f", "/d", options=("--upper", upper))
    checks.check(again.stdout == "5:6\n1000:0\n", "the upper keeps whose they are", again.stdout)
    run(user, "sh", "-c", "echo x > /set && chown app /set && chmod 4777 /set", options=("--upper", upper))
    set_id = run(user, "sh", "-c", "stat -c %a /set; echo y >> /set; stat -c %a /set",
                 options=("--user", "app", "--upper", upper))
    checks.check(set_id.stdout == "4777\n777\n", "who writes to a set-id file takes the bit away", set_id.stdout)
    owners = {os.lstat(os.path.join(d, f)).st_uid for d, _, files in os.walk(upper) for f in files}
    checks.check(owners <= {UID}, "on disk all is the user's", str(owners))
    run(user, "sh", "-c", "mkdir -m 777 /v/open; touch /v/x; chown app /v/x /v/open; chmod 700 /v/open",
        options=("--volume", "/v"))
    left = os.listdir(user.home + "/.local/share/lamina/sandboxes")
    checks.check(left == [], "a volume with files of subordinates goes too", str(left))


def check_leaves_nothing(checks, user):
    sleeper = user.popen(user.program, "run", "app:1", "--", "sleep", "377", stdin=subprocess.DEVNULL)
    lamina.wait_for(lambda: pids_of(b"sleep\x00377"), what="sleeper")
    sleeper.kill()
    sleeper.wait()
    lamina.wait_for(lambda: not pids_of(b"sleep\x00377"), what="the sandbox goes with its command")
    lamina.wait_for(lambda: user.lamina("mounts").stdout == "", what="its record goes")
    lamina.wait_for(lambda: os.listdir(user.home + "/.local/share/lamina/sandboxes") == [], what="its upper goes")
    checks.check(True, "a killed run leaves nothing")


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


def check_fs_killed(checks, user):
    """A sandbox goes on when the process that serves it is killed."""
    script = "for i in 1 2 3 4 5 6 7 8; do echo $i > /f$i; cat /bin/busybox > /copy$i; sleep 0.2; done; cat /f*; ls / | grep -c copy"
    sandbox = user.popen(user.program, "run", "app:1", "--", "sh", "-c", script, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lamina.wait_for(lambda: pids_of(b"sh\x00-c\x00for i"), what="sandbox")
    killed = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                argv = f.read().split(b"\0")
            if argv[1:2] == [b"fs"] and user.home.encode() in b" ".join(argv) and os.stat(f"/proc/{pid}").st_uid == UID:
                os.kill(int(pid), 9)
                killed += 1
        except OSError:
            continue
    out, err = sandbox.communicate(timeout=60)
    checks.check(killed == 1 and sandbox.returncode == 0 and out.split() == list("12345678") + ["8"],
                 "a sandbox survives the death of fs", f"killed {killed}, status {sandbox.returncode}\n{out}{err}")


def check_commit_and_push(checks, user, host):
    upper = user.mkdir("changes")
    run(user, "sh", "-c", "echo committed > /srv/by-user; rm /srv/of-app", options=("--upper", upper))
    user.lamina("commit", "--upper", upper, "app:2")
    done = user.lamina("run", "app:2", "--", "sh", "-c", "cat /srv/by-user; ls /srv")
    checks.check(done.stdout == "committed\nby-user\n", "a commit is an image", done.stdout + done.stderr)
    mine = user.popen(user.program, "serve", "--listen", f"127.0.0.1:{PORTS[0]}", stdin=subprocess.DEVNULL,
                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs = host.start("serve", "--listen", f"127.0.0.1:{PORTS[1]}", stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        copy = ["skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false",
                f"docker://127.0.0.1:{PORTS[0]}/app:2", f"docker://127.0.0.1:{PORTS[1]}/from/user:2"]
        lamina.wait_for(lambda: user.do(*copy, check=False).returncode == 0, 40, "the push")
        point = host.mount("from/user:2")
        checks.check(sorted(os.listdir(point + "/srv")) == ["by-user"], "what was pushed is what was written")
        owner = os.stat(point + "/srv/by-user")
        checks.check((owner.st_uid, owner.st_gid) == (0, 0), "with the image's owners")
        host.umount(point)
    finally:
        for process in (mine, theirs):
            process.terminate()
            process.wait(30)


def check_refusals(checks, user):
    upper = user.mkdir("refused")
    for words, said in ((("run", "--uid-range", "5:5", "app:1"), "needs root"),
                        (("mount", "--uid-range", "5:5", "app:1", upper), "needs root"),
                        (("run", "--driver", "overlay", "app:1"), "root"),
                        (("mount", "--driver", "overlay", "app:1", upper), "root")):
        done = user.lamina(*words, check=False)
        checks.check(done.returncode in (1, 2) and said in done.stderr, " ".join(words[:3]), done.stderr)
    done = user.do("bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", user.program, "run", "app:1",
                   "--", "true", check=False)
    checks.check(done.returncode == 1 and "user.max_user_namespaces" in done.stderr, "no user namespaces: what to do",
                 done.stderr)
    os.chmod("/dev/fuse", 0o600)
    done = run(user, "true", check=False)
    os.chmod("/dev/fuse", 0o666)
    checks.check(done.returncode == 1 and "/dev/fuse" in done.stderr, "no right to /dev/fuse: said", done.stderr)


def check_changes(checks, user):
    """What was changed is told, given to a second sandbox, and thrown away."""
    point, upper, clone = user.mkdir("changed"), user.home + "/kept", user.home + "/cloned"
    user.lamina("mount", "--upper", upper, "app:1", point)
    user.sh(f"cd {point} && echo x > new && ln new link && rm srv/of-app && mkdir d && chmod 700 bin/text && sync")
    want = ["A /d", "A /link", "A /new", "M /bin/text", "D /srv/of-app"]
    told = user.lamina("diff", point).stdout.split("\n")
    checks.check(set(want) <= set(told), "diff by a user", str(told))
    user.lamina("clone", point, clone)
    user.lamina("reset", point)
    done = user.sh(f"cat {point}/srv/of-app; ls {point}/new", check=False)
    checks.check(done.stdout == "app's\n", "reset by a user", done.stdout + done.stderr)
    user.lamina("umount", point)
    user.lamina("mount", "--upper", clone, "app:1", point)
    again = user.lamina("diff", point).stdout.split("\n")
    checks.check(again == told, "a clone by a user", str(again))
    user.lamina("umount", point)


def check_all(checks, directory, program, layout, host, ranges):
    user = User(directory, program, "ranges" if ranges else "alone")
    try:
        check_store(checks, user, layout)
        check_mounts(checks, user, ranges)
        check_sandbox(checks, user, ranges)
        check_nested(checks, user)
        check_runtimes(checks, user)
        check_size(checks, user)
        check_users(checks, user, ranges)
        check_fs_killed(checks, user)
        check_leaves_nothing(checks, user)
        check_changes(checks, user)
        check_commit_and_push(checks, user, host)
        if ranges:
            check_refusals(checks, user)
    finally:
        user.lamina("umount", "--all", check=False)


def main():
    lamina.need("unshare", "busybox", "bwrap", "crun", "runc", "fusermount3", "newuidmap", "skopeo")
    lamina.isolate(400)
    # Where both hierarchies of cgroups are mounted, runtimes take neither.
    subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=False, stderr=subprocess.DEVNULL)
    checks = lamina.Checks()
    with lamina.Host() as host:
        os.chmod(host.dir, 0o755)
        make_user(host.dir)
        program = host.dir + "/lamina"
        shutil.copy(lamina.PROGRAM, program)
        smallroot.make(host.dir + "/root")
        with open(host.dir + "/root/bin/text", "w", encoding="utf-8"):
            pass
        os.chown(host.dir + "/root/home", 1000, 1000)
        host.run("pack", host.dir + "/root", "app:1")
        host.run("export", "app:1", f"oci:{host.dir}/layout:app")
        subprocess.run(["chmod", "-R", "a+rX", host.dir + "/layout"], check=True)
        check_all(checks, host.dir, program, host.dir + "/layout", host, ranges=False)
        if bind_text(host.dir, "/etc/subuid", f"{USER}:{SUB}:65536\n") and \
                bind_text(host.dir, "/etc/subgid", f"{USER}:{SUB}:65536\n"):
            check_all(checks, host.dir, program, host.dir + "/layout", host, ranges=True)
    checks.finish()


if __name__ == "__main__":
    main()
