/* SPDX-License-Identifier: Apache-2.0 */
/* Images in and out by files: OCI layouts, OCI archives, docker archives, plain
 * directories. Sources are hostile; targets are written as a whole or not at all. */
#ifndef CAS_TRANSFER_H
#define CAS_TRANSFER_H

#include "cas/image.h"

enum cas_transfer_kind {
        CAS_TRANSFER_OCI_LAYOUT,     /* oci:DIR[:TAG] */
        CAS_TRANSFER_OCI_ARCHIVE,    /* oci-archive:FILE[:TAG] */
        CAS_TRANSFER_DOCKER_ARCHIVE, /* docker-archive:FILE[:NAME:TAG] */
};
struct cas_transfer_address {
        enum cas_transfer_kind kind;
        char *path; /* owned */
        char *tag;  /* owned; "" when none */
};
void cas_transfer_address_release(struct cas_transfer_address *a);
int cas_transfer_address_parse(const char *text, struct cas_transfer_address *out,
                               struct cas_err *err) CAS_MUST_CHECK;

/* Imports one image, or with tag "" every tagged one. name (NAME[:TAG], may be NULL) overrides
 * the name; else the layout's or the archive's own names are used: a bare tag T of a layout
 * LAYOUT becomes T:latest when T is a repository name, and an annotation
 * io.containerd.image.name or a full NAME:TAG in ref.name is taken as it is.
 * fn (may be NULL) is told each image that is durable. Children of an index that are not in
 * the source are left out (the index keeps its bytes). */
int cas_import(struct cas_store *s, const struct cas_transfer_address *from, const char *name,
               const struct cas_progress *progress,
               void (*fn)(void *arg, const struct cas_ref *ref, const struct cas_manifest_info *m),
               void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Exports with exact bytes. platform NULL: all that is here. An existing layout is added to. */
int cas_export(struct cas_store *s, const struct cas_ref *ref, const struct cas_platform *platform,
               const struct cas_transfer_address *to, const struct cas_progress *progress,
               struct cas_err *err) CAS_MUST_CHECK;

/* Writes the merged tree as an EROFS file system with data, which a kernel mounts by itself
 * (spec/disk.md). The same image gives the same bytes. `path` is replaced as a whole and durably;
 * what is there and is no regular file is refused (INVALID). Memory grows with the names, not with
 * the data. Blocks for the whole. */
int cas_export_erofs(struct cas_store *s, const struct cas_image *image, const char *path,
                     const struct cas_progress *progress, struct cas_err *err) CAS_MUST_CHECK;

/* A directory becomes a one-layer image; the layer is a canonical tar, gzip: the same directory
 * gives the same digests. Dated by the newest entry, or $SOURCE_DATE_EPOCH. Sockets are left out.
 * Errors: BUSY (a file changed while it was packed), LIMIT, INVALID. */
struct cas_pack_options {
        const char *config_json; /* NULL, or an image config whose "config" member is taken */
        const struct cas_platform *platform; /* NULL: the host's */
        uint64_t *skipped_count;             /* may be NULL; gets the sockets left out */
};
int cas_pack_dir(struct cas_store *s, const char *dir, const struct cas_ref *ref,
                 const struct cas_pack_options *options, const struct cas_progress *progress,
                 struct cas_manifest_info *out, struct cas_err *err) CAS_MUST_CHECK;
/* What cas_unpack met. */
struct cas_unpack_counts {
        uint64_t lossy;       /* entries that lost an attribute */
        uint64_t inodes;      /* the root included */
        uint64_t block_bytes; /* of files and directories, in blocks of 4 KiB */
};
/* Writes the merged tree with owners, times, xattrs, links and devices (what the caller's
 * privileges allow; the rest is counted). dir is made, or must be empty. Never follows links out
 * of dir. counts may be NULL. */
int cas_unpack(struct cas_store *s, const struct cas_image *image, const char *dir,
               const struct cas_progress *progress, struct cas_unpack_counts *counts,
               struct cas_err *err) CAS_MUST_CHECK;

#endif
