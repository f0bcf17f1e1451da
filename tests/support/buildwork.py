#!/usr/bin/python3
"""A build as programs do them, in the current directory: sources out of the image are compiled and
linked, thousands of files are written, renamed over each other, linked and removed, a database is
kept, maps are written. What it leaves depends on the seed alone.

    buildwork.py SEED ROUNDS"""
import hashlib
import mmap
import os
import random
import shutil
import sqlite3
import subprocess
import sys

SOURCES = 8


def source(i):
    """C of one unit: so that one that is cut short or mixed up does not compile, or computes another sum."""
    rows = ",".join(str(int.from_bytes(hashlib.sha256(b"%d %d" % (i, j)).digest()[:3], "big")) for j in range(400))
    return f"static const unsigned row[] = {{{rows}}};\nunsigned unit{i}(void);\nunsigned unit{i}(void)\n{{\n" \
           "        unsigned sum = 0;\n        for (unsigned j = 0; j < sizeof(row) / sizeof(row[0]); j++)\n" \
           "                sum = sum * 31 + row[j];\n        return sum;\n}\n"


def main_source():
    calls = "".join(f"        printf(\"%u\\n\", unit{i}());\n" for i in range(SOURCES))
    return "#include <stdio.h>\n" + "".join(f"unsigned unit{i}(void);\n" for i in range(SOURCES)) + \
        f"int main(void)\n{{\n{calls}        return 0;\n}}\n"


def image(root):
    """What the image holds: sources, a tree to be changed, files to be read."""
    os.makedirs(root + "/src")
    for i in range(SOURCES):
        with open(f"{root}/src/unit{i}.c", "w", encoding="ascii") as f:
            f.write(source(i))
    with open(root + "/src/main.c", "w", encoding="ascii") as f:
        f.write(main_source())
    for i in range(200):
        os.makedirs(f"{root}/tree/{i % 10}", exist_ok=True)
        with open(f"{root}/tree/{i % 10}/{i}", "wb") as f:
            f.write(hashlib.shake_128(b"%d" % i).digest(i * 97 + 1))
    os.link(root + "/tree/0/0", root + "/tree/1/linked")
    for name, n in (("/tree/large", 3_000_000), ("/still", 30_000)):
        with open(root + name, "wb") as f:
            f.write(hashlib.shake_128(name.encode()).digest(n))


def compile_all(out):
    os.mkdir(out)
    for i in range(SOURCES):
        subprocess.run(["gcc", "-c", "-o", f"{out}/unit{i}.o", f"src/unit{i}.c"], check=True)
    subprocess.run(["ar", "rcD", out + "/units.a", *(f"{out}/unit{i}.o" for i in range(SOURCES))], check=True)
    subprocess.run(["gcc", "-o", out + "/program", "src/main.c", out + "/units.a"], check=True)
    with open(out + "/output", "wb") as f:
        subprocess.run([out + "/program"], check=True, stdout=f)


def churn(r, steps, tag):
    """Small work on many files, in the image's tree and beside it."""
    made = []
    os.makedirs(f"made{tag}")
    for step in range(steps):
        what = r.randrange(9)
        below = f"tree/{r.randrange(10)}"
        if what <= 2 or not made:
            name = f"made{tag}/{step}"
            with open(name + ".tmp", "wb") as f:
                f.write(hashlib.shake_128(b"%d %d" % (tag, step)).digest(r.randrange(20_000)))
                if step % 40 == 0:
                    f.flush()
                    os.fsync(f.fileno())
            os.rename(name + ".tmp", name)
            made.append(name)
        elif what == 3:
            name = made.pop(r.randrange(len(made)))
            os.unlink(name)
        elif what == 4:
            name = r.choice(made)
            os.link(name, f"{name}-{step}")
            made.append(f"{name}-{step}")
        elif what == 5:
            target = r.choice([f"{below}/{n}" for n in sorted(os.listdir(below))] or [r.choice(made)])
            if os.path.isfile(target):
                with open(target, "ab") as f:
                    f.write(b"%d" % step)
        elif what == 6:
            inside = sorted(os.listdir(below))
            if inside:
                name = r.choice(inside)
                os.rename(f"{below}/{name}", f"tree/{r.randrange(10)}/{name}-{tag}-{step}")
        elif what == 7:
            name = r.choice(made)
            with open(name, "r+b") as f:
                f.truncate(max(os.fstat(f.fileno()).st_size, 5000))
                with mmap.mmap(f.fileno(), 5000) as m:
                    m[step % 4000:step % 4000 + 8] = b"%08d" % step
        else:
            os.chmod(r.choice(made), 0o600 | r.randrange(64))


def database(path, rows):
    db = sqlite3.connect(path)
    db.execute("pragma journal_mode=wal")
    db.execute("create table if not exists t(k integer primary key, v blob)")
    for i in range(rows):
        with db:
            db.execute("insert or replace into t values(?, ?)", (i, hashlib.sha256(b"%d" % i).digest()))
    good = db.execute("pragma integrity_check").fetchone()[0] == "ok"
    total = db.execute("select count(*) from t").fetchone()[0]
    db.close()
    os.unlink(path)
    if not good or total != rows:
        raise RuntimeError(f"database: {total} of {rows} rows, good: {good}")


def main():
    r = random.Random(int(sys.argv[1]))
    for i in range(int(sys.argv[2])):
        churn(r, 250, i)
        compile_all(f"out{i}")
        database("data.db", 60)
        shutil.copytree("tree", f"copy{i}", symlinks=True)
        shutil.rmtree(f"tree/{i % 10}")
        os.rename(f"copy{i}/{i % 10}", f"tree/{i % 10}")
        with open("tree/large", "r+b") as f:
            f.seek(i * 100_000)
            f.write(b"round %d" % i)
    return 0


if __name__ == "__main__":
    sys.exit(main())
