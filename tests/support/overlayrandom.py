"""Random sequences of operations (fsops.py) for the comparison of writable mounts."""
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fsops  # noqa: E402


class Chooser:
    """Picks names and slots as a program would: mostly such as there are."""

    def __init__(self, r, ops):
        self.r, self.ops = r, ops
        self.found = [os.path.relpath(os.path.join(at, name), ".") for at, dirs, files in os.walk(".") for name in dirs + files]
        self.dirs = [at[2:] or "." for at, _, _ in os.walk(".")]

    def path(self):
        if self.found and self.r.random() < 0.75:
            return self.r.choice(self.found)
        return self.new()

    def new(self):
        directory = self.r.choice(self.dirs if self.r.random() < 0.9 else ("a", "a/b", "x", "x/y", "l", "nowhere"))
        return f"{directory}/{self.r.choice('fghxyzbclade')}".removeprefix("./")

    def directory(self):
        return self.r.choice(self.dirs)

    def slot(self):
        filled = sorted(self.ops.slots)
        return self.r.choice(filled) if filled and self.r.random() < 0.9 else self.r.randrange(5)


def random_op(r, ops, choose=None):
    """One operation. A Chooser that is given again knows what there was a moment ago."""
    choose = choose or Chooser(r, ops)
    p, new, slot, other, directory = choose.path(), choose.new(), choose.slot(), choose.slot(), choose.directory()
    q = r.choice((new, new, choose.path()))
    seed, n = r.randrange(1000), r.choice((1, 10, 64, 65, 3000, 5000, 70_000))
    offset = r.choice((0, 0, 1, 50, 4096, 5000, 90_000))
    flags = r.choice(("RDWR", "RDWR", "RDWR|CREAT", "RDWR|CREAT", "WRONLY|APPEND", "RDWR|CREAT|EXCL", "WRONLY|TRUNC", "RDWR|CREAT|TRUNC"))
    user_xattr = r.choice(("user.a", "user.b", "trusted.c"))
    table = (
        (10, ["open", r.randrange(5), q if "CREAT" in flags else p, flags + "|NONBLOCK", r.choice((0o644, 0o600, 0o777))]),
        (2, ["close", slot]),
        (6, ["pwrite", slot, offset, n, seed]), (3, ["write", slot, n, seed]), (5, ["pread", slot, offset, n]), (2, ["read", slot, n]),
        (3, ["ftruncate", slot, r.choice((0, 3, 70, 4096, 50_000))]), (3, ["fstat", slot]), (1, ["fsync", slot]),
        (2, ["fallocate", slot, r.choice((0, 1, 3, 16, 17)), offset, n]), (1, ["holes", slot]),
        (2, ["copy_range", slot, offset, other, r.choice((0, 10, 4096)), n]),
        (1, ["sendfile", slot, offset, other, n]),
        (2, ["fchmod", slot, r.choice((0o644, 0o600, 0o4755))]), (1, ["fchown", slot, r.choice((0, 1000)), r.choice((0, 50))]),
        (1, ["futimens", slot, r.choice((5, "now", "omit")), r.choice((7, "now", "omit"))]),
        (1, ["fsetxattr", slot, user_xattr, str(seed)]), (1, ["flistxattr", slot]),
        (2, ["map", slot, r.choice((1, 60, 4096)), True]),
        (3 if ops.maps else 0, ["map_write", r.choice(sorted(ops.maps) or [0]), 0, 1, seed]),
        (2 if ops.maps else 0, ["map_read", r.choice(sorted(ops.maps) or [0]), 0, 60]),
        (1 if ops.maps else 0, ["msync", r.choice(sorted(ops.maps) or [0])]),
        (1, ["fdlink", slot, new]), (1, ["open", r.randrange(5), directory, "TMPFILE|RDWR", 0o644]),
        (1, ["open", r.randrange(5), directory, "RDONLY|DIRECTORY"]), (2, ["put", f"@{slot}/{r.choice('fgx')}", n, seed]),
        (1, ["list", f"@{slot}"]), (1, ["unlink", f"@{slot}/{r.choice('fgx')}"]), (1, ["rename", f"@{slot}/f", q, 0]),
        (5, ["put", r.choice((p, new)), n, seed]), (5, ["get", p]), (5, ["mkdir", new, r.choice((0o755, 0o700, 0o2755))]), (4, ["rmdir", directory]), (6, ["unlink", p]),
        (14, ["rename", p, q, r.choice((0, 0, 0, 1, 2))]), (3, ["rename", directory, q, r.choice((0, 0, 2))]),
        (6, ["link", p, q]), (2, ["symlink", r.choice(("f", "../f", "a/b", "x", "c")), new]),
        (1, ["readlink", p]), (2, ["mknod", new, r.choice((0o10644, 0o140644, 0o20644)), 1, 3]),
        (4, ["lstat", p]), (1, ["stat", p]), (3, ["list", directory]), (1, ["seek_list", directory]),
        (3, ["chmod", p, r.choice((0o644, 0o600, 0o755, 0o2770))]), (2, ["lchown", p, r.choice((0, 1000)), r.choice((-1, 50))]),
        (2, ["truncate", p, r.choice((0, 10, 65, 9000))]), (2, ["utimens", p, r.choice((5, "now", "omit")), r.choice((9, "now", "omit")), False]),
        (2, ["setxattr", p, user_xattr, str(seed)]), (1, ["removexattr", p, user_xattr]), (2, ["listxattr", p]), (1, ["getxattr", p, user_xattr]),
        (1, ["same", p, q]),
        (2, ["as", 1000, 1000, [1000, 50], ["put", q, n, seed]]), (1, ["as", 1000, 1000, [1000], ["unlink", p]]),
        (1, ["as", 1000, 1000, [1000], ["rename", p, q, 0]]), (1, ["as", 1000, 1000, [1000, 50], ["mkdir", new]]),
    )
    return r.choices([op for _, op in table], [weight for weight, _ in table])[0]


def sequence(seed, steps, directory):
    """Operations of a seed. To know what there is they are done as they are chosen, in a directory
    of the plain tree."""
    r, chosen, ops = random.Random(seed), [], fsops.Ops()
    os.chdir(directory)
    os.umask(0o022)
    for _ in range(steps):
        chosen.append(random_op(r, ops))
        ops.do(chosen[-1])
    ops.close()
    os.chdir("/")
    return chosen
