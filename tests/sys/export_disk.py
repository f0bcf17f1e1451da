#!/usr/bin/python3
"""`lamina export --format erofs|ext4`: the kernel mounts the disk and shows what unpack writes, the
checkers of both file systems find nothing, the same image gives the same bytes from any store, equal
contents share blocks, holes take none."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import treedump  # noqa: E402

# What mke2fs does not keep (spec/disk.md).
EXT4_LOSES = {"nanoseconds": ["mtime"], "before-epoch": ["mtime"], "year-2100": ["mtime"],
              "sym": ["group", "nlink"], "sym-2": ["group", "nlink"]}


def differences(a, b, loses):
    out = []
    for path in sorted(set(a) | set(b)):
        keys = set(a.get(path, {})) | set(b.get(path, {}))
        lost = loses.get(path.decode(errors="replace").rsplit("/", 1)[-1], [])
        out += [f"{path!r} {key}: {a.get(path, {}).get(key)} != {b.get(path, {}).get(key)}" for key in sorted(keys)
                if key not in lost and a.get(path, {}).get(key) != b.get(path, {}).get(key)]
    return out


def mounted(host, kind, disk):
    """A disk's tree as the kernel shows it, and its device numbers."""
    point = host.dir + "/disk-mount"
    os.makedirs(point, exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", "loop,ro", disk, point], check=True)
    try:
        return treedump.dump(point)
    finally:
        subprocess.run(["umount", point], check=True)


def check_disk(host, checks, name, kind):
    disk, reference = f"{host.dir}/disk.{kind}", host.dir + "/reference"
    host.run("export", "--format", kind, name, disk)
    host.run("unpack", name, reference)
    checker = ["fsck.erofs"] if kind == "erofs" else ["e2fsck", "-fn"]
    done = subprocess.run([*checker, disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    checks.check(done.returncode == 0, f"{name}: {checker[0]}", done.stdout[-500:])
    if kind == "erofs":
        done = subprocess.run(["dump.erofs", "-s", "-S", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", check=False)
        checks.check(done.returncode == 0 and "Filesystem UUID" in done.stdout, f"{name}: dump.erofs", done.stdout)
    expected, _ = treedump.dump(reference)
    tree, devices = mounted(host, kind, disk)
    tree.pop(b"lost+found", None)
    found = differences(expected, tree, EXT4_LOSES if kind == "ext4" else {})
    checks.check(not found and len(devices) == 1, f"{name}: the mounted {kind} equals the unpacked tree", found[:5])
    again = disk + ".again"
    host.run("export", "--format", kind, name, again)
    with open(disk, "rb") as a, open(again, "rb") as b:
        same = a.read() == b.read()
    checks.check(same or (kind == "ext4" and b"sym" in expected), f"{name}: {kind} twice gives the same bytes")
    shutil.rmtree(reference)
    os.unlink(again)
    return disk


def pack(host, name, add):
    """A one-layer image of what `add` puts into a directory."""
    root = host.dir + "/made"
    shutil.rmtree(root, ignore_errors=True)
    os.mkdir(root)
    add(root)
    host.run("pack", root, name)


def check_sharing_and_holes(host, checks):
    data = os.urandom(1 << 20)

    def equal(root):
        for i in range(8):
            with open(f"{root}/{i}", "wb") as f:
                f.write(data)
            os.utime(f"{root}/{i}", (i, i))
    pack(host, "equal:1", equal)
    size = os.path.getsize(check_disk(host, checks, "equal:1", "erofs"))
    checks.check(size < (1 << 20) + 65536, "eight equal files take the room of one", size)

    def sparse(root):
        with open(root + "/holes", "wb") as f:
            f.truncate(384 << 20)
            f.seek(128 << 20)
            f.write(data)
            f.seek((256 << 20) + 12345)
            f.write(b"x")
        with open(root + "/only-hole", "wb") as f:
            f.truncate(1000001)
        with open(root + "/small-hole", "wb") as f:
            f.truncate(4096)
        with open(root + "/tail", "wb") as f:
            f.write(data + b"\0" * 65536 + b"end")
    pack(host, "sparse:1", sparse)
    size = os.path.getsize(check_disk(host, checks, "sparse:1", "erofs"))
    checks.check(size < (3 << 20), "holes take no room", size)


def check_other_store(host, checks, layout, tags):
    """Packs lie otherwise in a store that was filled in another order."""
    with lamina.Host(host.dir) as other:
        for tag in reversed(tags):
            other.run("import", f"oci:{layout}:{tag}", f"odd/{tag}:1", check=False)
        for tag in tags:
            a, b = host.dir + "/a.erofs", host.dir + "/b.erofs"
            host.run("export", "--format", "erofs", f"odd/{tag}:1", a)
            other.run("export", "--format", "erofs", f"odd/{tag}:1", b)
            done = subprocess.run(["cmp", a, b], stdout=subprocess.PIPE, check=False)
            checks.check(done.returncode == 0, f"{tag}: the same bytes from another store", done.stdout)


def check_refusals(host, checks, name):
    os.mkdir(host.dir + "/a-directory")
    for args, what in ((["--format", "erofs", name, host.dir + "/a-directory"], "irectory"),
                       (["--format", "vfat", name, host.dir + "/x"], "erofs or ext4"),
                       (["--format", "ext4", "--size", "1000000", name, host.dir + "/x"], "export to"),
                       (["--format", "erofs", name, host.dir + "/nowhere/x"], "x"),
                       (["--size", "5", name, "oci:" + host.dir + "/x"], "--size")):
        done = host.run("export", *args, check=False)
        checks.check(done.returncode != 0 and what in done.stderr, "refused: " + " ".join(args), done.stderr)
    left = [n for n in os.listdir(host.dir) if n.startswith("x")]
    checks.check(not left, "nothing is left of an export that failed", left)
    disk = host.dir + "/kept"
    with open(disk, "w", encoding="ascii") as f:
        f.write("old")
    host.run("export", "--format", "ext4", "--size", "1000000", name, disk, check=False)
    with open(disk, encoding="ascii") as f:
        checks.check(f.read() == "old", "a file that is there stays when an export fails")


def check_damage(host, checks, name):
    """Content that is not what it was is refused, and leaves the file of before."""
    with lamina.Host(host.dir) as other:
        other.run("import", f"oci:{host.dir}/layout:{name}", "d:1")
        disk = other.dir + "/disk"
        other.run("export", "--format", "erofs", "d:1", disk)
        with open(disk, "rb") as f:
            before = f.read()
        for pack in os.listdir(other.store + "/packs"):
            path = f"{other.store}/packs/{pack}"
            os.chmod(path, 0o600)
            size = os.path.getsize(path)
            with open(path, "r+b") as f:
                for at in range(size // 8, size, max(size // 8, 1)):
                    f.seek(at)
                    f.write(bytes(64))
        for kind in ("erofs", "ext4"):
            done = other.run("export", "--format", kind, "d:1", disk, check=False)
            with open(disk, "rb") as f:
                checks.check(done.returncode == 1 and f.read() == before, f"{kind} of a damaged store is refused",
                             done.stderr)
            left = [n for n in os.listdir(other.dir) if n.startswith("disk.")]
            checks.check(not left, f"{kind}: nothing is left of it", str(left))


def main():
    lamina.need("unshare", "fsck.erofs", "dump.erofs", "mke2fs", "e2fsck", "debugfs")
    lamina.isolate(600)
    checks = lamina.Checks()
    with lamina.Host() as host:
        layout = host.dir + "/layout"
        subprocess.run(["/usr/bin/python3", lamina.SUPPORT + "/oddimages.py", layout], check=True,
                       stdout=subprocess.DEVNULL)
        tags = []
        for tag in lamina.layout_tags(layout):
            if host.run("import", f"oci:{layout}:{tag}", f"odd/{tag}:1", check=False).returncode == 0:
                tags.append(tag)
        for tag in tags:
            check_disk(host, checks, f"odd/{tag}:1", "erofs")
        for tag in ("kinds", "attributes", "hardlinks", "whiteouts", "many"):
            check_disk(host, checks, f"odd/{tag}:1", "ext4")
        check_sharing_and_holes(host, checks)
        check_other_store(host, checks, layout, tags)
        check_refusals(host, checks, "odd/many:1")
        check_damage(host, checks, "many")
        corpus = lamina.corpus()
        if corpus:
            for tag in lamina.layout_tags(corpus)[:3]:
                host.run("import", f"oci:{corpus}:{tag}", f"corpus/{tag}:1")
                check_disk(host, checks, f"corpus/{tag}:1", "erofs")
                check_disk(host, checks, f"corpus/{tag}:1", "ext4")
    checks.finish()


if __name__ == "__main__":
    main()
