#!/usr/bin/python3
"""Layers made by every encoder that is installed: each is imported, condensed, its verbatim copy
dropped, and must come out bit by bit: by export and through the registry. Prints a table: what each
was taken for and what its recipe costs. LAMINA_ENCODERS names a folder of more encoders: programs
std-* (Go's library) and kp-* (klauspost's), called with -l LEVEL -f gzip|pgzip [-flush BYTES].
LAMINA_ENCODERS_TAR names the tar to compress; else one is made of this machine's files.
LAMINA_ENCODERS_ONLY: a word that the names of encoders must hold."""
import concurrent.futures
import gzip
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
from layouts import Layout, digest_of  # noqa: E402

TAR_BYTES = 12 << 20


def make_tar():
    """Programs, libraries and text of this machine, some 12 MB."""
    named = os.environ.get("LAMINA_ENCODERS_TAR")
    if named:
        with open(named, "rb") as f:
            return f.read()
    out, total = io.BytesIO(), 0
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for top in ("/usr/bin", "/usr/share/perl5", "/usr/lib/python3", "/usr/share/doc"):
            share = total + TAR_BYTES // 4
            for folder, folders, files in os.walk(top):
                folders.sort()
                for name in sorted(files):
                    path = os.path.join(folder, name)
                    if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) > 1 << 20:
                        continue
                    if total < share:
                        tar.add(path, arcname=path[1:], recursive=False)
                        total += os.path.getsize(path)
    return out.getvalue()


def program(*argv):
    def run(data):
        return subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    return run


def by_zlib(level, mem=8, strategy=0, flushes=None, seed=0, piece=0):
    """zlib itself; flushes: kinds to be used at random places, or after every `piece` bytes."""
    def run(data):
        rng = random.Random(seed)
        z = zlib.compressobj(level, zlib.DEFLATED, 31, mem, strategy)
        out, at = [], 0
        while at < len(data):
            n = piece or rng.randrange(1, 300000) if flushes else len(data)
            out.append(z.compress(data[at:at + n]))
            at += n
            if flushes and at < len(data):
                out.append(z.flush(rng.choice(flushes)))
        return b"".join(out) + z.flush()
    return run


def members(level, sizes):
    def run(data):
        out, at = [], 0
        rng = random.Random(1)
        while at < len(data):
            n = rng.randrange(*sizes)
            out.append(gzip.compress(data[at:at + n], level, mtime=0))
            at += n
        return b"".join(out)
    return run


def node(level):
    script = ("const z=require('zlib'),f=require('fs');"
              f"process.stdout.write(z.gzipSync(f.readFileSync(0),{{level:{level}}}))")
    return program("node", "-e", script)


def encoders():
    """name -> (function, whether the class is one of those that must cost at most 0.1 %)"""
    table = {}

    def add(name, function, is_named=False, needs=None):
        if needs is None or shutil.which(needs):
            table[name] = (function, is_named)

    for level in range(1, 10):
        add(f"gzip -{level}", program("gzip", "-n", f"-{level}"), True, "gzip")
        add(f"pigz -{level}", program("pigz", "-n", f"-{level}"), True, "pigz")
        add(f"python zlib {level}", by_zlib(level), True)
        add(f"busybox gzip -{level}", program("busybox", "gzip", f"-{level}"), False, "busybox")
        add(f"node zlib {level}", node(level), False, "node")
    for level in range(1, 13):
        add(f"libdeflate -{level}", program("libdeflate-gzip", f"-{level}"), False, "libdeflate-gzip")
    for level in range(4):
        add(f"igzip -{level}", program("igzip", f"-{level}"), False, "igzip")
    add("zopfli", program("sh", "-c", "f=$(mktemp) && cat >$f && zopfli --i1 -c $f; rm $f"), False, "zopfli")
    add("pigz -11", program("pigz", "-n", "-11", "-I1"), False, "pigz")
    add("pigz -i", program("pigz", "-n", "-i"), True, "pigz")
    add("pigz -b 512", program("pigz", "-n", "-b", "512"), True, "pigz")
    add("pigz one thread", program("pigz", "-n", "-p1"), True, "pigz")
    add("python zlib 0", by_zlib(0))
    add("gzip with a name", program("sh", "-c", "f=$(mktemp) && cat >$f && gzip -c $f; rm $f"), True)
    for mem in (1, 5, 9):
        add(f"zlib 6, memory {mem}", by_zlib(6, mem))
    for strategy in (1, 2, 3, 4):
        add(f"zlib 6, strategy {strategy}", by_zlib(6, 8, strategy))
    for name, kinds in (("sync", [zlib.Z_SYNC_FLUSH]), ("full", [zlib.Z_FULL_FLUSH]),
                        ("partial", [zlib.Z_PARTIAL_FLUSH]), ("block", [zlib.Z_BLOCK]),
                        ("any", [zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_BLOCK])):
        add(f"zlib 6, random {name} flushes", by_zlib(6, flushes=kinds))
        add(f"zlib 1, random {name} flushes", by_zlib(1, flushes=kinds, seed=7))
    add("zlib 9, sync each 4096", by_zlib(9, flushes=[zlib.Z_SYNC_FLUSH], piece=4096))
    add("zlib members", members(6, (1, 400000)), True)
    add("zlib small members", members(9, (1, 20000)))
    add("zlib and what follows", lambda data: by_zlib(6)(data) + bytes(5000), True)
    add("plain", lambda data: data, True)
    for level in (1, 3, 9, 19):
        add(f"zstd -{level}", program("zstd", "-q", "-c", f"-{level}"), False, "zstd")
    add("zstd -3, no checksum", program("zstd", "-q", "-c", "--no-check"), False, "zstd")
    add("zstd -3 --long", program("zstd", "-q", "-c", "--long"), False, "zstd")
    add("zstd -3 -T2", program("zstd", "-q", "-c", "-T2"), False, "zstd")
    more = os.environ.get("LAMINA_ENCODERS")
    for name in sorted(os.listdir(more)) if more else []:
        path = os.path.join(more, name)
        forms = {"std-": ["gzip"], "kp-v": ["gzip", "pgzip"]}.get(name[:4], [])
        for form in forms:
            for level in range(1, 10):
                add(f"{name} {form} {level}", program(path, "-l", str(level), "-f", form), True)
            add(f"{name} {form} 6, flushes", program(path, "-l", "6", "-f", form, "-flush", "100000"), True)
    only = os.environ.get("LAMINA_ENCODERS_ONLY", "")
    return {name: what for name, what in table.items() if only in name}


def main():
    checks = lamina.Checks()
    with lamina.Host() as host:
        tar = make_tar()
        diff_id = digest_of(tar)
        table = encoders()
        layout, made, layers = Layout(host.dir + "/layout"), {}, {}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = {name: pool.submit(function, tar) for name, (function, _) in table.items()}
            for name, job in jobs.items():
                made[name] = job.result()
        for number, (name, data) in enumerate(made.items()):
            layers[name] = layout.image(f"e{number}", data, diff_id)
        layout.close()
        for number, name in enumerate(made):
            host.run("import", f"oci:{layout.path}:e{number}", f"encoders/e{number}:v1")
        host.run("condense", "--all", timeout=3600)
        print(f"tar of {len(tar)} bytes\n{'encoder':34} {'blob':>10} {'recipe':>9} {'%':>7}  taken for")
        out = host.dir + "/out"
        verbatim = 0
        for number, (name, data) in enumerate(made.items()):
            image = host.json("inspect", f"encoders/e{number}:v1")
            layer = image["layers"][0]
            cost = layer.get("wrapBytes", 0)
            share = 100 * cost / len(data)
            verbatim += not layer["condensed"]
            print(f"{name:34} {len(data):>10} {cost:>9} {share:>7.3f}  "
                  f"{layer['class'] if layer['condensed'] else 'verbatim: ' + layer.get('reason', '?')}", flush=True)
            hexes = layers[name].split(":")[1]
            path = f"{host.store}/blobs/sha256/{hexes[:2]}/{hexes}"
            checks.check(os.path.exists(path) != layer["condensed"], f"{name}: a copy when and only when it is verbatim")
            if table[name][1]:
                checks.check(layer["condensed"] and share <= 0.1, f"{name}: at most 0.1 % of its blob",
                             f"{layer}")
            host.run("export", f"encoders/e{number}:v1", f"oci:{out}:e{number}")
            with open(f"{out}/blobs/" + layers[name].replace(":", "/"), "rb") as f:
                checks.check(f.read() == data, f"{name}: comes out as it came in")
        print(f"{len(made)} encoders, {verbatim} stay verbatim")
        checks.check(host.run("fsck", check=False, timeout=1800).returncode == 0, "fsck")
        checks.finish()


main()
