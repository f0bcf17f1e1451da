"""What travels when images are rebuilt: between two laminas, beside what any client takes."""
import subprocess
import tempfile
import time

import lamina
from countingproxy import Proxy

# An image, and what it is rebuilt as on a base that got its security updates.
REBUILT = (("debian12", "debian12-sec"), ("python-old", "python"), ("web-express-v1", "web-express-v2"))


def start_server(host):
    with open(host.dir + "/log", "w", encoding="utf-8") as log:
        server = host.start("serve", "--listen", "127.0.0.1:0", stdout=subprocess.DEVNULL, stderr=log)

    def port():
        with open(host.dir + "/log", encoding="utf-8") as f:
            return next((int(line.split(" port=")[1].split()[0]) for line in f if " port=" in line), None)
    return server, lamina.wait_for(port, what="the registry")


def skopeo(port, tag, out):
    start = time.monotonic()
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://127.0.0.1:{port}/c/{tag}:v1",
                    f"oci:{out}:{tag}"], check=True)
    return time.monotonic() - start


def pull(host, port, tag):
    start = time.monotonic()
    host.run("pull", f"127.0.0.1:{port}/c/{tag}:v1", f"c/{tag}:v1", timeout=1200)
    return time.monotonic() - start


def bench_parts(b):
    """Each side has the image before, and takes the rebuilt one."""
    pairs = [pair for pair in REBUILT if set(pair) <= set(b.tags)]
    if not pairs:
        b.note("no rebuilt images in the corpus: parts are not measured")
        return
    with lamina.Host() as origin:
        for tag in sorted({tag for pair in pairs for tag in pair}):
            origin.run("import", f"oci:{b.corpus}:{tag}", f"c/{tag}:v1", timeout=1200)
        origin.run("condense", "--all", timeout=3600)
        server, port = start_server(origin)
        proxy = Proxy(port)
        for before, after in pairs:
            with lamina.Host() as here, tempfile.TemporaryDirectory(prefix="lamina-bench-") as out:
                pull(here, proxy.port, before)
                proxy.forget()
                ours_s = pull(here, proxy.port, after)
                ours, requests = proxy.bytes, len(proxy.seen)
                skopeo(proxy.port, before, out + "/layout")
                proxy.forget()
                theirs_s = skopeo(proxy.port, after, out + "/layout")
                b.row(f"bytes: pull of {after} / skopeo copy", ours / max(proxy.bytes, 1), "below 0.5", ours=ours,
                      theirs=proxy.bytes, requests=requests, ours_s=ours_s, theirs_s=theirs_s)
        server.terminate()
        server.wait(60)


# What is to run first in an image of the corpus.
FIRST = {"python": ("python3", "-c", "import json, ssl"), "node": ("node", "-e", "0")}


def first_command(host, name, tag):
    start = time.monotonic()
    host.run("run", "--network", "none", name, "--", *FIRST[tag], timeout=600)
    return time.monotonic() - start


def bench_lazy(b):
    """From nothing to the end of a first command: by a lazy mount, and after a pull."""
    tags = [tag for tag in FIRST if tag in b.tags]
    if not tags:
        b.note("no image of the corpus has a first command: lazy mounts are not measured")
        return
    with lamina.Host() as origin:
        for tag in tags:
            origin.run("import", f"oci:{b.corpus}:{tag}", f"c/{tag}:v1", timeout=1200)
        server, port = start_server(origin)
        for tag in tags:
            with lamina.Host() as here, lamina.Host() as there:
                there.run("images")
                here.run("images")
                theirs = pull(there, port, tag) + first_command(there, f"c/{tag}:v1", tag)
                ours = first_command(here, f"127.0.0.1:{port}/c/{tag}:v1", tag)
                b.row(f"first command of {tag}: lazy / pulled", ours / theirs, "below 1", ours_s=ours,
                      theirs_s=theirs)
        server.terminate()
        server.wait(60)


BENCHES = {"parts": bench_parts, "lazy": bench_lazy}
