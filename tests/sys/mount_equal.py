#!/usr/bin/python3
"""Every image mounted is what another program unpacks: names, types, modes, owners, sizes, times to
the nanosecond, link targets, hard-link groups, devices, xattrs, ACLs, capabilities, content; one
st_dev in the whole tree. For made-up images that hold the odd entries a layer may have, in three
compressions; for the corpus too, when LAMINA_CORPUS names its layout."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import treedump  # noqa: E402

# No other program here unpacks these; GNU tar does.
BY_TAR = ("sparse-gnu",)


def manifest_of(layout, tag):
    with open(layout + "/index.json", encoding="utf-8") as f:
        index = json.load(f)
    for m in index["manifests"]:
        if m["annotations"]["org.opencontainers.image.ref.name"] == tag:
            with open(f"{layout}/blobs/" + m["digest"].replace(":", "/"), encoding="utf-8") as f:
                return json.load(f)
    raise KeyError(tag)


def reference(layout, tag, out):
    if tag not in BY_TAR:
        return lamina.unpack_reference(layout, tag, out)
    os.mkdir(out)
    for layer in manifest_of(layout, tag)["layers"]:
        blob = f"{layout}/blobs/" + layer["digest"].replace(":", "/")
        subprocess.run(["tar", "-C", out, "-xpzf", blob], check=True)
    return True


def reference_tree(layout, tag, out):
    ok = reference(layout, tag, out)
    tree = treedump.dump(out)[0] if ok else None
    subprocess.run(["rm", "-rf", out], check=True)
    return tree


def differences(expected, found):
    out = []
    for path in sorted(set(expected) | set(found)):
        a, b = expected.get(path), found.get(path)
        if a is None or b is None:
            out.append(f"{treedump.quote(path) or '.'}: only {'expected' if b is None else 'found'}")
            continue
        for key in sorted(set(a) | set(b)):
            if a.get(key) != b.get(key):
                out.append(f"{treedump.quote(path) or '.'}: {key}: expected {a.get(key)}, found {b.get(key)}")
    return out


def compare_fuse(host, checks, name, expected, pages):
    point = host.mount(name + ":1", "--driver", "fuse", "--pages", pages)
    for again in ("", ", again from what the kernel keeps"):
        found, devices = treedump.dump(point)
        bad = differences(expected, found)
        checks.check(not bad, f"{name} by fuse, {pages}{again}", "\n     ".join(bad[:12]))
        checks.check(len(devices) == 1, f"{name} by fuse, {pages}: one st_dev", str(devices))
    host.umount(point)


def compare_layout(host, checks, layout, label, expected_of):
    tags = lamina.layout_tags(layout)
    for tag in tags:
        host.run("import", f"oci:{layout}:{tag}", f"{label}/{tag}:1")
    for tag in tags:
        name = f"{label}/{tag}"
        expected = expected_of(tag)
        if not checks.check(expected is not None, f"{name}: a reference tree"):
            continue
        point = host.mount(name + ":1")
        found, devices = treedump.dump(point)
        bad = differences(expected, found)
        checks.check(not bad, f"{name} mounted", "\n     ".join(bad[:12]))
        checks.check(len(devices) == 1, f"{name}: one st_dev", str(devices))
        host.umount(point)
        for pages in ("passthrough", "inode"):
            compare_fuse(host, checks, name, expected, pages)
        out = f"{host.dir}/unpacked-{label}-{tag}"
        host.run("unpack", name + ":1", out)
        bad = differences(expected, treedump.dump(out)[0])
        checks.check(not bad, f"{name} unpacked", "\n     ".join(bad[:12]))
        subprocess.run(["rm", "-rf", out], check=True)


def main():
    lamina.need("umoci", "unshare")
    lamina.isolate(840)
    checks = lamina.Checks()
    with lamina.Host() as host:
        trees = {}

        def expected_of(tag):
            if tag not in trees:
                trees[tag] = reference_tree(host.dir + "/gzip", tag, f"{host.dir}/reference-{tag}")
            return trees[tag]

        for compression in ("gzip", "zstd", "plain"):
            layout = f"{host.dir}/{compression}"
            subprocess.run(["/usr/bin/python3", lamina.SUPPORT + "/oddimages.py", layout,
                            "--compression", compression], check=True)
            compare_layout(host, checks, layout, compression, expected_of)
        corpus = lamina.corpus()
        if corpus:
            compare_layout(host, checks, corpus, "corpus",
                           lambda tag: reference_tree(corpus, tag, f"{host.dir}/corpus-{tag}"))
        done = host.run("fsck", check=False)
        checks.check(done.returncode == 0, "fsck", done.stdout + done.stderr)
    checks.finish()


if __name__ == "__main__":
    main()
