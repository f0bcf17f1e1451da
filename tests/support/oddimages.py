#!/usr/bin/env python3
"""Makes an OCI layout of small images that hold the odd entries a layer may have.

    oddimages.py OUT [--compression gzip|zstd|plain]

Every image has a name that says what it is about. Needs python3 and, for zstd, zstandard.
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
import tempfile

T0 = 1_600_000_000


class Layer:
    """A tar made entry by entry, in the order of the calls."""

    def __init__(self, fmt=tarfile.PAX_FORMAT):
        self.raw = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.raw, mode="w", format=fmt)

    def add(self, name, kind=tarfile.REGTYPE, data=b"", mode=None, uid=0, gid=0, mtime=T0, link="",
            xattrs=None, dev=(0, 0), pax=None):
        info = tarfile.TarInfo(name)
        info.type = kind
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        info.mode = mode if mode is not None else (0o755 if kind == tarfile.DIRTYPE else 0o644)
        info.uid, info.gid, info.linkname = uid, gid, link
        info.devmajor, info.devminor = dev
        info.mtime = mtime
        headers = dict(pax or {})
        for key, value in (xattrs or {}).items():
            headers["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")
        info.pax_headers = headers
        self.tar.addfile(info, io.BytesIO(data) if data else None)
        return self

    def dir(self, name, **kw):
        return self.add(name, tarfile.DIRTYPE, **kw)

    def symlink(self, name, target, **kw):
        return self.add(name, tarfile.SYMTYPE, link=target, mode=0o777, **kw)

    def hardlink(self, name, target, **kw):
        return self.add(name, tarfile.LNKTYPE, link=target, **kw)

    def whiteout(self, path):
        head, _, tail = path.rpartition("/")
        return self.add((head + "/" if head else "") + ".wh." + tail)

    def opaque(self, path):
        return self.add(path + "/.wh..wh..opq")

    def bytes(self):
        self.tar.close()
        return self.raw.getvalue()


def acl(*entries):
    """A POSIX ACL as the kernel's xattr: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


ACL_ACCESS = acl((1, 7, 0xFFFFFFFF), (2, 5, 1234), (4, 5, 0xFFFFFFFF), (16, 5, 0xFFFFFFFF),
                 (32, 4, 0xFFFFFFFF))
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def text(n, seed=0):
    return bytes((i * 31 + seed * 7 + (i >> 8)) & 0xFF for i in range(n))


def image_kinds():
    one = Layer()
    one.dir("etc").add("etc/plain", data=b"plain\n")
    for size in (0, 1, 63, 64, 65, 4095, 4096, 4097, 262144, 262145, 1500000):
        one.add(f"sizes-{size}", data=text(size))
    one.add("nanoseconds", data=b"n", pax={"mtime": "1614834367.123456789"})
    one.add("before-epoch", data=b"b", pax={"mtime": "-3600.5"})
    one.add("year-2100", data=b"f", mtime=4_102_444_800)
    one.add("big-owner", data=b"o", uid=4_294_000_000, gid=2_147_483_648)
    for mode in (0o4755, 0o2755, 0o1644, 0o000, 0o7777):
        one.add(f"mode-{mode:o}", data=b"m", mode=mode)
    one.dir("sticky", mode=0o1777).dir("setgid", mode=0o2775, gid=50)
    one.add("fifo", tarfile.FIFOTYPE).add("null", tarfile.CHRTYPE, dev=(1, 3))
    one.add("disk", tarfile.BLKTYPE, dev=(7, 300)).add("high-minor", tarfile.CHRTYPE, dev=(511, 70000))
    one.symlink("link", "etc/plain").symlink("dangling", "/no/where").symlink("up", "../../..")
    one.symlink("long-link", "x" * 200 + "/" + "y" * 900)
    one.symlink("owned-link", "etc", uid=7, gid=8, mtime=T0 + 5)
    one.add("name-" + "n" * 250, data=b"l").add("ünï-文", data=b"u").add("line\nbreak", data=b"b")
    one.add("tab\tand space ", data=b"t").add("back\\slash", data=b"s").add("-dash", data=b"d")
    deep = "/".join(["deep"] * 120)
    for i in range(1, 121):
        one.dir("/".join(["deep"] * i))
    one.add(deep + "/end", data=b"end")
    return [one]


def image_attributes():
    one = Layer()
    one.add("capable", data=text(100), mode=0o755, xattrs={"security.capability": CAPABILITY})
    one.add("user", data=b"u", xattrs={"user.note": b"a value", "user.empty": b"", "user.bin": b"\x00\xff\n="})
    one.add("trusted", data=b"t", xattrs={"trusted.mine": b"secret"})
    one.add("acl", data=b"a", mode=0o754, xattrs={"system.posix_acl_access": ACL_ACCESS})
    one.dir("acl-dir", mode=0o754, xattrs={"system.posix_acl_access": ACL_ACCESS,
                                           "system.posix_acl_default": ACL_ACCESS})
    one.add("large", data=b"l", xattrs={"user.large": text(3000)})
    one.dir("dir", xattrs={"user.on-a-directory": b"yes"})
    one.symlink("link", "user", xattrs={"trusted.on-a-link": b"yes"})
    for i in range(40):
        one.add(f"shared-{i}", data=b"s", xattrs={"user.same": b"the same value in many files"})
    two = Layer()
    two.add("user", data=b"u2", xattrs={"user.note": b"another"}).dir("dir", xattrs={"user.second": b"2"})
    two.add("capable", data=text(100), mode=0o755)
    return [one, two]


def image_whiteouts():
    one = Layer()
    for d in ("a", "b", "c", "d", "d/sub", "e", "f", "g"):
        one.dir(d)
        one.add(d + "/one", data=d.encode()).add(d + "/two", data=text(3000, 1))
    one.add("file", data=b"file").symlink("link", "a")
    two = Layer()
    two.whiteout("a/one").whiteout("b").opaque("c").add("c/new", data=b"new")
    two.add("d/late", data=b"late").opaque("d")          # the mark after its siblings
    two.whiteout("e").dir("e").add("e/again", data=b"again")  # deleted and made again
    two.whiteout("file").whiteout("link").whiteout("never-was")
    two.add("f", data=b"a file now")                     # a directory replaced by a file
    two.whiteout("g/two").add("g/two", data=b"both")     # deleted and present: present
    two.add("g/.wh..wh.plnk").add("g/.wh..wh.aufs")      # metadata of AUFS
    three = Layer()
    three.add("a/one", data=b"back").dir("b").add("file", data=b"file again").dir("f")
    return [one, two, three]


def image_replaced():
    one = Layer()
    one.dir("d").add("d/x", data=b"x").add("f", data=b"f").symlink("s", "d").dir("t").add("t/y", data=b"y")
    one.dir("m", mode=0o700, uid=5).add("m/kept", data=b"kept")
    two = Layer()
    two.symlink("d", "elsewhere").dir("f").add("f/now", data=b"n").add("s", data=b"file over a link")
    two.add("t", tarfile.FIFOTYPE).dir("m", mode=0o755, uid=6, mtime=T0 + 99)
    three = Layer()
    three.dir("d", mtime=T0 + 7).add("d/fresh", data=b"fresh")
    return [one, two, three]


def image_hardlinks():
    one = Layer()
    one.dir("d").add("d/a", data=text(5000, 3)).hardlink("d/b", "d/a").hardlink("c", "d/a")
    one.add("small", data=b"small").hardlink("small-2", "small")
    one.symlink("sym", "d/a").hardlink("sym-2", "sym")
    one.add("fifo", tarfile.FIFOTYPE).hardlink("fifo-2", "fifo")
    one.add("alone", data=text(9000, 4)).add("pair", data=text(70, 5)).hardlink("pair-2", "pair")
    two = Layer()
    two.hardlink("d/across", "alone")                    # a link to a file of the layer below
    two.whiteout("c").add("pair", data=b"not a pair now")
    two.hardlink("d/across-2", "d/across")
    three = Layer()
    three.add("d/a", data=b"replaced").hardlink("d/third", "d/b")
    return [one, two, three]


def image_duplicates():
    one = Layer()
    one.add("twice", data=b"first").add("twice", data=b"second", mode=0o600, mtime=T0 + 1)
    one.add("f", data=b"original").hardlink("g", "f").add("f", data=b"changed")
    one.dir("dir", mode=0o700).add("dir/in", data=b"in").dir("dir", mode=0o711, mtime=T0 + 2)
    one.add("to-dir", data=b"f").dir("to-dir").add("to-dir/x", data=b"x")
    one.symlink("to-file", "dir").add("to-file", data=b"now a file")
    one.add("./dot-slash", data=b"d").add("/absolute", data=b"a").add("dir//double", data=b"2")
    one.add("dir/./here", data=b"h").dir("trailing/")
    return [one]


def image_parents():
    one = Layer()
    one.dir("usr").dir("usr/lib").add("usr/lib/old", data=b"old").symlink("lib", "usr/lib")
    one.symlink("abs", "/usr/lib").dir("x")
    two = Layer()
    two.add("lib/through-link", data=b"t").add("abs/through-absolute", data=text(100))
    two.dir("x/made").add("x/made/file", data=b"m")
    three = Layer()
    three.whiteout("lib/old").add("lib/three", data=b"3")
    return [one, two, three]


def image_empty():
    return [Layer(), Layer().dir("only")]


def image_many():
    one = Layer()
    for d in range(20):
        one.dir(f"d{d:02}")
        for i in range(150):
            one.add(f"d{d:02}/file-number-{i:04}", data=text(i * 37 % 900, i), mtime=T0 + i)
    two = Layer()
    for d in range(0, 20, 3):
        for i in range(0, 150, 7):
            two.whiteout(f"d{d:02}/file-number-{i:04}")
        two.add(f"d{d:02}/added", data=text(80, d))
    return [one, two]


def gnu_tar_layer(fmt, *options):
    """What GNU tar writes of sparse, long-named and linked files."""
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/sparse", "wb") as f:
            for at in (0, 300_000, 4_000_000):
                f.seek(at)
                f.write(text(5000, at % 97))
            f.truncate(6_000_000)
        with open(d + "/hole", "wb") as f:
            f.truncate(3_000_000)
        with open(d + "/many-holes", "wb") as f:
            for i in range(40):
                f.seek(i * 50_000)
                f.write(text(4096, i))
        if fmt not in ("v7", "ustar"):
            long_dir = d + "/" + "long-" * 30 + "/" + "name-" * 30
            os.makedirs(long_dir)
            with open(long_dir + "/" + "file-" * 40, "wb") as f:
                f.write(b"long")
            os.symlink("target-" * 80, d + "/long-link")
        with open(d + "/plain", "wb") as f:
            f.write(b"plain")
        os.link(d + "/plain", d + "/linked")
        for base, _, files in os.walk(d, topdown=False):
            for name in files:
                os.utime(base + "/" + name, (T0, T0), follow_symlinks=False)
            os.utime(base, (T0, T0))
        return subprocess.run(["tar", "-C", d, "--format", fmt, "--sort=name", "--owner=0", "--group=0",
                               *options, "-cf", "-", "."], check=True, stdout=subprocess.PIPE).stdout


class RawLayer:
    def __init__(self, data):
        self.data = data

    def bytes(self):
        return self.data


def images():
    yield "kinds", image_kinds()
    yield "attributes", image_attributes()
    yield "whiteouts", image_whiteouts()
    yield "replaced", image_replaced()
    yield "hardlinks", image_hardlinks()
    yield "duplicates", image_duplicates()
    yield "parents", image_parents()
    yield "empty", image_empty()
    yield "many", image_many()
    for fmt in ("v7", "ustar", "gnu", "oldgnu", "posix"):
        yield f"format-{fmt}", [RawLayer(gnu_tar_layer(fmt))]
    yield "sparse-gnu", [RawLayer(gnu_tar_layer("gnu", "--sparse"))]
    for version in ("0.0", "0.1", "1.0"):
        yield f"sparse-pax-{version}", [RawLayer(gnu_tar_layer("posix", "--sparse",
                                                               f"--sparse-version={version}"))]


def squeeze(raw, compression):
    if compression == "plain":
        return raw, "application/vnd.oci.image.layer.v1.tar"
    if compression == "zstd":
        import zstandard
        half = len(raw) // 2
        frames = [zstandard.ZstdCompressor(write_checksum=True).compress(p) for p in (raw[:half], raw[half:])]
        skippable = struct.pack("<II", 0x184D2A51, 5) + b"skip!"
        return frames[0] + skippable + frames[1], "application/vnd.oci.image.layer.v1.tar+zstd"
    return gzip.compress(raw, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"


class Layout:
    def __init__(self, out):
        self.out = out
        self.manifests = []
        os.makedirs(out + "/blobs/sha256", exist_ok=True)
        with open(out + "/oci-layout", "w", encoding="utf-8") as f:
            f.write('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data, media_type):
        hexes = hashlib.sha256(data).hexdigest()
        with open(f"{self.out}/blobs/sha256/{hexes}", "wb") as f:
            f.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + hexes, "size": len(data)}

    def image(self, tag, layers, compression, config=None):
        raws = [layer.bytes() for layer in layers]
        descriptors = [self.blob(*squeeze(raw, compression)) for raw in raws]
        document = {
            "architecture": "amd64", "os": "linux", "config": config or {},
            "rootfs": {"type": "layers",
                       "diff_ids": ["sha256:" + hashlib.sha256(raw).hexdigest() for raw in raws]},
        }
        manifest = {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": descriptors,
        }
        descriptor = self.blob(json.dumps(manifest).encode(), manifest["mediaType"])
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(descriptor)

    def finish(self):
        with open(self.out + "/index.json", "w", encoding="utf-8") as f:
            json.dump({"schemaVersion": 2, "manifests": self.manifests}, f)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--compression", default="gzip", choices=["gzip", "zstd", "plain"])
    args = parser.parse_args()
    layout = Layout(args.out)
    for tag, layers in images():
        layout.image(tag, layers, args.compression)
    layout.finish()


if __name__ == "__main__":
    main()
