#!/usr/bin/python3
"""The fuse driver's writable mounts behave as kernel overlayfs does. Every operation of
tests/support/overlaycases.py is done on every kind of object at every place, and random sequences of
operations are done to the same tree, side by side: by the fuse driver in each page mode, by the
overlay driver over the same trees, and on a plain directory of the file system below. Results,
errno names and whole trees are compared; the trees once more after the mounts were made anew.

    overlay_equal.py [--of PASSTHROUGH,INODE] [--part I/N | --all] [--only TEXT]
                     [--random] [--seed N] [--sequences N] [--steps N] [--show]

A random sequence that differs is made shorter as long as it still does, and printed with its seed:
`--random --seed SEED --sequences 1` plays it again. `--show` prints where kernel overlayfs itself differs
from the plain directory."""
import argparse
import collections
import os
import random
import sys
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import fsops  # noqa: E402
import lamina  # noqa: E402
import overlaycases  # noqa: E402
import overlayrandom  # noqa: E402
import sides  # noqa: E402

REFERENCES = ["overlay", "plain"]
REPORTED = int(os.environ.get("LAMINA_EQUAL_REPORTED", "25"))

# Where the fuse driver differs from kernel overlayfs and is right: what it gives is what the plain
# directory gives (that is checked), in works of these names (None: any), in these fields (None: any).
RIGHT = [
    ("overlayfs gives a touched file (metacopy) a new mtime when its data is copied up", None, {"mtime"}),
    ("overlayfs counts a removed file's links from the lower layer", None, {"nlink"}),
    ("overlayfs takes a removed inode for one that is there", None, {"kept"}),
    ("overlayfs copies no ranges across layers (EXDEV)", ("copy range",), None),
    ("overlayfs keeps no ACLs of what is only in EROFS (ENOTSUP)",
     ("setxattr system.posix_acl", "removexattr", "chmod with ACL"), None),
    ("overlayfs changes no attributes of a removed file that is not in the upper", ("open read-only, unlinked",), None),
    ("overlayfs does not note that a merged directory was read", ("utimens",), {"times"}),
    ("overlayfs has no direct I/O on small files of EROFS", tuple(f"open {a}|DIRECT" for a in ("RDONLY", "WRONLY", "RDWR")), None),
    ("overlayfs does not take this name", ("setxattr trusted.overlay. 1",), None),
]
# What cannot be as in overlayfs: (why, sides, works, operations).
OLD_DESCRIPTOR = "passthrough ties a descriptor to its file when it is opened: one opened for reading before copy-up stays with the image's"
LIMITS = [
    ("FUSE passes neither collapse nor insert of ranges", ("passthrough", "inode"), ("fallocate collapse", "fallocate insert"), None),
    (OLD_DESCRIPTOR, ("passthrough",), ("read before copy-up, then after", "truncated under a reader"), {"pread", "fstat"}),
    (OLD_DESCRIPTOR, ("passthrough",), ("copy range t t",), None),
    ("inode mode writes maps back through the server, and a write takes capabilities away", ("inode",), ("map",), {"tree"}),
    (OLD_DESCRIPTOR + " and so do its locks", ("passthrough",), ("flock RDONLY RDWR", "POSIX lock of a reader"),
     {"flock", "posix_probe"}),
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--of", default="passthrough,inode", help="sides that are tested")
    parser.add_argument("--part", default="0/50", help="which part of the cases")
    parser.add_argument("--all", action="store_true", help="all of the cases, and more sequences")
    parser.add_argument("--only", help="cases with this in their name")
    parser.add_argument("--random", action="store_true", help="random sequences alone")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--sequences", type=int)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--show", action="store_true")
    return parser.parse_args()


def chosen_cases(args):
    every = [] if args.random else overlaycases.cases()
    if args.only is not None:
        picked = [c for c in every if args.only in c.name]
    elif args.all:
        picked = list(every)
    else:
        part, parts = map(int, args.part.split("/"))
        picked = [c for c in every if zlib.crc32(c.name.encode()) % parts == part]
    return overlaycases.number(picked)


# ---- the walk ----

class Differences:
    """Collects them by what was done, so that one cause is not printed a hundred times."""

    def __init__(self):
        self.groups = collections.OrderedDict()
        self.excused = collections.Counter()

    def add(self, group, text):
        self.groups.setdefault(group, []).append(text)

    def count(self):
        return sum(map(len, self.groups.values()))

    def show(self, title):
        print(f"{title}: {self.count()} in {len(self.groups)} groups")
        for i, (group, texts) in enumerate(self.groups.items()):
            if i == REPORTED:
                print("  …")
                break
            print(f"  {group}: {len(texts)}\n    " + texts[0].replace("\n", "\n    "), flush=True)


def excuse(side, case, what, ours, reference, plain):
    """Why a difference is none that counts, or None. `what`: the operation, or the field of a tree."""
    for why, names, works, whats in LIMITS:
        if side in names and case.work.name.startswith(works) and (whats is None or what in whats):
            return why
    fields = {what}
    if isinstance(ours, dict) and isinstance(reference, dict) and isinstance(plain, dict):
        fields = {k for k in {*ours, *reference} if ours.get(k) != reference.get(k)}
        if any(ours.get(k) != plain.get(k) for k in fields):
            return None
    elif ours != plain:
        return None
    for why, works, allowed in RIGHT:
        if (works is None or case.work.name.startswith(works)) and (allowed is None or fields <= allowed):
            return why
    return None


def value_of(result):
    """What an operation gave: of one that was done as another user, what that one gave."""
    while result[0] == "ok" and len(result) > 1:
        result = result[1]
        if not (isinstance(result, list) and result and result[0] in ("ok", "err")):
            return result
    return result


def compare_trees(side, case, ours, reference, plain, found):
    """Notes what differs between two trees without excuse."""
    bad = []
    for path in sorted(set(ours) | set(reference)):
        one, two, three = ours.get(path), reference.get(path), plain.get(path)
        if one == two:
            continue
        why = excuse(side.name, case, "tree", one, two, three)
        if why:
            found.excused[why] += 1
        else:
            bad.append(path)
    if bad:
        texts = sides.tree_differences({p: ours[p] for p in bad if p in ours}, {p: reference[p] for p in bad if p in reference})
        found.add(f"{side.name}: {case.work.name}: tree", f"{case.name} ({case.dir}): {case.setup() + case.ops()}\n" + "\n".join(texts))


def compare_case(case, tested, results, dumps, found):
    """results, dumps: of the references, then of the tested sides."""
    ops = case.setup() + case.ops()
    for side, result, tree in zip(tested, results[2:], dumps[2:]):
        for i, (op, ours, reference, plain) in enumerate(zip(ops, result, results[0], results[1])):
            if ours == reference:
                continue
            name = op[4][0] if op[0] == "as" else op[0]
            why = excuse(side.name, case, name, value_of(ours), value_of(reference), value_of(plain))
            if why:
                found.excused[why] += 1
                continue
            found.add(f"{side.name}: {case.work.name}: {op[0]}",
                      f"{case.name} ({case.dir}): operation {i} {op}: {ours}, overlayfs {reference}, plain {plain}")
        compare_trees(side, case, tree, dumps[0], dumps[1], found)


def walk(chosen, references, tested, args, checks):
    every = references + tested
    found, oddities = Differences(), Differences()
    for case in chosen:
        results = sides.ask_all(every, "run", case.dir, case.setup())
        below = sides.ask_all(every, "run", case.dir + case.sub, case.ops())
        results = [a + b for a, b in zip(results, below)]
        dumps = sides.ask_all(every, "dump", case.dir)
        compare_case(case, tested, results, dumps, found)
        if args.show:
            ops = case.setup() + case.ops()
            for op, a, b in zip(ops, results[0], results[1]):
                if a != b:
                    oddities.add(f"{case.work.name}: {op[0]}", f"{case.name} ({case.dir}): {op}: overlayfs {a}, plain {b}")
            if dumps[0] != dumps[1]:
                oddities.add(f"{case.work.name}: tree", f"{case.name}: {ops}\n" + "\n".join(sides.tree_differences(dumps[0], dumps[1])))
    if args.show:
        oddities.show("overlayfs and the plain directory")
    if found.count():
        found.show("differences")
    for why, n in sorted(found.excused.items()):
        print(f"excused, {n} times: {why}")
    checks.check(found.count() == 0, f"{len(chosen)} cases are as overlayfs has them", f"{found.count()} differ")


def later(chosen, tested, checks):
    """Trees are what they were when nothing is remembered any more, and when mounted anew."""
    groups = sorted({case.dir.split("/")[0] for case in chosen})
    before = {group: sides.ask_all(tested, "dump", group, seconds=300) for group in groups}
    for what in ("caches were dropped", "mounted again"):
        sides.drop_caches()
        if what == "mounted again":
            for side in tested:
                side.again()
        found = Differences()
        for group in groups:
            for side, tree, was in zip(tested, sides.ask_all(tested, "dump", group, seconds=300), before[group]):
                for text in sides.tree_differences(tree, was, 1000):
                    number = text.split("/", 1)[0]
                    case = chosen[int(number)].name if number.isdigit() else number
                    found.add(f"{side.name}: {case}", f"{group}/{text}")
        if found.count():
            found.show(what)
        checks.check(found.count() == 0, f"trees after {what}", f"{found.count()} differences")


# ---- random sequences ----

def without_mtime(value):
    """Times of files are left to the walk: overlayfs changes them when it copies data up."""
    if isinstance(value, dict):
        return {k: without_mtime(v) for k, v in value.items() if k != "mtime" or value.get("kind") != "file"}
    return [without_mtime(v) for v in value] if isinstance(value, list) else value


def first_difference(every, directory, ops):
    """(step, text) of the first difference between the first side and a later one, or None. The tree
    is compared at the end."""
    at, piece = 0, 10
    try:
        while at < len(ops):
            answers = without_mtime(sides.ask_all(every, "go", directory, ops[at:at + piece]))
            for i, op in enumerate(ops[at:at + piece]):
                for side, answer in zip(every[1:], answers[1:]):
                    if answer[i] != answers[0][i]:
                        return at + i, f"step {at + i} {op}: {side.name} {answer[i]}, {every[0].name} {answers[0][i]}"
            at += piece
        dumps = without_mtime(sides.ask_all(every, "dump", directory))
        for entry in dumps[0].values():  # overlayfs lists a link made after a listing by another number
            entry.pop("d_ino", None)
        for side, tree in zip(every[1:], dumps[1:]):
            if tree != dumps[0]:
                return len(ops) - 1, f"tree of {side.name}, then {every[0].name}: " + "\n".join(sides.tree_differences(tree, dumps[0]))
        return None
    finally:
        sides.ask_all(every, "end", directory)


def shorten(every, ops, fresh):
    """Leaves operations out as long as the rest still differs and there are fresh directories."""
    size = max(1, len(ops) // 2)
    while True:
        at, left_out = 0, False
        while at < len(ops):
            directory = next(fresh, None)
            if directory is None:
                return ops
            fewer = ops[:at] + ops[at + size:]
            difference = first_difference(every, directory, fewer) if fewer else None
            if difference:
                ops, left_out = fewer[:difference[0] + 1], True
            else:
                at += size
        if size == 1 and not left_out:
            return ops
        size = max(1, size // 2)


def random_sequences(references, tested, args, seed, count, spare, checks):
    every = references[:1] + tested
    fresh, spares = iter([f"r{i:03}" for i in range(count)]), iter([f"r{i:03}" for i in range(count, count + spare)])
    print(f"random sequences: --seed {seed} --sequences {count} --steps {args.steps}", flush=True)
    failures = 0
    for i in range(count):
        directory = next(fresh)
        ops = overlayrandom.sequence(seed + i, args.steps, f"{references[1].point}/{directory}")
        difference = first_difference(every, directory, ops)
        if not difference:
            continue
        failures += 1
        if failures > 3:
            continue
        print(f"seed {seed + i} differs in {directory}: {difference[1]}", flush=True)
        least = shorten(every, ops[:difference[0] + 1], iter([next(spares) for _ in range(spare // 3 - 1)]))
        print("  again: --random --sequences 1 --seed", seed + i, "--steps", args.steps, "\n  shortened:")
        for op in least:
            print("   ", op)
        again = first_difference(every, next(spares), least)
        print("  " + (again[1] if again else "(not the same again)"), flush=True)
    checks.check(failures == 0, f"{count} random sequences are as overlayfs has them", f"{failures} differ")


def main():
    lamina.need("unshare")
    args = arguments()
    lamina.isolate(3500 if args.all or args.only or args.random else 560)
    checks = lamina.Checks()
    chosen = chosen_cases(args)
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(10**6) if args.random else 1
    count = args.sequences if args.sequences is not None else 1000 if args.all else 60
    spare = 390
    with lamina.Host() as host:
        layout = host.dir + "/layout"
        overlaycases.image(layout, chosen, count + spare + 3)
        host.run("import", f"oci:{layout}:base", "equal/base:1")
        host.run("import", f"oci:{layout}:app", "equal/app:1")
        for name in args.of.split(","):
            why = sides.supported(host, name, "equal/app:1")
            if why:
                lamina.skip(f"{name}: {why}")
        started = time.monotonic()
        references = [sides.Mounted(host, name, "equal/app:1") for name in REFERENCES]
        tested = [sides.Mounted(host, name, "equal/app:1") for name in args.of.split(",")]
        if chosen:
            walk(chosen, references, tested, args, checks)
        print(f"{len(chosen)} cases: {time.monotonic() - started:.0f} s", flush=True)
        random_sequences(references, tested, args, seed, count, spare, checks)
        print(f"with random sequences: {time.monotonic() - started:.0f} s", flush=True)
        if chosen:
            later(chosen, tested, checks)
        print(f"all: {time.monotonic() - started:.0f} s")
        for side in references + tested:
            side.unmount()
    checks.finish()


if __name__ == "__main__":
    main()
