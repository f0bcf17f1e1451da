"""The cases of the comparison of writable mounts, as data: what the image holds for each, how the
object of the case gets to its place (lower layer, upper, both, removed …), and the operations that
are done to it. `cases()` lists them all; `image()` writes an OCI layout of two images that hold a
directory for each: one layer, and that layer under another.

Names in the directory of a case: t the object, h its other name if it is hard linked, s a file, e a
directory with something in it, f an empty directory; n and m are not there.
"""
import os
import stat
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fsops  # noqa: E402
import oddimages  # noqa: E402

USER = [1000, 1000, [1000, 50]]
ACL = oddimages.acl((1, 6, 0xFFFFFFFF), (2, 7, 1000), (4, 4, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF))
DEFAULT_ACL = oddimages.acl((1, 7, 0xFFFFFFFF), (2, 6, 1000), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 1, 0xFFFFFFFF))
ACL_TEXT, DEFAULT_TEXT = ACL.decode("latin-1"), DEFAULT_ACL.decode("latin-1")
CAP_TEXT = oddimages.CAPABILITY.decode("latin-1")
LARGE = 100_000


class Kind:
    """An object: its entries in a layer, and the operations that make the same in the upper."""

    def __init__(self, name, entries=None, make=None, groups=()):
        self.name, self.entries, self.make, self.groups = name, entries, make, set(groups)


def file_kind(name, size, seed, mode=0o644, uid=0, gid=0, xattrs=None, links=False, groups=()):
    def entries(layer, at, t="t"):
        layer.add(f"{at}/{t}", data=fsops.content(size, seed), mode=mode, uid=uid, gid=gid, xattrs=xattrs)
        if links:
            layer.hardlink(f"{at}/h", f"{at}/{t}")

    make = [["put", "t", size, seed, 0o600]]
    if uid or gid:
        make.append(["chown", "t", uid, gid])
    make.append(["chmod", "t", mode])
    for key, value in (xattrs or {}).items():
        make.append(["setxattr", "t", key, value.decode("latin-1")])
    if links:
        make.append(["link", "t", "h"])
    make.append(["utimens", "t", oddimages.T0, oddimages.T0])
    return Kind(name, entries, make, {"file", *groups})


def dir_kind(name, inside=(), mode=0o755, uid=0, gid=0, xattrs=None, groups=()):
    def entries(layer, at, t="t"):
        layer.dir(f"{at}/{t}", mode=mode, uid=uid, gid=gid, xattrs=xattrs)
        for path, size in inside:
            if size is None:
                layer.dir(f"{at}/{t}/{path}")
            else:
                layer.add(f"{at}/{t}/{path}", data=fsops.content(size, 9), uid=uid if "user" in path else 0)

    make = [["mkdir", "t", 0o700]]
    for path, size in inside:
        make.append(["mkdir", "t/" + path] if size is None else ["put", "t/" + path, size, 9])
        if "user" in path:
            make.append(["chown", "t/" + path, 1000, 0])
    if uid or gid:
        make.append(["chown", "t", uid, gid])
    make.append(["chmod", "t", mode])
    for key, value in (xattrs or {}).items():
        make.append(["setxattr", "t", key, value.decode("latin-1")])
    return Kind(name, entries, make, {"dir", *groups})


def other_kind(name, add, make, *groups):
    return Kind(name, add, make, {"other", *groups})


KINDS = [
    Kind("none", lambda layer, at, t="t": None, [], {"none"}),
    file_kind("empty", 0, 0),
    file_kind("small", 20, 1, groups={"plain"}),
    file_kind("large", LARGE, 2, groups={"plain", "data"}),
    file_kind("hard", 30, 3, links=True, groups={"linked", "data"}),
    file_kind("hardlarge", LARGE, 4, links=True, groups={"linked", "data"}),
    file_kind("capable", 200, 5, mode=0o755, xattrs={"security.capability": oddimages.CAPABILITY}, groups={"special"}),
    file_kind("setid", 200, 6, mode=0o6777, uid=1000, gid=50, groups={"special"}),
    file_kind("acl", 200, 7, mode=0o674, xattrs={"system.posix_acl_access": ACL, "user.x": b"value",
                                                 "trusted.y": b"value"}, groups={"special"}),
    file_kind("user", 200, 8, mode=0o640, uid=1000, gid=1000),
    file_kind("readonly", 200, 9, mode=0o444, uid=1000, gid=1000, groups={"special"}),
    dir_kind("dir"),
    dir_kind("full", (("in", 30), ("large", LARGE), ("sub", None)), groups={"full", "data"}),
    dir_kind("deep", (("a", None), ("a/b", None), ("a/b/c", None), ("a/b/c/in", 200), ("a/in", 10)), groups={"full"}),
    dir_kind("sticky", (("in", 30), ("user", 30)), mode=0o1777, groups={"full", "special"}),
    dir_kind("setgid", (("in", 30),), mode=0o2775, gid=50, groups={"full", "special"}),
    dir_kind("aclled", (("in", 30),), xattrs={"system.posix_acl_default": DEFAULT_ACL, "user.x": b"value"},
             groups={"full", "special"}),
    dir_kind("userdir", (("in", 30), ("user", 30)), uid=1000, gid=1000, groups={"full"}),
    other_kind("link", lambda layer, at, t="t": layer.symlink(f"{at}/{t}", "s"), [["symlink", "s", "t"]], "symlink"),
    other_kind("dirlink", lambda layer, at, t="t": layer.symlink(f"{at}/{t}", "e"), [["symlink", "e", "t"]], "symlink"),
    other_kind("dangling", lambda layer, at, t="t": layer.symlink(f"{at}/{t}", "m"), [["symlink", "m", "t"]], "symlink"),
    other_kind("loop", lambda layer, at, t="t": layer.symlink(f"{at}/{t}", "t"), [["symlink", "t", "t"]], "symlink"),
    other_kind("fifo", lambda layer, at, t="t": layer.add(f"{at}/{t}", oddimages.tarfile.FIFOTYPE),
               [["mknod", "t", stat.S_IFIFO | 0o644]]),
    other_kind("socket", None, [["mknod", "t", stat.S_IFSOCK | 0o644]]),
    other_kind("char", lambda layer, at, t="t": layer.add(f"{at}/{t}", oddimages.tarfile.CHRTYPE, dev=(1, 3)),
               [["mknod", "t", stat.S_IFCHR | 0o644, 1, 3]]),
    other_kind("block", lambda layer, at, t="t": layer.add(f"{at}/{t}", oddimages.tarfile.BLKTYPE, dev=(7, 300)),
               [["mknod", "t", stat.S_IFBLK | 0o644, 7, 300]]),
]
BY_NAME = {k.name: k for k in KINDS}


# ---- operations ----

class Work:
    """Operations of a case. `on`: groups of kinds that it is for (None: all); `user`: also done by
    a user who is not root; `shape`: about names, so done in every kind of parent directory."""

    def __init__(self, name, ops, on=None, user=False, shape=False, needs=""):
        self.name, self.ops, self.on, self.user, self.shape = name, ops, on, user, shape
        self.needs = set(needs)


def opens():
    for access in ("RDONLY", "WRONLY", "RDWR"):
        for extra in ("", "TRUNC", "APPEND", "APPEND|TRUNC", "CREAT", "CREAT|EXCL", "CREAT|TRUNC", "NOFOLLOW", "DIRECTORY",
                      "CREAT|DIRECTORY", "TMPFILE", "SYNC", "DIRECT", "NOATIME", "CREAT|NOFOLLOW"):
            flags = "|".join(x for x in (access, extra, "NONBLOCK") if x)
            # How much a read or write of a device takes is not the file system's.
            io = [["pread", 0, 0, 40], ["pwrite", 0, 3, 5, 50]] if "DIRECT" != extra else []
            yield Work(f"open {flags}", [["open", 0, "t", flags, 0o640], *io, ["fstat", 0]],
                       on={"file", "dir", "symlink", "none"} if io else None, user=extra in ("", "TRUNC", "CREAT"),
                       shape="CREAT" in extra and access != "RDONLY", needs="se")
    yield Work("open PATH", [["open", 0, "t", "PATH|NOFOLLOW"], ["fstat", 0], ["pread", 0, 0, 4], ["fchmod", 0, 0o600]])
    yield Work("open kinds", [["open", 0, "t", "RDONLY|NONBLOCK"], ["fstat", 0]], on={"other"}, needs="se")


def attributes():
    for mode in (0o600, 0o7777, 0o000):
        yield Work(f"chmod {mode:o}", [["chmod", "t", mode]], user=True, needs="se")
    for call in ("chown", "lchown"):
        for owner in ((1, 2), (-1, 50), (1000, -1), (-1, -1)):
            yield Work(f"{call} {owner}", [[call, "t", *owner]], user=True, needs="se")
    old = 1_000_000_000
    for times in ((old, old + 7), ("now", "omit"), ("omit", "now"), ("omit", old), (old, "omit"), ("now", "now"),
                  ("omit", "omit")):
        yield Work(f"utimens {times}", [["utimens", "t", *times], ["times", "t"]], user=True, needs="se")
    yield Work("utimens of a link", [["utimens", "t", old, old, False], ["times", "t"]])
    for n in (0, 5, 64, 65, 4096, 200_000):
        yield Work(f"truncate {n}", [["truncate", "t", n], ["get", "t"]], on={"file", "dir", "symlink", "none"},
                   user=n == 5, needs="se")
    yield Work("access", [["access", "t", mode] for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)], user=True, needs="se")
    yield Work("statfs", [["statfs", "t"]], on={"file", "dir", "none"})
    yield Work("readlink", [["readlink", "t"]])


def extended():
    names = (("user.a", "1"), ("trusted.a", "1"), ("security.a", "1"), ("security.capability", CAP_TEXT),
             ("system.posix_acl_access", ACL_TEXT), ("system.posix_acl_default", DEFAULT_TEXT), ("user.big", "x" * 3000),
             ("trusted.overlay.opaque", "y"), ("trusted.overlay.mine", "1"), ("user.overlay.mine", "1"),
             ("trusted.overlay.overlay.deep", "1"), ("trusted.overlay.metacopy", ""), ("trusted.overlay.redirect", "/etc"),
             ("trusted.overlay.", "1"), ("trusted.overlay", "1"),
             ("system.other", "1"), ("nonsense", "1"), ("user.", "1"), ("user.empty", ""))
    for name, value in names:
        yield Work(f"setxattr {name} {len(value)}", [["setxattr", "t", name, value], ["getxattr", "t", name], ["listxattr", "t"],
                                                     ["removexattr", "t", name], ["removexattr", "t", name], ["getxattr", "t", name],
                                                     ["setxattr", "t", name, value]], user=not name.startswith("trusted"))
    yield Work("setxattr create", [["setxattr", "t", "user.x", "1", 1], ["setxattr", "t", "user.x", "2", 1]])
    yield Work("setxattr replace", [["setxattr", "t", "user.x", "1", 2], ["setxattr", "t", "user.n", "2", 2]])
    yield Work("setxattr behind a link", [["setxattr", "t", "user.x", "1", 0, True], ["getxattr", "t", "user.x", True]], needs="se")
    yield Work("getxattr", [["getxattr", "t", n] for n in ("user.x", "user.n", "trusted.y", "security.capability",
                                                           "system.posix_acl_access", "system.posix_acl_default",
                                                           "trusted.overlay.origin", "trusted.overlay.metacopy",
                                                           "trusted.overlay.redirect", "trusted.overlay.opaque")], user=True)
    yield Work("removexattr", [["removexattr", "t", n] for n in ("user.x", "trusted.y", "security.capability",
                                                                 "system.posix_acl_access", "system.posix_acl_default",
                                                                 "trusted.overlay.origin", "trusted.overlay.metacopy")], user=True)
    yield Work("chmod with ACL", [["setxattr", "t", "system.posix_acl_access", ACL_TEXT], ["chmod", "t", 0o640],
                                  ["getxattr", "t", "system.posix_acl_access"]], on={"file", "dir"})


def names():
    yield Work("unlink", [["unlink", "t"], ["lstat", "t"], ["list", "."]], user=True, shape=True)
    yield Work("rmdir", [["rmdir", "t"], ["lstat", "t"], ["list", "."]], user=True, shape=True)
    makers = {"creat": ["creat", "t", 0o666], "mkdir": ["mkdir", "t", 0o777], "symlink": ["symlink", "x", "t"],
              "fifo": ["mknod", "t", stat.S_IFIFO | 0o666], "socket": ["mknod", "t", stat.S_IFSOCK | 0o666],
              "bound socket": ["bind", "t"], "node": ["mknod", "t", stat.S_IFREG | 0o666],
              "char": ["mknod", "t", stat.S_IFCHR | 0o666, 1, 5], "block": ["mknod", "t", stat.S_IFBLK | 0o666, 7, 9],
              "whiteout": ["mknod", "t", stat.S_IFCHR | 0o666, 0, 0]}
    remove = [["unlink", "t"], ["unlink", "t/in"], ["unlink", "t/large"], ["rmdir", "t/sub"], ["unlink", "t/user"], ["rmdir", "t"]]
    for name, op in makers.items():
        yield Work(f"make {name}", [op, ["list", "."]], user=True, shape=True, needs="se")
        yield Work(f"remove, make {name}", [*remove, op, ["list", "."], ["list", "t"]], shape=True)
        yield Work(f"remove, make {name}, remove", [*remove, op, ["lstat", "t"], ["unlink", "t"], ["rmdir", "t"], ["lstat", "t"]],
                   shape=name in ("creat", "mkdir"))
    yield Work("umask", [["umask", 0o77], ["creat", "n", 0o666], ["mkdir", "m", 0o2777]], on={"none"}, shape=True)
    for a, b in (("t", "n"), ("t", "s"), ("s", "t"), ("t", "t"), ("t", "e"), ("t", "e/l"), ("t", "f/l"), ("e", "t"), ("n", "t")):
        yield Work(f"link {a} {b}", [["link", a, b], ["lstat", a], ["lstat", b], ["same", a, b], ["put", b, 7, 60], ["lstat", a]],
                   user=b == "n", shape=b in ("n", "s"), needs="sef")
    yield Work("link behind a link", [["link", "t", "n", fsops.AT_SYMLINK_FOLLOW], ["lstat", "n"]], needs="se")
    yield Work("link, remove", [["link", "t", "n"], ["unlink", "t"], ["lstat", "n"], ["list", "."], ["get", "s"]], needs="s", shape=True)
    pairs = ("t n", "t s", "t e", "t f", "s t", "e t", "f t", "n t", "t t", "t e/in", "t f/x", "t e/x", "e/in t", "t t/x", "t t/in",
             "t/in n", "t/in t", "t/sub n", "t/a n", "t/in s")
    for pair in pairs:
        for flag, name in ((0, ""), (fsops.NOREPLACE, " noreplace"), (fsops.EXCHANGE, " exchange"), (fsops.WHITEOUT, " whiteout")):
            if flag and pair in ("n t", "t/in t", "t/a n"):
                continue
            a, b = pair.split()
            yield Work(f"rename {pair}{name}", [["rename", a, b, flag], ["lstat", a], ["lstat", b], ["list", "."], ["list", b]],
                       on={"dir"} if "t/" in a else None, user=flag != fsops.WHITEOUT and pair in ("t n", "t s", "s t", "t/in n"),
                       shape=pair in ("t n", "t s", "s t", "e t", "t e/x", "t f"), needs="sef")
    yield Work("rename there and back", [["rename", "t", "n"], ["rename", "n", "t"], ["list", "."], ["list", "t"]], shape=True)
    yield Work("rename, make anew", [["rename", "t", "n"], ["mkdir", "t"], ["list", "t"], ["creat", "t/new", 0o644], ["list", "n"],
                                     ["put", "n/in", 9, 61]], shape=True)
    yield Work("rename twice, remove", [["rename", "t", "n"], ["rename", "n", "m"], ["unlink", "m/in"], ["unlink", "m"], ["list", "m"]])
    yield Work("rename the parent of what was renamed", [["rename", "t", "e/t"], ["rename", "e", "n"], ["list", "n"], ["list", "n/t"],
                                                        ["put", "n/t/in", 5, 62], ["put", "n/in", 5, 63]], needs="e")


def inside():
    """Work in directories."""
    on = {"dir"}
    yield Work("make inside", [["creat", "t/x", 0o666], ["mkdir", "t/y", 0o777], ["symlink", "z", "t/z"],
                               ["mknod", "t/p", stat.S_IFIFO | 0o666], ["list", "t"], ["list", "t/y"]], on, user=True)
    yield Work("make inside, umask 077", [["umask", 0o77], ["creat", "t/x", 0o666], ["mkdir", "t/y", 0o777]], on)
    yield Work("remove inside", [["unlink", "t/in"], ["list", "t"], ["lstat", "t/in"], ["rmdir", "t/sub"], ["rmdir", "t"]], on, user=True)
    yield Work("remove and make inside", [["unlink", "t/in"], ["creat", "t/in", 0o600], ["unlink", "t/user"], ["mkdir", "t/user"],
                                          ["list", "t"]], on, user=True)
    yield Work("change inside", [["put", "t/in", 50, 51], ["chmod", "t/a/b/c/in", 0o600], ["put", "t/a/b/c/in", 3, 52],
                                 ["chmod", "t/a", 0o711]], on, user=True)
    yield Work("list", [["list", "t"], ["seek_list", "t"]], on)
    yield Work("list while it changes", [["list_while", "t", [["creat", "t/x", 0o644], ["unlink", "t/in"], ["mkdir", "t/y"],
                                                              ["rename", "t/large", "t/z"]]], ["list", "t"]], on)
    yield Work("open directory, renamed", [["open", 0, "t", "RDONLY|DIRECTORY"], ["rename", "t", "n"], ["creat", "@0/x", 0o644],
                                           ["put", "@0/in", 4, 53], ["list", "@0"], ["list", "n"], ["fstat", 0]], on)
    yield Work("open directory, removed", [["open", 0, "t", "RDONLY|DIRECTORY"], ["unlink", "t/in"], ["unlink", "t/large"],
                                           ["rmdir", "t/sub"], ["unlink", "t/user"], ["rmdir", "t"], ["fdlist", 0],
                                           ["creat", "@0/x", 0o644], ["mkdir", "@0/y"], ["lstat", "@0/in"], ["fchmod", 0, 0o700]], on)
    yield Work("fsync of a directory", [["open", 0, "t", "RDONLY|DIRECTORY"], ["creat", "t/x", 0o644], ["fsync", 0], ["fdatasync", 0]], on)
    yield Work("attributes of an open directory", [["open", 0, "t", "RDONLY|DIRECTORY"], ["fchmod", 0, 0o711], ["fchown", 0, 3, 4],
                                                   ["fsetxattr", 0, "user.q", "1"], ["futimens", 0, 5, 6], ["fstat", 0], ["flistxattr", 0]],
               on, user=True)
    yield Work("tmpfile", [["open", 0, "t", "TMPFILE|RDWR", 0o666], ["fstat", 0], ["pwrite", 0, 0, 300, 54], ["list", "t"],
                           ["fchmod", 0, 0o604], ["fsetxattr", 0, "user.q", "1"], ["fdlink", 0, "t/x"], ["fstat", 0], ["get", "t/x"],
                           ["fdlink", 0, "n"], ["pwrite", 0, 300, 3, 55], ["lstat", "n"]], on)
    yield Work("tmpfile by proc", [["open", 0, "t", "TMPFILE|WRONLY", 0o600], ["pwrite", 0, 0, 300, 54], ["proclink", 0, "t/x"]], on,
               user=True)
    yield Work("tmpfile never linked", [["open", 0, "t", "TMPFILE|RDWR|EXCL", 0o600], ["pwrite", 0, 9, 9, 56], ["fdlink", 0, "t/x"],
                                        ["pread", 0, 0, 30], ["ftruncate", 0, 4], ["fstat", 0], ["close", 0], ["list", "t"]], on)
    yield Work("tmpfile over a name", [["open", 0, "t", "TMPFILE|RDWR", 0o600], ["fdlink", 0, "t/in"], ["unlink", "t/in"],
                                       ["fdlink", 0, "t/in"], ["list", "t"]], on)


def data():
    """Work on what is in files."""
    on = {"file"}
    yield Work("write", [["open", 0, "t", "RDWR"], ["write", 0, 10, 70], ["read", 0, 10], ["lseek", 0, 0, os.SEEK_END], ["write", 0, 3, 71],
                         ["fstat", 0], ["get", "t"]], on, user=True)
    yield Work("append", [["open", 0, "t", "WRONLY|APPEND"], ["write", 0, 10, 72], ["pwrite", 0, 0, 5, 73], ["fstat", 0]], on, user=True)
    yield Work("write far behind the end", [["open", 0, "t", "RDWR"], ["pwrite", 0, 300_000, 10, 74], ["fstat", 0], ["holes", 0],
                                            ["pread", 0, 299_990, 40]], on)
    yield Work("ftruncate", [["open", 0, "t", "RDWR"], ["ftruncate", 0, 3], ["ftruncate", 0, 90], ["pread", 0, 0, 100], ["fstat", 0]], on)
    for name, mode in (("", 0), ("keep size", 1), ("punch", 3), ("zero", 16), ("zero, keep size", 17), ("collapse", 8), ("insert", 32),
                       ("punch without keep", 2)):
        for offset, n in ((0, 4096), (4096, 8192), (150_000, 50_000), (10, 5), (0, 0)):
            yield Work(f"fallocate {name} {offset}+{n}", [["open", 0, "t", "RDWR"], ["fallocate", 0, mode, offset, n], ["fstat", 0],
                                                          ["pread", 0, 0, 300_000]], {"plain"} if n != 4096 else on)
    yield Work("fallocate read-only", [["open", 0, "t", "RDONLY"], ["fallocate", 0, 0, 0, 10]], on)
    for a, b, extra in (("s", "t", []), ("t", "s", []), ("t", "t", [])):
        yield Work(f"copy range {a} {b}", [["open", 0, a, "RDONLY"], ["open", 1, b, "RDWR"], ["copy_range", 0, 2, 1, 30, 500], ["fstat", 1],
                                           ["get", b]], on, needs="s")
        yield Work(f"sendfile {a} {b}", [["open", 0, a, "RDONLY"], ["open", 1, b, "RDWR"], ["sendfile", 0, 2, 1, 500], ["fstat", 1],
                                         ["get", b]], on, needs="s")
    yield Work("copy range overlapping", [["open", 0, "t", "RDWR"], ["copy_range", 0, 0, 0, 5, 10]], on)
    yield Work("copy range of all", [["open", 0, "t", "RDONLY"], ["open", 1, "n", "RDWR|CREAT"], ["copy_range", 0, 0, 1, 0, 1_000_000],
                                     ["get", "n"]], on)
    yield Work("seek", [["open", 0, "t", "RDONLY"], ["holes", 0], ["lseek", 0, 0, os.SEEK_END], ["lseek", 0, 5, os.SEEK_DATA],
                        ["lseek", 0, 5, os.SEEK_HOLE], ["lseek", 0, 1_000_000, os.SEEK_DATA], ["lseek", 0, -1, os.SEEK_SET]], on)
    yield Work("map", [["open", 0, "t", "RDWR"], ["map", 0, 20, True], ["map_read", 0, 0, 20], ["map_write", 0, 5, 10, 75], ["msync", 0],
                       ["pread", 0, 0, 30], ["get", "t"], ["pwrite", 0, 0, 5, 76], ["map_read", 0, 0, 20]], on)
    yield Work("map, then closed", [["open", 0, "t", "RDWR"], ["map", 0, 20, True], ["map_write", 0, 5, 10, 77], ["close", 0], ["get", "t"]], on)
    yield Work("map read-only, then written", [["open", 0, "t", "RDONLY"], ["map", 0, 20, False], ["map_read", 0, 0, 20],
                                               ["open", 1, "t", "RDWR"], ["pwrite", 1, 0, 10, 78], ["get", "t"]], on)
    yield Work("attributes of a descriptor", [["open", 0, "t", "RDONLY"], ["fchmod", 0, 0o604], ["fstat", 0], ["lstat", "t"],
                                              ["fchown", 0, 5, 6], ["fsetxattr", 0, "user.q", "1"], ["flistxattr", 0],
                                              ["fgetxattr", 0, "user.q"], ["futimens", 0, 5, 6], ["fstat", 0], ["lstat", "t"],
                                              ["pread", 0, 0, 50], ["fremovexattr", 0, "user.q"], ["get", "t"]], on, user=True)
    yield Work("open, unlinked", [["open", 0, "t", "RDWR"], ["unlink", "t"], ["fstat", 0], ["pwrite", 0, 2, 8, 79], ["pread", 0, 0, 40],
                                  ["ftruncate", 0, 5], ["fchmod", 0, 0o611], ["fsetxattr", 0, "user.q", "1"], ["fstat", 0],
                                  ["fallocate", 0, 0, 0, 9000], ["fdlink", 0, "n"], ["list", "."], ["lstat", "h"]], on, shape=True)
    yield Work("open read-only, unlinked", [["open", 0, "t", "RDONLY"], ["unlink", "t"], ["fstat", 0], ["pread", 0, 0, 40],
                                            ["fchmod", 0, 0o611], ["fsetxattr", 0, "user.q", "1"], ["fstat", 0], ["creat", "t", 0o644],
                                            ["pread", 0, 0, 40]], on)
    yield Work("open, replaced", [["open", 0, "t", "RDWR"], ["rename", "s", "t"], ["pwrite", 0, 0, 8, 80], ["fstat", 0], ["get", "t"]], on,
               needs="s")
    yield Work("open, renamed", [["open", 0, "t", "RDWR"], ["rename", "t", "f/n"], ["pwrite", 0, 0, 8, 81], ["fstat", 0], ["get", "f/n"],
                                 ["truncate", "f/n", 4], ["fstat", 0]], on, needs="f")
    yield Work("open read-only, renamed, written", [["open", 0, "t", "RDONLY"], ["rename", "t", "n"], ["fchmod", 0, 0o640], ["lstat", "n"],
                                                    ["put", "n", 8, 82], ["lstat", "n"]], on)
    yield Work("read before copy-up, then after", [["open", 0, "t", "RDONLY"], ["pread", 0, 0, 30], ["open", 1, "t", "RDWR"],
                                                   ["pwrite", 1, 0, 10, 83], ["get", "t"], ["pread", 0, 0, 30], ["fstat", 0]], on)
    yield Work("truncated under a reader", [["open", 0, "t", "RDONLY"], ["truncate", "t", 4], ["pread", 0, 0, 30], ["fstat", 0]], on)
    yield Work("opened twice for writing", [["open", 0, "t", "RDWR"], ["open", 1, "t", "RDWR|APPEND"], ["pwrite", 0, 0, 5, 84],
                                            ["write", 1, 5, 85], ["pread", 0, 0, 300], ["fstat", 0], ["close", 0], ["fstat", 1]], on)
    for first, second in (("RDONLY", "RDONLY"), ("RDONLY", "RDWR"), ("RDWR", "RDONLY"), ("RDWR", "RDWR")):
        yield Work(f"flock {first} {second}", [["open", 0, "t", first], ["flock", 0, 2], ["open", 1, "t", second], ["flock", 1, 2],
                                               ["flock", 1, 1], ["flock", 0, 8], ["flock", 1, 2]], on)
    yield Work("OFD locks", [["open", 0, "t", "RDWR"], ["open", 1, "t", "RDWR"], ["ofd_lock", 0, 1, 0, 10], ["ofd_lock", 1, 1, 5, 10],
                             ["ofd_lock", 1, 1, 10, 10], ["ofd_lock", 0, 2, 0, 0], ["ofd_lock", 1, 1, 5, 10]], on)
    yield Work("POSIX locks", [["open", 0, "t", "RDWR"], ["posix_lock", 0, 1, 0, 0], ["posix_probe", "t"], ["posix_lock", 0, 2, 0, 0],
                               ["posix_probe", "t"]], on)
    yield Work("POSIX lock of a reader", [["open", 0, "t", "RDONLY"], ["posix_lock", 0, 0, 0, 0], ["posix_probe", "t"]], on)
    yield Work("sync", [["open", 0, "t", "RDWR"], ["write", 0, 10, 86], ["fsync", 0], ["fdatasync", 0], ["close", 0], ["get", "t"]], on)
    linked = {"linked"}
    yield Work("written by one name", [["put", "t", 50, 87], ["get", "h"], ["same", "t", "h"], ["lstat", "h"]], linked)
    yield Work("written by the other name", [["open", 0, "h", "RDWR"], ["pwrite", 0, 3, 5, 88], ["get", "t"], ["same", "t", "h"]], linked)
    yield Work("attributes by one name", [["chmod", "t", 0o600], ["setxattr", "h", "user.q", "1"], ["lstat", "h"], ["listxattr", "t"],
                                          ["same", "t", "h"]], linked)
    yield Work("one name removed", [["unlink", "t"], ["lstat", "h"], ["put", "h", 50, 89], ["lstat", "h"], ["link", "h", "t"],
                                    ["lstat", "t"]], linked)
    yield Work("both names removed", [["open", 0, "t", "RDWR"], ["unlink", "t"], ["fstat", 0], ["unlink", "h"], ["fstat", 0],
                                      ["pwrite", 0, 0, 4, 90], ["fstat", 0]], linked)
    yield Work("renamed over each other", [["rename", "t", "h"], ["lstat", "t"], ["lstat", "h"], ["rename", "t", "h", 2],
                                           ["rename", "t", "h", 1]], linked)
    yield Work("one name renamed", [["rename", "t", "f/n"], ["put", "f/n", 20, 91], ["get", "h"], ["same", "f/n", "h"], ["lstat", "h"]],
               linked, needs="f")
    yield Work("a third name", [["link", "t", "n"], ["lstat", "h"], ["put", "n", 20, 92], ["get", "h"], ["unlink", "t"], ["lstat", "h"]], linked)
    yield Work("open by one name, other written", [["open", 0, "t", "RDWR"], ["truncate", "h", 2], ["fstat", 0], ["pwrite", 0, 0, 9, 93],
                                                   ["get", "h"]], linked)
    special = {"special"}
    yield Work("write takes privileges away", [["chmod", "t", 0o6777], ["as", *USER, ["open", 0, "t", "RDWR"]],
                                               ["as", *USER, ["pwrite", 0, 0, 4, 94]], ["lstat", "t"], ["listxattr", "t"]], {"file"})
    yield Work("truncate takes privileges away", [["chmod", "t", 0o6777], ["as", *USER, ["truncate", "t", 4]], ["lstat", "t"],
                                                  ["listxattr", "t"]], {"file"})
    yield Work("chown takes privileges away", [["chown", "t", 5, 6], ["lstat", "t"], ["listxattr", "t"]], special)


def works():
    for group in (opens, attributes, extended, names, inside, data):
        yield from group()


# ---- places ----

# Place of the object -> what is in the lower layer, what in the upper one of the image (names of
# kinds; SELF is the case's), and what is done before.
SELF = "self"
PLACES = {
    "lower": (SELF, None, None),
    "app": (None, SELF, None),
    "both": ("other", SELF, None),
    "touched": (SELF, None, "touch"),
    "written": (SELF, None, "write"),
    "upper": (None, None, "make"),
    "gone": (SELF, None, "remove"),
    "replaced": ("other", None, "replace"),
    "remade": (SELF, None, "remake"),
}
# Kind of the parent directory p -> layer that it and the object are in, or None; what is done.
PARENTS = {
    "new": (None, [["mkdir", "p"]]),
    "merged": ("base", [["creat", "p/z", 0o644]]),
    "opaque": ("old", [["unlink", "p/old"], ["rmdir", "p"], ["mkdir", "p"]]),
    "app-opaque": ("app", []),
    "renamed": ("q", [["rename", "q", "p"]]),
    "renamed in a renamed": ("r/q", [["rename", "r/q", "r/p"], ["rename", "r", "p2"], ["rename", "p2/p", "p"]]),
}
REMOVE = [["unlink", "t"], ["unlink", "t/in"], ["unlink", "t/large"], ["unlink", "t/user"], ["unlink", "t/a/b/c/in"],
          ["rmdir", "t/a/b/c"], ["rmdir", "t/a/b"], ["unlink", "t/a/in"], ["rmdir", "t/a"], ["rmdir", "t/sub"], ["rmdir", "t"]]


class Case:
    def __init__(self, work, kind, place, parent="", user=False):
        self.work, self.kind, self.place, self.parent, self.user = work, kind, place, parent, user
        self.name = f"{work.name} | {kind.name} | {place}" + (f" | in {parent}" if parent else "") + (" | user" if user else "")
        self.dir = ""  # given by number()

    @property
    def sub(self):
        return "/p" if self.parent else ""

    def setup(self):
        """Operations in the case's directory that bring the object to its place."""
        out = list(PARENTS[self.parent][1]) if self.parent else []
        how = PLACES[self.place][2]
        made = self.parent in ("new", "opaque")
        ops = []
        if made:
            ops += [["put", "s", 300, 40], ["mkdir", "e"], ["put", "e/in", 30, 41], ["mkdir", "f"]]
        if how == "touch":
            ops.append(["chmod", "t", 0o750] if "symlink" not in self.kind.groups else ["lchown", "t", 9, 9])
        elif how == "write":
            ops += [["open", 0, "t", "RDWR"], ["pwrite", 0, 1, 2, 30], ["close", 0], ["creat", "t/w", 0o644]]
        elif how == "make":
            ops += self.kind.make
        elif how == "remove":
            ops += REMOVE
        elif how == "remake":
            ops += REMOVE + [["unlink", "h"]] + self.kind.make
        elif how == "replace":
            ops += [["unlink", "t"], ["unlink", "t/was"], ["rmdir", "t"], *self.kind.make]
        for op in ops:
            out.append(self.below(op))
        return out

    def below(self, op):
        """The operation with its names taken below the parent directory."""
        if not self.parent:
            return op
        return [f"p/{x}" if isinstance(x, str) and i in PATHS.get(op[0], ()) else x for i, x in enumerate(op)]

    def ops(self):
        ops = [["as", *USER, op] for op in self.work.ops] if self.user else self.work.ops
        return [["mark", "t"], *ops, ["kept", "t"]]

    def fill(self, base, app):
        """The case's entries of both layers."""
        d = self.dir
        base.dir(d, mode=0o777)
        where, lower, upper = d, base, app
        if self.parent:
            layer, _ = PARENTS[self.parent]
            if layer is None:
                return
            if layer == "old":
                base.dir(d + "/p").add(d + "/p/old", data=b"old")
                return
            if layer == "app":
                base.dir(d + "/p").add(d + "/p/old", data=b"old")
                app.dir(d, mode=0o777).dir(d + "/p").opaque(d + "/p")
                where, lower = d + "/p", app
            else:
                where = d + "/" + {"base": "p", "q": "q", "r/q": "r/q"}[layer]
                for at in ("r", "r/q") if layer == "r/q" else (where[len(d) + 1:],):
                    base.dir(f"{d}/{at}")
        if "s" in self.work.needs:
            lower.add(where + "/s", data=fsops.content(300, 40))
        if "e" in self.work.needs:
            lower.dir(where + "/e").add(where + "/e/in", data=fsops.content(30, 41))
        if "f" in self.work.needs:
            lower.dir(where + "/f")
        for what, target in zip(PLACES[self.place][:2], (lower, upper)):
            if what is None:
                continue
            if target is app and lower is not app:
                app.dir(d, mode=0o777)
                if where != d:
                    app.dir(where)
            if what == SELF:
                self.kind.entries(target, where)
            elif "dir" in self.kind.groups:  # the other: a directory too, so that both merge
                target.dir(where + "/t", mode=0o711).add(where + "/t/was", data=b"was").add(where + "/t/in", data=b"lower")
            else:
                target.dir(where + "/t").add(where + "/t/was", data=b"was")


# Which arguments of an operation are paths, for those that setups use.
PATHS = {"put": (1,), "creat": (1,), "mkdir": (1,), "unlink": (1,), "rmdir": (1,), "chmod": (1,), "chown": (1,), "lchown": (1,),
         "open": (2,), "symlink": (2,), "mknod": (1,), "setxattr": (1,), "link": (1, 2), "utimens": (1,), "rename": (1, 2)}


def places_of(kind, parent):
    for place, (lower, app, how) in PLACES.items():
        if kind.entries is None and (SELF in (lower, app) or how == "remake"):
            continue
        if "none" in kind.groups and place != "lower":
            continue
        if place == "written" and not kind.groups & {"file", "dir"}:
            continue
        if parent in ("new", "opaque") and place not in ("upper", *(("lower",) if "none" in kind.groups else ())):
            continue
        if parent == "app-opaque" and (app is not None or lower == "other"):
            continue
        if parent and parent != "merged" and app is not None:
            continue
        yield place


def cases():
    """All cases, in an order that does not change."""
    for work in works():
        for kind in KINDS:
            if work.on is not None and not work.on & kind.groups:
                continue
            for parent in ("", *(PARENTS if work.shape and kind.name in ("none", "small", "hard", "full", "link") else ())):
                for place in places_of(kind, parent):
                    yield Case(work, kind, place, parent)
            if work.user and kind.name in ("none", "small", "acl", "user", "setid", "readonly", "full", "sticky", "setgid", "aclled",
                                           "userdir", "link", "fifo"):
                for place in places_of(kind, ""):
                    if place in ("lower", "upper", "touched", "gone"):
                        yield Case(work, kind, place, "", True)


def number(chosen):
    """Gives each case its directory."""
    for i, case in enumerate(chosen):
        case.dir = f"c{i // 500:03}/{i:05}"
    return chosen


def image(layout, chosen, copies, extra=None):
    """Writes both images to a layout: tags base and app. `copies` directories r000 … hold the tree
    that random sequences work on; extra(base, app) adds more."""
    base, app = oddimages.Layer(), oddimages.Layer()
    for group in sorted({case.dir.split("/")[0] for case in chosen}):
        base.dir(group)
    for case in chosen:
        case.fill(base, app)
    for i in range(copies):
        random_fixture(base, app, f"r{i:03}")
    if extra:
        extra(base, app)
    out = oddimages.Layout(layout)
    low, high = base.bytes(), app.bytes()
    out.image("base", [oddimages.RawLayer(low)], "plain")
    out.image("app", [oddimages.RawLayer(low), oddimages.RawLayer(high)], "plain")
    out.finish()


def random_fixture(base, app, at):
    """A small tree with a little of everything."""
    base.dir(at, mode=0o777).dir(at + "/a").dir(at + "/a/b").dir(at + "/a/b/c").dir(at + "/d", mode=0o2775, gid=50)
    base.dir(at + "/e", xattrs={"system.posix_acl_default": DEFAULT_ACL})
    base.add(at + "/a/f", data=fsops.content(40, 1)).add(at + "/a/g", data=fsops.content(9000, 2), xattrs={"user.x": b"1"})
    base.add(at + "/a/b/f", data=fsops.content(LARGE, 3)).add(at + "/a/b/c/g", data=fsops.content(200, 4))
    base.add(at + "/d/f", data=fsops.content(5000, 5), mode=0o664).hardlink(at + "/d/g", at + "/d/f")
    base.hardlink(at + "/a/b/c/h", at + "/d/f").add(at + "/e/f", data=fsops.content(70, 6), mode=0o4755)
    base.symlink(at + "/e/l", "../a/f").symlink(at + "/l", "a/b").add(at + "/f", data=fsops.content(64, 7))
    base.dir(at + "/o").add(at + "/o/was", data=b"was")
    app.dir(at, mode=0o777).dir(at + "/a").add(at + "/a/f", data=fsops.content(50, 8)).whiteout(at + "/a/b/f")
    app.dir(at + "/a/b").dir(at + "/o").opaque(at + "/o").add(at + "/o/g", data=fsops.content(3000, 9))
    app.add(at + "/g", data=fsops.content(100, 10)).hardlink(at + "/o/h", at + "/g")
