"""Benchmarks of condensing: what a store costs once blobs are recipes, beside registries and
deduplicating stores over the same layers; how fast blobs are made again, beside the encoders that
made them first; and what decoding a layer costs, stage by stage.

The peers that are not installed are left out: docker-registry, casync, desync, restic, borg (from
Debian). LAMINA_ENCODERS names a folder of encoder programs (see tests/long/encoders.py)."""
import glob
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

import lamina
from layouts import Layout, digest_of

DECODE = os.path.join(lamina.ROOT, "build/release/bench/decode")
ONE_CPU = ["taskset", "-c", "0"]


def tree_bytes(*paths):
    """Lengths of all files below."""
    total = 0
    for path in paths:
        for folder, _, files in os.walk(path):
            total += sum(os.lstat(os.path.join(folder, f)).st_size for f in files)
    return total


def layers_of(layout):
    """Distinct layers of a layout: digest -> path."""
    found = {}
    with open(layout + "/index.json", encoding="utf-8") as f:
        todo = [m["digest"] for m in json.load(f)["manifests"]]
    while todo:
        with open(f"{layout}/blobs/" + todo.pop().replace(":", "/"), encoding="utf-8") as f:
            document = json.load(f)
        todo += [m["digest"] for m in document.get("manifests", [])]
        for layer in document.get("layers", []):
            found[layer["digest"]] = f"{layout}/blobs/" + layer["digest"].replace(":", "/")
    return found


def open_layer(path):
    with open(path, "rb") as f:
        magic = f.read(4)
    if magic[:2] == b"\x1f\x8b":
        return subprocess.Popen(["gzip", "-dc", path], stdout=subprocess.PIPE)
    if magic == b"\x28\xb5\x2f\xfd":
        return subprocess.Popen(["zstd", "-qdc", path], stdout=subprocess.PIPE)
    return subprocess.Popen(["cat", path], stdout=subprocess.PIPE)


def unpacked_bytes(layers, scratch):
    """Each layer's files, unpacked once: what a node keeps today."""
    total = 0
    for path in layers.values():
        out = tempfile.mkdtemp(dir=scratch)
        with open_layer(path) as source:
            subprocess.run(["tar", "-xf", "-", "-C", out, "--exclude=dev/*"], stdin=source.stdout, check=False,
                           stderr=subprocess.DEVNULL)
        seen = set()
        for folder, _, files in os.walk(out):
            for name in files:
                st = os.lstat(os.path.join(folder, name))
                if (st.st_dev, st.st_ino) not in seen:
                    seen.add((st.st_dev, st.st_ino))
                    total += st.st_size
        shutil.rmtree(out, ignore_errors=True)
    return total


def store_parts(host):
    """Everything that is not a cache."""
    return {"packs": tree_bytes(host.store + "/packs"), "index": tree_bytes(host.store + "/index"),
            "blobs": tree_bytes(host.store + "/blobs"), "journal": tree_bytes(host.store + "/journal")}


def names_of(host):
    return [i["name"] for i in host.json("images")["images"]]


def bench_condense(b):
    layers = layers_of(b.corpus)
    blobs = sum(os.path.getsize(p) for p in layers.values())
    with lamina.Host() as host:
        unpacked = unpacked_bytes(layers, host.dir)
        host.run("import", f"oci:{b.corpus}", timeout=3600)
        before = store_parts(host)
        b.note("imported, not condensed", **before, blobs_ratio=sum(before.values()) / blobs)
        for codec, aim, node_aim in (("default", 0.66, 0.18), ("cold", 0.57, None)):
            start = time.monotonic()
            done = host.json("condense", "--all", "--codec", codec, timeout=7200)
            took = time.monotonic() - start
            parts = store_parts(host)
            stored = sum(parts.values())
            stays = sum(not layer["condensed"] for layer in done["layers"])
            b.row(f"stored, {codec} codec / gzip blobs", stored / blobs, f"at most {aim}", stored=stored, gzip=blobs,
                  **parts, verbatim_layers=stays, layers=len(done["layers"]), seconds=took)
            b.row(f"stored, {codec} codec / blobs + unpacked layers", stored / (blobs + unpacked),
                  f"at most {node_aim}" if node_aim else "-", unpacked=unpacked)
        recipes = sum(layer.get("recipeBytes", 0) for layer in done["layers"])
        wraps = sum(layer.get("wrapBytes", 0) for layer in done["layers"])
        b.note("recipes, before their blocks are compressed", bytes=recipes, of_gzip=recipes / blobs, wraps=wraps)
        same = sum(export_equal(host, name, layers) for name in names_of(host))
        b.row("images that come out bit by bit / all", same / len(names_of(host)), "1", images=same)


def export_equal(host, name, layers):
    out = tempfile.mkdtemp(dir=host.dir)
    host.run("export", name, f"oci:{out}/layout:x", timeout=3600)
    same = True
    for digest, path in layers_of(out + "/layout").items():
        same = same and subprocess.run(["cmp", "-s", path, layers[digest]], check=False).returncode == 0
    shutil.rmtree(out)
    return same


def registry_bytes(b, scratch):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    config = scratch + "/registry.yml"
    with open(config, "w", encoding="utf-8") as f:
        f.write(f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {scratch}/registry}}}}\n"
                f"http: {{addr: '127.0.0.1:{port}'}}\n")
    server = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        time.sleep(2)
        for tag in b.tags:
            subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{b.corpus}:{tag}",
                            f"docker://127.0.0.1:{port}/corpus:{tag.replace(':', '-').replace('/', '-')}"], check=True)
    finally:
        server.terminate()
        server.wait()
    return tree_bytes(scratch + "/registry")


def bench_stores(b):
    """Others over the same layers. All but the registry keep the tars, and lose the blobs."""
    layers = layers_of(b.corpus)
    blobs = sum(os.path.getsize(p) for p in layers.values())
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as d:
        os.mkdir(d + "/tars")
        for i, path in enumerate(layers.values()):
            with open(f"{d}/tars/{i:04}.tar", "wb") as out, open_layer(path) as source:
                shutil.copyfileobj(source.stdout, out, 1 << 20)
        tars = sorted(glob.glob(d + "/tars/*"))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
        if shutil.which("docker-registry"):
            b.row("docker-registry / gzip blobs", registry_bytes(b, d) / blobs, "-")
        for name in ("casync", "desync"):
            if shutil.which(name):
                os.mkdir(f"{d}/{name}")
                for tar in tars:
                    store = ["--store=" + d + "/casync"] if name == "casync" else ["-s", d + "/desync"]
                    subprocess.run([name, "make", *store, f"{d}/{name}/{os.path.basename(tar)}.caibx", tar], **quiet)
                b.row(f"{name} of the tars / gzip blobs", tree_bytes(f"{d}/{name}") / blobs, "-")
        if shutil.which("restic"):
            env = dict(os.environ, RESTIC_PASSWORD="bench", RESTIC_REPOSITORY=d + "/restic", RESTIC_CACHE_DIR=d + "/cache")
            subprocess.run(["restic", "init", "--repository-version", "2"], env=env, **quiet)
            subprocess.run(["restic", "backup", "--compression", "max", d + "/tars"], env=env, **quiet)
            b.row("restic of the tars / gzip blobs", tree_bytes(d + "/restic") / blobs, "-")
        if shutil.which("borg"):
            env = dict(os.environ, BORG_BASE_DIR=d + "/borg-base")
            subprocess.run(["borg", "init", "-e", "none", d + "/borg"], env=env, **quiet)
            subprocess.run(["borg", "create", "-C", "zstd,9", d + "/borg::tars", d + "/tars"], env=env, **quiet)
            b.row("borg, zstd 9, of the tars / gzip blobs", tree_bytes(d + "/borg") / blobs, "-")


def encoders():
    """name -> the program that compresses stdin on one CPU."""
    found = {}
    folder = os.environ.get("LAMINA_ENCODERS", "")
    go = sorted(glob.glob(folder + "/std-1.2[0-6]")) if folder else []
    kp = sorted(glob.glob(folder + "/kp-v1.17.*")) if folder else []
    new = sorted(glob.glob(folder + "/kp-v1.18.[2-9]")) if folder else []
    if go:
        found["Go up to 1.26, level 6"] = [go[-1], "-l", "6"]
    if kp:
        found["klauspost up to 2025-09, level 5, pgzip"] = [kp[-1], "-l", "5", "-f", "pgzip"]
        found["klauspost up to 2025-09, level 5"] = [kp[-1], "-l", "5"]
    if new:
        found["klauspost from 2025-12, level 5"] = [new[-1], "-l", "5"]
    found["gzip -6"] = ["gzip", "-6", "-n"]
    found["pigz -6"] = ["pigz", "-6", "-n", "-p1"]
    return found


def largest_layer(b):
    return max(layers_of(b.corpus).values(), key=os.path.getsize)


def bench_regenerate(b):
    with lamina.Host() as host, open_layer(largest_layer(b)) as source:
        tar = source.stdout.read()
        path = host.dir + "/layer.tar"
        with open(path, "wb") as f:
            f.write(tar)
        diff_id = digest_of(tar)
        env = dict(os.environ, GOMAXPROCS="1")
        for i, (name, argv) in enumerate(encoders().items()):
            with open(path, "rb") as f:
                blob = subprocess.run(argv, stdin=f, stdout=subprocess.PIPE, check=True).stdout
            layout = f"{host.dir}/layout{i}"
            made = Layout(layout)
            made.image("x", blob, diff_id)
            made.close()
            host.run("import", f"oci:{layout}:x", f"regen:{i}")
            host.run("condense", f"regen:{i}", timeout=3600)
            layer = host.json("inspect", f"regen:{i}")["layers"][0]
            if not layer["condensed"]:
                b.note(f"{name}: stays verbatim: {layer.get('reason')}")
                continue

            def ours(i=i, cpus=1):
                # what is written is what is asked of it; reading back the blob is not
                out = tempfile.mkdtemp(dir=host.dir)
                start = time.monotonic()
                argv = [lamina.PROGRAM, "export", f"regen:{i}", f"oci:{out}/o:x"]
                subprocess.run((ONE_CPU if cpus == 1 else []) + argv, env=host.env, check=True,
                               stdout=subprocess.DEVNULL)
                took = time.monotonic() - start
                shutil.rmtree(out)
                return took

            def theirs(argv=argv):
                with open(path, "rb") as f, open(host.dir + "/theirs", "wb") as out:
                    start = time.monotonic()
                    subprocess.run(ONE_CPU + argv, stdin=f, stdout=out, env=env, check=True)
                    os.fsync(out.fileno())
                    return time.monotonic() - start
            ours()
            b.pairs(f"regenerate, one CPU / {name}", "below 1, at best 0.5", ours, theirs, runs=3)
            one = statistics.median(ours() for _ in range(3))
            two = statistics.median(ours(cpus=2) for _ in range(3))
            b.row(f"two CPUs: speed-up, {name}", one / two, "at least 1.8", mb_per_s_one=len(tar) / one / 1e6)


def bench_decode(b):
    """Import of the largest layer against what unpacks it."""
    path = largest_layer(b)
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as d:
        def theirs():
            out = tempfile.mkdtemp(dir=d)
            start = time.monotonic()
            subprocess.run(f"gunzip -c < {path} | tar -x -C {out}", shell=True, check=True, stderr=subprocess.DEVNULL)
            took = time.monotonic() - start
            shutil.rmtree(out)
            return took

        stages = {}

        def ours():
            store = tempfile.mkdtemp(dir=d)
            done = subprocess.run([DECODE, path, store + "/s"], check=True, stdout=subprocess.PIPE, text=True)
            for line in done.stdout.splitlines():
                name, seconds = line.split()
                stages.setdefault(name, []).append(float(seconds))
            shutil.rmtree(store)
            return stages["import"][-1]
        with open(path, "rb") as f:
            if f.read(2) != b"\x1f\x8b":
                b.note("the largest layer is no gzip: not compared")
                return
        b.pairs("import of a layer / gunzip | tar x", "at most 0.667", ours, theirs, runs=3)
        b.note("… its stages, each with those before", **{k: statistics.median(v) for k, v in stages.items()})


BENCHES = {"condense": bench_condense, "stores": bench_stores, "regenerate": bench_regenerate, "decode": bench_decode}
