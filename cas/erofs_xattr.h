/* SPDX-License-Identifier: Apache-2.0 */
/* The xattrs of an image that is being written: each distinct one once, counted,
 * and kept in the shared area when more than one inode has it. Private to
 * erofs_write.c. Not thread-safe. */
#ifndef CAS_EROFS_XATTR_H
#define CAS_EROFS_XATTR_H

#include "cas/merge_int.h"

struct cas_erofs_xattr {
        const char *name; /* behind the prefix; borrowed or static */
        const uint8_t *value;
        uint32_t value_bytes; /* as it is written */
        uint32_t uses;
        uint32_t shared_id;
        uint8_t index; /* enum cas_erofs_xattr_index */
        uint8_t name_len;
        bool redirect; /* value is an object's id; its path is written */
};

struct cas_erofs_xattr_table {
        struct cas_arena arena;        /* escaped names */
        struct cas_erofs_xattr *items; /* owned; in order of first use */
        uint32_t count, alloc;
        uint32_t *slots; /* item + 1, or 0 */
        uint32_t mask;
        uint64_t secret;
        uint32_t *lists; /* owned: the items of one inode after those of another */
        size_t list_count, list_alloc;
        bool has_acl;
        bool plain; /* as the image has them: without overlayfs's, and nothing is escaped */
};

void cas_erofs_xattr_init(struct cas_erofs_xattr_table *t);
void cas_erofs_xattr_release(struct cas_erofs_xattr_table *t);

/* Appends the items of an inode to t->lists, overlayfs's own first. */
int cas_erofs_xattr_collect(struct cas_erofs_xattr_table *t, const struct cas_merge_inode *inode,
                            bool opaque, struct cas_err *err) CAS_MUST_CHECK;
/* Bytes of an inode's xattrs in the image; 0 when it has none. After all are collected. */
uint64_t cas_erofs_xattr_body_bytes(const struct cas_erofs_xattr_table *t, const uint32_t *list,
                                    size_t count);
/* Gives places in the shared area to items of more than one use; area_id: its start,
 * in units of four bytes. Returns its bytes. */
uint64_t cas_erofs_xattr_place_shared(struct cas_erofs_xattr_table *t, uint32_t area_id);
void cas_erofs_xattr_write_body(const struct cas_erofs_xattr_table *t, const uint32_t *list,
                                size_t count, uint8_t *out);
/* area_at: where the area's first block starts in `image`, id 0. */
void cas_erofs_xattr_write_shared(const struct cas_erofs_xattr_table *t, uint8_t *area_at);

#endif
