"""Pulling all images of the corpus from docker's registry, beside skopeo; pushing them there."""
import json
import socket
import subprocess
import tempfile
import time

import lamina


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def seconds(*argv, **kw):
    start = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw)
    return time.monotonic() - start


def registry(directory):
    port = lamina.free_port()
    with open(directory + "/config.yml", "w", encoding="utf-8") as f:
        json.dump({"version": "0.1", "log": {"level": "error"},
                   "storage": {"filesystem": {"rootdirectory": directory + "/data"}},
                   "http": {"addr": f"127.0.0.1:{port}"}}, f)
    process = subprocess.Popen(["docker-registry", "serve", directory + "/config.yml"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    lamina.wait_for(lambda: listening(port), 20, "docker-registry")
    return port, process


def bench_pull(b):
    lamina.need("docker-registry")
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as d:
        port, process = registry(d)
        try:
            for tag in b.tags:
                seconds("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{b.corpus}:{tag}",
                        f"docker://127.0.0.1:{port}/{tag}:1")

            def ours():
                with lamina.Host() as host:
                    return sum(seconds(lamina.PROGRAM, "pull", f"127.0.0.1:{port}/{tag}:1", env=host.env)
                               for tag in b.tags)

            def copies(out):
                return sum(seconds("skopeo", "copy", "-q", "--src-tls-verify=false",
                                   f"docker://127.0.0.1:{port}/{tag}:1", f"oci:{out}:{tag}") for tag in b.tags)

            def theirs():
                with tempfile.TemporaryDirectory(prefix="lamina-bench-") as out:
                    return copies(out + "/copy")

            def with_trees():
                with tempfile.TemporaryDirectory(prefix="lamina-bench-") as out:
                    return copies(out + "/copy") + sum(
                        seconds("umoci", "raw", "unpack", "--image", f"{out}/copy:{tag}", f"{out}/{tag}")
                        for tag in b.tags)

            b.pairs("pull of the corpus / skopeo copy + umoci", "below 1", ours, with_trees, runs=3)
            b.pairs("pull of the corpus / skopeo copy alone", "(nothing unpacked there)", ours, theirs, runs=3)
        finally:
            process.terminate()
            process.wait()


BENCHES = {"pull": bench_pull}
