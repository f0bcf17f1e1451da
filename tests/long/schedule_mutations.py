#!/usr/bin/python3
"""Bugs of concurrency are put into the code, one at a time, and the schedules of
tests/prop/schedules_test.c must find each: else nobody knows what it means that they find nothing.

    schedule_mutations.py [--seconds N] [--of WORD]   N: for each bug, at most"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = "build/release/tests/prop/schedules_test"

# What is wrong then, what of schedules_test is likely to meet it, and the edits: file, text, other text.
MUTATIONS = [
    ("a blob is looked for before it is pinned", "", [
        ("cas/publish.c", "        cas_pin_blob(p->pins, digest);\n        for (size_t i = 0;", "        for (size_t i = 0;"),
        ("cas/publish.c", "        *out = rc == 0 || rc == -CAS_E_UNSUPPORTED;",
         "        *out = rc == 0 || rc == -CAS_E_UNSUPPORTED;\n        cas_pin_blob(p->pins, digest);")]),
    ("pins are freed before the commit", "--only wdgpi", [
        ("cas/publish.c", "        p->ended = true;\n        int rc = p->ingest ?",
         "        p->ended = true;\n        cas_pins_free(p->pins);\n        p->pins = cas_pins_new(p->store);\n        int rc = p->ingest ?")]),
    ("collection removes a file without a second look", "--only wdgp", [
        ("cas/gcfiles.c", "        if (rc < 0 || known)\n", "        if (rc < 0)\n")]),
    ("collection does not ask for leases", "--only wdgml", [
        ("cas/gcblobs.c", " || cas_blob_is_leased(gc->s, &p->c->blob)", "")]),
    ("collection does what it planned before the gate was closed", "--only wdgpi", [
        ("cas/gc.c", "gc->unchanged = gc->trial || gc->sequence == cas_index_sequence(gc->ix);", "gc->unchanged = true;")]),
    ("who waits to commit is not woken", "--only wdp", [
        ("cas/commit.c", "                        group = next;\n                }\n                (void)pthread_cond_broadcast(&s->names_change);\n"
         "        }\n        s->commit_busy = false;\n        (void)pthread_cond_broadcast(&s->names_change);",
         "                        group = next;\n                }\n        }\n        s->commit_busy = false;")]),
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--of", default="")
    parser.add_argument("--keep", metavar="DIR", help="work there, and leave it: quicker the next time")
    return parser.parse_args()


def copy_tree(out):
    # With new times, so that nothing of an earlier run is taken for new.
    shutil.copytree(ROOT, out, symlinks=True, dirs_exist_ok=True, copy_function=shutil.copy,
                    ignore=shutil.ignore_patterns("build", ".git", "demo"))
    os.makedirs(out + "/build", exist_ok=True)
    for name in ("deps", "deps.mk"):
        if os.path.exists(f"{ROOT}/build/{name}") and not os.path.lexists(f"{out}/build/{name}"):
            os.symlink(os.path.realpath(f"{ROOT}/build/{name}"), f"{out}/build/{name}")


def build(tree):
    done = subprocess.run(["make", "-s", f"-j{os.cpu_count()}", "DEPS_CHECK=no", TARGET], cwd=tree, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit("it does not build:\n" + done.stdout[-3000:])


def schedules(tree, seconds, options):
    """Exit status, what it says, and the seconds it took."""
    begin = time.monotonic()
    done = subprocess.run([f"{tree}/{TARGET}", "--schedules", "1000000", "--seconds", str(seconds),
                           *options.split()],
                          check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout, time.monotonic() - begin


def mutate(tree, edits):
    """Applies the edits; gives the files as they were."""
    before = {}
    for path, text, other in edits:
        with open(f"{tree}/{path}", encoding="utf-8") as f:
            now = f.read()
        before.setdefault(path, now)
        if now.count(text) != 1:
            sys.exit(f"{path} has {now.count(text)} times, not once: {text}")
        with open(f"{tree}/{path}", "w", encoding="utf-8") as f:
            f.write(now.replace(text, other))
    return before


def main():
    args = arguments()
    tree = args.keep or tempfile.mkdtemp(prefix="lamina-mutations-")
    passed = failed = 0
    try:
        copy_tree(tree)
        build(tree)
        status, text, _ = schedules(tree, 20, "")
        if status != 0:
            sys.exit("schedules fail without a bug:\n" + text[-3000:])
        for what, options, edits in MUTATIONS:
            if args.of not in what:
                continue
            before = mutate(tree, edits)
            build(tree)
            status, text, took = schedules(tree, args.seconds, options)
            for path, was in before.items():
                with open(f"{tree}/{path}", "w", encoding="utf-8") as f:
                    f.write(was)
            said = re.search(r"^schedule (\d+) fails after \d+ steps: (.*)$", text, re.M)
            found = status != 0
            passed, failed = passed + found, failed + (not found)
            print(f"{'found ' if found else 'FAIL: not found: '}{what}: "
                  + (f"by schedule {said[1]} in {took:.0f} s: {said[2][:150]}" if said else text.strip()[-200:]), flush=True)
    finally:
        if not args.keep:
            shutil.rmtree(tree, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
