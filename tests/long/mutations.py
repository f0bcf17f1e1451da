#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks the store's source in known ways, one at a time, and has tests/crash/enumerate find each.

  mutations.py [--list] [--no-baseline] [NAME…]

Each mutation leaves out a sync or lets two steps change places. It is applied to a copy of the
source, which is built and enumerated with the operations that it concerns. Before that the source as
it is must survive the same (--no-baseline leaves that out). Prints a table; fails when a mutation is
not found, or no longer fits the source."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BOUNDS = ["--long", "--stop", "--only", "crashes", "--bits", "3", "--samples", "4"]
PROGRAM = "build/release/tests/crash/enumerate"

# name, file, what is there, what takes its place, operations
MUTATIONS = [
    ("pack not synced", "cas/packfile.c",
     "int rc = cas_io_fdatasync(ps->io, pf->fd, cas_pack_name(pf->id, name), err);",
     "int rc = 0; (void)name;", ["publish"]),
    ("directory of packs not synced", "cas/packfile.c",
     'int rc = cas_io_sync_dir(ps->io, pf->dirfd, ".", err);', "int rc = 0;", ["recode"]),
    ("blob not synced", "cas/publish.c",
     "rc = cas_io_fsync(io, p->open.fd, p->open.path, err);", "rc = 0;", ["manifest", "publish"]),
    ("directory of blobs not synced", "cas/publish.c",
     "int rc = cas_io_sync_dir(p->store->io, p->store->dirfd, path, err);", "int rc = 0;",
     ["upload"]),
    ("blob's record before its name", "cas/publish.c", [
        ("int rc = cas_io_rename(io, p->store->dirfd, b->path, p->store->dirfd, path, err);",
         "int rc = 0;"),
        ("if (rc == 0 && b->adopted) /* a rename", "if (0) /* a rename"),
        ("        b->path[0] = '\\0';\n        put_blob", "        put_blob"),
        ("                rc = write_batch(p, err);\n", """                rc = write_batch(p, err);
                for (size_t i = 0; rc == 0 && i < p->blob_count; i++) {
                        char late[CAS_BLOB_PATH_BYTES];
                        cas_blob_path(&p->blobs[i].digest, late);
                        rc = cas_io_rename(p->store->io, p->store->dirfd, p->blobs[i].path,
                                           p->store->dirfd, late, err);
                        *strrchr(late, '/') = 0;
                        if (rc == 0)
                                rc = cas_io_sync_dir(p->store->io, p->store->dirfd, late, err);
                        p->blobs[i].path[0] = 0;
                }
"""),
     ], None, ["manifest"]),
    ("journal not synced", "cas/journal.c",
     'rc = cas_io_fdatasync(j->io, j->fd, "journal", err);', "rc = 0;", ["tag"]),
    ("journal after index", "cas/commit.c", [
        ("int rc = cas_journal_append(s->journal, records, count, &unknown, err);",
         """struct cas_journal_position ahead = cas_journal_position(s->journal);
        ahead.sequence++;
        ahead.offset += 32 + records->len_bytes;
        cas_commit_note_seen(batch, &ahead);
        int rc = cas_index_write(s->index, batch, err);
        if (rc == 0)
                rc = cas_journal_append(s->journal, records, count, &unknown, err);"""),
     ], None, ["tag"]),
    ("index not synced", "cas/index.c", "rocksdb_writeoptions_set_sync(ix->synced, 1);",
     "rocksdb_writeoptions_set_sync(ix->synced, 0);", ["tag", "upload"]),
    ("index without log", "cas/index.c", "rocksdb_writeoptions_set_sync(ix->synced, 1);",
     "rocksdb_writeoptions_disable_WAL(ix->synced, 1);", ["lease"]),
    ("new journal renamed before it is synced", "cas/journal.c",
     "rc = cas_io_fsync(j->io, snap->fd, JOURNAL_NEW_PATH, err);", "rc = 0;", ["journal"]),
    ("directory of the new journal not synced", "cas/journal.c",
     "rc = cas_io_sync_dir(j->io, j->dirfd, CAS_DIR_JOURNAL, err);", "rc = 0;", ["journal"]),
    ("upload not synced", "cas/upload.c",
     "int rc = cas_io_fsync(u->store->io, u->fd, u->id, err);", "int rc = 0;", ["upload"]),
    ("name of an upload not synced", "cas/upload.c",
     "rc = cas_io_sync_dir(s->io, s->dirfd, CAS_DIR_UPLOADS, err);\n        u->state->named",
     "rc = 0;\n        u->state->named", ["chunk"]),
    ("tree not synced", "cas/tree.c", "rc = cas_io_fsync(s->io, fd, path, err);", "rc = 0;",
     ["tree"]),
    ("pack goes before its chunks have moved", "cas/packrecode.c",
     """                rc = cas_index_write(r->ps->index, batch, err);
        }
        int settled = rc == 0 ? settle_removals(r, err) : 0;
""", """        }
        int settled = rc == 0 ? settle_removals(r, err) : 0;
        if (rc == 0)
                rc = cas_index_write(r->ps->index, batch, err);
""", ["gc-part"]),
    ("files go before the index is synced", "cas/gcfiles.c",
     "int rc = gc->file_count > 0 ? cas_index_sync(gc->ix, err) : 0;", "int rc = 0;",
     ["gc-part"]),
    ("format not synced", "cas/io.c",
     "rc = cas_io_fsync(io, fd, temporary, err);", "rc = 0;", ["upgrade"]),
    ("checkpoint not synced", "cas/checkpoint.c", "if (syncfs(cp->copy->dirfd) != 0)", "if (0)",
     ["checkpoint"]),
]


def fits(mutation, where):
    """The mutated text of the file, or None."""
    _, path, old, new, _ = mutation
    try:
        with open(os.path.join(where, path), encoding="utf-8") as f:
            text = f.read()
    except FileNotFoundError:
        return None
    for a, b in old if isinstance(old, list) else [(old, new)]:
        if a is None or text.count(a) != 1:
            return None
        text = text.replace(a, b)
    return text


def build(copy):
    env = {k: v for k, v in os.environ.items() if k != "CI"}
    env.update(CCACHE_NOHASHDIR="1", PATH="/usr/lib/ccache:" + env["PATH"])
    run = subprocess.run(["make", "-s", "-j2", "DEPS_CHECK=no", PROGRAM], cwd=copy, env=env,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit("does not build:\n" + run.stderr[-2000:])


def enumerate_(copy, operations):
    """(found by, states tried, why), or None when all was survived."""
    run = subprocess.run([PROGRAM, *BOUNDS, *operations], cwd=copy, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    states = sum(int(line.split()[3]) for line in run.stdout.splitlines()
                 if re.match(r"\S+ +\d+ +\d+ +\d+ +\d+ ", line))
    if run.returncode == 0:
        return None
    failed = [line for line in run.stderr.splitlines() if line.startswith("FAILED: ")]
    if not failed:
        sys.exit("the enumeration itself failed:\n" + run.stderr[-2000:])
    before = run.stderr[:run.stderr.index("FAILED: ")].strip().splitlines()
    why = before[0] if before else "the process ended"
    return failed[0][8:].split(",")[0], states, why


def copy_source(copy):
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    for name in names.stdout.decode().split("\0"):
        if name and not os.path.islink(os.path.join(ROOT, name)):
            to = os.path.join(copy, name)
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copy2(os.path.join(ROOT, name), to)
    os.makedirs(os.path.join(copy, "build"))
    os.symlink(os.path.join(ROOT, "build/deps"), os.path.join(copy, "build/deps"))


def main():
    args = sys.argv[1:]
    names = [a for a in args if not a.startswith("--")]
    chosen = [m for m in MUTATIONS if not names or m[0] in names]
    if "--list" in args:
        print("\n".join(m[0] for m in chosen))
        return 0
    bad = 0
    with tempfile.TemporaryDirectory(prefix="mutations.", dir="/var/tmp") as copy:
        copy_source(copy)
        build(copy)
        if "--no-baseline" not in args:
            operations = sorted({o for m in chosen for o in m[4]})
            found = enumerate_(copy, operations)
            if found:
                sys.exit("the source as it is does not survive: %s: %s" % (found[0], found[2]))
            print("the source as it is survives: " + " ".join(operations), flush=True)
        print("%-42s %-10s %6s  %s" % ("mutation", "found by", "states", "why"), flush=True)
        for m in chosen:
            path = os.path.join(copy, m[1])
            text = fits(m, copy)
            if text is None:
                print("%-42s does not fit the source" % m[0], flush=True)
                bad += 1
                continue
            kept = path + ".kept"
            shutil.copy2(path, kept)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            build(copy)
            found = enumerate_(copy, m[4])
            os.replace(kept, path)
            os.utime(path)
            if found:
                print("%-42s %-10s %6d  %s" % (m[0], found[0], found[1], found[2][:90]), flush=True)
            else:
                print("%-42s NOT FOUND by %s" % (m[0], " ".join(m[4])), flush=True)
                bad += 1
    print("%d mutations, %d found" % (len(chosen), len(chosen) - bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
