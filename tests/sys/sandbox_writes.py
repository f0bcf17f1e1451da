#!/usr/bin/python3
"""Writable mounts: writes go to the upper directory only, st_ino does not change by copy-up, hard
links survive it, directories rename, `du -x` is right, an upper is bound to its exact trees."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402
import treedump  # noqa: E402


def write(path, data, mode="wb"):
    with open(path, mode) as f:
        f.write(data)


def check_copy_up(checks, point):
    before = os.lstat(point + "/d/b"), os.lstat(point + "/d/third")
    write(point + "/d/b", b"tail", "ab")
    after = os.lstat(point + "/d/b"), os.lstat(point + "/d/third")
    checks.check(before[0].st_ino == after[0].st_ino, "st_ino unchanged by copy-up")
    checks.check(before[0].st_dev == after[0].st_dev, "st_dev unchanged by copy-up")
    checks.check(after[0].st_ino == after[1].st_ino, "a hard link survives copy-up")
    checks.check(after[0].st_size == after[1].st_size == before[0].st_size + 4, "both names see the write")
    inode = os.lstat(point + "/alone").st_ino
    os.chmod(point + "/alone", 0o600)
    checks.check(os.lstat(point + "/alone").st_ino == inode, "st_ino unchanged by chmod")


def check_names(checks, point):
    os.rename(point + "/d", point + "/renamed")
    checks.check(sorted(os.listdir(point + "/renamed"))[:2] == ["a", "across"], "a merged directory renames")
    os.unlink(point + "/small")
    checks.check(not os.path.lexists(point + "/small"), "deletion")
    write(point + "/new", b"new")
    os.symlink("new", point + "/new-link")
    checks.check(open(point + "/new-link", "rb").read() == b"new", "new files and links")


def check_du(checks, point):
    tree, devices = treedump.dump(point)
    checks.check(len(devices) == 1, "one st_dev after writes", str(devices))
    one = subprocess.run(["du", "-xs", "--apparent-size", "-B1", point], capture_output=True, text=True, check=True)
    seen, total = set(), 0
    for path in tree:
        st = os.lstat(os.path.join(os.fsencode(point), path))
        if st.st_ino not in seen:
            seen.add(st.st_ino)
            total += st.st_size
    checks.check(int(one.stdout.split()[0]) == total, "du -x counts all", f"{one.stdout} {total}")


def main():
    lamina.need("unshare")
    lamina.isolate(280)
    checks = lamina.Checks()
    with lamina.Host() as host:
        layout = host.dir + "/layout"
        subprocess.run(["/usr/bin/python3", lamina.SUPPORT + "/oddimages.py", layout], check=True)
        for tag in ("hardlinks", "many"):
            host.run("import", f"oci:{layout}:{tag}", f"odd/{tag}:1")
        readonly = host.mount("odd/hardlinks:1")
        original, _ = treedump.dump(readonly)
        upper = host.dir + "/upper"
        os.mkdir(upper)
        point = host.mount("odd/hardlinks:1", "--upper", upper)
        check_copy_up(checks, point)
        check_names(checks, point)
        check_du(checks, point)
        written, _ = treedump.dump(point)
        checks.check(treedump.dump(readonly)[0] == original, "a read-only mount of the image did not change")
        try:
            write(readonly + "/no", b"no")
            checks.check(False, "a read-only mount refuses writes")
        except OSError:
            checks.check(True, "a read-only mount refuses writes")
        host.umount(point)
        again = host.mount("odd/hardlinks:1", "--upper", upper)
        checks.check(treedump.dump(again)[0] == written, "an upper mounts again with what was written")
        host.umount(again)
        other = host.dir + "/other"
        os.mkdir(other)
        refused = host.run("mount", "--upper", upper, "odd/many:1", other, check=False)
        checks.check(refused.returncode == 1, "an upper is refused over other trees", refused.stderr)
        private = host.mount("odd/many:1", "--rw")
        write(private + "/d00/added", b"mine")
        checks.check(open(private + "/d00/added", "rb").read() == b"mine", "--rw writes")
        host.umount(private)
        host.umount(readonly)
        left = host.run("mounts").stdout.strip()
        checks.check(host.json("mounts") in ([], {"mounts": []}), "nothing is mounted at the end", left)
    checks.finish()


if __name__ == "__main__":
    main()
