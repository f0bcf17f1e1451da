"""The mounts that a comparison is made of: one image, writable, by one driver each, beside a plain
directory that holds the same tree."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fsops  # noqa: E402
import lamina  # noqa: E402

# What a side is called -> options of its mount. "plain" is a directory of the file system below.
DRIVERS = {
    "overlay": ["--driver", "overlay"],
    "overlay-again": ["--driver", "overlay"],
    "passthrough": ["--driver", "fuse", "--pages", "passthrough"],
    "inode": ["--driver", "fuse", "--pages", "inode"],
    "private": ["--driver", "fuse", "--pages", "private"],
}


def supported(host, name, image):
    """Whether this side can be mounted here: "" or why not."""
    if name == "plain":
        return ""
    point = f"{host.dir}/probe-{name}"
    os.makedirs(point, exist_ok=True)
    done = host.run("mount", "--rw", *DRIVERS[name], image, point, check=False)
    if done.returncode == 0:
        host.umount(point)
        return ""
    return done.stderr.strip()


class Mounted:
    """A side that is mounted; `side` works in it."""

    def __init__(self, host, name, image, label=None):
        self.host, self.name, self.image = host, name, image
        self.upper = f"{host.dir}/upper-{label or name}"
        self.point = f"{host.dir}/side-{label or name}"
        os.makedirs(self.point, exist_ok=True)
        self.side = None
        if name == "plain":
            os.rmdir(self.point)
            host.run("unpack", image, self.point)
        else:
            os.makedirs(self.upper, mode=0o700, exist_ok=True)
        self.mount()

    def mount(self):
        if self.name != "plain":
            self.host.run("mount", "--upper", self.upper, *DRIVERS[self.name], self.image, self.point)
        self.side = fsops.Side(self.name, self.point)

    def unmount(self):
        self.side.stop()
        if self.name != "plain":
            self.host.umount(self.point)

    def again(self, name=None):
        """Mounted anew, by another driver if one is named."""
        self.unmount()
        self.name = name or self.name
        self.mount()

    def remove(self):
        self.unmount()
        subprocess.run(["rm", "-rf", self.upper, self.point], check=True)


def ask_all(sides, *request, seconds=60):
    """The same of all sides, at the same time: their answers in order."""
    for s in sides:
        s.side.ask(*request)
    return [s.side.answer(seconds) for s in sides]


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("2\n")


def tree_differences(a, b, limit=12):
    """What differs between two dumps, as text."""
    out = []
    for path in sorted(set(a) | set(b)):
        one, two = a.get(path), b.get(path)
        if one is None or two is None:
            out.append(f"{path}: only in the {'second' if one is None else 'first'}: {one or two}")
        elif one != two:
            out += [f"{path}: {k}: {one.get(k)!r} != {two.get(k)!r}" for k in sorted(set(one) | set(two))
                    if one.get(k) != two.get(k)]
    return out[:limit] + ([f"… {len(out) - limit} more"] if len(out) > limit else [])


__all__ = ["DRIVERS", "Mounted", "ask_all", "drop_caches", "lamina", "supported", "tree_differences"]
