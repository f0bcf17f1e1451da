/* SPDX-License-Identifier: Apache-2.0 */
/* How an image is mounted, as `mount`, `run` and `bundle` are told: options
 * that they share, and what they mean to ffs_mount. */
#ifndef TOOLS_MOUNT_CHOICE_H
#define TOOLS_MOUNT_CHOICE_H

#include "fusefs/mount.h"
#include "tools/mounting.h"
#include "tools/options.h"

struct mount_choice {
        const char *driver;
        struct mounting_wish wish;
        const char *pages;
        const char *uid_range;
        const char *size;
        bool private_pages;
};

/* Rows of a command's table whose arguments hold a `struct mount_choice` at offset `at`. */
#define MOUNT_CHOICE_OPTIONS(at)                                                                     \
        {"driver",                                                                                   \
         0,                                                                                          \
         CLI_STRING,                                                                                 \
         (at) + offsetof(struct mount_choice, driver),                                               \
         "auto|overlay|fuse",                                                                        \
         "how the image is mounted; default: auto"},                                                 \
                {"platform",          0,                                                             \
                 CLI_STRING,          (at) + offsetof(struct mount_choice, wish.platform),           \
                 "OS/ARCH[/VARIANT]", "which image of an index; default: this host's"},              \
                {"pull",                                                                             \
                 0,                                                                                  \
                 CLI_STRING,                                                                         \
                 (at) + offsetof(struct mount_choice, wish.pull),                                    \
                 "missing|always|never|proved",                                                      \
                 "whether the registry is asked for an image that is named HOST/NAME; proved: "      \
                 "for "                                                                              \
                 "all of it, whatever is here of other images; default: missing"},                   \
                {"no-background",                                                                    \
                 0,                                                                                  \
                 CLI_FLAG,                                                                           \
                 (at) + offsetof(struct mount_choice, wish.no_background),                           \
                 NULL,                                                                               \
                 "of an image at another lamina, what is not read is not brought"},                  \
                {"pages",                                                                            \
                 0,                                                                                  \
                 CLI_STRING,                                                                         \
                 (at) + offsetof(struct mount_choice, pages),                                        \
                 "auto|passthrough|inode|private",                                                   \
                 "which mounts share the memory of equal files: all (passthrough), those of the "    \
                 "fuse driver (inode), none (private); default: as many as can"},                    \
                {"private-pages",                                                                    \
                 0,                                                                                  \
                 CLI_FLAG,                                                                           \
                 (at) + offsetof(struct mount_choice, private_pages),                                \
                 NULL,                                                                               \
                 "--pages private"},                                                                 \
                {"uid-range",                                                                        \
                 0,                                                                                  \
                 CLI_STRING,                                                                         \
                 (at) + offsetof(struct mount_choice, uid_range),                                    \
                 "FIRST[:COUNT]",                                                                    \
                 "owners 0, 1, … of the image are FIRST, FIRST+1, … on the host, for users and " \
                 "groups; COUNT is 65536 unless given"},                                             \
        {                                                                                            \
                "size", 0, CLI_STRING, (at) + offsetof(struct mount_choice, size), "BYTES",          \
                        "limit of what a new upper directory takes (K, M, G or T may follow)"        \
        }

/* Sets driver, pages, id_map and size limit. *id_map is owned by the caller, and is what
 * out->id_map borrows; NULL where owners are as they are. Without a range a user other than root
 * sees itself and its subordinate ids as owners. Errors: INVALID. */
int mount_choice_apply(const struct mount_choice *c, struct ffs_mount_options *out, char **id_map,
                       struct cas_err *err) CAS_MUST_CHECK;
/* "FIRST[:COUNT]". Errors: INVALID. */
int mount_choice_range(const char *text, uint32_t *first, uint32_t *count,
                       struct cas_err *err) CAS_MUST_CHECK;

#endif
