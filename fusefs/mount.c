/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/mount.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "cas/log.h"
#include "fusefs/fscontrol_int.h"
#include "fusefs/fusedriver_int.h"
#include "fusefs/kmount_int.h"
#include "fusefs/overlay_int.h"
#include "fusefs/process_int.h"
#include "fusefs/records_int.h"
#include "fusefs/upper_int.h"

/* A hold that died is started again by fs within about a second. */
#define REVIVE_WAIT_MS 3000
#define REVIVE_TICK_MS 50

/* ---- the object file system ---- */

static int objects_identify(const struct ffs_host *host, struct ffs_mount_id *out,
                            struct cas_err *err)
{
        cas_cleanup_free char *dir = cas_xasprintf("%s/objects", host->run_dir);
        struct cas_err why = CAS_ERR_INIT;
        if (ffs_kmount_identify(dir, out, &why) == 0)
                return 0;
        if (why.code != CAS_E_NOTFOUND) {
                *err = why;
                return -(int)err->code;
        }
        *out = (struct ffs_mount_id){0};
        return 0;
}

static int ask_status(const struct ffs_host *host, struct ffs_serving *out, struct cas_err *err)
{
        return ffs_hold_ask(host->run_dir, "status", out, err);
}

/* Asks the file system itself: an aborted connection is known before hold has noticed. */
static bool objects_dead(const struct ffs_host *host)
{
        cas_cleanup_free char *dir = cas_xasprintf("%s/objects", host->run_dir);
        struct statfs st;
        return statfs(dir, &st) < 0 && errno == ENOTCONN;
}

/* fs without a hold: it is about to start one. */
static bool fs_answers(const struct ffs_host *host)
{
        struct cas_err ignored = CAS_ERR_INIT;
        cas_cleanup_free char *status = NULL;
        return ffs_fs_status(host->run_dir, &status, &ignored) == 0;
}

/* True when the processes serve. A hold or fs that has just died gets the time to be replaced, one
 * whose connection is gone the time to end. */
static int await_serving(const struct ffs_host *host, struct ffs_serving *out, bool *serving,
                         struct cas_err *err)
{
        for (int waited = 0;; waited += REVIVE_TICK_MS) {
                struct cas_err why = CAS_ERR_INIT;
                struct ffs_mount_id id;
                int rc = ask_status(host, out, &why);
                if (objects_identify(host, &id, err) < 0)
                        return -(int)err->code;
                *serving = rc == 0 && !(id.is_mount_root && objects_dead(host));
                bool nobody = rc < 0 && !id.is_mount_root && !fs_answers(host);
                if (*serving || nobody || waited >= REVIVE_WAIT_MS)
                        return 0;
                struct timespec tick = {.tv_nsec = REVIVE_TICK_MS * 1000000};
                (void)nanosleep(&tick, NULL);
        }
}

/* The processes run; the object file system, if there is one, is seen from this mount namespace. */
static int ensure_serving(const struct ffs_host *host, struct ffs_serving *out, struct cas_err *err)
{
        struct ffs_mount_id id;
        bool serving = false;
        if (await_serving(host, out, &serving, err) < 0 ||
            (!serving && ffs_hold_start(host, out, err) < 0) ||
            objects_identify(host, &id, err) < 0)
                return -(int)err->code;
        if (!out->dev_minor) /* they were started by who may not mount */
                return 0;
        if (!id.is_mount_root || id.dev_major != out->dev_major || id.dev_minor != out->dev_minor)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "%s/objects is mounted in another mount namespace: mount from "
                                "there, or with another run directory",
                                host->run_dir);
        return 0;
}

int ffs_host_start(const struct ffs_host *host, struct cas_err *err)
{
        cas_cleanup_fd int lock = -1;
        struct ffs_serving serving;
        if (ffs_run_lock(host->run_dir, &lock, err) < 0 || ensure_serving(host, &serving, err) < 0)
                return -(int)err->code;
        return 0;
}

/* ---- mounting ---- */

/* Where page modes are asked for, it is the driver that has them. */
static int choose_driver(const struct ffs_image *image, const struct ffs_mount_options *options,
                         enum ffs_driver *out, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        bool has_pages = options->pages != FFS_PAGE_MODE_AUTO;
        if (image->tree_count < 1 || image->tree_count > FFS_TREES_MAX)
                return cas_fail(err, CAS_E_INVALID, "an image of %zu trees", image->tree_count);
        *out = FFS_DRIVER_FUSE;
        if (options->driver == FFS_DRIVER_OVERLAY && (has_pages || options->fuse_fd))
                return cas_fail(err, CAS_E_INVALID, "--pages is for the fuse driver");
        if (options->driver == FFS_DRIVER_FUSE || has_pages || options->fuse_fd)
                return 0;
        /* In a container root may mount overlayfs, but no EROFS. */
        if (options->driver == FFS_DRIVER_AUTO && !ffs_fusedriver_is_privileged())
                return 0;
        if (ffs_overlay_probe(&why) == 0) {
                *out = FFS_DRIVER_OVERLAY;
                return 0;
        }
        if (options->driver == FFS_DRIVER_AUTO)
                return 0;
        *err = why;
        return -(int)err->code;
}

static int refuse_mounted(const struct ffs_host *host, const struct ffs_record *record,
                          struct cas_err *err)
{
        cas_cleanup_free struct ffs_record *old = cas_xmalloc(sizeof(*old));
        struct cas_err why = CAS_ERR_INIT;
        struct ffs_mount_id id;
        if (ffs_record_load(host->run_dir, record->info.id, old, &why) < 0)
                return 0;
        if (strcmp(old->boot, record->boot) != 0)
                return 0; /* of an earlier boot: overwritten */
        if (ffs_kmount_identify(record->info.dir, &id, err) < 0)
                return -(int)err->code;
        if (id.is_mount_root)
                return cas_fail(err, CAS_E_BUSY, "%s is mounted already (%s): lamina umount %s",
                                record->info.dir, old->info.name, record->info.dir);
        return 0;
}

struct upper_use {
        const struct ffs_record *record;
        char *status;                                        /* of fs, owned; NULL: there is none */
        char dir[sizeof(((struct ffs_mount_info *)0)->dir)]; /* where it is mounted, or "" */
};

/* What a record names may be mounted elsewhere (in a sandbox's namespace): then fs knows it. */
static bool is_gone(const struct upper_use *use, const struct ffs_record *other)
{
        struct cas_err ignored = CAS_ERR_INIT;
        struct ffs_mount_id id;
        bool served = use->status && other->connection[0] &&
                      strstr(use->status, other->connection) != NULL;
        return !served && ffs_kmount_identify(other->info.dir, &id, &ignored) == 0 &&
               !id.is_mount_root;
}

static bool note_upper(void *arg, const struct ffs_record *other)
{
        struct upper_use *use = arg;
        if (strcmp(other->boot, use->record->boot) != 0 ||
            strcmp(other->info.upper, use->record->info.upper) != 0 ||
            strcmp(other->info.id, use->record->info.id) == 0 || is_gone(use, other))
                return true;
        (void)snprintf(use->dir, sizeof(use->dir), "%s", other->info.dir);
        return false;
}

/* overlayfs looks itself, but knows nothing of the other driver. */
static int refuse_used_upper(const struct ffs_host *host, const struct ffs_record *record,
                             struct cas_err *err)
{
        cas_cleanup_free struct upper_use *use = cas_xcalloc(1, sizeof(*use));
        struct cas_err ignored = CAS_ERR_INIT;
        use->record = record;
        if (ffs_fs_status(host->run_dir, &use->status, &ignored) < 0)
                use->status = NULL;
        int rc = ffs_record_each(host->run_dir, note_upper, use, err);
        free(use->status);
        if (rc < 0)
                return rc;
        return use->dir[0] ? cas_fail(err, CAS_E_BUSY, "%s is in use by the mount at %s",
                                      record->info.upper, use->dir)
                           : 0;
}

static void random_hex(char out[33])
{
        struct cas_hash bytes;
        char hex[CAS_HASH_HEX_BYTES];
        ssize_t n = getrandom(&bytes, sizeof(bytes), 0);
        cas_assert(n == (ssize_t)sizeof(bytes));
        (void)snprintf(out, 33, "%.32s", cas_hash_hex(&bytes, hex));
}

/* Where the upper goes: the caller's directory, or a new one of the store's. */
static int choose_upper(const struct ffs_host *host, const struct ffs_mount_options *options,
                        struct ffs_record *record, struct cas_err *err)
{
        char id[33];
        if (options->upper) {
                char full[PATH_MAX];
                if (mkdir(options->upper, 0700) < 0 && errno != EEXIST)
                        return cas_fail_sys(err, errno, "make %s", options->upper);
                if (!realpath(options->upper, full))
                        return cas_fail_sys(err, errno, "upper directory %s", options->upper);
                (void)snprintf(record->info.upper, sizeof(record->info.upper), "%s", full);
                return refuse_used_upper(host, record, err);
        }
        cas_cleanup_free char *sandboxes = cas_xasprintf("%s/sandboxes", host->store_path);
        if (mkdir(sandboxes, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", sandboxes);
        random_hex(id);
        int n = snprintf(record->info.upper, sizeof(record->info.upper), "%s/%s", sandboxes, id);
        if (n < 0 || (size_t)n >= sizeof(record->info.upper))
                return cas_fail(err, CAS_E_INVALID, "the store's path is too long");
        record->upper_is_ours = true;
        return 0;
}

static int make_record(const struct ffs_host *host, const struct ffs_image *image,
                       const struct ffs_mount_options *options, enum ffs_driver driver,
                       const char *lease, struct ffs_record *r, struct cas_err *err)
{
        char full[PATH_MAX];
        struct stat st;
        if (!realpath(options->dir, full))
                return cas_fail_sys(err, errno, "mount point %s", options->dir);
        if (stat(full, &st) < 0 || !S_ISDIR(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, "mount point %s is no directory", full);
        *r = (struct ffs_record){.tree_count = image->tree_count};
        (void)snprintf(r->info.dir, sizeof(r->info.dir), "%s", full);
        ffs_record_id(full, r->info.id);
        (void)snprintf(r->info.name, sizeof(r->info.name), "%s", image->name);
        (void)snprintf(r->info.driver, sizeof(r->info.driver), "%s",
                       driver == FFS_DRIVER_FUSE ? "fuse" : "overlay");
        (void)snprintf(r->info.lease, sizeof(r->info.lease), "%s", lease);
        r->info.manifest = image->manifest;
        r->info.rw = options->rw || options->upper;
        memcpy(r->trees, image->trees, image->tree_count * sizeof(image->trees[0]));
        if (ffs_boot_id(r->boot, err) < 0 || refuse_mounted(host, r, err) < 0)
                return -(int)err->code;
        return r->info.rw ? choose_upper(host, options, r, err) : 0;
}

static void binding_of(const struct ffs_image *image, const struct ffs_mount_options *options,
                       struct ffs_binding *out)
{
        *out = (struct ffs_binding){.tree_count = image->tree_count,
                                    .manifest = image->manifest,
                                    .options = FFS_OVERLAY_OPTIONS_RW,
                                    .size_limit_bytes = options->size_limit_bytes,
                                    .has_image = options->size_limit_bytes > 0 && geteuid() == 0};
        memcpy(out->trees, image->trees, image->tree_count * sizeof(image->trees[0]));
        if (options->id_map)
                (void)snprintf(out->id_map, sizeof(out->id_map), "%s", options->id_map);
        (void)snprintf(out->name, sizeof(out->name), "%s", image->name);
}

/* ---- by overlayfs ---- */

static int attach_writable(const struct ffs_host *host, const struct ffs_image *image,
                           const struct ffs_mount_options *options, const struct ffs_record *r,
                           struct cas_err *err)
{
        struct ffs_binding binding;
        ffs_cleanup_upper struct ffs_upper made = FFS_UPPER_INIT;
        binding_of(image, options, &binding);
        if (ffs_upper_prepare(r->info.upper, &binding, image->tree_paths[0], &made, err) < 0)
                return -(int)err->code;
        unsigned attributes = options->guarded ? MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID : 0;
        return ffs_overlay_writable(host, image, &made, options->id_map, attributes, r->info.dir,
                                    err);
}

static int mount_overlay(const struct ffs_host *host, const struct ffs_image *image,
                         const struct ffs_mount_options *options, const struct ffs_serving *serving,
                         struct ffs_record *r, struct cas_err *err)
{
        /* The record comes first: a mount without one would be lost, one without a mount is
         * removed by umount. */
        if (ffs_overlay_trees(host, image, err) < 0 ||
            (!r->info.rw &&
             ffs_overlay_image(host, image, options->id_map, serving, r->image, err) < 0) ||
            ffs_record_save(host->run_dir, r, err) < 0)
                return -(int)err->code;
        if (r->info.rw)
                return attach_writable(host, image, options, r, err);
        cas_cleanup_free char *from = cas_xasprintf("%s/images/%s", host->run_dir, r->image);
        return ffs_kmount_bind(from, r->info.dir, MOUNT_ATTR_RDONLY, err);
}

/* ---- by fs ---- */

static int try_modes(const struct ffs_host *host, const struct ffs_image *image,
                     const struct ffs_mount_options *options, const struct ffs_upper *upper,
                     struct ffs_record *r, struct cas_err *err)
{
        enum ffs_page_mode modes[2];
        size_t count = 0;
        if (ffs_fusedriver_modes(options->pages, modes, &count, err) < 0)
                return -(int)err->code;
        for (size_t i = 0;; i++) {
                struct cas_err why = CAS_ERR_INIT;
                if (ffs_fusedriver_mount(host, image, options, modes[i], upper, r, &why) == 0)
                        return 0;
                if (why.code != CAS_E_UNSUPPORTED || i + 1 == count) {
                        *err = why;
                        return -(int)err->code;
                }
        }
}

static int mount_fuse(const struct ffs_host *host, const struct ffs_image *image,
                      const struct ffs_mount_options *options, struct ffs_record *r,
                      struct cas_err *err)
{
        if (!r->info.rw)
                return try_modes(host, image, options, NULL, r, err);
        struct ffs_binding binding;
        ffs_cleanup_upper struct ffs_upper made = FFS_UPPER_INIT;
        binding_of(image, options, &binding);
        ffs_fusedriver_binding(options, &binding);
        if (ffs_upper_prepare(r->info.upper, &binding, image->tree_paths[0], &made, err) < 0)
                return -(int)err->code;
        return try_modes(host, image, options, &made, r, err);
}

/* A failed mount leaves nothing: what was begun for it is taken back. */
static void undo(const struct ffs_host *host, const struct ffs_record *r)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (ffs_record_remove(host->run_dir, r->info.id, &ignored) < 0 ||
            ffs_fusedriver_sweep(host, r, &ignored) < 0 ||
            (r->upper_is_ours && ffs_upper_remove(r->info.upper, &ignored) < 0) ||
            ffs_overlay_sweep(host, &ignored) < 0)
                cas_log(CAS_LOG_WARN, "mount.undo", "why=\"%s\"", ignored.msg);
}

int ffs_mount(const struct ffs_host *host, const struct ffs_image *image,
              const struct ffs_mount_options *options, const char *lease,
              struct ffs_mount_info *out, struct cas_err *err)
{
        cas_cleanup_fd int lock = -1;
        struct ffs_serving serving;
        enum ffs_driver driver;
        cas_cleanup_free struct ffs_record *r = cas_xmalloc(sizeof(*r));
        if (choose_driver(image, options, &driver, err) < 0 ||
            ffs_run_lock(host->run_dir, &lock, err) < 0 ||
            make_record(host, image, options, driver, lease, r, err) < 0 ||
            ensure_serving(host, &serving, err) < 0)
                return -(int)err->code;
        int rc = driver == FFS_DRIVER_FUSE ? mount_fuse(host, image, options, r, err)
                                           : mount_overlay(host, image, options, &serving, r, err);
        if (rc < 0) {
                undo(host, r);
                return rc;
        }
        *out = r->info;
        return 0;
}

/* ---- unmounting ---- */

static int unmount_record(const struct ffs_host *host, const struct ffs_record *r,
                          struct cas_err *err)
{
        char boot[40];
        if (ffs_boot_id(boot, err) < 0)
                return -(int)err->code;
        /* What is mounted there after another boot is not ours. */
        bool by_fs = strcmp(r->info.driver, "fuse") == 0;
        if (strcmp(r->boot, boot) == 0 &&
            (by_fs ? ffs_fusedriver_umount(host, r, err)
                   : ffs_kmount_detach(r->info.dir, false, err)) < 0) {
                if (err->code != CAS_E_BUSY)
                        return -(int)err->code;
                return cas_fail(err, CAS_E_BUSY,
                                "%s is in use: end what runs or stands in it (fuser -vm %s) and "
                                "try again",
                                r->info.dir, r->info.dir);
        }
        if (ffs_record_remove(host->run_dir, r->info.id, err) < 0 ||
            (by_fs && ffs_fusedriver_sweep(host, r, err) < 0))
                return -(int)err->code;
        return r->upper_is_ours ? ffs_upper_remove(r->info.upper, err) : 0;
}

int ffs_umount(const struct ffs_host *host, const char *dir, struct ffs_mount_info *out,
               struct cas_err *err)
{
        char full[PATH_MAX], id[40];
        /* A dead mount may not be looked up; its own absolute path is as good. */
        if (!realpath(dir, full)) {
                if (dir[0] != '/' || strlen(dir) >= sizeof(full))
                        return cas_fail_sys(err, errno, "mount point %s", dir);
                memcpy(full, dir, strlen(dir) + 1);
        }
        cas_cleanup_fd int lock = -1;
        cas_cleanup_free struct ffs_record *r = cas_xmalloc(sizeof(*r));
        ffs_record_id(full, id);
        if (ffs_run_lock(host->run_dir, &lock, err) < 0)
                return -(int)err->code;
        if (ffs_record_load(host->run_dir, id, r, err) < 0) {
                if (err->code == CAS_E_NOTFOUND)
                        return cas_fail(err, CAS_E_NOTFOUND, "nothing of lamina is mounted at %s",
                                        full);
                return -(int)err->code;
        }
        if (unmount_record(host, r, err) < 0 || ffs_overlay_sweep(host, err) < 0)
                return -(int)err->code;
        *out = r->info;
        return 0;
}

struct each {
        bool (*fn)(void *arg, const struct ffs_mount_info *info);
        void *arg;
        char boot[40];
};

static bool each_info(void *arg, const struct ffs_record *record)
{
        const struct each *each = arg;
        if (strcmp(record->boot, each->boot) != 0)
                return true; /* gone with the kernel that had it */
        return each->fn(each->arg, &record->info);
}

int ffs_mount_each(const struct ffs_host *host,
                   bool (*fn)(void *arg, const struct ffs_mount_info *info), void *arg,
                   struct cas_err *err)
{
        struct each each = {.fn = fn, .arg = arg};
        if (ffs_boot_id(each.boot, err) < 0)
                return -(int)err->code;
        return ffs_record_each(host->run_dir, each_info, &each, err);
}

struct shutdown {
        const struct ffs_host *host;
        struct cas_err *err;
        int rc;
};

static bool shutdown_one(void *arg, const struct ffs_record *record)
{
        struct shutdown *s = arg;
        s->rc = unmount_record(s->host, record, s->err);
        return s->rc == 0;
}

int ffs_host_shutdown(const struct ffs_host *host, struct cas_err *err)
{
        cas_cleanup_fd int lock = -1;
        struct shutdown s = {.host = host, .err = err};
        if (ffs_run_lock(host->run_dir, &lock, err) < 0 ||
            ffs_record_each(host->run_dir, shutdown_one, &s, err) < 0)
                return -(int)err->code;
        if (s.rc < 0)
                return s.rc;
        if (ffs_overlay_sweep(host, err) < 0)
                return -(int)err->code;
        struct ffs_serving serving;
        struct cas_err why = CAS_ERR_INIT;
        if (ffs_hold_ask(host->run_dir, "stop", &serving, &why) < 0 && why.code != CAS_E_NOTFOUND &&
            why.code != CAS_E_BUSY) {
                *err = why;
                return -(int)err->code;
        }
        /* Who has no object file system to lose is told that it may end. */
        why = (struct cas_err)CAS_ERR_INIT;
        if (ffs_fs_leave(host->run_dir, &why) < 0)
                cas_log(CAS_LOG_DEBUG, "shutdown.fs", "why=\"%s\"", why.msg);
        return 0;
}

/* ---- another program ---- */

/* A file, or a program that was deleted meanwhile, is not the same as one of its name. */
static bool runs_program(pid_t pid, const char *program)
{
        char exe[64];
        struct stat running, wanted;
        (void)snprintf(exe, sizeof(exe), "/proc/%d/exe", (int)pid);
        return stat(exe, &running) == 0 && stat(program, &wanted) == 0 &&
               running.st_dev == wanted.st_dev && running.st_ino == wanted.st_ino;
}

int ffs_host_upgrade(const struct ffs_host *host, struct cas_err *err)
{
        struct ffs_serving serving;
        struct cas_err why = CAS_ERR_INIT;
        cas_cleanup_free char *verb = cas_xasprintf("replace %s", host->program);
        cas_cleanup_free char *status = NULL;
        if (ffs_hold_ask(host->run_dir, verb, &serving, &why) < 0) {
                if (why.code == CAS_E_NOTFOUND || why.code == CAS_E_BUSY)
                        return 0; /* nothing is mounted */
                *err = why;
                return -(int)err->code;
        }
        /* Answered by whoever has come up. */
        if (ffs_fs_status(host->run_dir, &status, err) < 0 ||
            ffs_hold_ask(host->run_dir, "status", &serving, err) < 0)
                return -(int)err->code;
        return runs_program(serving.fs_pid, host->program)
                       ? 0
                       : cas_fail(err, CAS_E_IO,
                                  "mounts are still served by the former program: see %s/fs.log",
                                  host->run_dir);
}
