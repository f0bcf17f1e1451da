#!/usr/bin/env python3
"""Prints a layer listing as text, one line per entry. Written from spec/layer.md alone.

    listing.py FILE
"""
import struct
import sys

TYPES = {1: "dir", 2: "file", 3: "symlink", 4: "char", 5: "block", 6: "fifo", 7: "socket",
         8: "hardlink", 9: "whiteout"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n > len(self.data) - self.at:
            raise ValueError("cut off")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def string(self):
        return self.take(self.number("I"))


def show(raw):
    return "".join(chr(b) if 0x20 < b < 0x7F and b != 0x25 else f"%{b:02x}" for b in raw)


def entry(r):
    kind, flags, mode = r.number("B"), r.number("B"), r.number("H")
    uid, gid, seconds, nanoseconds = r.number("I"), r.number("I"), r.number("q"), r.number("I")
    path = r.string()
    words = [TYPES[kind], show(path) or "."]
    if kind in (3, 8):
        words.append("->" + show(r.string()))
    if kind not in (8, 9):
        words.append(f"{mode:04o} {uid}:{gid} {seconds}.{nanoseconds:09}")
    elif mode or uid or gid or seconds or nanoseconds:
        raise ValueError("attributes where there can be none")
    if kind in (4, 5):
        words.append("{}:{}".format(r.number("I"), r.number("I")))
    if kind == 2:
        size = r.number("Q")
        words.append(f"{size} =" + show(r.take(size)) if size <= 64 else f"{size} #" + r.take(32).hex())
    words += [name for bit, name in ((1, "opaque"), (2, "implied"), (4, "below")) if flags & bit]
    if flags & 8:
        for _ in range(r.number("I")):
            words.append(show(r.string()) + "=" + show(r.string()))
    return " ".join(words)


def main():
    with open(sys.argv[1], "rb") as f:
        r = Reader(f.read())
    if r.take(4) != b"LLST" or r.number("I") != 1:
        raise ValueError("not a layer listing of version 1")
    for _ in range(r.number("Q")):
        print(entry(r))
    if r.at != len(r.data):
        raise ValueError("bytes after the last entry")


if __name__ == "__main__":
    main()
