#!/usr/bin/env python3
"""Lists a directory tree as one canonical line per entry, or compares two.

    treedump.py DIR                 print the listing
    treedump.py --compare A B       print what differs; exit status 1 when something does

A line holds everything that an image says of an entry: path, type, mode, owner, size, mtime in
nanoseconds, link target, hard-link group (the first path of the group), device number, extended
attributes, SHA-256 of the content. It also checks that the whole tree has one st_dev.
"""
import argparse
import hashlib
import os
import stat
import sys

TYPES = {
    stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
    stat.S_IFBLK: "block", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
}


def quote(raw: bytes) -> str:
    return "".join(chr(b) if 33 <= b < 127 and b != 37 else f"%{b:02x}" for b in raw)


def content_sha256(path: bytes) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def walk(root: bytes):
    """Yields paths relative to the root, parents first, sorted by bytes."""
    yield b""
    stack = [b""]
    while stack:
        top = stack.pop()
        for name in sorted(os.listdir(os.path.join(root, top))):
            path = os.path.join(top, name)
            yield path
            if stat.S_ISDIR(os.lstat(os.path.join(root, path)).st_mode):
                stack.append(path)


def dump(root: str, skip_whiteout_devices: bool = False):
    """Path -> dict of what the tree says of it."""
    raw_root = os.fsencode(root)
    devices, groups, out = set(), {}, {}
    for path in sorted(walk(raw_root)):
        full = os.path.join(raw_root, path) if path else raw_root
        st = os.lstat(full)
        kind = TYPES[stat.S_IFMT(st.st_mode)]
        if skip_whiteout_devices and kind == "char" and st.st_rdev == 0:
            continue
        devices.add(st.st_dev)
        entry = {
            "type": kind, "mode": f"{stat.S_IMODE(st.st_mode):04o}", "uid": st.st_uid,
            "gid": st.st_gid, "mtime": st.st_mtime_ns,
        }
        if kind == "file":
            entry["size"] = st.st_size
            entry["sha256"] = content_sha256(full)
        if kind == "symlink":
            entry["target"] = quote(os.readlink(full))
        if kind in ("char", "block"):
            entry["rdev"] = f"{os.major(st.st_rdev)}:{os.minor(st.st_rdev)}"
        if kind != "dir" and st.st_nlink > 1:
            entry["nlink"] = st.st_nlink
            entry["group"] = quote(groups.setdefault((st.st_dev, st.st_ino), path))
        for name in sorted(os.listxattr(full, follow_symlinks=False)):
            entry["xattr " + name] = os.getxattr(full, name, follow_symlinks=False).hex()
        out[path] = entry
    return out, devices


def line(path: bytes, entry: dict) -> str:
    return " ".join([quote(path) or "."] + [f"{k.replace(' ', ':')}={v}" for k, v in entry.items()])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--skip-root-times", action="store_true",
                        help="do not compare what the root directory itself says")
    parser.add_argument("--skip-whiteout-devices", action="store_true",
                        help="leave out 0/0 character devices, which no overlayfs can show")
    parser.add_argument("dirs", nargs="+")
    args = parser.parse_args()
    if not args.compare:
        tree, devices = dump(args.dirs[0], args.skip_whiteout_devices)
        for path, entry in tree.items():
            print(line(path, entry))
        return 0 if len(devices) == 1 else 1
    (a, _), (b, devices) = (dump(d, args.skip_whiteout_devices) for d in args.dirs)
    bad = 0
    if len(devices) != 1:
        print(f"{args.dirs[1]}: {len(devices)} device numbers in one tree")
        bad += 1
    for path in sorted(set(a) | set(b)):
        if path == b"" and args.skip_root_times:
            continue
        if path not in a or path not in b:
            print(f"{quote(path)}: only in {args.dirs[0] if path in a else args.dirs[1]}")
            bad += 1
            continue
        for key in sorted(set(a[path]) | set(b[path])):
            if a[path].get(key) != b[path].get(key):
                print(f"{quote(path) or '.'}: {key}: {a[path].get(key)} != {b[path].get(key)}")
                bad += 1
    print(f"{len(a)} entries, {bad} differences")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
