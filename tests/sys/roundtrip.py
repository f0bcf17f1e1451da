#!/usr/bin/python3
"""Every image that goes in comes out byte-identical: manifests, configs, layers; by OCI layout, OCI
archive, docker archive, and through the registry with skopeo. Made-up images in three compressions;
the corpus too, when LAMINA_CORPUS names its layout."""
import hashlib
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402


def blobs_of(layout, tag):
    """Every blob that a tag of a layout reaches, digest -> bytes' SHA-256."""
    with open(layout + "/index.json", encoding="utf-8") as f:
        todo = [m["digest"] for m in json.load(f)["manifests"]
                if m["annotations"].get("org.opencontainers.image.ref.name") == tag]
    top, seen = list(todo), {}
    while todo:
        digest = todo.pop()
        path = f"{layout}/blobs/" + digest.replace(":", "/")
        with open(path, "rb") as f:
            data = f.read()
        seen[digest] = hashlib.sha256(data).hexdigest()
        try:
            document = json.loads(data)
        except ValueError:
            continue
        if isinstance(document, dict) and "schemaVersion" in document:
            for d in document.get("manifests", []) + document.get("layers", []) + [document.get("config")]:
                if d and d["digest"] not in seen:
                    todo.append(d["digest"])
    return top, seen


def check_layout(host, checks, layout, label):
    tags = lamina.layout_tags(layout)
    out = f"{host.dir}/{label}-out"
    for tag in tags:
        host.run("import", f"oci:{layout}:{tag}", f"{label}/{tag}:v1")
    for tag in tags:
        host.run("export", f"{label}/{tag}:v1", f"oci:{out}:{tag}")
        checks.check(blobs_of(layout, tag) == blobs_of(out, tag), f"{label}/{tag}: layout out equals layout in")
    checks.check(sorted(lamina.layout_tags(out)) == sorted(tags), f"{label}: the layout holds every tag")
    return tags


def check_archives(host, checks, layout, label, tag):
    archive = f"{host.dir}/{tag}.tar"
    host.run("export", f"{label}/{tag}:v1", "oci-archive:" + archive)
    with lamina.Host(host.dir) as other:
        other.run("import", "oci-archive:" + archive, f"again/{tag}:v1")
        out = other.dir + "/out"
        other.run("export", f"again/{tag}:v1", f"oci:{out}:{tag}")
        checks.check(blobs_of(layout, tag) == blobs_of(out, tag), f"{label}/{tag}: by oci-archive")
        checks.check(other.run("fsck", check=False).returncode == 0, f"{label}/{tag}: fsck after an archive")
    docker = f"{host.dir}/{tag}-docker.tar"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:{tag}", f"docker-archive:{docker}:saved/{tag}:v2"],
                   check=True)
    host.run("import", "docker-archive:" + docker)
    names = json.dumps(host.json("images"))
    checks.check(f"saved/{tag}" in names, f"{label}/{tag}: docker archive gives its own name", names[:300])


def check_sparse_archive(host, checks, layout):
    """An archive whose members GNU tar made sparse is refused by name, not misread."""
    with open(layout + "/hole", "wb") as f:
        f.truncate(1 << 20)
    archive = host.dir + "/sparse.tar"
    subprocess.run(["tar", "-C", layout, "--sparse", "--format=gnu", "-cf", archive, "."], check=True)
    os.unlink(layout + "/hole")
    done = host.run("import", "oci-archive:" + archive, check=False)
    checks.check(done.returncode == 1 and "sparse" in done.stderr, "a sparse archive is refused", done.stderr)


def check_registry(host, checks, layout, label, tags):
    server = host.start("serve", "--listen", "127.0.0.1:0", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    port = lamina.wait_for(lambda: server_port(host), what="the registry")
    copy = ["skopeo", "copy", "-q", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    for tag in tags:
        out = f"{host.dir}/{label}-pulled"
        subprocess.run([*copy, f"docker://127.0.0.1:{port}/{label}/{tag}:v1", f"oci:{out}:{tag}"], check=True)
        checks.check(blobs_of(layout, tag) == blobs_of(out, tag), f"{label}/{tag}: pulled as imported")
        subprocess.run([*copy, f"oci:{layout}:{tag}",
                        f"docker://127.0.0.1:{port}/pushed/{label}/{tag}:v1"], check=True)
        done = subprocess.run(["skopeo", "inspect", "--tls-verify=false", "--raw",
                               f"docker://127.0.0.1:{port}/pushed/{label}/{tag}:v1"],
                              stdout=subprocess.PIPE, check=True)
        top, _ = blobs_of(layout, tag)
        checks.check("sha256:" + hashlib.sha256(done.stdout).hexdigest() == top[0],
                     f"{label}/{tag}: pushed with its digest")
    server.terminate()
    checks.check(server.wait(30) == 0, "the server ends cleanly")


def server_port(host):
    """The port that this store's server listens on, from the kernel's own tables."""
    for pid in host.pids("serve"):
        try:
            inodes = {os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
        except OSError:
            continue
        with open("/proc/net/tcp", encoding="ascii") as f:
            for line in f.readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    return int(fields[1].split(":")[1], 16)
    return None


def main():
    lamina.need("skopeo", "unshare")
    lamina.isolate(600)
    checks = lamina.Checks()
    with lamina.Host() as host:
        for compression in ("gzip", "zstd", "plain"):
            layout = f"{host.dir}/{compression}"
            subprocess.run(["/usr/bin/python3", lamina.SUPPORT + "/oddimages.py", layout, "--compression",
                            compression], check=True)
            tags = check_layout(host, checks, layout, compression)
            if compression == "gzip":
                for tag in ("kinds", "hardlinks", "many"):
                    check_archives(host, checks, layout, compression, tag)
                check_sparse_archive(host, checks, layout)
            check_registry(host, checks, layout, compression, tags[:6])
        corpus = lamina.corpus()
        if corpus:
            tags = check_layout(host, checks, corpus, "corpus")
            check_registry(host, checks, corpus, "corpus", tags)
        done = host.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck", done.stdout + done.stderr)
    checks.finish()


if __name__ == "__main__":
    main()
