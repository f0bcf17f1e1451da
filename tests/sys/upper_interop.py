#!/usr/bin/python3
"""Uppers go from one driver to the other: what kernel overlayfs wrote is read and written on by the
fuse driver, and the other way round. One upper is relayed from driver to driver with work done at
each; another stays with kernel overlayfs and gets the same work: their trees are always equal.

Then uppers as other programs make them: whiteouts and opaque marks in each form, escaped names, an upper that
was copied."""
import argparse
import json
import os
import stat
import subprocess
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import fsops  # noqa: E402
import lamina  # noqa: E402
import overlaycases  # noqa: E402
import overlayrandom  # noqa: E402
import sides  # noqa: E402

IMAGE = "interop/app:1"
RANDOM, STEPS = 25, 50
# Work in the directory of every case after the case's own, whatever that left there.
SECOND = [["chmod", "t", 0o711], ["rename", "t", "t9"], ["put", "h", 70, 101], ["creat", "t", 0o600], ["put", "t9/in", 90, 102],
          ["rename", "e", "e9"], ["creat", "e9/x", 0o644], ["unlink", "s"], ["setxattr", "t9", "user.second", "2"],
          ["link", "n", "n9"], ["open", 0, "n", "RDWR"], ["pwrite", 0, 5, 5, 103], ["rename", "p", "p9"], ["rename", "p9/t", "p9/t8"]]
THIRD = [["list", "t9"], ["get", "t9/in"], ["rename", "t9", "e9/t9"], ["put", "e9/in", 20, 104], ["rename", "e9", "z"],
         ["get", "n9"], ["unlink", "n9"], ["put", "h", 4, 105], ["chown", "h", 3, 4], ["unlink", "z/x"], ["mkdir", "s"], ["rmdir", "z"],
         ["rename", "p9", "p"], ["put", "p/t8", 9, 106], ["mkdir", "p/t", 0o755]]
KINDS = ("small", "large", "hard", "hardlarge", "acl", "capable", "dir", "full", "deep", "aclled", "link", "fifo", "none")
# Left out: what only looks, and what the drivers rightly do differently (overlay_equal.py).
LEFT_OUT = ("map", "setxattr trusted.overlay. 1", "setxattr system.posix_acl", "chmod with ACL", "removexattr", "fallocate collapse",
            "fallocate insert", "copy range", "open read-only, unlinked", "open ", "access", "statfs", "readlink", "getxattr", "seek", "list", "flock", "POSIX", "OFD")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--of", default="passthrough,inode", help="drivers that take turns with kernel overlayfs")
    parser.add_argument("--part", default="0/40", help="which part of the cases")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    return parser.parse_args()


def chosen_cases(text):
    part, parts = map(int, text.split("/"))
    return overlaycases.number([c for c in overlaycases.cases() if c.kind.name in KINDS and not c.user and
                                not c.work.name.startswith(LEFT_OUT) and zlib.crc32(c.name.encode()) % parts == part])


def without_mtimes(tree):
    """overlayfs gives a touched file a new time when its data is copied up."""
    return {p: {k: v for k, v in e.items() if k != "mtime" or e.get("kind") != "file"} for p, e in tree.items()}


def without_numbers(tree):
    """Of inodes that one driver knew when the other's files came under its hands, it may tell other
    numbers until they are forgotten: ours lists a file by its own number once the data of overlayfs's
    metacopy is its own; overlayfs gives the names of a metacopy of ours numbers of their own."""
    return {p: {k: v for k, v in e.items() if k not in ("d_ino", "group")} for p, e in tree.items()}


def compare(checks, chosen, both, what, numbers=True):
    bad = []
    groups = sorted({case.dir.split("/")[0] for case in chosen}) + [f"r{i:03}" for i in range(RANDOM)]
    for group in groups:
        one, two = map(without_mtimes, sides.ask_all(both, "dump", group, seconds=300))
        if not numbers:
            one, two = without_numbers(one), without_numbers(two)
        for text in sides.tree_differences(two, one, 50):
            number = text.split("/", 1)[0]
            bad.append((chosen[int(number)].name if number.isdigit() else group) + ": " + text)
    checks.check(not bad, what, "\n     ".join(bad[:20] + ([f"… {len(bad)}"] if len(bad) > 20 else [])))


def work(chosen, both, plain, turn, seed):
    """One turn's work on both uppers."""
    for case in chosen:
        if turn == 0:
            sides.ask_all(both, "run", case.dir, case.setup())
            sides.ask_all(both, "run", case.dir + case.sub, case.ops())
        else:
            sides.ask_all(both, "run", case.dir, SECOND if turn % 2 else THIRD)
    for i in range(RANDOM):
        ops = overlayrandom.sequence(seed * 1000 + turn * 100 + i, STEPS, f"{plain.point}/r{i:03}")
        sides.ask_all(both, "run", f"r{i:03}", ops)


def relay(host, checks, order, chosen, plain, seed):
    """Drivers take turns in the given order."""
    stay = sides.Mounted(host, "overlay", IMAGE, "stay")
    moving = sides.Mounted(host, order[0], IMAGE, "relay")
    for turn, name in enumerate(order):
        if turn > 0:
            moving.again(name)
            stay.again()
            compare(checks, chosen, [stay, moving], f"{' > '.join(order[:turn])} wrote it, {name} reads it")
        work(chosen, [stay, moving], plain, turn, seed)
        compare(checks, chosen, [stay, moving], f"{' > '.join(order[:turn + 1])} wrote it", turn == 0)
    stay.remove()
    moving.remove()


# ---- uppers of other programs ----

def setx(path, name, value=b""):
    os.setxattr(path, name, value, follow_symlinks=False)


def hidden_upper(upper):
    """Marks in every form that overlayfs documents, made as a program would that writes an upper."""
    made = upper + "/upper/made"
    os.mkdir(made)  # over made/ of the image
    os.mknod(made + "/device-whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.mkdir(made + "/xattrs")
    setx(made + "/xattrs", "trusted.overlay.opaque", b"x")
    with open(made + "/xattrs/whiteout", "wb"):
        pass
    setx(made + "/xattrs/whiteout", "trusted.overlay.whiteout")
    with open(made + "/xattrs/empty", "wb"):
        pass
    os.mkdir(made + "/unmarked")  # without the mark of its directory such a file is one
    with open(made + "/unmarked/whiteout", "wb"):
        pass
    setx(made + "/unmarked/whiteout", "trusted.overlay.whiteout")
    os.mkdir(made + "/opaque")
    setx(made + "/opaque", "trusted.overlay.opaque", b"y")
    with open(made + "/opaque/new", "wb") as f:
        f.write(b"new")
    os.mkdir(made + "/escaped")
    setx(made + "/escaped", "trusted.overlay.overlay.opaque", b"y")
    setx(made + "/escaped", "trusted.overlay.overlay.overlay.mine", b"1")
    setx(made + "/escaped", "trusted.overlay.impure", b"y")
    setx(made + "/escaped", "user.overlay.opaque", b"y")
    os.mkdir(made + "/file-before")  # a file of the image, now a directory
    os.symlink("file-before", made + "/dir-before")


def image_for_made(base, app):
    base.dir("made", mode=0o755)
    for d in ("xattrs", "unmarked", "opaque", "full", "escaped", "dir-before"):
        base.dir("made/" + d).add(f"made/{d}/whiteout", data=b"below").add(f"made/{d}/below", data=b"below")
    for f in ("device-whiteout", "meta", "large", "file-before", "untouched"):
        base.add("made/" + f, data=fsops.content(overlaycases.LARGE, len(f)))
    app.dir("made").dir("made/full").add("made/full/app", data=b"app")


MADE_WORK = [["creat", "xattrs/whiteout", 0o644], ["unlink", "xattrs/empty"], ["rename", "xattrs", "xattrs2"], ["list", "xattrs2"],
             ["unlink", "unmarked/whiteout"], ["listxattr", "escaped"], ["rename", "escaped", "opaque/escaped"],
             ["list", "device-whiteout"], ["mkdir", "device-whiteout"], ["list", "device-whiteout"], ["rmdir", "xattrs2"],
             ["unlink", "opaque/new"], ["list", "opaque"], ["put", "file-before/x", 9, 3], ["unlink", "dir-before"],
             ["mkdir", "dir-before"], ["list", "dir-before"], ["put", "full/app", 9, 3], ["unlink", "full/below"]]


class Unindexed(sides.Mounted):
    """overlayfs by hand, as our driver mounts it but without an index, which would ask of redirects
    that their origin is written down too."""

    def mount(self):
        with open(self.upper + "/lamina.json", encoding="utf-8") as f:
            trees = [t.split(":")[1] for t in json.load(f)["trees"]]
        run_dir = self.host.dir + "/run"
        lower = ":".join(f"{run_dir}/trees/{t}" for t in trees) + f"::{run_dir}/objects"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={self.upper}/upper,"
                        f"workdir={self.upper}/work,metacopy=on,redirect_dir=on,xino=on,index=off", self.point], check=True)
        self.side = fsops.Side(self.name, self.point)

    def unmount(self):
        self.side.stop()
        subprocess.run(["umount", self.point], check=True)


def made_uppers(host, checks, names):
    """The same upper made by hand for each driver: equal before work, by its results, and after."""
    every = []
    for name in ["overlay", *names]:
        side = sides.Mounted(host, name, IMAGE, "made-" + name)
        side.unmount()
        subprocess.run(["rm", "-rf", side.upper + "/work"], check=True)
        os.mkdir(side.upper + "/work")
        hidden_upper(side.upper)
        if name == "overlay":
            side.__class__ = Unindexed
        side.mount()
        every.append(side)
    for what in ("as made", "after work", "mounted again"):
        if what == "after work":
            results = sides.ask_all(every, "run", "made", MADE_WORK)
            for side, result in zip(every[1:], results[1:]):
                for op, ours, reference in zip(MADE_WORK, result, results[0]):
                    checks.check(ours == reference, f"upper made by hand, {side.name}: {op}", f"{ours}, overlayfs {reference}")
        if what == "mounted again":
            for side in every:
                side.again()
        dumps = [without_mtimes(tree) for tree in sides.ask_all(every, "dump", "made")]
        for side, tree in zip(every[1:], dumps[1:]):
            bad = sides.tree_differences(tree, dumps[0])
            checks.check(not bad, f"upper made by hand, {side.name}, {what}", "\n     ".join(bad))
    for side in every:
        side.remove()


def copied_uppers(host, checks, names, chosen, plain, seed):
    """An upper that cp -a took elsewhere: its handles of lower inodes say nothing any more, so that
    overlayfs refuses it. The fuse driver needs them for hard links only."""
    source = sides.Mounted(host, "overlay", IMAGE, "source")
    work(chosen, [source], plain, 0, seed)
    before = {c.dir: sides.ask_all([source], "dump", c.dir)[0] for c in chosen}
    source.unmount()
    for name in [n for n in names if not n.startswith("overlay")]:
        copy = f"{host.dir}/upper-copied-{name}"
        subprocess.run(["cp", "-a", source.upper, copy], check=True)
        side = sides.Mounted(host, name, IMAGE, "copied-" + name)
        bad = [f"{c.name}: {text}" for c in chosen
               for text in sides.tree_differences(sides.ask_all([side], "dump", c.dir)[0], before[c.dir], 5)]
        checks.check(not bad, f"a copied upper by {name}", "\n     ".join(bad[:15]))
        side.remove()
    subprocess.run(["rm", "-rf", source.upper], check=True)


def main():
    lamina.need("unshare")
    args = arguments()
    lamina.isolate(560)
    checks = lamina.Checks()
    chosen = chosen_cases(args.part)
    names = args.of.split(",")
    print(f"{len(chosen)} cases, --seed {args.seed}", flush=True)
    with lamina.Host() as host:
        layout = host.dir + "/layout"
        overlaycases.image(layout, chosen, RANDOM, image_for_made)
        host.run("import", f"oci:{layout}:base", "interop/base:1")
        host.run("import", f"oci:{layout}:app", IMAGE)
        for name in names:
            why = sides.supported(host, name, IMAGE)
            if why:
                lamina.skip(f"{name}: {why}")
        anchor = host.mount(IMAGE, "--driver", "overlay")  # its trees are mounted all the time
        made_uppers(host, checks, names)
        for order in [["overlay", name, "overlay", name] for name in names] + [[name, "overlay", name] for name in names]:
            plain = sides.Mounted(host, "plain", IMAGE)
            relay(host, checks, order, chosen, plain, args.seed)
            plain.remove()
        plain = sides.Mounted(host, "plain", IMAGE)
        without = [c for c in chosen if "linked" not in c.kind.groups][:200]
        copied_uppers(host, checks, names, without, plain, args.seed)
        plain.remove()
        host.umount(anchor)
    checks.finish()


if __name__ == "__main__":
    main()
