#!/usr/bin/python3
"""podman runs containers on layers of the store (`lamina als`): nothing of them is pulled, the tree is
the image's, and it goes on when a process is killed or the image's name goes."""
import base64
import errno
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import layouts  # noqa: E402
import oddimages  # noqa: E402
import smallroot  # noqa: E402
import treedump  # noqa: E402

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + b"\x00" * 12


class Proxy(http.server.ThreadingHTTPServer):
    """Between podman and the registry: remembers what was asked for."""

    def __init__(self, port):
        self.seen = []
        super().__init__(("127.0.0.1", 0), self.handler(port))
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handler(self, port):
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                proxy.seen.append((self.command, self.path))
                upstream = http.client.HTTPConnection("127.0.0.1", port)
                upstream.request(self.command, self.path, headers={k: v for k, v in self.headers.items()})
                answer = upstream.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for key, value in answer.getheaders():
                    if key.lower() not in ("connection", "transfer-encoding", "date", "server"):
                        self.send_header(key, value)
                if not answer.getheader("content-length"):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = forward

            def log_message(self, *unused):
                pass
        return Handler

    def layers_pulled(self, digests):
        return [path for method, path in self.seen if method == "GET" and any(d in path for d in digests)]


class Podman:
    """One with its own storage, which takes layers from `als` (None: from nowhere)."""

    def __init__(self, directory, als):
        os.mkdir(directory)
        self.dir = directory
        with open(directory + "/storage.conf", "w", encoding="utf-8") as f:
            f.write(f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/graph"\nrunroot = "{directory}/run"\n')
            if als:
                f.write(f'[storage.options]\nadditionallayerstores = ["{als}:ref"]\n')
        self.env = dict(os.environ, CONTAINERS_STORAGE_CONF=directory + "/storage.conf")

    def run(self, *args, check=True):
        done = subprocess.run(["podman", "--cgroup-manager", "cgroupfs", *args], env=self.env, capture_output=True,
                              text=True, errors="replace", timeout=120, check=False, stdin=subprocess.DEVNULL)
        if check and done.returncode != 0:
            raise RuntimeError(f"podman {' '.join(args)}: {done.stderr}")
        return done

    def container(self, image, *command, rm=True, name=None):
        return self.run("run", *(["--rm"] if rm else ["--name", name]), "--ulimit", "nofile=1024:1024", "--ulimit",
                        "nproc=1024:1024", "--network", "host", "--cgroups=disabled", "--security-opt",
                        "seccomp=unconfined", image, *command, check=False)


def tar_of(directory):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(os.listdir(directory)):
            tar.add(directory + "/" + name, arcname=name)
    return raw.getvalue()


def make_layers(directory):
    """Tars, lowest first: a root that runs, with things that the next ones change."""
    smallroot.make(directory, ("gone/deep", "emptied/deep", "kept"))
    for name in ("gone/deep/file", "emptied/deep/file", "emptied/other", "kept/file", "kept/removed", "kept/chmod"):
        with open(directory + "/" + name, "w", encoding="utf-8") as f:
            f.write("lower\n")
    os.link(directory + "/kept/file", directory + "/kept/link")
    os.setxattr(directory + "/kept/chmod", "security.capability", CAPABILITY)
    middle = oddimages.Layer().dir("kept").whiteout("kept/removed").whiteout("gone")
    middle.dir("emptied", mode=0o750, uid=3, gid=4).opaque("emptied").add("emptied/new", data=b"middle\n")
    middle.add("kept/chmod", data=b"lower\n", mode=0o600, xattrs={"user.of": b"middle"})
    middle.dir("dir").add("dir/removed-again", data=b"x").add("replaced", data=b"a file\n")
    top = oddimages.Layer().dir("dir").whiteout("dir/removed-again").dir("gone").add("gone/back", data=b"top\n")
    top.dir("replaced").add("replaced/by", data=b"a directory\n")
    top.add("large", data=bytes(range(256)) * 4096).hardlink("large-too", "large")
    return [tar_of(directory), middle.bytes(), top.bytes()]


def make_image(host):
    layout = layouts.Layout(host.dir + "/layout")
    tars = make_layers(host.dir + "/root")
    layers = [(gzip.compress(tar, 6), layouts.digest_of(tar)) for tar in tars]
    digests = layout.image_of("app", layers, {"Cmd": ["stat", "-c", "%s", "/large-too"], "Env": ["PATH=/bin"]})
    layout.close()
    return digests


def registry_port(host):
    host.start("serve", "--listen", "127.0.0.1:0", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listening():
        for pid in host.pids("serve"):
            inodes = set()
            for number in os.listdir(f"/proc/{pid}/fd"):
                try:
                    inodes.add(os.readlink(f"/proc/{pid}/fd/{number}"))
                except OSError:
                    continue
            with open("/proc/net/tcp", encoding="ascii") as f:
                for line in f.readlines()[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                        return int(fields[1].split(":")[1], 16)
        return None
    return lamina.wait_for(listening, what="the registry")


def als_workers(host):
    """The process that serves is the child of the one that keeps."""
    pids = host.pids("als")
    parents = {}
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            parents[pid] = int(f.read().rsplit(")", 1)[1].split()[1])
    return [pid for pid in pids if parents[pid] in pids]


def check_tree(checks, podman, image, expected):
    podman.run("create", "--name", "looked-at", image, "x")
    point = podman.run("mount", "looked-at").stdout.strip()
    found, _ = treedump.dump(point)
    wrong = []
    for path in sorted(set(expected) | set(found)):
        if path == b"" or expected.get(path) == found.get(path):
            continue
        wrong.append(f"{path!r}: {expected.get(path)} != {found.get(path)}")
    checks.check(not wrong, f"podman's tree is the image's: {image}", "\n".join(wrong[:5]))
    podman.run("umount", "looked-at")
    podman.run("rm", "looked-at")


def check_containers(checks, podman, image):
    done = podman.container(image)
    checks.check(done.stdout == "1048576\n", "the image's command runs", done.stdout + done.stderr)
    done = podman.container(image, "sh", "-c",
                            "echo changed > /kept/file; cat /kept/file /kept/link; rm -r /emptied; ls / | grep emptied;"
                            "mv /kept/chmod /moved; ls /kept; ls /gone")
    # overlayfs without index=on, as podman mounts it: a write parts hard links of a lower layer
    checks.check(done.stdout.split() == ["changed", "lower", "file", "link", "back"], "a container writes",
                 done.stdout + done.stderr)


def check_save(host, checks, podman, image, digests):
    archive = host.dir + "/saved.tar"
    podman.run("save", "-q", "--format", "oci-archive", "-o", archive, image)
    with tarfile.open(archive) as tar:
        blobs = {m.name.rsplit("/", 1)[-1]: tar.extractfile(m).read() for m in tar.getmembers() if "sha256/" in m.name}
        index = json.load(tar.extractfile("index.json"))
    manifest = json.loads(blobs[index["manifests"][0]["digest"][7:]])
    config = json.loads(blobs[manifest["config"]["digest"][7:]])
    found = []
    for layer in manifest["layers"]:
        data = blobs[layer["digest"][7:]]
        found.append("sha256:" + hashlib.sha256(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).hexdigest())
    checks.check(found == config["rootfs"]["diff_ids"] and len(found) == len(digests),
                 "saved layers are what the image says", str(found))


def check_commit(checks, podman, image):
    podman.container(image, "sh", "-c", "echo mine > /mine; rm /large", rm=False, name="changed")
    podman.run("commit", "-q", "changed", "localhost/mine:1")
    done = podman.container("localhost/mine:1", "sh", "-c", "cat /mine; ls /large; cat /gone/back")
    checks.check(done.stdout.split() == ["mine", "top"], "an image committed over it runs", done.stdout + done.stderr)
    podman.run("rm", "changed")
    podman.run("rmi", "localhost/mine:1")


def check_kills(host, checks, podman, image):
    for _ in range(3):
        before = als_workers(host)
        checks.check(len(before) == 1, "one process serves", str(before))
        os.kill(before[0], signal.SIGKILL)
        done = podman.container(image, "cat", "/gone/back")
        checks.check(done.stdout == "top\n", "a container starts when the server was killed", done.stderr)
        lamina.wait_for(lambda: als_workers(host) not in ([], before), what="a successor")


def leases(host):
    return host.json("stats")["leases"]


def check_name_gone(host, checks, podman, image, als):
    host.run("rm", "team/app:1")
    host.run("gc", "--grace", "0")
    host.run("umount", als)
    host.run("als", als)
    done = podman.container(image, "cat", "/gone/back", "/kept/file")
    checks.check(done.stdout == "top\nlower\n", "it runs though its name has gone, and the store was started again",
                 done.stderr)


def check_refusals(host, checks, als):
    other = host.dir + "/other-als"
    os.mkdir(other)
    done = host.run("als", other, check=False)
    checks.check(done.returncode == 1 and als in done.stderr, "one for each store", done.stderr)
    for path in ("x", "!!!!", "bm8vc3VjaDox/sha256:" + "0" * 64, "bm8vc3VjaDox/diff", "bm8vc3VjaDox/info/x"):
        checks.check(not os.path.exists(f"{als}/{path}"), f"{path} is not there")
    for what, call in (("file", lambda: os.close(os.open(als + "/x", os.O_CREAT | os.O_WRONLY))),
                       ("directory", lambda: os.mkdir(als + "/x")), ("mode", lambda: os.chmod(als, 0o700)),
                       ("link", lambda: os.symlink("y", als + "/x")), ("name", lambda: os.rmdir(als + "/bm8vc3VjaDox"))):
        try:
            call()
            checks.check(False, f"{what}: nothing can be changed in it")
        except OSError as e:
            checks.check(e.errno == errno.EROFS, f"{what}: nothing can be changed in it", str(e))


def check_reset(host, checks, podman, image, als):
    host.run("import", f"oci:{host.dir}/layout:app", "team/app:1")
    podman.run("pull", "-q", "--tls-verify=false", image)
    before = leases(host)
    host.run("umount", als)
    host.run("umount", "--all")
    host.run("als", "--reset", als)
    checks.check(before > 0 and leases(host) == 0, "--reset lets everything go", f"{before}, {leases(host)}")
    podman.run("rmi", image)


# What these say of every directory, podman and unpack agree on.
ODD_TAGS = ("attributes", "kinds", "replaced", "empty", "sparse-pax-1.0", "format-oldgnu")


def check_odd(host, checks, podman, port):
    layout = host.dir + "/odd"
    subprocess.run(["/usr/bin/python3", lamina.SUPPORT + "/oddimages.py", layout], check=True,
                   stdout=subprocess.DEVNULL)
    for tag in ODD_TAGS:
        host.run("import", f"oci:{layout}:{tag}", f"odd/{tag}:1")
        host.run("unpack", f"odd/{tag}:1", f"{host.dir}/odd-{tag}")
        image = f"127.0.0.1:{port}/odd/{tag}:1"
        podman.run("pull", "-q", "--tls-verify=false", image)
        check_tree(checks, podman, image, treedump.dump(f"{host.dir}/odd-{tag}")[0])
    podman.run("rmi", "-a", "-f")


def check_names(host, checks, als, layer):
    """Which references lead to an image with the layer (spec/als.md)."""
    host.run("tag", "team/app:1", "hub:2")
    digest = next(i["digest"] for i in host.json("images")["images"] if i["name"] == "hub:2")
    for ref, known in (("team/app:1", True), ("localhost/team/app:1", True), ("example.org/team/app:1", True),
                       ("docker.io/library/hub:2", True), ("h:1/hub@" + digest, True), ("h:1/hub:2@" + digest, True),
                       ("h:1/hub:gone", True), ("h:1/hub", True), ("elsewhere/team/app:1", False),
                       ("example.org/other/app:1", False), ("", False), ("h:1/", False), ("h:1/UPPER:1", False)):
        path = f"{als}/{base64.b64encode(ref.encode()).decode()}/{layer}"
        checks.check(os.path.exists(path + "/info") == known, f"{ref}: " + ("known" if known else "not known"))
    with open(f"{als}/{base64.b64encode(b'hub:2').decode()}/{layer}/info", encoding="utf-8") as f:
        info = json.load(f)
    checks.check(info["compressed-diff-digest"] == layer and info["compression"] == 2, "info", str(info))
    with open(f"{als}/{base64.b64encode(b'hub:2').decode()}/{layer}/blob", "rb") as f:
        checks.check(layouts.digest_of(f.read()) == layer, "blob")
    host.run("rm", "hub:2")


def check_elsewhere(host, checks, als, digests):
    """An image that the store does not know is pulled as ever."""
    with lamina.Host(host.dir) as other:
        other.run("import", f"oci:{host.dir}/layout:app", "elsewhere/app:1")
        proxy = Proxy(registry_port(other))
        podman = Podman(other.dir + "/podman", als)
        image = f"127.0.0.1:{proxy.port}/elsewhere/app:1"
        podman.run("pull", "-q", "--tls-verify=false", image)
        checks.check(len(set(proxy.layers_pulled(digests))) == len(digests), "layers of another registry are pulled")
        point = podman.run("mount", podman.run("create", image).stdout.strip()).stdout.strip()
        checks.check(os.path.exists(point + "/gone/back") and not os.path.exists(point + "/kept/removed"),
                     "... and stacked")
        podman.run("rm", "-a", "-f")
        podman.run("rmi", "-a", "-f")


def main():
    lamina.need("podman", "unshare", "busybox")
    lamina.isolate(280)
    subprocess.run(["umount", "-l", "/sys/fs/cgroup/unified"], check=False, stderr=subprocess.DEVNULL)
    checks = lamina.Checks()
    with lamina.Host() as host:
        digests = make_image(host)
        als = host.dir + "/als"
        os.mkdir(als)
        host.run("import", f"oci:{host.dir}/layout:app", "team/app:1")
        host.run("unpack", "team/app:1", host.dir + "/reference")
        expected, _ = treedump.dump(host.dir + "/reference")
        proxy = Proxy(registry_port(host))
        image = f"127.0.0.1:{proxy.port}/team/app:1"
        host.run("als", als)
        check_refusals(host, checks, als)
        check_names(host, checks, als, digests[0])
        podman = Podman(host.dir + "/podman", als)
        before = leases(host)
        podman.run("pull", "-q", "--tls-verify=false", image)
        checks.check(any("/manifests/" in path for _, path in proxy.seen), "the manifest came from the registry",
                     str(proxy.seen))
        check_tree(checks, podman, image, expected)
        check_containers(checks, podman, image)
        check_save(host, checks, podman, image, digests)
        check_commit(checks, podman, image)
        check_kills(host, checks, podman, image)
        check_name_gone(host, checks, podman, image, als)
        checks.check(proxy.layers_pulled(digests) == [], "no layer was pulled", str(proxy.seen))
        podman.run("rmi", image)
        checks.check(leases(host) == before, "what podman removed is let go", f"{before} leases, now {leases(host)}")
        checks.check(host.json("mounts")["mounts"] == [], "... and unmounted", str(host.json("mounts")))
        check_odd(host, checks, podman, proxy.port)
        check_reset(host, checks, podman, image, als)
        check_elsewhere(host, checks, als, digests)
        done = host.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck", done.stdout + done.stderr)
        host.run("umount", als)
        checks.check(not os.path.ismount(als), "umount ends it")
        lamina.wait_for(lambda: host.pids("als") == [], what="the end of its processes")
    checks.finish()


if __name__ == "__main__":
    main()
