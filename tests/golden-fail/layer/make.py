#!/usr/bin/env python3
"""Writes the bad layers of this folder: CODE-what-is-wrong.tar, where CODE is the error that
decoding must give. Deterministic; run it in this folder after a change."""
import gzip
import io
import struct
import tarfile

DIR, SYM, LNK, CHR = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE


def entry(name, kind=tarfile.REGTYPE, data=b"", link="", pax=None, uid=0, dev=(0, 0)):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.uid = kind, len(data), link, uid
    info.devmajor, info.devminor = dev
    info.pax_headers = pax or {}
    out = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data
    return out + bytes(-len(out) % 512)


def patched(block, at, data):
    """A header block with some bytes changed and its checksum made right again."""
    block = bytearray(block)
    block[at:at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def extension(kind, data):
    return patched(entry("extension", data=data), 156, kind)


END = bytes(1024)
FILE = entry("file", data=b"content")
WHOLE = FILE + END

BAD = {
    # streams
    "corrupt-not-a-tar": b"this is no tar at all\n" * 50,
    "corrupt-header-cut-off": FILE + entry("next")[:300],
    "corrupt-content-cut-off": entry("file", data=bytes(5000))[:2000],
    "corrupt-checksum": FILE + entry("next").replace(b"next", b"nexT") + END,
    "corrupt-one-zero-block-inside": FILE + bytes(512) + FILE + END,
    "corrupt-gzip-cut-off": gzip.compress(WHOLE, mtime=0)[:-12],
    "corrupt-gzip-checksum": gzip.compress(WHOLE, mtime=0)[:-8] + bytes(8),
    "corrupt-gzip-followed-by-other-bytes": gzip.compress(WHOLE, mtime=0) + b"more",
    "corrupt-zstd-cut-off": b"\x28\xb5\x2f\xfd\x04",
    "unsupported-xz": b"\xfd7zXZ\0" + bytes(600),
    # headers
    "corrupt-size-negative": patched(FILE, 124, b"\xff" * 12),
    "corrupt-size-no-number": patched(FILE, 124, b"12345678x01\0"),
    "corrupt-pax-length": extension(b"x", b"99 path=x\n") + WHOLE,
    "corrupt-pax-without-entry": extension(b"x", b"9 path=x\n") + END,
    "corrupt-pax-path-with-nul": extension(b"x", b"12 path=a\0b\n") + WHOLE,
    "limit-header-of-two-mebibytes": patched(patched(entry("x"), 124, b"00010000000\0"), 156, b"x"),
    "limit-name-of-300-bytes": entry("n" * 300) + END,
    "limit-path-of-70000-bytes": entry("p/" * 35000) + END,
    "limit-path-3000-deep": entry("p/" * 3000) + END,
    "limit-symlink-of-5000-bytes": entry("s", SYM, link="t" * 5000) + END,
    "limit-xattr-of-70000-bytes": entry("f", pax={"SCHILY.xattr.user.a": "v" * 70000}) + END,
    "unsupported-entry-type": patched(FILE, 156, b"M") + END,
    "unsupported-sparse-format": entry("f", pax={"GNU.sparse.major": "3"}) + END,
    "corrupt-sparse-map-beyond-file": entry("f", data=b"ab", pax={
        "GNU.sparse.map": "9,2", "GNU.sparse.size": "4"}) + END,
    "corrupt-sparse-map-overlapping": entry("f", data=b"abcd", pax={
        "GNU.sparse.map": "0,2,1,2", "GNU.sparse.size": "9"}) + END,
    "corrupt-sparse-map-too-short": entry("f", data=b"abcd", pax={
        "GNU.sparse.map": "0,2", "GNU.sparse.size": "9"}) + END,
    "limit-sparse-hole-of-terabytes": entry("f", pax={
        "GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 42)}) + END,
    # meaning
    "invalid-root-is-a-file": entry("./", data=b"x") + END,
    "invalid-root-is-a-link": entry("/", SYM, link="/etc") + END,
    "invalid-file-below-a-file": entry("a", data=b"x") + entry("a/b", data=b"y") + END,
    "invalid-symlink-loop-in-a-path": entry("a", SYM, link="b") + entry("b", SYM, link="a")
    + entry("a/x", data=b"y") + END,
    "invalid-symlink-to-nothing": patched(entry("s", SYM, link="x"), 157, b"\0") + END,
    "invalid-hard-link-to-itself": entry("a", LNK, link="a") + END,
    "invalid-hard-link-to-a-directory": entry("d/", DIR) + entry("a", LNK, link="d") + END,
    "invalid-hard-link-to-the-root": entry("a", LNK, link="../..") + END,
    "invalid-hard-link-to-what-was-replaced": entry("d", data=b"x") + entry("d/", DIR)
    + entry("a", LNK, link="d/x") + END,
    "invalid-whiteout-of-no-name": entry("d/.wh.") + END,
    "invalid-whiteout-of-dot-dot": entry("d/.wh...") + END,
    "invalid-whiteout-as-directory": entry(".wh.d/x") + END,
    "invalid-owner": entry("f", pax={"uid": "4294967295"}) + END,
    "invalid-device-number": entry("c", CHR, dev=(5000, 1)) + END,
    "invalid-acl": entry("f", pax={"SCHILY.xattr.system.posix_acl_access": "bogus"}) + END,
}

for name, data in BAD.items():
    with open(name + ".tar", "wb") as f:
        f.write(data)
