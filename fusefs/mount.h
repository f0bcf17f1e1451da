/* SPDX-License-Identifier: Apache-2.0 */
/* Mounted images of one host: the object file system with its processes, the
 * trees, the overlays over them, and the sandboxes' upper directories. Called in
 * the process of the command (its mount namespace counts), not in the owner.
 *
 * RUN_DIR (tmpfs or any directory, private to the owner of the store) holds:
 *   objects/      the object file system, one super block per host
 *   trees/HEX/    EROFS trees, mounted once each
 *   images/KEY/   one read-only overlay per image
 *   views/NAME/   one connection of the fuse driver per page mode, a directory per volume
 *   mounts/ID     one record (JSON) per mount that a person asked for
 *   hold.sock, fs.sock   the processes */
#ifndef FFS_MOUNT_H
#define FFS_MOUNT_H

#include "cas/digest.h"

struct ffs_host {
        const char *run_dir;      /* absolute */
        const char *store_path;   /* absolute */
        const char *resolve_path; /* Unix socket of the owner's resolver, see fusefs/resolve.h */
        const char *program;      /* this program, for starting `lamina hold` and `lamina fs` */
};

enum ffs_driver { FFS_DRIVER_AUTO, FFS_DRIVER_OVERLAY, FFS_DRIVER_FUSE };

/* What is to be mounted: the owner made the trees and holds a lease on them. */
struct ffs_image {
        char name[512];             /* for people: NAME:TAG */
        struct cas_digest manifest; /* the chosen image manifest */
        size_t tree_count;          /* topmost first */
        struct cas_digest trees[4];
        char tree_paths[4][1024];
};

/* Where the fuse driver keeps pages of files (spec/mounts.md, "Pages"). */
enum ffs_page_mode {
        FFS_PAGE_MODE_AUTO,        /* passthrough where this process may, else inode */
        FFS_PAGE_MODE_PASSTHROUGH, /* the object file system's: shared with the overlay driver */
        FFS_PAGE_MODE_INODE,       /* the driver's own inodes: shared where files are equal */
        FFS_PAGE_MODE_PRIVATE,     /* shared with no other mount */
};

struct ffs_mount_options {
        const char *dir; /* mount point; must exist */
        enum ffs_driver driver;
        enum ffs_page_mode pages;
        const char *id_map; /* ffs_idmap text (fusefs/idmap_int.h), NULL: owners as in the image */
        bool rw;            /* writable: over a new upper in STORE/sandboxes, or `upper` */
        const char *upper;  /* directory kept by the caller (implies rw); it is bound to its
                             * exact trees: other trees are refused with INVALID */
        bool guarded;       /* writable only: device nodes and set-id bits have no effect */
        uint64_t size_limit_bytes; /* of a new upper; 0: none */
        /* NULL, or the /dev/fuse descriptor of a file system that the caller has mounted itself
         * where this process does not see it (in a sandbox's user namespace). It is served by the
         * fuse driver over a connection of its own and mounted nowhere; dir only names it in the
         * records, host ids of id_map are those of that namespace. Borrowed. */
        const int *fuse_fd;
};

struct ffs_mount_info {
        char id[40];
        char dir[4096];
        char name[512];
        struct cas_digest manifest;
        char driver[16]; /* "overlay" or "fuse" */
        char pages[16];  /* of the fuse driver: "passthrough", "inode" or "private"; else "" */
        bool rw;
        char upper[4096]; /* "" when read-only */
        char lease[128];  /* the lease that the mount holds in the store */
};

/* Mounts; starts the object file system when it does not run. The lease id is recorded, so
 * that umount can say which lease to drop. Errors: UNSUPPORTED (what the kernel lacks),
 * DENIED, BUSY, INVALID. */
int ffs_mount(const struct ffs_host *host, const struct ffs_image *image,
              const struct ffs_mount_options *options, const char *lease,
              struct ffs_mount_info *out, struct cas_err *err) CAS_MUST_CHECK;
/* Unmounts what was mounted at dir and drops what nothing else uses (overlay, trees). */
int ffs_umount(const struct ffs_host *host, const char *dir, struct ffs_mount_info *out,
               struct cas_err *err) CAS_MUST_CHECK;
int ffs_mount_each(const struct ffs_host *host,
                   bool (*fn)(void *arg, const struct ffs_mount_info *info), void *arg,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Starts `lamina hold` and `lamina fs`, as the first mount does. */
int ffs_host_start(const struct ffs_host *host, struct cas_err *err) CAS_MUST_CHECK;
/* Unmounts everything of this host, ends `lamina hold` and `lamina fs`. */
int ffs_host_shutdown(const struct ffs_host *host, struct cas_err *err) CAS_MUST_CHECK;

/* The processes of this host's mounts are replaced by host->program; nobody who uses a mount
 * notices more than a pause. Success where there are none. When the program does not come up, the
 * one that was there goes on. Errors: IO (that), INVALID (it is not seen by `lamina hold`). */
int ffs_host_upgrade(const struct ffs_host *host, struct cas_err *err) CAS_MUST_CHECK;

/* Processes: `lamina hold` and `lamina fs` are these. They return the exit status. */
int ffs_hold_main(const struct ffs_host *host);
int ffs_fs_main(const struct ffs_host *host, int hold_fd);
/* Both, from their arguments: argv[0] is "hold" or "fs", and the program starts them as
 * `PROGRAM hold ARGS…`. What ARGS are is between these processes. */
int ffs_process_main(int argc, char **argv);

#endif
