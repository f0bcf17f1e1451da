#!/usr/bin/python3
"""Measures lamina beside its peers, in one run, as ratios (A / B, below 1 is faster or smaller).

    bench/bench.py --corpus LAYOUT [--out FILE.json] [--only NAME ...]

LAYOUT is an OCI layout of real images. Both sides run in turn, A B A B; the median of the pairs'
ratios counts. Absolute figures are kept in the JSON, for those who want to look. Needs root,
skopeo, umoci; nothing else may run meanwhile.
"""
import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../tests/support")]
import lamina  # noqa: E402
import condensing  # noqa: E402
import mounts  # noqa: E402
import pulls  # noqa: E402
import pulling  # noqa: E402

ACCESS = os.path.join(lamina.ROOT, "build/release/bench/access")


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3\n")


def meminfo():
    with open("/proc/meminfo", encoding="ascii") as f:
        return {k: int(v.split()[0]) * 1024 for k, v in (line.split(":", 1) for line in f)}


def cached_bytes():
    info = meminfo()
    return info["Cached"] + info["Buffers"]


def reclaimable_bytes():
    info = meminfo()
    return info["SReclaimable"] + info["SUnreclaim"]


def timed(argv, **kw):
    start = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw)
    return time.monotonic() - start


class Bench:
    def __init__(self, corpus):
        self.corpus = corpus
        self.tags = lamina.layout_tags(corpus)
        self.rows = []

    def row(self, name, ratio, aim, **figures):
        self.rows.append({"name": name, "ratio": ratio, "aim": aim, **figures})
        print(f"{name:<44} {ratio:>8.3f}   {aim:<22} "
              + " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items()),
              flush=True)

    def note(self, name, **figures):
        """Figures without a ratio."""
        self.rows.append({"name": name, **figures})
        print(f"{name:<44} {'':>8}   {'':<22} "
              + " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items()),
              flush=True)

    def pairs(self, name, aim, ours, theirs, runs=5, before=None):
        a, b = [], []
        for _ in range(runs):
            for out, fn in ((a, ours), (b, theirs)):
                if before:
                    before()
                out.append(fn())
        self.row(name, statistics.median(x / y for x, y in zip(a, b)), aim,
                 ours=statistics.median(a), theirs=statistics.median(b), runs=runs)


def bench_import(b):
    """The whole corpus, against what it takes others to have a copy and a tree of each image."""
    def ours():
        with lamina.Host() as host:
            start = time.monotonic()
            host.run("import", f"oci:{b.corpus}", timeout=3600)
            return time.monotonic() - start

    def theirs():
        with tempfile.TemporaryDirectory(prefix="lamina-bench-") as d:
            total = 0.0
            for tag in b.tags:
                total += timed(["skopeo", "copy", "-q", f"oci:{b.corpus}:{tag}", f"oci:{d}/copy:{tag}"])
                total += timed(["umoci", "raw", "unpack", "--image", f"{d}/copy:{tag}", f"{d}/{tag}"])
            return total

    b.pairs("import of the corpus / skopeo copy + umoci", "at most 0.333", ours, theirs, runs=3, before=drop_caches)


def largest_tag(b):
    def size(tag):
        index = json.load(open(b.corpus + "/index.json", encoding="utf-8"))
        digest = next(m["digest"] for m in index["manifests"]
                      if m["annotations"]["org.opencontainers.image.ref.name"] == tag)
        manifest = json.load(open(f"{b.corpus}/blobs/" + digest.replace(":", "/"), encoding="utf-8"))
        return sum(layer["size"] for layer in manifest["layers"])
    return max(b.tags, key=size)


def bench_rss(b):
    """Peak memory of importing the largest image."""
    with lamina.Host() as host:
        done = subprocess.run(["/usr/bin/time", "-f", "%M", lamina.PROGRAM, "import",
                               f"oci:{b.corpus}:{largest_tag(b)}"], env=host.env, check=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        kib = int(done.stderr.split()[-1])
    b.row("peak RSS of an import / 256 MiB", kib / 262144, "below 1", MiB=kib / 1024)


class Trees:
    """One image twice: mounted by lamina, and unpacked below kernel overlayfs."""

    def __init__(self, b, tag):
        self.host = lamina.Host()
        self.host.run("import", f"oci:{b.corpus}:{tag}", "bench:1")
        self.lower = self.host.dir + "/lower"
        lamina.unpack_reference(b.corpus, tag, self.lower)
        self.ours = self.host.mount("bench:1")
        self.theirs = self.host.dir + "/overlay"
        empty = self.host.dir + "/empty"
        os.mkdir(empty)
        os.mkdir(self.theirs)
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={self.lower}:{empty}", self.theirs],
                       check=True)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        subprocess.run(["umount", self.theirs], check=False)
        self.host.__exit__()

    def lists(self, root, largest=None):
        files = []
        for base, _, names in os.walk(root):
            for name in names:
                path = f"{base}/{name}"
                if os.path.isfile(path) and not os.path.islink(path) and "\n" not in path:
                    files.append((os.lstat(path).st_size, path))
        files.sort(reverse=True)
        return "\n".join(p for _, p in (files[:largest] if largest else files)) + "\n"


def fresh(t, ours, theirs):
    """Forgets what was opened, then looks every name up again."""
    drop_caches()
    access("stat", 1, ours)
    access("stat", 1, theirs)


def access(test, count, paths):
    done = subprocess.run([ACCESS, test, str(count)], input=paths, text=True, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def bench_access(b):
    tag = largest_tag(b)
    with Trees(b, tag) as t:
        for name, aim, argv in (
                ("tar", "at most 1.10", lambda root: ["tar", "-C", root, "-cf", "/dev/null", "--warning=none", "."]),
                ("find -printf", "at most 1.05",
                 lambda root: ["find", root, "-printf", "%p %s %m %u %T@\n"])):
            def tar(root, argv=argv):
                # tar skips reading when its output is /dev/null itself: a pipe makes it read
                return timed(["sh", "-c", '"$@" | cat >/dev/null', "sh",
                              *[a if a != "/dev/null" else "-" for a in argv(root)]])
            tar(t.ours)
            tar(t.theirs)
            b.pairs(f"{name}, warm", aim, lambda: tar(t.ours), lambda: tar(t.theirs), runs=9)
            b.pairs(f"{name}, cold", "at most 1" if name == "tar" else "", lambda: tar(t.ours),
                    lambda: tar(t.theirs), runs=5, before=drop_caches)
        ours, theirs = t.lists(t.ours), t.lists(t.theirs)
        b.pairs("stat of files not opened, warm", "at most 1.05", lambda: access("stat", 20, ours),
                lambda: access("stat", 20, theirs), runs=9, before=lambda: fresh(t, ours, theirs))
        few_ours, few_theirs = t.lists(t.ours, 1), t.lists(t.theirs, 1)
        for test, count, aim, pair in (
                ("stat", 5, "at most 1.05", (ours, theirs)), ("open", 5, "at most 1.5", (ours, theirs)),
                ("read", 1, "", (ours, theirs)),
                ("pread", 1_000_000, "at most 1.05", (few_ours, few_theirs)),
                ("mmap", 30_000_000, "at most 1.05", (few_ours, few_theirs))):
            access("read", 1, pair[0])
            access("read", 1, pair[1])
            label = {"stat": "stat of opened files", "read": "open and read whole"}.get(test, test)
            b.pairs(f"{label}, warm", aim, lambda: access(test, count, pair[0]),
                    lambda: access(test, count, pair[1]), runs=9)


def bench_mount(b):
    """From `lamina mount` to the first byte read; the tree cached, and made first."""
    with lamina.Host() as host:
        tag = largest_tag(b)
        host.run("import", f"oci:{b.corpus}:{tag}", "bench:1")
        keep = host.mount("bench:1")
        first = next(f"{base}/{names[0]}" for base, _, names in os.walk(keep + "/usr/bin") if names)
        relative = os.path.relpath(os.path.realpath(first), keep)

        def once(name="bench:1", *args):
            start = time.monotonic()
            point = host.mount(name, *args)
            with open(f"{point}/{relative}" if name == "bench:1" else f"{point}/d00/0", "rb") as f:
                f.read(1)
            took = time.monotonic() - start
            host.umount(point)
            return took
        once()
        warm = statistics.median(once() for _ in range(9))
        b.row("mount to first byte, tree cached / 20 ms", warm / 0.020, "below 1", ms=warm * 1000)
        by_fs = host.mount("bench:1", "--driver", "fuse")
        once("bench:1", "--driver", "fuse")
        warm = statistics.median(once("bench:1", "--driver", "fuse") for _ in range(9))
        b.row("mount by the fuse driver to first byte / 20 ms", warm / 0.020, "below 1", ms=warm * 1000)
        host.umount(by_fs)
        cold = []
        for _ in range(3):
            drop_caches()
            cold.append(once())
        b.row("mount to first byte, caches dropped / 20 ms", statistics.median(cold) / 0.020, "",
              ms=statistics.median(cold) * 1000)
        made = []
        for turn in range(3):
            root = f"{host.dir}/many{turn}"
            for d in range(100):
                os.makedirs(f"{root}/d{d:02}")
                for i in range(200):
                    with open(f"{root}/d{d:02}/{i}", "wb") as f:
                        f.write(b"%d %d %d" % (turn, d, i) * 20)
            host.run("pack", root, f"many{turn}:1")
            made.append(once(f"many{turn}:1"))
        b.row("mount of 20,000 entries, tree made / 100 ms", statistics.median(made) / 0.1, "below 1",
              ms=statistics.median(made) * 1000)


def read_all(points):
    for point in points:
        subprocess.run(["sh", "-c", 'find "$1" -xdev -type f -exec cat {} + >/dev/null', "sh", point], check=True)


def distinct_bytes(points):
    seen, total = set(), 0
    for point in points:
        for base, _, names in os.walk(point):
            for name in names:
                path = f"{base}/{name}"
                st = os.lstat(path)
                if not os.path.isfile(path) or os.path.islink(path) or st.st_size <= 64:
                    continue
                with open(path, "rb", buffering=0) as f:
                    digest = hashlib.file_digest(f, "sha256").digest()
                if digest not in seen:
                    seen.add(digest)
                    total += (st.st_size + 4095) // 4096 * 4096
    return total


def walked(points):
    """The page cache with nothing but the names and attributes of all points in it."""
    drop_caches()
    for point in points:
        subprocess.run(["find", point, "-printf", "%s\n"], stdout=subprocess.DEVNULL, check=True)
    subprocess.run(["cat", "/dev/null"], check=True)
    return cached_bytes()


def bench_sharing(b):
    """Pages cached after reading all images, over distinct bytes; beside overlayfs over layers."""
    with lamina.Host() as host:
        host.run("import", f"oci:{b.corpus}", timeout=3600)
        points = [host.mount(f"{tag}:latest") for tag in b.tags]
        distinct = distinct_bytes(points)
        before = walked(points)
        read_all(points)
        ours = cached_bytes() - before
        rss = sum(int(line.split()[1]) for pid in host.pids("fs")
                  for line in open(f"/proc/{pid}/status", encoding="ascii") if line.startswith("VmRSS"))
        for point in points:
            host.umount(point)
        theirs_points, index, unpacked = [], json.load(open(b.corpus + "/index.json", encoding="utf-8")), {}
        for m in index["manifests"]:
            manifest = json.load(open(f"{b.corpus}/blobs/" + m["digest"].replace(":", "/"), encoding="utf-8"))
            lowers = []
            for layer in manifest["layers"]:
                if layer["digest"] not in unpacked:
                    out = unpacked[layer["digest"]] = f"{host.dir}/layer{len(unpacked)}"
                    os.mkdir(out)
                    blob = f"{b.corpus}/blobs/" + layer["digest"].replace(":", "/")
                    subprocess.run(["tar", "-C", out, "-xzf", blob, "--exclude=.wh.*"], check=True)
                lowers.insert(0, unpacked[layer["digest"]])
            empty, point = host.dir + "/empty", f"{host.dir}/overlay{len(theirs_points)}"
            os.makedirs(empty, exist_ok=True)
            os.mkdir(point)
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                            "ro,lowerdir=" + ":".join(lowers + [empty]), point], check=True)
            theirs_points.append(point)
        before = walked(theirs_points)
        read_all(theirs_points)
        theirs = cached_bytes() - before
        for point in theirs_points:
            subprocess.run(["umount", point], check=True)
    b.row("pages after reading all images / distinct", ours / distinct, "at most 1.05", MiB=ours / 2**20)
    b.row("… of kernel overlayfs over unpacked layers", theirs / distinct, "", MiB=theirs / 2**20)
    b.row("… ours / theirs", ours / theirs, "")
    b.row("RSS of lamina fs / 32 MiB", rss / 32768, "below 1", MiB=rss / 1024)


def bench_metadata(b):
    """What mounting and walking every image leaves in memory: trees cut where images share layers,
    beside one flat tree an image (spec/tree.md)."""
    figures = {}
    for rule in ("shared", "flat"):
        with lamina.Host() as host:
            config = host.dir + "/serve.conf"
            with open(config, "w", encoding="ascii") as f:
                f.write(f"[store]\ntrees = {rule}\n")
            host.run("import", f"oci:{b.corpus}", timeout=3600)
            owner = host.start("serve", "--no-registry", "--config", config, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
            lamina.wait_for(lambda: os.path.exists(host.store + "/control.sock"), what="the owner")
            points = [host.mount(f"{tag}:latest") for tag in b.tags]
            drop_caches()
            pages, slab = cached_bytes(), reclaimable_bytes()
            start = time.monotonic()
            for point in points:
                subprocess.run(["find", point, "-printf", "%s\n"], stdout=subprocess.DEVNULL, check=True)
            figures[rule] = (cached_bytes() - pages, reclaimable_bytes() - slab, time.monotonic() - start)
            trees = sum(os.path.getsize(f"{host.store}/trees/{n}") for n in os.listdir(host.store + "/trees"))
            b.note(f"trees of all images, {rule}", MiB=trees / 2**20,
                  pages_MiB=figures[rule][0] / 2**20, slab_MiB=figures[rule][1] / 2**20, walk_s=figures[rule][2])
            for point in points:
                host.umount(point)
            owner.terminate()
            owner.wait(30)
    for i, what in enumerate(("metadata pages", "kernel slab", "time of the walk")):
        b.row(f"{what}: shared trees / flat ones", figures["shared"][i] / max(figures["flat"][i], 1e-9), "below 1")


BENCHES = {"metadata": bench_metadata, "import": bench_import, **pulls.BENCHES, "rss": bench_rss, "access": bench_access, "mount": bench_mount,
           "sharing": bench_sharing, **condensing.BENCHES,
           "drivers": mounts.bench_drivers, "installs": mounts.bench_installs,
           "starts": mounts.bench_starts, "sandboxes": mounts.bench_sandboxes, **pulling.BENCHES}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", default=os.environ.get("LAMINA_CORPUS"))
    parser.add_argument("--out", default="build/bench.json")
    parser.add_argument("--only", nargs="*", default=list(BENCHES), choices=list(BENCHES))
    args = parser.parse_args()
    if not args.corpus:
        parser.error("--corpus LAYOUT: an OCI layout of real images")
    lamina.need("skopeo", "umoci", "unshare")
    args.corpus = os.path.realpath(args.corpus)
    lamina.isolate(4 * 3600)
    b = Bench(args.corpus)
    print(f"{'ratio, ours / theirs':<44} {'':>8}   {'aim':<22} figures (seconds or ns)")
    for name in args.only:
        BENCHES[name](b)
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump({"corpus_images": len(b.tags), "rows": b.rows}, f, indent=1)
    print("kept as " + args.out)


if __name__ == "__main__":
    main()
