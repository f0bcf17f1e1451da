#!/usr/bin/python3
"""Many processes work in one tree of a writable mount of the fuse driver at the same time, at random,
first undisturbed, then while `lamina fs` is killed again and again. Nobody gets an error that a file
system of the machine would not give, nobody waits for ever; afterwards the tree is the same with
caches dropped, mounted anew, and as kernel overlayfs shows it.

    overlay_stress.py [--of passthrough,inode] [--seconds N] [--seed N]"""
import argparse
import collections
import os
import random
import re
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import fsops  # noqa: E402
import lamina  # noqa: E402
import overlaycases  # noqa: E402
import overlayrandom  # noqa: E402
import sides  # noqa: E402

IMAGE = "stress/app:1"
WORKERS = 6
# Errors that a plain directory gives to such work. EIO, ESTALE, EUCLEAN, ENOTCONN are not among them.
USUAL = {"ENOENT", "EEXIST", "ENOTDIR", "EISDIR", "ENOTEMPTY", "EINVAL", "EACCES", "EPERM", "EBADF", "ENODATA", "ENXIO", "ELOOP",
         "EFAULT", "ESPIPE", "EXDEV", "EMLINK", "ENOTSUP", "EOPNOTSUPP", "EBUSY", "EAGAIN", "ENODEV", "ENAMETOOLONG", "ETXTBSY", "ERANGE", "EPIPE"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--of", default="passthrough,inode")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("LAMINA_STRESS_SECONDS", "6")))
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    return parser.parse_args()


def worker(directory, seed, seconds, out):
    """Random operations until the time is over; writes what was unusual."""
    r, ops, count, choose = random.Random(seed), fsops.Ops(), 0, None
    os.chdir(directory)
    os.umask(0o022)
    # Nothing is mapped: another worker could make the file shorter than the map.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if count % 10 == 0:
            choose = overlayrandom.Chooser(r, ops)
        op = overlayrandom.random_op(r, ops, choose)
        count += 1
        if op[0].startswith("map"):
            continue
        result = ops.do(op)
        if op[0] == "as" and result[0] == "ok":
            result = result[1]
        if result[0] == "err" and result[1] not in USUAL:
            out.write(f"{op}: {result}\n")
    ops.close()
    out.write(f"done {count}\n")
    out.flush()


def kill_fs(host):
    for pid in host.pids("fs"):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def together(host, side, seconds, seed, kills):
    """Runs the workers; returns (operations done, unusual lines, how often fs was killed)."""
    logs, pids, r, killed = [], [], random.Random(seed), 0
    for i in range(WORKERS):
        log = f"{host.dir}/worker-{i}"
        logs.append(log)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with open(log, "w", encoding="utf-8") as out:
                    # Two trees: so that some meet often, and some seldom.
                    worker(f"{side.point}/r{i % 2:03}", seed * 100 + i, seconds, out)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    end = time.monotonic() + seconds + 60
    left = set(pids)
    while left and time.monotonic() < end:
        for pid in list(left):
            if os.waitpid(pid, os.WNOHANG)[0]:
                left.discard(pid)
        time.sleep(0.05)
        if kills and time.monotonic() < end - 60 and r.random() < 0.12:
            kill_fs(host)
            killed += 1
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    done, unusual = 0, ["a worker did not come to an end"] * len(left)
    for log in logs:
        with open(log, encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.startswith("done "):
                    done += int(line[5:])
                else:
                    unusual.append(line.rstrip())
    return done, unusual, killed


def trees_of(side):
    out = {}
    for i in range(2):
        side.side.ask("dump", f"r{i:03}")
        out.update({f"r{i:03}/{path}": entry for path, entry in side.side.answer(120).items()})
    return out


def is_known(name, line):
    """spec/mounts.md, "Writable volumes": the xattrs of a file whose last name is gone, by a descriptor
    from before it was copied up."""
    return name == "passthrough" and re.search(r"\['f(set|get|list|remove)xattr'.*'ESTALE'", line)


def check_mode(host, checks, name, args):
    for what in ("undisturbed", "with kills"):
        side = sides.Mounted(host, name, IMAGE, f"stress-{name}-{what.replace(' ', '-')}")
        done, unusual, killed = together(host, side, args.seconds, args.seed, what == "with kills")
        unusual = [line for line in unusual if not is_known(name, line)]
        counted = collections.Counter(unusual)
        checks.check(not unusual, f"{name}, {what}: no unusual error", "\n     ".join(
            f"{n} × {text}" for text, n in counted.most_common(12)))
        checks.check(done > 100 * args.seconds, f"{name}, {what}: work was done", str(done))
        if what == "with kills":
            checks.check(killed >= 2, f"{name}: fs was killed", str(killed))
        print(f"{name}, {what}: {done} operations, fs killed {killed} times", flush=True)
        before = trees_of(side)
        sides.drop_caches()
        bad = sides.tree_differences(trees_of(side), before)
        checks.check(not bad, f"{name}, {what}: the same with caches dropped", "\n     ".join(bad))
        for driver in (name, "overlay"):
            side.again(driver)
            bad = sides.tree_differences(trees_of(side), before)
            checks.check(not bad, f"{name}, {what}: the same when {driver} mounts it again", "\n     ".join(bad))
        side.remove()


def main():
    lamina.need("unshare")
    args = arguments()
    lamina.isolate(560 if args.seconds < 60 else 3500)
    checks = lamina.Checks()
    print(f"--seed {args.seed}", flush=True)
    with lamina.Host() as host:
        layout = host.dir + "/layout"
        overlaycases.image(layout, [], 2)
        host.run("import", f"oci:{layout}:base", "stress/base:1")
        host.run("import", f"oci:{layout}:app", IMAGE)
        anchor = host.mount(IMAGE, "--driver", "overlay")
        for name in args.of.split(","):
            why = sides.supported(host, name, IMAGE)
            if why:
                lamina.skip(f"{name}: {why}")
            check_mode(host, checks, name, args)
        host.umount(anchor)
    checks.finish()


if __name__ == "__main__":
    main()
