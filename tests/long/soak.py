#!/usr/bin/python3
"""Everything at once, and kills: real clients push, pull (whole, and ranges of condensed blobs), move
and delete tags, export, commit and mount, while the owner collects, scrubs and condenses, and is
killed every few seconds, as `lamina fs` is. What was acknowledged is noted, with what deletions made
void of it. Meanwhile nobody may be told wrong bytes, nor that something is absent that was
acknowledged; who reads in a mount sees no error. At the end: fsck is clean, every acknowledged digest
is readable and equal, and after a last collection the store holds what a fresh one holds that got
the same images.

    soak.py [--seconds N] [--seed N] [--grace SECONDS]"""
import argparse
import collections
import gzip
import hashlib
import http.client
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

OCI = "application/vnd.oci.image."
MANIFEST, CONFIG, LAYER = OCI + "manifest.v1+json", OCI + "config.v1+json", OCI + "layer.v1.tar+gzip"
GONE = (OSError, http.client.HTTPException)
REPOS_EACH = 3  # of one who pushes
TAGS_EACH = 4   # of a repository
LAYERS_POOL = 40
WAIT_S = 20     # that a reader in a mount may wait, and that an owner may take to be back


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("LAMINA_SOAK_SECONDS", "1800")))
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--grace", type=int, default=60)
    return parser.parse_args()


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


# ---- what is pushed ----

def content(n):
    """A file that many layers share; every ninth is of several chunks."""
    size = 400_000 + n * 1000 if n % 9 == 0 else 100 + n * 997 % 30_000
    half = hashlib.shake_128(b"content %d" % n).digest(size // 2 + 1)
    return half + half.hex().encode()[:size // 2]


class Layer:
    def __init__(self, rng):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            for name in ["bin"] + sorted({f"bin/f{rng.randrange(60)}" for _ in range(rng.randrange(1, 12))}):
                info = tarfile.TarInfo(name)
                info.mtime = 1_600_000_000
                if name == "bin":
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
                    continue
                data = content(int(name[5:]))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        self.diff_id = digest_of(raw.getvalue())
        self.data = gzip.compress(raw.getvalue(), rng.choice((1, 6, 9)), mtime=0)
        self.digest = digest_of(self.data)


class Image:
    """Blobs by digest, and the manifest."""

    def __init__(self, layers, number):
        config = json.dumps({"os": "linux", "architecture": "amd64", "number": number,
                             "rootfs": {"type": "layers", "diff_ids": [x.diff_id for x in layers]}}).encode()
        self.blobs = {digest_of(config): config, **{x.digest: x.data for x in layers}}
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": x.digest, "size": len(x.data)} for x in layers]}).encode()
        self.digest = digest_of(self.manifest)
        self.files = {name for x in layers for name in x_names(x)}


def x_names(layer):
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer.data))) as tar:
        return [m.name for m in tar if m.isfile()]


# ---- what is known ----

class Ledger:
    """What each name may be: one digest when that is known, more where an answer did not come. None:
    no such name. Each name has one writer, so it is known before and after each of its acts."""

    def __init__(self):
        self.lock = threading.Lock()
        self.names = {}       # (repo, tag) -> set of digests or None
        self.versions = collections.Counter()
        self.images = {}      # digest -> Image
        self.manifests = {}   # (repo, digest) -> set of True, False

    def begin(self, key, values, table="names"):
        with self.lock:
            known = getattr(self, table)
            known[key] = known.get(key, {None if table == "names" else False}) | values
            self.versions[key] += 1

    def known(self, key, values, table="names"):
        with self.lock:
            getattr(self, table)[key] = values
            self.versions[key] += 1

    def sure(self, rng):
        """A name that is one digest for certain, with its version."""
        with self.lock:
            keys = [k for k, v in self.names.items() if len(v) == 1 and None not in v]
            if not keys:
                return None
            key = rng.choice(keys)
            return key, next(iter(self.names[key])), self.versions[key]

    def is_still(self, key, version):
        with self.lock:
            return self.versions[key] == version


class Figures:
    def __init__(self):
        self.lock = threading.Lock()
        self.counts, self.bytes, self.seen = collections.Counter(), collections.Counter(), collections.Counter()
        self.longest = collections.defaultdict(float)
        self.failures = []

    def done(self, kind, seconds, count=1, size=0):
        with self.lock:
            self.counts[kind] += count
            self.bytes[kind] += size
            self.longest[kind] = max(self.longest[kind], seconds)

    def error(self, what):
        """What a client sees of a kill."""
        with self.lock:
            self.seen[what] += 1

    def fail(self, what):
        with self.lock:
            self.failures.append(what)
            if len(self.failures) < 20:
                print("FAIL " + what, flush=True)

    def table(self):
        print(f"{'operation':<28}{'number':>8}{'bytes':>16}{'longest s':>12}")
        for kind in sorted(self.counts):
            print(f"{kind:<28}{self.counts[kind]:>8}{self.bytes[kind]:>16}{self.longest[kind]:>12.2f}")
        for what, count in sorted(self.seen.items()):
            print(f"seen by clients: {what}: {count}")


class Soak:
    def __init__(self, host, args):
        self.host, self.args = host, args
        self.ledger, self.figures, self.stop = Ledger(), Figures(), threading.Event()
        self.port, self.ended = lamina.free_port(), False
        self.config = host.dir + "/soak.conf"
        self.wired = "[gc]" in host.run("serve", "--help").stdout
        rng = random.Random(args.seed)
        self.pool = [Layer(rng) for _ in range(LAYERS_POOL)]
        self.numbers = iter(range(1, 1 << 30))
        self.numbers_lock, self.commits = threading.Lock(), 0
        with open(self.config, "w", encoding="ascii") as f:
            f.write(f"[registry]\nlisten = 127.0.0.1:{self.port}\n[condense]\nbackground = yes\nshare = 30\n")
            f.write("[store]\nblob_cache = 1M\n")
            if self.wired:
                f.write(f"[gc]\nevery = 2s\ngrace = {args.grace}s\n[scrub]\nevery = 1s\n")

    def new_image(self, rng):
        layers = [rng.choice(self.pool) for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.3:
            layers.append(Layer(rng))
        with self.numbers_lock:
            number = next(self.numbers)
        image = Image(list({x.digest: x for x in layers}.values()), number)
        with self.ledger.lock:
            self.ledger.images[image.digest] = image
        return image

    # the owner

    def start_owner(self):
        self.owner = self.host.start("serve", "--config", self.config, stdout=subprocess.DEVNULL,
                                     stderr=open(self.host.dir + "/serve.log", "ab"))

    def serve_log(self):
        with open(self.host.dir + "/serve.log", encoding="utf-8", errors="replace") as f:
            return f.read()[-1000:]

    def wait_owner(self):
        """A command that found no owner may have the store for longer than a server waits for it on a
        machine that is short of time: who looks after servers starts them again."""
        begin = time.monotonic()
        while not self.answers():
            if self.owner.poll() is not None:
                if "is in use by process" not in self.serve_log():
                    raise RuntimeError(f"the owner ended with {self.owner.returncode}: {self.serve_log()}")
                self.figures.done("owner started again", 0)
                self.start_owner()
            if time.monotonic() - begin > WAIT_S * 6:
                raise RuntimeError(f"the owner does not come back: {self.serve_log()}")
            time.sleep(0.02)
        self.figures.done("owner is back", time.monotonic() - begin)

    def answers(self):
        try:
            return self.once("GET", "/v2/")[0] == 200
        except GONE:
            return False

    def once(self, method, path, body=None, headers=None):
        """One request: status, headers, body."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S * 3)
        try:
            headers = dict(headers or {})
            if body is None and method in ("POST", "PUT", "PATCH"):
                headers["Content-Length"] = "0"
            c.request(method, path, body, headers)
            r = c.getresponse()
            data = r.read()
            if r.status >= 500 and r.status != 503:
                self.figures.fail(f"{method} {path}: {r.status} {data[:300]!r}")
            return r.status, r.headers, data
        finally:
            c.close()

    def again(self, kind, fn):
        """Until it is answered: the owner may be away. Raises GONE at the end."""
        begin = time.monotonic()
        while True:
            try:
                answer = fn()
                if answer[0] not in (429, 503):
                    self.figures.done(kind, time.monotonic() - begin)
                    return answer
                self.figures.error(str(answer[0]))  # as many condensed blobs are made as may be: come again
            except GONE as e:
                self.figures.error(type(e).__name__)
            if (self.stop.is_set() and not self.ended) or time.monotonic() - begin > WAIT_S * 3:
                raise ConnectionError(f"{kind}: not answered")
            time.sleep(0.05)

    def worker(self, name, step):
        def loop():
            rng = random.Random(f"{self.args.seed} {name}")
            while not self.stop.is_set():
                try:
                    step(rng)
                except GONE as e:
                    self.figures.error(f"{name}: gave up, {e}")
                except Exception as e:  # noqa: BLE001: a mistake of the test is a failure, too
                    self.figures.fail(f"{name}: {type(e).__name__} {e}")
                    time.sleep(1)
        return threading.Thread(target=loop, name=name, daemon=True)

    # pushing

    def push_blob(self, repo, data, rng):
        base, digest = f"/v2/{repo}/blobs/uploads/", digest_of(data)
        if rng.random() < 0.5:
            return self.once("POST", f"{base}?digest={digest}", data)
        status, headers, _ = self.once("POST", base)
        if status != 202:
            return status, headers, b"POST"
        where = headers["Location"].split(f":{self.port}", 1)[-1]
        offset, half = 0, len(data) // 2
        for piece in (data[:half], data[half:]):
            end = offset + len(piece) - 1
            try:
                if piece:
                    self.once("PATCH", where, piece, {"Content-Range": f"{offset}-{end}"})
                    offset += len(piece)
            except GONE:  # goes on from where the registry says it is
                self.figures.error("an upload went on")
                status, headers, _ = self.again("GET session", lambda: self.once("GET", where))
                if status != 204:
                    return status, headers, b"GET session"
                offset = int(headers["Range"].split("-")[1]) + 1 if headers["Range"] != "0-0" else 0
                break
        mark = "&" if "?" in where else "?"
        rest = data[offset:]
        more = {"Content-Range": f"{offset}-{len(data) - 1}"} if rest and offset else {}
        return self.once("PUT", f"{where}{mark}digest={digest}", rest, more)

    def bring_blobs(self, repo, image, rng):
        """By HEAD, and what is missing; the time since which the first of them counts."""
        since = time.monotonic()
        for digest, data in image.blobs.items():
            while not self.stop.is_set():
                status, _, _ = self.again("HEAD", lambda d=digest: self.once("HEAD", f"/v2/{repo}/blobs/{d}"))
                if status == 200:
                    break
                begin = time.monotonic()
                try:
                    status, _, body = self.push_blob(repo, data, rng)
                except GONE as e:
                    self.figures.error(f"push: {type(e).__name__}")
                    continue
                if status == 201:
                    self.figures.done("push of a blob", time.monotonic() - begin, size=len(data))
                    break
                if status not in (404, 503, 416):  # the session went with a crash
                    self.figures.fail(f"push to {repo}: {status} {body[:200]!r}")
            if self.stop.is_set():
                raise ConnectionError("the end came in the middle of a push")
        return since

    def push(self, repo, tag, image, rng):
        since = self.bring_blobs(repo, image, rng)
        key = (repo, tag)
        self.ledger.begin((repo, image.digest), {True}, "manifests")
        self.ledger.begin(key, {image.digest})
        status, _, body = self.again("PUT of a manifest", lambda: self.once(
            "PUT", f"/v2/{repo}/manifests/{tag}", image.manifest, {"Content-Type": MANIFEST}))
        if status == 201:
            self.ledger.known((repo, image.digest), {True}, "manifests")
            self.ledger.known(key, {image.digest})
            return
        took = time.monotonic() - since
        if b"BLOB_UNKNOWN" not in body or took < self.args.grace - 2:
            self.figures.fail(f"manifest of {repo}:{tag} after {took:.0f} s: {status} {body[:300]!r}")
        self.figures.error("a push took longer than the grace")

    def delete_tag(self, repo, tag):
        self.ledger.begin((repo, tag), {None})
        status, _, body = self.again("DELETE of a tag", lambda: self.once("DELETE", f"/v2/{repo}/manifests/{tag}"))
        if status in (202, 404):
            self.ledger.known((repo, tag), {None})
        else:
            self.figures.fail(f"DELETE {repo}:{tag}: {status} {body[:200]!r}")

    def delete_manifest(self, repo, digest):
        """Its tags go with it."""
        with self.ledger.lock:
            tags = [k for k, v in self.ledger.names.items() if k[0] == repo and digest in v]
        for key in tags:
            self.ledger.begin(key, {None})
        self.ledger.begin((repo, digest), {False}, "manifests")
        status, _, body = self.again("DELETE of a manifest",
                                     lambda: self.once("DELETE", f"/v2/{repo}/manifests/{digest}"))
        if status not in (202, 404):
            self.figures.fail(f"DELETE {repo}@{digest}: {status} {body[:200]!r}")
            return
        self.ledger.known((repo, digest), {False}, "manifests")
        for key in tags:
            with self.ledger.lock:
                left = self.ledger.names[key] - {digest}
            self.ledger.known(key, left or {None})

    def pusher(self, n):
        def step(rng):
            repo, tag = f"p{n}/r{rng.randrange(REPOS_EACH)}", f"t{rng.randrange(TAGS_EACH)}"
            with self.ledger.lock:
                here = [d for (r, d), v in self.ledger.manifests.items() if r == repo and v == {True}]
            what = rng.random()
            if what < 0.5 or not here:
                self.push(repo, tag, self.new_image(rng), rng)
            elif what < 0.65:  # a tag moves to what is here
                self.push(repo, tag, self.ledger.images[rng.choice(here)], rng)
            elif what < 0.75:
                self.delete_tag(repo, tag)
            else:
                self.delete_manifest(repo, rng.choice(here))
            time.sleep(rng.random() * 0.2)
        return self.worker(f"pusher {n}", step)

    def skopeo(self):
        layouts = self.host.dir + "/layouts"
        os.mkdir(layouts)

        def step(rng):
            image, tag = self.new_image(rng), f"s{rng.randrange(TAGS_EACH)}"
            layout = f"{layouts}/{rng.randrange(1 << 30)}"
            write_layout(layout, image)
            key = ("skopeo/r", tag)
            self.ledger.begin(("skopeo/r", image.digest), {True}, "manifests")
            self.ledger.begin(key, {image.digest})
            begin = time.monotonic()
            done = subprocess.run(["skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", "--retry-times", "8",
                                   f"oci:{layout}:x", f"docker://127.0.0.1:{self.port}/skopeo/r:{tag}"],
                                  check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=300)
            shutil.rmtree(layout)
            if done.returncode == 0:
                self.ledger.known(("skopeo/r", image.digest), {True}, "manifests")
                self.ledger.known(key, {image.digest})
                self.figures.done("push by skopeo", time.monotonic() - begin)
            else:
                self.figures.error("skopeo gave up")
            time.sleep(0.5)
        return self.worker("skopeo", step)

    # pulling

    def must(self, kind, path, headers, want, key, version):
        """Bytes of something that is there as long as its name stays as it was."""
        status, _, data = self.again(kind, lambda: self.once("GET", path, None, headers))
        if data == want and status in (200, 206):
            self.figures.done(kind, 0, 0, len(data))
            return True
        if self.ledger.is_still(key, version):
            self.figures.fail(f"{kind} {path} {headers}: {status}, {len(data)} of {len(want)} bytes, {data[:200]!r}")
        return False

    def puller(self, n):
        def step(rng):
            got = self.ledger.sure(rng)
            if not got:
                time.sleep(0.2)
                return
            key, digest, version = got
            image = self.ledger.images[digest]
            repo, tag = key
            if not self.must("pull of a manifest", f"/v2/{repo}/manifests/{tag}", {"Accept": MANIFEST}, image.manifest, key, version):
                return
            for blob, data in image.blobs.items():
                path, headers, want = f"/v2/{repo}/blobs/{blob}", {}, data
                kind = "pull of a blob"
                if rng.random() < 0.5 and len(data) > 10:
                    first = rng.randrange(len(data) - 1)
                    last = rng.randrange(first, len(data))
                    headers, want, kind = {"Range": f"bytes={first}-{last}"}, data[first:last + 1], "pull of a range"
                if not self.must(kind, path, headers, want, key, version):
                    return
            time.sleep(rng.random() * 0.1)
        return self.worker(f"puller {n}", step)

    def exporter(self):
        def step(rng):
            got = self.ledger.sure(rng)
            if not got:
                time.sleep(0.2)
                return
            (repo, tag), digest, version = got
            out = self.host.dir + "/export"
            shutil.rmtree(out, ignore_errors=True)
            begin = time.monotonic()
            done = self.host.run("export", f"{repo}:{tag}", f"oci:{out}:x", check=False)
            if done.returncode == 0:
                self.figures.done("export", time.monotonic() - begin)
                if self.ledger.is_still((repo, tag), version):
                    for blob, data in self.ledger.images[digest].blobs.items():
                        with open(f"{out}/blobs/sha256/{blob[7:]}", "rb") as f:
                            if f.read() != data:
                                self.figures.fail(f"export of {repo}:{tag}: {blob}")
            elif self.ledger.is_still((repo, tag), version):
                self.outcome("export", done)
            time.sleep(1)
        return self.worker("exporter", step)

    def outcome(self, kind, done):
        """A command that failed: the owner was killed under it, or it is wrong."""
        text = (done.stderr or "") + (done.stdout or "")
        if any(word in text for word in ("owner", "connect", "reset", "closed", "went away", "Broken pipe", "another process", "in use", "gone")):
            self.figures.error(f"{kind}: the owner went away")
        else:
            self.figures.fail(f"{kind}: {text[-500:]}")

    # maintenance by commands

    def maintenance(self, kind, pause, *command):
        def step(rng):
            args = list(command)
            if kind == "gc" and self.wired and rng.random() < 0.2:
                args.append("--full")
            begin = time.monotonic()
            done = self.host.run(*args, check=False, timeout=600)
            if done.returncode == 0:
                self.figures.done(f"lamina {kind}", time.monotonic() - begin)
            else:
                self.outcome(f"lamina {kind}", done)
            self.stop.wait(pause * rng.random() * 2)
        return self.worker(kind, step)

    def condenser(self):
        """One image at a time, beside what the owner condenses by itself: a command without an owner
        has the store to itself."""
        def step(rng):
            got = self.ledger.sure(rng)
            if got:
                begin = time.monotonic()
                done = self.host.run("condense", f"{got[0][0]}:{got[0][1]}", check=False, timeout=600)
                if done.returncode == 0:
                    self.figures.done("lamina condense", time.monotonic() - begin)
                elif self.ledger.is_still(got[0], got[2]):
                    self.outcome("lamina condense", done)
            self.stop.wait(rng.random() * 4)
        return self.worker("condense", step)

    # mounts

    def mount_once(self, name, point, *args):
        """True when it is mounted; False: the image is gone meanwhile, or the owner."""
        done = self.host.run("mount", *args, name, point, check=False)
        if done.returncode != 0:
            self.figures.error("a mount was not made")
        return done.returncode == 0

    def read_files(self, point, image, rng):
        for name in rng.sample(sorted(image.files), min(4, len(image.files))):
            begin = time.monotonic()
            with open(f"{point}/{name}", "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                data = f.read()
            took = time.monotonic() - begin
            if data != content(int(name[5:])):
                self.figures.fail(f"mount: {name} has {len(data)} other bytes")
            if took > WAIT_S * 3:  # by then `lamina fs` has given up on the owner
                self.figures.fail(f"mount: a read took {took:.0f} s")
            self.figures.done("read in a mount", took, size=len(data))

    def reader(self, n, *args):
        point = f"{self.host.dir}/mnt{n}"
        os.mkdir(point)

        def step(rng):
            got = self.ledger.sure(rng)
            if not got or not self.mount_once(f"{got[0][0]}:{got[0][1]}", point, *args):
                time.sleep(0.2)
                return
            # The name may have moved before it was mounted.
            image = self.ledger.images[got[1]] if self.ledger.is_still(got[0], got[2]) else None
            begin = time.monotonic()
            while image and not self.stop.is_set() and time.monotonic() - begin < 8:
                try:
                    self.read_files(point, image, rng)
                except OSError as e:
                    self.figures.fail(f"mount of {got[0]}: {e}")
                    break
                time.sleep(0.05)
            self.umount(point)
        return self.worker(f"reader {n}", step)

    def umount(self, point):
        begin, why = time.monotonic(), ""
        while os.path.ismount(point) and time.monotonic() - begin < WAIT_S * 9:  # fsck may have the store
            done = self.host.run("umount", point, check=False)
            if done.returncode != 0:
                why = done.stderr
                time.sleep(0.1)
        if os.path.ismount(point):
            self.figures.fail(f"umount of {point}: {why}")
            subprocess.run(["umount", "-l", point], check=False)
        self.figures.done("mount and umount", time.monotonic() - begin)

    def writer(self):
        """A writable mount over an image; what is written is committed as an image, and read again."""
        point = self.host.dir + "/mnt-rw"
        os.mkdir(point)

        def step(rng):
            got = self.ledger.sure(rng)
            if not got or not self.mount_once(f"{got[0][0]}:{got[0][1]}", point, "--rw"):
                time.sleep(0.2)
                return
            try:
                data = {f"new{i}": rng.randbytes(rng.choice((10, 3000, 300_000))) for i in range(3)}
                for name, text in data.items():
                    with open(f"{point}/{name}", "wb") as f:
                        f.write(text)
                begin = time.monotonic()
                self.commits += 1  # a name of its own: whether it came is asked for at the end
                done = self.host.run("commit", point, f"committed/r:c{self.commits}", check=False)
                if done.returncode == 0:
                    self.figures.done("commit", time.monotonic() - begin)
                else:
                    self.outcome("commit", done)
                for name, text in data.items():
                    with open(f"{point}/{name}", "rb") as f:
                        if f.read() != text:
                            self.figures.fail(f"writable mount: {name}")
                    self.figures.done("write in a mount", 0, size=len(text))
            except OSError as e:
                self.figures.fail(f"writable mount: {e}")
            self.umount(point)
        return self.worker("writer", step)

    # kills

    def killer(self):
        def step(rng):
            self.stop.wait(2 + rng.random() * 4)
            if self.stop.is_set():
                return
            if rng.random() < 0.4:
                for pid in self.host.pids("fs"):
                    try:
                        os.kill(pid, signal.SIGKILL)
                        self.figures.done("kill of lamina fs", 0)
                    except ProcessLookupError:
                        pass
            if rng.random() < 0.8:
                self.owner.kill()
                self.owner.wait()
                self.figures.done("kill of lamina serve", 0)
                self.start_owner()
                self.wait_owner()
        return self.worker("killer", step)

    # the whole

    def run(self):
        self.start_owner()
        self.wait_owner()
        workers = [self.pusher(0), self.pusher(1), self.puller(0), self.puller(1), self.skopeo(), self.exporter(),
                   self.reader(0, "--driver", "overlay"), self.reader(1, "--driver", "fuse"), self.writer(),
                   self.maintenance("gc", 4, "gc", "--grace", str(self.args.grace)),
                   self.maintenance("fsck", 8, "fsck"),
                   self.condenser()]
        killer = self.killer()
        for t in workers + [killer]:
            t.start()
        end = time.monotonic() + self.args.seconds
        while time.monotonic() < end:
            time.sleep(0.5)
        self.stop.set()
        for t in workers + [killer]:
            t.join(WAIT_S * 5)
            if t.is_alive():
                self.figures.fail(f"{t.name} hangs")

    def look(self, path, accept=MANIFEST):
        """At the end, when nobody is killed any more."""
        return self.again("look at the end", lambda: self.once("GET", path, None, {"Accept": accept}))

    def live_images(self):
        """(repo, reference) -> Image of all that is certain; what is not is asked for."""
        for key, values in list(self.ledger.names.items()):
            if len(values) == 1:
                continue
            status, headers, _ = self.once("HEAD", f"/v2/{key[0]}/manifests/{key[1]}", None, {"Accept": MANIFEST})
            is_now = headers["Docker-Content-Digest"] if status == 200 else None
            if is_now not in values:
                self.figures.fail(f"{key} is {is_now}, which it never was to be: {values}")
            self.ledger.names[key] = {is_now}
        live = {k: self.ledger.images[next(iter(v))] for k, v in self.ledger.names.items() if v != {None}}
        for (repo, digest), values in self.ledger.manifests.items():
            if values == {True}:
                live[(repo, digest)] = self.ledger.images[digest]
        return live

    def check_all(self, what):
        """Every acknowledged digest is there and equal; every deleted name is gone."""
        live, blobs = self.live_images(), 0
        for (repo, reference), image in live.items():
            status, _, data = self.look(f"/v2/{repo}/manifests/{reference}")
            if status != 200 or data != image.manifest:
                self.figures.fail(f"{what}: {repo} {reference}: {status} {data[:100]!r}")
            for digest, want in image.blobs.items():
                status, _, data = self.look(f"/v2/{repo}/blobs/{digest}", "*/*")
                blobs += 1
                if status != 200 or data != want:
                    self.figures.fail(f"{what}: {repo} {digest}: {status}, {len(data)} of {len(want)} bytes")
        for (repo, tag), values in self.ledger.names.items():
            if values == {None} and self.once("HEAD", f"/v2/{repo}/manifests/{tag}")[0] != 404:
                self.figures.fail(f"{what}: {repo}:{tag} is there, which was deleted")
        print(f"{what}: {len(live)} names, {blobs} blobs read and compared", flush=True)
        return live

    def delete_commits(self):
        for n in range(1, self.commits + 1):
            status, headers, _ = self.once("HEAD", f"/v2/committed/r/manifests/c{n}", None, {"Accept": MANIFEST})
            if status == 200:
                self.once("DELETE", f"/v2/committed/r/manifests/{headers['Docker-Content-Digest']}")

    def stop_owner(self):
        self.owner.terminate()
        self.owner.wait(60)

    def finish(self, checks):
        self.ended = True
        self.host.shutdown()
        live = self.check_all("after the load")
        self.delete_commits()
        self.stop_owner()
        done = self.host.run("fsck", check=False, timeout=1200)
        checks.check(done.returncode == 0, "fsck is clean", (done.stdout + done.stderr)[-3000:])
        full = ["--full"] if self.wired else []
        for _ in range(2):  # what was dropped with the last names is seen by the second
            self.host.run("gc", "--grace", "0", "--live-percent", "80", *full, timeout=1200)
        self.start_owner()
        self.wait_owner()
        self.check_all("after the last collection")
        self.stop_owner()
        self.compare(checks, live)

    def compare(self, checks, live):
        """Nothing left over: against a store that gets the same images, both condensed and collected."""
        with lamina.Host(parent=self.host.dir) as fresh:
            layout = fresh.dir + "/layout"
            names = {}
            for image in {i.digest: i for i in live.values()}.values():
                write_layout(layout, image, image.digest[7:])
                names[image.digest] = image.digest[7:]
            for n, tag in enumerate(names.values()):
                fresh.run("import", f"oci:{layout}:{tag}", f"f/r:{n}")
            for h in (fresh, self.host):
                h.run("condense", "--all", check=False, timeout=1200)
                h.run("gc", "--grace", "0", "--live-percent", "80", timeout=1200)
            done = self.host.run("fsck", check=False, timeout=1200)
            checks.check(done.returncode == 0, "fsck is clean at the very end", (done.stdout + done.stderr)[-3000:])
            ours, theirs = self.host.json("stats"), fresh.json("stats")
            sizes = []
            for h in (self.host, fresh):
                sizes.append({d: tree_bytes(f"{h.store}/{d}") for d in ("packs", "blobs", "trees", "index")})
            print(f"bytes after the load:  {sizes[0]}\nbytes of a fresh store: {sizes[1]}", flush=True)
            flat, want = flatten(ours), flatten(theirs)
            for key in sorted(flat):
                print(f"  {key}: {flat[key]}, fresh {want.get(key)}")
            # A mount that was broken off leaves a lease that expires in ten minutes, and keeps an image.
            checks.check(flat["leases"] <= self.figures.seen["a mount was not made"], "leases that are left", str(flat["leases"]))
            for key, of_image in (("blobs", 6), ("layers", 4), ("recipes", 4), ("objects", 60), ("chunks", 80)):
                checks.check(flat[key] <= want[key] + of_image * flat["leases"], f"left over: {key}",
                             f"{flat[key]}, fresh {want[key]}, leases {flat['leases']}")
            checks.check(sizes[0]["packs"] + sizes[0]["blobs"] <= 1.3 * (sizes[1]["packs"] + sizes[1]["blobs"]) + (1 + flat["leases"] << 20),
                         "bytes are about those of a fresh store", str(sizes))


def flatten(value, prefix=""):
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in flatten(inner, f"{prefix}.{name}" if prefix else name).items()}
    return {prefix: value} if isinstance(value, int) and not isinstance(value, bool) else {}


def tree_bytes(path):
    return sum(os.lstat(os.path.join(d, f)).st_blocks * 512 for d, _, files in os.walk(path) for f in files)


def write_layout(path, image, tag="x"):
    """An OCI layout; images are added to one that is there."""
    os.makedirs(path + "/blobs/sha256", exist_ok=True)
    for digest, data in {**image.blobs, image.digest: image.manifest}.items():
        with open(f"{path}/blobs/sha256/{digest[7:]}", "wb") as f:
            f.write(data)
    with open(path + "/oci-layout", "w", encoding="ascii") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')
    index = {"schemaVersion": 2, "manifests": []}
    if os.path.exists(path + "/index.json"):
        with open(path + "/index.json", encoding="ascii") as f:
            index = json.load(f)
    index["manifests"].append({"mediaType": MANIFEST, "digest": image.digest, "size": len(image.manifest),
                               "annotations": {"org.opencontainers.image.ref.name": tag}})
    with open(path + "/index.json", "w", encoding="ascii") as f:
        json.dump(index, f)


def main():
    lamina.need("skopeo", "unshare")
    args = arguments()
    lamina.isolate(args.seconds + 1500)
    checks = lamina.Checks()
    print(f"seed {args.seed}, {args.seconds} s, grace {args.grace} s", flush=True)
    with lamina.Host() as host:
        soak = Soak(host, args)
        try:
            soak.run()
            soak.finish(checks)
        finally:
            soak.figures.table()
            if soak.figures.failures:
                with open(host.dir + "/serve.log", encoding="utf-8", errors="replace") as f:
                    print("".join(f.readlines()[-40:]))
            if soak.owner.poll() is None:
                soak.owner.kill()
    for what in soak.figures.failures[:50]:
        checks.check(False, what)
    checks.check(soak.figures.counts["kill of lamina serve"] > 0, "the owner was killed")
    checks.check(soak.figures.counts["pull of a blob"] > 0 and soak.figures.counts["push of a blob"] > 0, "clients worked")
    checks.finish()


if __name__ == "__main__":
    main()
