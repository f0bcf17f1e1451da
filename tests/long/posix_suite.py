#!/usr/bin/python3
"""Published test suites on writable mounts, side by side with the file system below and kernel
overlayfs: what fails there that does not fail on the file system below.

- pjdfstest (POSIX semantics): LAMINA_PJDFSTEST names a directory where it was built as its own
  README says.
- what CPython has for os, shutil, mmap and the like: Debian's libpython3-testsuite.

    posix_suite.py [--of overlay,passthrough,inode] [--only TEXT]"""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import overlaycases  # noqa: E402
import sides  # noqa: E402

IMAGE = "suite/app:1"
PYTHON_TESTS = ("test_os", "test_posix", "test_shutil", "test_tempfile", "test_pathlib", "test_glob", "test_fcntl", "test_mmap",
                "test_mailbox", "test_tarfile", "test_zipfile", "test_sqlite3", "test_dbm", "test_fileio", "test_io", "test_largefile",
                "test_stat", "test_genericpath", "test_posixpath", "test_filecmp", "test_fileinput", "test_file",
                "test_asyncio.test_unix_events", "test_asyncio.test_sendfile", "test_py_compile", "test_compileall", "test_import",
                "test_zipimport", "test_shelve", "test_gzip")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--of", default="overlay,passthrough,inode")
    parser.add_argument("--only", default="", help="tests with this in their name")
    return parser.parse_args()


def pjdfstest_failures(suite, path, point):
    """Numbers of the tests of one file that fail in a directory (None: it did not come to an end), what
    it says of them, and how many there are."""
    work = point + "/" + os.path.relpath(path, suite).replace("/", "-")
    os.mkdir(work)
    os.chmod(work, 0o755)
    try:
        done = subprocess.run(["sh", path], cwd=work, capture_output=True, text=True, errors="replace", timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return None, "longer than 300 s", 0
    failed, lines = set(), []
    for line in done.stdout.splitlines():
        match = re.match(r"not ok (\d+)(.*)", line)
        if match and "# TODO" not in line:
            failed.add(int(match[1]))
            lines.append(line)
    shutil.rmtree(work, ignore_errors=True)
    count = len(re.findall(r"^(?:not )?ok ", done.stdout, re.M))
    return (failed if count else None), "\n".join(lines) or done.stderr, count


def run_pjdfstest(checks, suite, every, only):
    paths = sorted(os.path.join(at, name) for at, _, names in os.walk(suite + "/tests") for name in names
                   if name.endswith(".t") and only in os.path.join(at, name))
    totals, tests = dict.fromkeys((s.name for s in every), 0), 0
    print("pjdfstest: tests that fail: " + ", ".join(totals), flush=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for path in paths:
            results = list(pool.map(lambda side, path=path: pjdfstest_failures(suite, path, side.point), every))
            name = os.path.relpath(path, suite + "/tests")
            tests += results[0][2]
            for side, (failed, _, _) in zip(every, results):
                totals[side.name] += 1000 if failed is None else len(failed)
            if any(failed is None or failed for failed, _, _ in results):
                print(f"  {name:20}" + "  ".join(f"{s.name} {'hangs' if f is None else sorted(f) or '-'}"
                                                for s, (f, _, _) in zip(every, results)), flush=True)
            for side, (failed, text, _) in zip(every[1:], results[1:]):
                worse = failed is None or failed - (results[0][0] or set())
                if worse and side.name != "overlay":
                    checks.check(False, f"pjdfstest {name} on {side.name}", text)
                else:
                    checks.check(True, name)
    print(f"pjdfstest: {tests} tests; failures in all: " + ", ".join(f"{k} {v}" for k, v in totals.items()), flush=True)


def python_failures(test, point):
    """Names of the failed and broken cases of a module of CPython's tests."""
    work = f"{point}/python-{test}"
    os.makedirs(work)
    env = {k: v for k, v in os.environ.items() if not k.startswith("LAMINA")}
    try:
        done = subprocess.run(["/usr/bin/python3", "-m", "test", "-v", "--tempdir", work, test], cwd=work,
                              env=dict(env, TMPDIR=work), capture_output=True, text=True, errors="replace", timeout=600, check=False)
    except subprocess.TimeoutExpired:
        return {"longer than 600 s"}, ""
    failed = set(re.findall(r"^(?:FAIL|ERROR): (\S+ \(\S+\))", done.stdout, re.M))
    if done.returncode not in (0, 2) and not failed:
        failed = {f"status {done.returncode}"}
    shutil.rmtree(work, ignore_errors=True)
    return failed, done.stdout[-3000:]


def run_python(checks, every, only):
    print("CPython: cases that fail", flush=True)
    for test in PYTHON_TESTS:
        if only not in test:
            continue
        results = [python_failures(test, side.point) for side in every]
        for side, (failed, text) in zip(every, results):
            worse = failed - results[0][0]
            if failed:
                print(f"  {test} on {side.name}: {len(failed)} fail, {len(worse)} more than below: {sorted(worse)}", flush=True)
            if side is not every[0] and side.name != "overlay":
                checks.check(not worse, f"CPython {test} on {side.name}", text)


def main():
    lamina.need("unshare", "sh")
    args = arguments()
    suite = os.environ.get("LAMINA_PJDFSTEST", "")
    has_python = subprocess.run(["/usr/bin/python3", "-c", "import test.test_os"], check=False, stderr=subprocess.DEVNULL).returncode == 0
    if not suite and not has_python:
        lamina.skip("LAMINA_PJDFSTEST is not set, and CPython's tests are not installed")
    lamina.isolate(7200)
    checks = lamina.Checks()
    with lamina.Host() as host:
        layout = host.dir + "/layout"
        overlaycases.image(layout, [], 1)
        host.run("import", f"oci:{layout}:base", "suite/base:1")
        host.run("import", f"oci:{layout}:app", IMAGE)
        names = args.of.split(",")
        for name in names:
            why = sides.supported(host, name, IMAGE)
            if why:
                lamina.skip(f"{name}: {why}")
        every = [sides.Mounted(host, name, IMAGE) for name in ["plain", *names]]
        if suite:
            run_pjdfstest(checks, suite, every, args.only)
        if has_python:
            run_python(checks, every, args.only)
        for side in every:
            side.unmount()
    checks.finish()


if __name__ == "__main__":
    main()
