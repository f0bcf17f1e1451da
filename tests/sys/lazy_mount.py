#!/usr/bin/python3
"""Images at another lamina are mounted before their files have come: what is read is brought, the
rest comes in the background, in the order of earlier starts; what has come goes on working while the
other lamina is away, and the owner may be killed meanwhile. Between the two is a proxy that counts,
slows down and fails."""
import filecmp
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import smallroot  # noqa: E402
from roundtrip import blobs_of, server_port  # noqa: E402

FILES = 240
WAIT_S = 4


class Proxy:
    """A TCP proxy to a port of this host."""

    def __init__(self, port):
        self.port_there = port
        self.bytes = 0
        self.rate = 0  # bytes a second from there; 0: as they come
        self.down = False
        self.pairs = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            here, _ = self.listener.accept()
            if self.down:
                here.close()
                continue
            try:
                there = socket.create_connection(("127.0.0.1", self.port_there))
            except OSError:
                here.close()
                continue
            with self.lock:
                self.pairs.append((here, there))
            threading.Thread(target=self.pump, args=(here, there, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(there, here, True), daemon=True).start()

    def pump(self, a, b, counts):
        try:
            while data := a.recv(65536):
                if counts:
                    self.bytes += len(data)
                    rate = self.rate
                    if rate:
                        with self.lock:
                            time.sleep(len(data) / rate)
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def fail(self):
        self.down = True
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def heal(self):
        self.down = False


def make_tree(path, seed):
    rng = random.Random(seed)
    smallroot.make(path)
    for i in range(FILES):
        os.makedirs(f"{path}/data/{i % 12}", exist_ok=True)
        with open(f"{path}/data/{i % 12}/{i:04}", "wb") as f:
            f.write(rng.randbytes(rng.randrange(2000, 16000)))
    with open(path + "/data/large", "wb") as f:
        f.write(rng.randbytes(1 << 20))


def serve(host, *args):
    with open(host.dir + "/conf", "w", encoding="utf-8") as f:
        f.write(f"[mount]\nsource_wait_s = {WAIT_S}\nlearn_s = 1\n[condense]\nbackground = no\n")
    log = open(host.dir + "/owner.log", "ab")
    server = host.start("serve", "--config", host.dir + "/conf", *args, stdout=log, stderr=log)
    lamina.wait_for(lambda: host.run("images", check=False).returncode == 0 and os.path.exists(
        host.store + "/control.sock"), what="the owner")
    return server


def end(server):
    server.send_signal(signal.SIGTERM)
    server.wait(30)


def reads(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        return e.errno


def percent(host, name):
    for image in host.json("images")["images"]:
        if image["name"] == name:
            return image.get("percent", 100)
    return None


def same_files(tree, point, names):
    return [n for n in names if not filecmp.cmp(f"{tree}/{n}", f"{point}/{n}", shallow=False)]


def names_of(tree):
    return sorted(os.path.relpath(os.path.join(d, f), tree) for d, _, files in os.walk(tree) for f in files
                  if not os.path.islink(os.path.join(d, f)))


def on_demand(checks, near, proxy, tree, log):
    name, here = f"127.0.0.1:{proxy.port}/app:1", f"127.0.0.1_{proxy.port}/app:1"
    before = proxy.bytes
    start = time.monotonic()
    point = near.mount(name, "--no-background")
    took = time.monotonic() - start
    content = sum(os.path.getsize(f"{tree}/{n}") for n in names_of(tree))
    checks.check(proxy.bytes - before < content / 10, "a mount is there before the files",
                 f"{proxy.bytes - before} of {content} bytes in {took:.3f} s")
    names = names_of(tree)
    checks.check(names_of(point) == names, "all names are there")
    checks.check(percent(near, here) is not None and percent(near, here) < 5, "images tells how much is here",
                 str(percent(near, here)))
    before = proxy.bytes
    checks.check(same_files(tree, point, ["data/3/0003"]) == [], "a file is brought when it is read")
    checks.check(0 < proxy.bytes - before < content / 4, "and little else", str(proxy.bytes - before))
    fsck = near.json("fsck")
    checks.check(fsck["errors"] == 0 and fsck["warnings"] == 0, "fsck is clean", str(fsck["findings"]))
    checks.check("layer-elsewhere" in [f["id"] for f in fsck["findings"]], "and tells what is not here")

    proxy.fail()
    checks.check(same_files(tree, point, ["data/3/0003"]) == [], "what was read goes on")
    start = time.monotonic()
    got = reads(point + "/data/large")
    took = time.monotonic() - start
    checks.check(got == 5 and WAIT_S - 0.5 < took < WAIT_S + 6, "the rest fails with EIO in the stated time",
                 f"{got if isinstance(got, int) else 'read'} after {took:.1f} s")
    start = time.monotonic()
    failed = [reads(f"{point}/data/{i % 12}/{i:04}") for i in range(200, 220)]
    checks.check(all(f == 5 for f in failed if isinstance(f, int)) and time.monotonic() - start < 8,
                 "once it is known, at once", f"{time.monotonic() - start:.1f} s")
    checks.check("away-ms=" in open(log, encoding="utf-8", errors="replace").read(), "the log says so")
    done = near.run("export", here, f"oci:{near.dir}/none:1", check=False)
    checks.check(done.returncode != 0 and "have not come" in done.stderr, "an export says what is missing",
                 done.stderr)
    proxy.heal()
    lamina.wait_for(lambda: isinstance(reads(point + "/data/large"), bytes), 40, "the source again")
    checks.check(same_files(tree, point, ["data/large", "data/7/0067"]) == [], "it comes back")
    near.umount(point)
    return here


def whole(checks, near, proxy, far_layout, tree, here):
    point = near.mount(f"127.0.0.1:{proxy.port}/app:1")
    before = proxy.bytes
    near.run("export", here, f"oci:{near.dir}/out:1")
    checks.check(blobs_of(near.dir + "/out", "1") == blobs_of(far_layout, "1"),
                 "an export completes it, byte for byte")
    checks.check(percent(near, here) == 100, "then it is whole")
    checks.check(same_files(tree, point, names_of(tree)) == [], "and all files are right")
    proxy.fail()
    again = near.mount(f"127.0.0.1:{proxy.port}/app:1")
    checks.check(same_files(tree, again, names_of(tree)) == [], "a whole image needs no network")
    done = near.run("mount", "--pull", "always", f"127.0.0.1:{proxy.port}/app:1", again, check=False)
    checks.check(done.returncode != 0, "but where it is to be asked")
    proxy.heal()
    print(f"completing took {proxy.bytes - before} bytes", flush=True)
    for p in (point, again):
        near.umount(p)
    near.run("rm", here)
    near.run("gc", "--grace", "0", check=False)


def killed(checks, near, server, proxy, far_layout, tree):
    """In the background, slowly; the owner is killed half-way."""
    here = f"127.0.0.1_{proxy.port}/app:2"
    proxy.rate = 1000000
    point = near.mount(f"127.0.0.1:{proxy.port}/app:2")
    lamina.wait_for(lambda: percent(near, here) > 20, what="a fifth of it")
    checks.check(percent(near, here) < 100, "it is not whole yet")
    server.send_signal(signal.SIGKILL)
    server.wait()
    server = serve(near, "--no-registry")
    checks.check(reads(point + "/data/5/0005") == reads(tree + "/data/5/0005"), "reads go on")
    proxy.rate = 0
    lamina.wait_for(lambda: percent(near, here) == 100, 60, "all of it")
    checks.check(same_files(tree, point, names_of(tree)) == [], "all files are right after a kill")
    near.umount(point)
    near.run("export", here, f"oci:{near.dir}/out2:2")
    checks.check(blobs_of(near.dir + "/out2", "2") == blobs_of(far_layout, "2"), "and so is the export")
    fsck = near.json("fsck")
    checks.check(fsck["errors"] == 0 and fsck["findings"] == [], "and fsck has nothing to say", str(fsck["findings"]))
    return server


def learned(checks, far, proxy, tree):
    """A host that starts later reads first what earlier starts have read."""
    wanted = [f"data/{i % 12}/{i:04}" for i in (231, 17, 140, 88)]
    point = far.mount("app:3")
    for name in wanted:
        reads(f"{point}/{name}")
    time.sleep(2.5)
    far.umount(point)
    with lamina.Host() as second:
        server = serve(second, "--no-registry")
        proxy.rate = 400000
        second.mount(f"127.0.0.1:{proxy.port}/app:3")
        mounted = [m["dir"] for m in second.json("mounts")["mounts"]][0]
        time.sleep(1.5)
        proxy.fail()
        time.sleep(0.1)
        got = [name for name in wanted if reads(f"{mounted}/{name}") == reads(f"{tree}/{name}")]
        others = [f"data/{i % 12}/{i:04}" for i in range(40, 240, 10)]
        came = [n for n in others if isinstance(reads(f"{mounted}/{n}"), bytes)]
        checks.check(got == wanted, "what was learned came first", f"{got}")
        checks.check(len(came) < len(others), "and not everything", f"{len(came)} of {len(others)}")
        proxy.heal()
        proxy.rate = 0
        second.shutdown()
        end(server)


def sandbox(checks, near, proxy):
    here = f"127.0.0.1_{proxy.port}/app:4"
    proxy.rate = 2000000
    start = time.monotonic()
    done = near.run("run", "--network", "none", f"127.0.0.1:{proxy.port}/app:4", "--", "/bin/cat", "/srv/of-app",
                    check=False)
    took = time.monotonic() - start
    checks.check(done.stdout == "app's\n", "a sandbox starts", done.stdout + done.stderr)
    checks.check((percent(near, here) or 0) < 100, "before the image is whole", f"{percent(near, here)} % {took:.2f} s")
    proxy.rate = 0


def from_others(checks, near, far_layout, tree):
    """A registry that is no lamina: the mount waits for the image."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    conf = near.dir + "/registry.yml"
    with open(conf, "w", encoding="utf-8") as f:
        f.write(f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {near.dir}/registry\n"
                f"http:\n  addr: 127.0.0.1:{port}\n")
    registry = subprocess.Popen(["docker-registry", "serve", conf], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
    try:
        lamina.wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, what="the registry")
        subprocess.run(["skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false",
                        f"oci:{far_layout}:1", f"docker://127.0.0.1:{port}/other:1"], check=True)
        point = near.mount(f"127.0.0.1:{port}/other:1")
        registry.kill()
        checks.check(same_files(tree, point, names_of(tree)) == [], "an image of another registry is mounted whole")
        near.umount(point)
    finally:
        registry.kill()
        registry.wait()


def main():
    lamina.need("busybox", "unshare", "bwrap")
    lamina.isolate(150)
    checks = lamina.Checks()
    with lamina.Host() as far, lamina.Host() as near:
        tree = far.dir + "/tree"
        make_tree(tree, 1)
        for tag in ("1", "2", "3", "4"):
            with open(tree + "/data/tag", "w", encoding="utf-8") as f:
                f.write(tag * 200)
            far.run("pack", tree, f"app:{tag}")
            far.run("export", f"app:{tag}", f"oci:{far.dir}/layout:{tag}")
        far.run("condense", "app:1")
        upstream = serve(far, "--listen", "127.0.0.1:0")
        proxy = Proxy(lamina.wait_for(lambda: server_port(far), what="the registry"))
        server = serve(near, "--no-registry")
        trees = {}
        for tag in ("1", "2", "3", "4"):
            trees[tag] = f"{far.dir}/tree{tag}"
            subprocess.run(["cp", "-a", tree, trees[tag]], check=True)
            with open(trees[tag] + "/data/tag", "w", encoding="utf-8") as f:
                f.write(tag * 200)
        try:
            here = on_demand(checks, near, proxy, trees["1"], near.dir + "/owner.log")
            whole(checks, near, proxy, far.dir + "/layout", trees["1"], here)
            server = killed(checks, near, server, proxy, far.dir + "/layout", trees["2"])
            learned(checks, far, proxy, trees["3"])
            near.run("rm", f"127.0.0.1_{proxy.port}/app:2")
            near.run("gc", "--grace", "0")
            sandbox(checks, near, proxy)
            if all(map(lamina.shutil.which, ("docker-registry", "skopeo"))):
                from_others(checks, near, far.dir + "/layout", trees["1"])
        finally:
            near.shutdown()
            end(server)
            proxy.fail()
            end(upstream)
    checks.finish()


if __name__ == "__main__":
    main()
