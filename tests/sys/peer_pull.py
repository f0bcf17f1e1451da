#!/usr/bin/python3
"""Between two laminas only what is missing travels (spec/peer.md): rebuilt images, large files of
which little changed, caches in between, peers that lie, kills; and nobody gets an object that is not
part of a layer they may pull."""
import glob
import gzip
import hashlib
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"),
                os.path.dirname(os.path.abspath(__file__))]
import lamina  # noqa: E402
from countingproxy import Proxy  # noqa: E402
from layouts import Layout, digest_of  # noqa: E402
from roundtrip import blobs_of  # noqa: E402

FRAME = "application/vnd.lamina.frame"


class Registry:
    """`lamina serve` with a configuration."""

    def __init__(self, host, config=""):
        self.host = host
        with open(host.dir + "/serve.ini", "w", encoding="utf-8") as f:
            f.write(f"[condense]\nbackground = no\n[registry]\nlisten = 127.0.0.1:0\n{config}")
        self.log = open(host.dir + "/log", "w", encoding="utf-8")
        self.process = host.start("serve", "--config", host.dir + "/serve.ini", stderr=self.log)
        self.port = lamina.wait_for(self.find_port, what="the registry")

    def find_port(self):
        with open(self.host.dir + "/log", encoding="utf-8") as f:
            for line in f:
                if " port=" in line:
                    return int(line.split(" port=")[1].split()[0])
        return None

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


def get(port, path, headers=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, {k.lower(): v for k, v in answer.getheaders()}


def make_tar(version, changed, large_change):
    """Files that compress as programs do; `changed` of them differ in another version, and all times."""
    rng = random.Random(1)
    words = [rng.randbytes(5).hex().encode() for _ in range(3000)]
    out = io.BytesIO()

    def add(name, data):
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(data), 1_600_000_000 + 1000 * version
        tar.addfile(info, io.BytesIO(data))

    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for i in range(400):
            rng = random.Random(1000 * version + i if i % 97 < changed else i)
            add(f"usr/share/d{i // 40}/file{i}", b" ".join(rng.choices(words, k=rng.randrange(10, 2000))))
        large = bytearray(random.Random(7).randbytes(9_000_000))
        large[4_000_000:4_000_100] = bytes([large_change]) * 100
        add("var/large", bytes(large))
    return out.getvalue()


def make_layout(path):
    """tag -> (layer's digest, its bytes)"""
    layout, made = Layout(path), {}
    for tag, args in {"v1": (1, 0, 0), "v2": (2, 1, 9), "half": (3, 92, 9), "secret": (4, 97, 77)}.items():
        tar = make_tar(*args)
        blob = gzip.compress(tar, 6, mtime=0)
        made[tag] = (layout.image(tag, blob, digest_of(tar)), blob)
    layout.close()
    return made


def pull(host, port, tag, check=True, **kw):
    return host.run("pull", f"127.0.0.1:{port}/c/{tag}:v1", f"c/{tag}:v1", check=check, **kw)


def check_same(host, checks, layout, tag, what):
    out = f"{host.dir}/out-{tag}-{len(os.listdir(host.dir))}"
    host.run("export", f"c/{tag}:v1", f"oci:{out}:{tag}")
    checks.check(blobs_of(layout, tag) == blobs_of(out, tag), f"{what}: layout out equals layout in")
    done = host.run("fsck", check=False)
    checks.check(done.returncode == 0, f"{what}: fsck", done.stdout + done.stderr)


def is_condensed(host, digest):
    hexes = digest.split(":")[1]
    return not os.path.exists(f"{host.store}/blobs/sha256/{hexes[:2]}/{hexes}")


# ---- what is answered ----

def decode(body):
    assert body[:4] == b"LPF1"
    kind, codec = body[4], body[5]
    whole = int.from_bytes(body[8:16], "little")
    raw, stored = int.from_bytes(body[16:20], "little"), int.from_bytes(body[20:24], "little")
    assert len(body) == 24 + stored and codec in (0, 2)
    content = body[24:]
    if codec == 2:
        content = subprocess.run(["zstd", "-dcq"], input=content, stdout=subprocess.PIPE, check=True).stdout
    assert len(content) == raw
    return kind, whole, content


def check_answers(checks, port, made):
    digest, blob = made["v1"]
    base = f"/v2/c/v1/_lamina/layers/{digest}"
    status, body, headers = get(port, base)
    facts = json.loads(body)
    checks.check(status == 200 and facts["size"] == len(blob) and facts["layer"] == digest, "facts", str(facts))
    checks.check(headers["lamina-peer"] == "1", "a lamina says that it is one")
    listing, recipe = facts["listing"], facts["recipe"]
    total = 0
    for n in range(1000):
        status, body, headers = get(port, f"{base}/groups/{listing}/{n}")
        if status == 404:
            break
        kind, whole, content = decode(body)
        checks.check(kind == 0 and whole == len(content) and len(content) < (1 << 20) + (256 << 10), f"group {n}")
        checks.check("immutable" in headers["cache-control"] and "vary" not in headers and
                     headers["etag"] == '"' + hashlib.sha256(body).hexdigest() + '"' and
                     headers["content-length"] == str(len(body)), f"group {n}: headers", str(headers))
        again = get(port, f"{base}/groups/{listing}/{n}", {"If-None-Match": headers["etag"]})
        checks.check(again[0] == 304 and not again[1], f"group {n}: 304")
        head = get(port, f"{base}/groups/{listing}/{n}", method="HEAD")
        checks.check(head[0] == 200 and head[2]["content-length"] == str(len(body)), f"group {n}: HEAD")
        total += len(content)
    checks.check(n > 3 and total > 3_000_000, "groups have the small files", f"{n} {total}")
    kind, whole, content = decode(get(port, f"{base}/objects/{listing}")[1])
    checks.check(kind == 0 and content[:4] == b"LLST" and whole == len(content), "the listing")
    checks.check(decode(get(port, f"{base}/objects/{recipe}")[1])[2][:4] == b"LRCP", "the recipe")
    at = content.index(b"var/large") + 9 + 8  # its object follows
    large = content[at:at + 32].hex()
    kind, whole, page = decode(get(port, f"{base}/objects/{large}")[1])
    checks.check(kind == 1 and whole == 9_000_000 and int.from_bytes(page[:8], "little") == 0, "a page of chunks")
    checks.check(decode(get(port, f"{base}/objects/{large}/chunks/0")[1])[2] == page, "the same by its number")
    offset, bad = 0, 0
    for i in range(8, len(page), 36):
        length = int.from_bytes(page[i + 32:i + 36], "little")
        kind, whole, part = decode(get(port, f"{base}/objects/{large}/parts/{offset}-{length}")[1])
        bad += hashlib.sha256(part).digest() != page[i:i + 32] or whole != 9_000_000
        offset += length
    checks.check(offset == 9_000_000 and bad == 0, "parts are the chunks", f"{offset} {bad}")
    for path in ("parts/0-0", "parts/9000000-1", "parts/0-2097153", "parts/00-5", "parts/0-5x", "parts/-5", "parts/1",
                 "chunks/1", "chunks/-1", "chunks/99999999999", "other/1", "chunks", "parts/5-", "parts/0-+5"):
        status = get(port, f"{base}/objects/{large}/{path}")[0]
        checks.check(status == 404, f"no {path}", str(status))
    for path in ("", "/groups", f"/groups/{listing}", f"/groups/{recipe}/0", f"/groups/{listing}/x", "/objects/" + "0" * 64,
                 "/objects/xyz", f"/objects/{listing.upper()}", "/objects"):
        status = get(port, base + path)[0]
        checks.check(status == (200 if not path else 404), f"{path}: as it should", str(status))
    checks.check(get(port, base, method="DELETE")[0] == 405, "nothing can be changed")
    checks.check("_lamina" in get(port, "/v2/_oci/ext/discover")[1].decode(), "the extension is named")
    return listing, large


def check_private(checks, host, made):
    """What a repository holds is had by who may pull from it, through its own layers."""
    with open(host.dir + "/passwords", "w", encoding="utf-8") as f:
        f.write("anna:$2b$04$FRFpFyI3BJ1xwwmvR/20/escO0c/fzyUGBFxAwQ/xlsESW2GhPQ.G\n")  # "word"
    server = Registry(host, f"[access]\nhtpasswd = {host.dir}/passwords\nchallenge = basic\n"
                      "[rule all]\nrepositories = c/v1 c/v2 c/half\nusers = anonymous\nactions = pull\n"
                      "[rule own]\nrepositories = **\nusers = anna\nactions = pull\n")
    port, anna = server.port, {"Authorization": "Basic YW5uYTp3b3Jk"}
    secret, public = made["secret"][0], made["v1"][0]
    base = f"/v2/c/secret/_lamina/layers/{secret}"
    facts = json.loads(get(port, base, anna)[1])
    listing = facts["listing"]
    for path in (base, f"{base}/objects/{listing}", f"{base}/groups/{listing}/0"):
        checks.check(get(port, path, anna)[0] == 200, "who may pull may have parts", path)
        checks.check(get(port, path)[0] == 401, "others may not", path)
        checks.check("private" in get(port, path, anna)[2]["cache-control"], "shared caches may not keep them", path)
    for path in (f"/v2/c/v1/_lamina/layers/{secret}", f"/v2/c/v1/_lamina/layers/{secret}/objects/{listing}",
                 f"/v2/c/v1/_lamina/layers/{secret}/groups/{listing}/0",
                 f"/v2/c/v1/_lamina/layers/{public}/objects/{listing}",
                 f"/v2/c/v1/_lamina/layers/{public}/objects/{facts['recipe']}",
                 f"/v2/c/v1/_lamina/layers/{public}/groups/{listing}/0",
                 f"/v2/c/v1/_lamina/layers/{public}/objects/{listing}/parts/0-10"):
        for headers in ({}, anna):
            checks.check(get(port, path, headers)[0] == 404, "knowing a digest gets nobody anything", path)
    checks.check("public" in get(port, f"/v2/c/v1/_lamina/layers/{public}")[2]["cache-control"],
                 "parts of public layers may be kept by all")
    server.stop()


# ---- pulls ----

def check_pulls(checks, proxy, layout, made):
    with lamina.Host() as here:
        pull(here, proxy.port, "v1")
        checks.check(proxy.count("/blobs/", made["v1"][0]) > 0 and proxy.count("/groups/") == 0,
                     "what is missing wholly comes as a blob")
        check_same(here, checks, layout, "v1", "first pull")
        proxy.forget()
        pull(here, proxy.port, "v2")
        size = len(made["v2"][1])
        print(f"rebuilt image: {proxy.bytes} bytes of {size} in {len(proxy.seen)} requests")
        checks.check(proxy.count("/blobs/", made["v2"][0]) == 0 and is_condensed(here, made["v2"][0]),
                     "a rebuilt image comes by its parts")
        checks.check(proxy.bytes < size / 12, "little travels", f"{proxy.bytes} of {size}")
        checks.check(0 < proxy.count("/parts/") <= 3, "of a large file only what changed",
                     str(proxy.count("/parts/")))
        check_same(here, checks, layout, "v2", "a rebuilt image")
        proxy.forget()
        pull(here, proxy.port, "half")
        size = len(made["half"][1])
        print(f"half of it changed: {proxy.bytes} bytes of {size} in {len(proxy.seen)} requests")
        checks.check(proxy.count("/groups/") > 2 and proxy.bytes < size, "groups where most is missing")
        check_same(here, checks, layout, "half", "half of it changed")
        proxy.forget()
        pull(here, proxy.port, "half")
        checks.check(proxy.count("_lamina") == 0, "what is here is not asked for")


def flip(word):
    def lie(path, body):
        if word not in path or len(body) < 200:
            return body
        return body[:len(body) // 2] + bytes([body[len(body) // 2] ^ 4]) + body[len(body) // 2 + 1:]
    return lie


def swap_groups(path, body):
    swap_groups.last, last = body, getattr(swap_groups, "last", body)
    return last if "/groups/" in path else body


def other_facts(change):
    def lie(path, body):
        if "_lamina/layers" not in path or body[:1] != b"{":
            return body
        facts = json.loads(body)
        facts.update({k: v(facts) if callable(v) else v for k, v in change.items()})
        return json.dumps(facts).encode()
    return lie


def check_liars(checks, proxy, layout, made):
    lies = {
        "flipped content of groups": flip("/groups/"), "flipped objects": flip("/objects/"),
        "flipped parts": flip("/parts/"), "groups in the wrong order": swap_groups,
        "another version": lambda path, body: b"LPF2" + body[4:] if body[:4] == b"LPF1" else body,
        "no frames": lambda path, body: body[:30] if body[:4] == b"LPF1" else body,
        "no JSON": lambda path, body: body[:-1] if "_lamina" in path and body[:1] == b"{" else body,
        "a listing that is a recipe": other_facts({"listing": lambda facts: facts["recipe"]}),
        "a recipe that is a listing": other_facts({"recipe": lambda facts: facts["listing"]}),
        "another length": other_facts({"size": 5_000_000}),
        "nonsense": other_facts({"listing": 5, "entries": -1}),
    }
    with lamina.Host() as here:
        pull(here, proxy.port, "v1")
        for what, lie in lies.items():
            proxy.forget()
            proxy.lie = lie
            done = pull(here, proxy.port, "half", check=False)
            proxy.lie = None
            checks.check(done.returncode == 0, f"{what}: the pull succeeds", done.stderr)
            checks.check(proxy.count("_lamina") > 0 and proxy.count("/blobs/", made["half"][0]) > 0,
                         f"{what}: refused, and the blob pulled")
            out = f"{here.dir}/out-{len(os.listdir(here.dir))}"
            here.run("export", "c/half:v1", f"oci:{out}:half")
            checks.check(blobs_of(layout, "half") == blobs_of(out, "half"), f"{what}: layout out equals layout in")
            here.run("rm", "c/half:v1")
            here.run("gc", "--grace", "0")
        done = here.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck after all lies", done.stdout + done.stderr)


def check_kills(checks, proxy, layout, made):
    with lamina.Host() as here:
        pull(here, proxy.port, "v1")
        proxy.delay = 0.03
        for i in range(4):
            process = here.start("pull", f"127.0.0.1:{proxy.port}/c/half:v1", "c/half:v1",
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.25 + 0.2 * i)
            process.send_signal(signal.SIGKILL)
            process.wait()
        proxy.delay = 0
        pull(here, proxy.port, "half")
        check_same(here, checks, layout, "half", "after kills")


def check_cache(checks, proxy, layout, made, work):
    """A cache between: what one client had, another has without the origin."""
    port = lamina.free_port()
    with open(work + "/nginx.conf", "w", encoding="utf-8") as f:
        f.write(f"""daemon off; user root; pid {work}/nginx.pid; error_log {work}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{ access_log off; client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
proxy_cache_path {work}/cache keys_zone=z:1m;
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{proxy.port}; proxy_cache z;
proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
""")
    nginx = subprocess.Popen(["nginx", "-p", work, "-c", work + "/nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        lamina.wait_for(lambda: nginx.poll() is None and listens(port), what="nginx")
        seen = []
        for _ in range(2):
            with lamina.Host() as here:
                pull(here, port, "v1")
                proxy.forget()
                pull(here, port, "v2")
                seen.append((proxy.count("/objects/"), proxy.count("/groups/"), proxy.count("/blobs/")))
                check_same(here, checks, layout, "v2", "through a cache")
        checks.check(seen[0][0] > 3 and seen[1] == (0, 0, 0), "the second client does not reach the origin", str(seen))
    finally:
        nginx.terminate()
        nginx.wait(20)


def listens(port):
    try:
        return get(port, "/v2/")[0] == 200
    except OSError:
        return False


def main():
    lamina.isolate(600)
    lamina.need("zstd")
    checks = lamina.Checks()
    with lamina.Host() as origin:
        layout = origin.dir + "/layout"
        made = make_layout(layout)
        for tag in made:
            origin.run("import", f"oci:{layout}:{tag}", f"c/{tag}:v1")
        origin.run("condense", "--all", timeout=300)
        checks.check(all(is_condensed(origin, digest) for digest, _ in made.values()), "the origin is condensed")
        check_private(checks, origin, made)
        server = Registry(origin)
        check_answers(checks, server.port, made)
        proxy = Proxy(server.port)
        check_pulls(checks, proxy, layout, made)
        check_liars(checks, proxy, layout, made)
        check_kills(checks, proxy, layout, made)
        if lamina.shutil.which("nginx"):
            os.mkdir(origin.dir + "/nginx")
            check_cache(checks, proxy, layout, made, origin.dir + "/nginx")
        server.stop()
        done = origin.run("fsck", check=False)
        checks.check(done.returncode == 0, "the origin's fsck", done.stdout + done.stderr)
        checks.check(not glob.glob(origin.store + "/uploads/*"), "nothing is left behind")
    checks.finish()


if __name__ == "__main__":
    main()
