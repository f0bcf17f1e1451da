#!/usr/bin/python3
# test: alone
"""Two images that hold the same content under different metadata share their pages: what was read
through one is resident in the other, what is evicted through one is gone from the other, and the
server's own reads of packs leave nothing in the page cache (design.md 6).

The same in each page mode of the fuse driver: passthrough shares whatever the metadata, and with
the overlay driver; inode mode shares equal files; private mode shares nothing. Sandboxes over one
image share what they read, and never see each other's writes.

Counted with mincore(2), so that other work of the machine does not count; the growth of the whole
page cache is printed beside it."""
import ctypes
import hashlib
import mmap
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

FILES, FILE_BYTES = 160, 800_000
KEPT = 0.8  # the machine may take some pages back at any time
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


def resident_bytes(path):
    size = os.path.getsize(path)
    if size == 0:
        return 0
    fd = os.open(path, os.O_RDONLY)
    at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    pages = ctypes.create_string_buffer((size + PAGE - 1) // PAGE)
    if libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), pages) != 0:
        raise OSError(ctypes.get_errno(), path)
    libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size))
    os.close(fd)
    return sum(b & 1 for b in pages.raw) * PAGE


def resident_below(directory):
    return sum(resident_bytes(f"{base}/{name}") for base, _, names in os.walk(directory) for name in names if name != "more")


def evict(directory):
    for name in os.listdir(directory):
        fd = os.open(f"{directory}/{name}", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def content(i):
    return hashlib.shake_128(b"page%d" % i).digest(FILE_BYTES)


def make_root(path, mtime, mode):
    os.makedirs(path)
    for i in range(FILES):
        name = f"{path}/{i}"
        with open(name, "wb") as f:
            f.write(content(i))
        os.chmod(name, mode)
        os.utime(name, (mtime, mtime))


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3\n")


def cached_bytes():
    with open("/proc/meminfo", encoding="ascii") as f:
        fields = dict(line.split(":", 1) for line in f)
    return sum(int(fields[k].split()[0]) * 1024 for k in ("Cached", "Buffers"))


def read_whole(point):
    total = 0
    for name in os.listdir(point):
        with open(f"{point}/{name}", "rb", buffering=0) as f:
            while piece := f.read(1 << 20):
                total += len(piece)
    return total


DISTINCT = FILES * ((FILE_BYTES + PAGE - 1) // PAGE) * PAGE


def fuse_supported(host):
    point = host.dir + "/probe"
    os.mkdir(point)
    done = host.run("mount", "--driver", "fuse", "share0:1", point, check=False)
    if done.returncode == 0:
        host.umount(point)
    return done.returncode == 0


def check_shared(checks, reader, others, strangers, what):
    """What is read by one is resident in the others, and not in the strangers."""
    drop_caches()
    checks.check(read_whole(reader) == FILES * FILE_BYTES, f"{what}: all was read")
    pages = resident_below(reader)
    checks.check(KEPT * DISTINCT < pages <= DISTINCT, f"{what}: what was read is cached", f"{pages} {DISTINCT}")
    for name, point in others.items():
        found = resident_below(point)
        checks.check(KEPT * pages < found <= DISTINCT, f"{what}: and resident in {name}", f"{found} {pages}")
    for name, point in strangers.items():
        found = resident_below(point)
        checks.check(found == 0, f"{what}: and not in {name}", str(found))


def write_in(checks, mine, theirs, what):
    """Writes of every kind in one sandbox, while the others have the files open and mapped."""
    held = [(os.open(f"{point}/{i}", os.O_RDONLY), i) for point in theirs for i in range(6)]
    maps = [mmap.mmap(fd, PAGE, prot=mmap.PROT_READ) for fd, _ in held]
    before = [m[:] for m in maps]
    with open(mine + "/0", "r+b") as f:
        f.write(b"overwritten")
    with open(mine + "/1", "ab") as f:
        f.write(b"appended")
    with open(mine + "/2", "wb") as f:
        f.write(b"anew")
    os.truncate(mine + "/3", 5)
    with open(mine + "/4", "r+b") as f, mmap.mmap(f.fileno(), PAGE) as m:
        m[0:6] = b"mapped"
    os.rename(mine + "/5", mine + "/0")
    same = all(m[:] == b for m, b in zip(maps, before))
    checks.check(same, f"{what}: maps of others stay as they were")
    for point in theirs:
        good = all(open(f"{point}/{i}", "rb").read() == content(i) for i in range(6))
        checks.check(good, f"{what}: others read what they had", point)
    checks.check(open(mine + "/0", "rb").read() == content(5) and open(mine + "/2", "rb").read() == b"anew",
                 f"{what}: the writer reads what it wrote")
    for m in maps:
        m.close()
    for fd, _ in held:
        os.close(fd)


def check_fuse(host, checks):
    make_root(f"{host.dir}/root2", 1_500_000_000, 0o644)  # as the first, and one file more
    with open(f"{host.dir}/root2/more", "wb") as f:
        f.write(b"more")
    host.run("pack", f"{host.dir}/root2", "share2:1")
    modes = ("passthrough", "inode", "private")
    at = {(m, i): host.mount(f"share{i}:1", "--driver", "fuse", "--pages", m) for m in modes for i in range(3)}
    rw = {(m, i): host.mount("share0:1", "--driver", "fuse", "--pages", m, "--rw") for m in modes for i in range(2)}
    overlay = host.mount("share1:1", "--driver", "overlay", "--rw")
    for point in (at[m, 2] for m in modes):
        checks.check(os.path.exists(point + "/more"), "the third image has a file more")
    check_shared(checks, at["passthrough", 0],
                 {"other metadata": at["passthrough", 1], "the overlay driver": overlay,
                  "a sandbox": rw["passthrough", 0]},
                 {"inode mode": at["inode", 0], "private mode": at["private", 0]}, "passthrough")
    check_shared(checks, overlay, {"passthrough": at["passthrough", 0], "a sandbox": rw["passthrough", 1]}, {}, "overlay")
    check_shared(checks, at["inode", 0], {"equal files of another image": at["inode", 2]},
                 {"other metadata": at["inode", 1], "private mode": at["private", 0]}, "inode")
    check_shared(checks, at["private", 0], {},
                 {"the same image": rw["private", 1], "another": at["private", 1], "inode mode": at["inode", 0]}, "private")
    for m in modes:
        write_in(checks, rw[m, 0], [rw[m, 1], at[m, 0], at[m, 1], overlay], m)
    write_in(checks, overlay, [rw[m, 1] for m in modes], "overlay")
    for point in [*at.values(), *rw.values(), overlay]:
        host.umount(point)


def main():
    lamina.need("unshare")
    lamina.isolate(400)
    checks = lamina.Checks()
    with lamina.Host() as host:
        for i, (mtime, mode) in enumerate(((1_500_000_000, 0o644), (1_600_000_000, 0o600))):
            make_root(f"{host.dir}/root{i}", mtime, mode)
            host.run("pack", f"{host.dir}/root{i}", f"share{i}:1")
        one, two = (host.mount(f"share{i}:1", "--driver", "overlay") for i in range(2))
        packs = host.store + "/packs"
        distinct = DISTINCT
        checks.check(os.stat(one + "/0").st_mtime_ns != os.stat(two + "/0").st_mtime_ns, "their metadata differs")
        drop_caches()
        before = cached_bytes()
        checks.check(read_whole(one) == FILES * FILE_BYTES, "all was read")
        pages = resident_below(one)
        checks.check(KEPT * distinct < pages <= distinct, "what was read is cached once", f"{pages} {distinct}")
        found = resident_below(two)
        checks.check(KEPT * pages < found <= distinct, "and resident in the other image, which was not read", f"{found} {pages}")
        read_whole(two)
        server = resident_below(packs)
        checks.check(server < 0.05 * distinct, "the server's reads leave no second copy", str(server))
        print(f"page cache grew by {(cached_bytes() - before) / distinct:.3f} of the distinct bytes")
        evict(one)
        left = resident_below(two)
        checks.check(left < 0.05 * distinct, "evicted through one image, gone from the other", str(left))
        host.umount(one)
        host.umount(two)
        if fuse_supported(host):
            check_fuse(host, checks)
        else:
            print("the fuse driver is not in this version", flush=True)
    checks.finish()


if __name__ == "__main__":
    main()
