#!/usr/bin/python3
"""A store whose blobs are recipes behaves as one that has them: pulls by real clients, ranges, many
pullers at once, a bound on regenerations, pushes of what is there already, mounts, collection,
rebuilding the index. Layers of several encoders; the corpus too, when LAMINA_CORPUS names it."""
import concurrent.futures
import glob
import gzip
import http.client
import io
import json
import os
import random
import struct
import subprocess
import sys
import tarfile
import time
import zlib

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"),
                os.path.dirname(os.path.abspath(__file__))]
import lamina  # noqa: E402
from layouts import Layout, digest_of  # noqa: E402
from roundtrip import blobs_of, server_port  # noqa: E402


def make_tar(seed, count):
    """Text that compresses, and files that images share."""
    rng = random.Random(seed)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 10))) for _ in range(3000)]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for i in range(count):
            data = b" ".join(rng.choices(words, k=rng.randrange(10, 20000)))
            info = tarfile.TarInfo(f"usr/share/{seed}/file{i}")
            info.size, info.mtime = len(data), 1_600_000_000 + i
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def by_program(*argv):
    return lambda data: subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True).stdout


def squeezed(level):
    def run(data):
        z = zlib.compressobj(level, zlib.DEFLATED, 31)
        return z.compress(data) + z.flush()
    return run


def chunked(data):
    """As podman writes zstd:chunked: files in frames of their own, then frames that are skipped. Of
    parameters that no level has."""
    import zstandard
    params = zstandard.ZstdCompressionParameters(window_log=18, hash_log=9, chain_log=9, search_log=1, min_match=7,
                                                 strategy=zstandard.STRATEGY_GREEDY)
    compress = zstandard.ZstdCompressor(compression_params=params).compress
    frames, at = [], 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            frames.append(compress(data[at:member.offset_data]))
            at = member.offset_data + member.size
            frames += [compress(data[i:min(at, i + 65536)]) for i in range(member.offset_data, at, 65536)]
    frames.append(compress(data[at:]))
    return b"".join(frames) + b"".join(struct.pack("<II", 0x184D2A50, n) + bytes(n) for n in (3000, 64))


ENCODERS = {
    "plain": lambda data: data,
    "gzip": by_program("gzip", "-n"),
    "gzip1": by_program("gzip", "-n", "-1"),
    "pigz": by_program("pigz", "-n"),
    "zlib9": squeezed(9),
    "members": lambda data: b"".join(gzip.compress(data[at:at + 700000], 6, mtime=0)
                                     for at in range(0, len(data), 700000)),
    "zstd": by_program("zstd", "-q", "-c"),
    "chunked": chunked,
}


def make_layout(path):
    """encoder -> (layer's digest, its bytes)"""
    layout, made = Layout(path), {}
    for seed, (name, encoder) in enumerate(ENCODERS.items()):
        tar = make_tar(seed % 3, 120)
        blob = encoder(tar)
        made[name] = (layout.image(name, blob, digest_of(tar)), blob)
    layout.close()
    return made


def blob_path(host, digest):
    hexes = digest.split(":")[1]
    return f"{host.store}/blobs/sha256/{hexes[:2]}/{hexes}"


def get(port, path, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def check_condense(host, checks, made):
    done = host.json("condense", "--all", timeout=600)
    layers = {layer["digest"]: layer for layer in done["layers"]}
    for name, (digest, blob) in made.items():
        layer = layers[digest]
        if name != "zstd":
            checks.check(layer["condensed"], f"{name}: condensed", str(layer))
        checks.check(layer["condensed"] != os.path.exists(blob_path(host, digest)),
                     f"{name}: a file when and only when it stays verbatim")
        checks.check(layer["size"] == len(blob), f"{name}: its length is known")
        image = host.json("inspect", "--sharing", f"c/{name}:v1")["layers"][0]
        checks.check(image["condensed"] == layer["condensed"] and image["ownBytes"] + image["sharedBytes"] > 0,
                     f"{name}: inspect agrees", str(image))
    again = host.json("condense", "--all", timeout=600)
    checks.check(again["condensed"] == done["condensed"], "condensing twice is condensing once")


def check_export(host, checks, layout, out, prefix="c"):
    for tag in lamina.layout_tags(layout):
        host.run("export", f"{prefix}/{tag}:v1", f"oci:{out}:{tag}")
        checks.check(blobs_of(layout, tag) == blobs_of(out, tag), f"{prefix}/{tag}: layout out equals layout in")


def start_server(host, *options):
    server = host.start("serve", "--listen", "127.0.0.1:0", *options, stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL)
    return server, lamina.wait_for(lambda: server_port(host), what="the registry")


def check_ranges(checks, port, made):
    rng = random.Random(5)
    for name, (digest, blob) in made.items():
        path = f"/v2/c/{name}/blobs/{digest}"
        status, body, headers = get(port, path)
        checks.check(status == 200 and body == blob, f"{name}: pulled whole", f"{status} {len(body)}")
        checks.check(headers.get("Content-Length") == str(len(blob)), f"{name}: its length is announced")
        ends = [(0, 0), (len(blob) - 1, len(blob) - 1), (len(blob) // 2, len(blob) - 1)]
        for _ in range(12):
            first = rng.randrange(len(blob))
            ends.append((first, min(len(blob) - 1, first + rng.randrange(1 << rng.randrange(21)))))
        for first, last in ends:
            status, body, headers = get(port, path, {"Range": f"bytes={first}-{last}"})
            checks.check(status == 206 and body == blob[first:last + 1] and
                         headers["Content-Range"] == f"bytes {first}-{last}/{len(blob)}",
                         f"{name}: bytes {first} to {last}", f"{status} {len(body)}")
        status, body, _ = get(port, path, {"Range": f"bytes={len(blob) // 3}-"})
        checks.check(status == 206 and body == blob[len(blob) // 3:], f"{name}: resumed at a third")


def check_crowd(checks, port, made):
    """Many who want the same, and clients that go away in the middle."""
    digest, blob = made["gzip"]
    path = f"/v2/c/gzip/blobs/{digest}"
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        for status, body, _ in pool.map(lambda _: get(port, path), range(24)):
            checks.check(status == 200 and body == blob, "one of many pulls", str(status))
    for _ in range(10):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        connection.getresponse().read(1000)
        connection.close()
    status, body, _ = get(port, path)
    checks.check(status == 200 and body == blob, "a pull after clients that went away")


def check_bound(checks, port, made):
    """One regeneration at a time: others are told to come again, and then get their bytes."""
    told = 0

    def pull(name):
        nonlocal told
        digest, blob = made[name]
        for _ in range(2000):
            status, body, headers = get(port, f"/v2/c/{name}/blobs/{digest}")
            if status != 429:
                return status == 200 and body == blob
            told += "Retry-After" in headers
            time.sleep(0.01)  # tries that follow at once would run out before a turn comes
        return False
    names = [name for name in made if name != "zstd"] * 3
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        for name, good in zip(names, pool.map(pull, names)):
            checks.check(good, f"{name}: pulled beside others")
    print(f"told to come again: {told}")


def check_clients(host, checks, layout, port):
    copy = ["skopeo", "copy", "-q", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    for tag in lamina.layout_tags(layout):
        out = f"{host.dir}/pulled"
        subprocess.run([*copy, f"docker://127.0.0.1:{port}/c/{tag}:v1", f"oci:{out}:{tag}"], check=True)
        checks.check(blobs_of(layout, tag) == blobs_of(out, tag), f"{tag}: pulled by skopeo")
        subprocess.run([*copy, f"oci:{layout}:{tag}", f"docker://127.0.0.1:{port}/again/{tag}:v1"], check=True)
    blobs = [p for p in glob.glob(host.store + "/blobs/*/*/*") if os.path.getsize(p) > 100000]
    return len(blobs)


def check_mount(host, checks, made):
    for name in ("gzip", "pigz"):
        point = host.mount(f"c/{name}:v1")
        tar = tarfile.open(fileobj=io.BytesIO(zlib.decompressobj(31).decompress(made["gzip"][1]))) \
            if name == "gzip" else None
        for member in tar.getmembers()[:20] if tar else []:
            with open(os.path.join(point, member.name), "rb") as f:
                checks.check(f.read() == tar.extractfile(member).read(), f"{name}: {member.name} by mount")
        checks.check(len(glob.glob(point + "/usr/share/*/*")) == 120, f"{name}: mounted from a condensed store")
        host.umount(point)


def main():
    lamina.need("skopeo", "pigz", "gzip", "zstd", "unshare")
    lamina.isolate(900)
    checks = lamina.Checks()
    with lamina.Host() as host:
        layout = host.dir + "/layout"
        made = make_layout(layout)
        for tag in made:
            host.run("import", f"oci:{layout}:{tag}", f"c/{tag}:v1")
        check_condense(host, checks, made)
        check_export(host, checks, layout, host.dir + "/out")
        with open(host.dir + "/plain.ini", "w", encoding="utf-8") as f:
            f.write("[store]\nblob_cache = 0\n[condense]\nbackground = no\n")
        with open(host.dir + "/one.ini", "w", encoding="utf-8") as f:
            f.write("[store]\nblob_cache = 0\nregenerations = 1\n[condense]\nbackground = no\n")
        server, port = start_server(host, "--config", host.dir + "/plain.ini")
        before = len(glob.glob(host.store + "/blobs/*/*/*"))
        check_ranges(checks, port, made)
        check_crowd(checks, port, made)
        check_clients(host, checks, layout, port)
        checks.check(len(glob.glob(host.store + "/blobs/*/*/*")) == before,
                     "pulls and pushes of what is there leave no copies")
        server.terminate()
        checks.check(server.wait(60) == 0, "the server ends cleanly")
        server, port = start_server(host, "--config", host.dir + "/one.ini")
        check_bound(checks, port, made)
        server.terminate()
        server.wait(60)
        server, port = start_server(host)
        digest, blob = made["gzip"]
        checks.check(lamina.wait_for(lambda: get(port, f"/v2/c/gzip/blobs/{digest}")[1] == blob and
                                     os.path.exists(blob_path(host, digest)), what="a copy in the cache"),
                     "what is pulled again is kept as a copy")
        checks.check(get(port, f"/v2/c/gzip/blobs/{digest}")[1] == blob, "a pull from the copy")
        server.terminate()
        server.wait(60)
        check_mount(host, checks, made)
        host.shutdown()
        lamina.wait_for(lambda: not host.pids("serve"), 90, "the owner's end")
        done = host.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck", done.stdout + done.stderr)
        host.run("fsck", "--rebuild", timeout=600)
        check_export(host, checks, layout, host.dir + "/out2")
        host.run("rm", "c/members:v1")
        host.run("rm", "again/members:v1")
        host.run("gc", "--grace", "0")
        done = host.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck after a collection", done.stdout + done.stderr)
        host.run("export", "c/gzip:v1", f"oci:{host.dir}/out3:gzip")
        checks.check(blobs_of(layout, "gzip") == blobs_of(host.dir + "/out3", "gzip"), "gzip: after a collection")
        checks.check(host.run("export", "c/members:v1", f"oci:{host.dir}/out4:x", check=False).returncode == 1,
                     "what was removed is gone")
        stats = host.json("stats")
        print(json.dumps(stats))
    corpus = lamina.corpus()
    if corpus:
        with lamina.Host() as host:
            for tag in lamina.layout_tags(corpus):
                host.run("import", f"oci:{corpus}:{tag}", f"corpus/{tag}:v1")
            done = host.json("condense", "--all", timeout=3600)
            print(f"corpus: {done['condensed']} of {len(done['layers'])} layers condensed")
            check_export(host, checks, corpus, host.dir + "/out", "corpus")
            server, port = start_server(host)
            check_corpus_clients(host, checks, corpus, port)
            server.terminate()
            server.wait(60)
            done = host.run("fsck", check=False, timeout=1800)
            checks.check(done.returncode == 0, "fsck of the corpus", done.stdout + done.stderr)
    checks.finish()


def check_corpus_clients(host, checks, corpus, port):
    for tag in lamina.layout_tags(corpus):
        out = f"{host.dir}/pulled"
        subprocess.run(["skopeo", "copy", "-q", "--preserve-digests", "--src-tls-verify=false",
                        f"docker://127.0.0.1:{port}/corpus/{tag}:v1", f"oci:{out}:{tag}"], check=True)
        checks.check(blobs_of(corpus, tag) == blobs_of(out, tag), f"{tag}: pulled by skopeo")


if __name__ == "__main__":
    main()
