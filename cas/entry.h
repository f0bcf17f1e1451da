/* SPDX-License-Identifier: Apache-2.0 */
/* One file system entry, as a layer lists it and as a tree holds it. A value
 * with owned memory; no I/O. */
#ifndef CAS_ENTRY_H
#define CAS_ENTRY_H

#include "cas/digest.h"
#include "cas/limits.h"

enum cas_entry_type {
        CAS_ENTRY_DIR = 1,
        CAS_ENTRY_FILE = 2,
        CAS_ENTRY_SYMLINK = 3,
        CAS_ENTRY_CHARDEV = 4,
        CAS_ENTRY_BLOCKDEV = 5,
        CAS_ENTRY_FIFO = 6,
        CAS_ENTRY_SOCKET = 7,
        CAS_ENTRY_HARDLINK = 8, /* only in listings: `target` is the path of its inode */
        CAS_ENTRY_WHITEOUT = 9, /* in listings and stacked trees: path is absent below */
};

struct cas_xattr {
        char *name;     /* owned; full name with its prefix ("security.capability") */
        uint8_t *value; /* owned */
        size_t value_bytes;
};

/* Files of up to this many bytes are kept in `inline_data`, not as objects. */
#define CAS_INLINE_BYTES_MAX 64

struct cas_entry {
        enum cas_entry_type type;
        char *path; /* owned; in listings: relative, no leading or trailing slash, "" is the root */
        char *target;  /* owned; symlink: its text; hardlink: path in the image */
        uint32_t mode; /* permission bits and setuid, setgid, sticky: 07777 */
        uint32_t uid, gid;
        int64_t mtime_s;
        uint32_t mtime_ns;
        uint32_t dev_major, dev_minor;
        uint64_t size_bytes;    /* files */
        struct cas_hash object; /* files above CAS_INLINE_BYTES_MAX */
        uint8_t inline_data[CAS_INLINE_BYTES_MAX];
        bool opaque;  /* directories: hide what lies below */
        bool implied; /* directories, with opaque: the layer has only the mark, not the directory;
                       * one that lies below keeps its attributes, and none is made */
        bool below;   /* hard links: the target is the file of that path as the layers below left
                       * it, before this layer changes anything; else it is an earlier entry of
                       * this listing that is not a directory */
        struct cas_xattr *xattrs; /* owned; sorted by name, names unique */
        size_t xattr_count;
};

void cas_entry_release(struct cas_entry *e);
/* Adds or replaces, keeping order; copies. Errors: LIMIT. */
int cas_entry_set_xattr(struct cas_entry *e, const char *name, const void *value, size_t len,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Absent is success. */
void cas_entry_remove_xattr(struct cas_entry *e, const char *name);

#endif
