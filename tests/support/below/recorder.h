/* SPDX-License-Identifier: Apache-2.0 */
/* A recorder below libc: the program that links it has its own open(), write(), fsync(), rename()
 * …, which libraries call as well (RocksDB's calls are seen like ours), and makes the system calls
 * itself. While it records, every change below one directory is noted in order, with its bytes, in
 * memory that a parent shares; and any call there can be made to fail.
 *
 * One process records at a time, all its threads; changes exclude each other, so that the order of
 * the trace is the order in which they took effect. What it could not tell (writes through a shared
 * mapping, O_SYNC, exchanging names …) ends the process with a message. Not seen: what libc does
 * inside of itself (stdio: RocksDB's LOG, which means nothing; reading directories). */
#ifndef TESTS_BELOW_RECORDER_H
#define TESTS_BELOW_RECORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- the trace ---- */

enum recorder_kind {
        RECORDER_CREATE,   /* file, a new one, is name in dir; is_dir: a directory */
        RECORDER_LINK,     /* file is name in dir as well */
        RECORDER_RENAME,   /* file, name in dir, is to_name in to_dir now */
        RECORDER_UNLINK,   /* file is no longer name in dir; directories, too */
        RECORDER_WRITE,    /* length bytes (data) of file at offset */
        RECORDER_TRUNCATE, /* file has length bytes */
        RECORDER_SYNC,     /* of a file, or of a directory's names */
        RECORDER_SYNC_BAD, /* one that failed: what was not synced may never be */
        RECORDER_SYNC_ALL,
        RECORDER_NOTE, /* what the process said */
};
/* Files and directories have numbers; 0 is the directory that is recorded. */
struct recorder_op {
        enum recorder_kind kind;
        bool armed; /* the operation under test was on */
        bool is_dir;
        uint32_t file, dir, to_dir;
        const char *name, *to_name;
        uint64_t offset, length;
        const uint8_t *data;
        unsigned note;
};
/* What was there at the beginning: its number is its place in the list. */
struct recorder_file {
        uint32_t dir;
        const char *name;
        bool is_dir;
};

/* Memory that children share. */
struct recorder;
struct recorder *recorder_new(void);
void recorder_free(struct recorder *r);
/* Forgets the trace and faults. */
void recorder_reset(struct recorder *r);
size_t recorder_op_count(const struct recorder *r);
struct recorder_op recorder_op(const struct recorder *r, size_t i);
size_t recorder_file_count(const struct recorder *r);
struct recorder_file recorder_file(const struct recorder *r, size_t i);
/* Of the kinds, for people. */
const char *recorder_kind_name(enum recorder_kind kind);

/* ---- recording ---- */

/* From here on what this process does below the directory (absolute) is noted. Once a process. */
void recorder_begin(struct recorder *r, const char *dir);
/* Faults strike, and crashes are of interest, while it is armed. */
void recorder_arm(bool armed);
void recorder_note(unsigned note);

/* ---- faults ---- */

enum recorder_fault {
        RECORDER_NO_FAULT,
        RECORDER_EIO,    /* any call */
        RECORDER_ENOSPC, /* calls that take space, syncs among them */
        RECORDER_EMFILE, /* calls that open */
        RECORDER_ENOMEM, /* calls with a path */
        RECORDER_SHORT,  /* writes and reads of several bytes do half of them, and succeed */
};
/* Call number `at` (1: the first) of those that the fault can strike fails, and with `stays` all
 * after it, until it is cleared. A write that fails has done half of it; a sync that fails has
 * done nothing. */
void recorder_fault_set(struct recorder *r, enum recorder_fault fault, unsigned at, bool stays);
void recorder_fault_clear(struct recorder *r);
/* Whether it has struck; the call, for people. */
bool recorder_struck(const struct recorder *r);
const char *recorder_struck_call(const struct recorder *r);

#endif
