#!/usr/bin/env python3
"""Writes odd.tar: the layer whose listing is odd.listing. Deterministic."""
import io
import struct
import tarfile

DIR, SYM, LNK = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
out = io.BytesIO()


def add(name, kind=tarfile.REGTYPE, data=b"", link="", mode=0o644, uid=0, gid=0, mtime=1600000000,
        dev=(0, 0), pax=None):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, len(data), link, mode
    info.uid, info.gid, info.mtime, info.pax_headers = uid, gid, mtime, pax or {}
    info.devmajor, info.devminor = dev
    block = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data
    out.write(block + bytes(-len(block) % 512))


acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in (
    (1, 7, 0xFFFFFFFF), (2, 5, 12), (4, 5, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)))

add("./", DIR, mode=0o755)
add("etc/", DIR, mode=0o755, mtime=1)
add("etc/large", data=bytes(range(256)) * 300, pax={"mtime": "1600000000.123456789"})
add("etc/sixty-four", data=b"x" * 64, mode=0o4755)
add("etc/sixty-five", data=b"y" * 65, uid=3000000, gid=4000000)
add("etc/.wh.hosts")
add("hard", LNK, link="/etc/sixty-four")
add("etc/below", LNK, link="usr/bin/tool")
add("etc/below-too", LNK, link="./etc/below")
add("lib", SYM, link="usr/lib", mode=0o777)
add("lib/through", data=b"the link")
add("../../clamped", data=b"c")
add("replaced", data=b"old")
add("keeps-the-old", LNK, link="replaced")
add("replaced", data=b"new", mode=0o600)
add("was-a-file", data=b"f")
add("was-a-file/", DIR, mode=0o700)
add("was-a-file/now", data=b"n")
add("marked/x", data=b"x")
add("marked/.wh..wh..opq")
add("again/.wh..wh..opq")
add("again/", DIR, mode=0o750)
add(".wh.gone")
add(".wh.made-again")
add("made-again/inside", data=b"i")
add(".wh..wh.plnk/", DIR)
add(".wh..wh.plnk/12.34", data=b"plink")
add("plink", LNK, link=".wh..wh.plnk/12.34")
add("null", tarfile.CHRTYPE, mode=0o666, dev=(1, 3))
add("loop", tarfile.BLKTYPE, mode=0o660, dev=(7, 300))
add("pipe", tarfile.FIFOTYPE, mode=0o600)
add("attributes", data=b"a", mode=0o777, mtime=0, pax={
    "mtime": "-1.5", "SCHILY.xattr.user.b": "2", "SCHILY.xattr.user.a": "1",
    "SCHILY.xattr.security.selinux": "dropped", "SCHILY.xattr.odd": "dropped",
    "SCHILY.xattr.system.posix_acl_access": acl.decode("utf-8", "surrogateescape")})
add("sparse", data=b"abcd", pax={"GNU.sparse.map": "0,2,100,2", "GNU.sparse.size": "102"})

with open("odd.tar", "wb") as f:
    f.write(out.getvalue() + bytes(1024) + b"what follows the end counts for the digest only")
