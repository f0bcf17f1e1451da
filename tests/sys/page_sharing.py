#!/usr/bin/python3
"""Two images that hold the same content under different metadata share their pages: what was read
through one is resident in the other, what is evicted through one is gone from the other, and the
server's own reads of packs leave nothing in the page cache (design.md 6).

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
    return sum(resident_bytes(f"{base}/{name}") for base, _, names in os.walk(directory) for name in names)


def evict(directory):
    for name in os.listdir(directory):
        fd = os.open(f"{directory}/{name}", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def make_root(path, mtime, mode):
    os.makedirs(path)
    for i in range(FILES):
        name = f"{path}/{i}"
        with open(name, "wb") as f:
            f.write(hashlib.shake_128(b"page%d" % i).digest(FILE_BYTES))
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


def main():
    lamina.need("unshare")
    lamina.isolate(240)
    checks = lamina.Checks()
    with lamina.Host() as host:
        for i, (mtime, mode) in enumerate(((1_500_000_000, 0o644), (1_600_000_000, 0o600))):
            make_root(f"{host.dir}/root{i}", mtime, mode)
            host.run("pack", f"{host.dir}/root{i}", f"share{i}:1")
        one, two = (host.mount(f"share{i}:1") for i in range(2))
        packs = host.store + "/packs"
        distinct = FILES * ((FILE_BYTES + PAGE - 1) // PAGE) * PAGE
        checks.check(os.stat(one + "/0").st_mtime_ns != os.stat(two + "/0").st_mtime_ns, "their metadata differs")
        drop_caches()
        before = cached_bytes()
        checks.check(read_whole(one) == FILES * FILE_BYTES, "all was read")
        pages = resident_below(one)
        checks.check(0.95 * distinct < pages <= distinct, "what was read is cached once", f"{pages} {distinct}")
        checks.check(resident_below(two) == pages, "and resident in the other image, which was not read")
        read_whole(two)
        server = resident_below(packs)
        checks.check(server < 0.05 * distinct, "the server's reads leave no second copy", str(server))
        print(f"page cache grew by {(cached_bytes() - before) / distinct:.3f} of the distinct bytes")
        evict(one)
        left = resident_below(two)
        checks.check(left < 0.05 * distinct, "evicted through one image, gone from the other", str(left))
        host.umount(one)
        host.umount(two)
    checks.finish()


if __name__ == "__main__":
    main()
