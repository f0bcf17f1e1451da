/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/fusedriver_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>

#include "cas/log.h"
#include "fusefs/fscontrol_int.h"
#include "fusefs/fusermount_int.h"
#include "fusefs/kmount_int.h"
#include "fusefs/overlay_int.h"

#define MAX_READ_BYTES 1048576
#define SINGLE_VOLUME "root"
#define END_WAIT_MS 2000
#define END_TICK_MS 10
/* A view whose connection turns out to be dead is made anew. */
#define VIEW_TRIES 3

/* ---- what can be ---- */

bool ffs_fusedriver_is_privileged(void)
{
        char line[64] = "";
        unsigned inside = 1, outside = 1, count = 0;
        if (geteuid() != 0)
                return false;
        cas_cleanup_fd int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0)
                return false;
        return sscanf(line, "%u %u %u", &inside, &outside, &count) == 3 && inside == 0 &&
               outside == 0 && count == UINT32_MAX;
}

static bool kernel_passes_through(void)
{
        struct utsname name;
        unsigned major = 0, minor = 0;
        if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
                return false;
        return major > 6 || (major == 6 && minor >= 9);
}

int ffs_fusedriver_modes(enum ffs_page_mode wanted, enum ffs_page_mode out[2], size_t *count,
                         struct cas_err *err)
{
        bool privileged = ffs_fusedriver_is_privileged(), able = kernel_passes_through();
        *count = 0;
        if (wanted == FFS_PAGE_MODE_PASSTHROUGH && !privileged)
                return cas_fail(err, CAS_E_DENIED, "--pages passthrough needs root");
        if (wanted == FFS_PAGE_MODE_PASSTHROUGH && !able)
                return cas_fail(err, CAS_E_UNSUPPORTED, "--pages passthrough needs Linux 6.9");
        if (privileged && able &&
            (wanted == FFS_PAGE_MODE_AUTO || wanted == FFS_PAGE_MODE_PASSTHROUGH))
                out[(*count)++] = FFS_PAGE_MODE_PASSTHROUGH;
        if (wanted == FFS_PAGE_MODE_AUTO || wanted == FFS_PAGE_MODE_INODE)
                out[(*count)++] = FFS_PAGE_MODE_INODE;
        if (wanted == FFS_PAGE_MODE_PRIVATE)
                out[(*count)++] = FFS_PAGE_MODE_PRIVATE;
        return 0;
}

/* Who cannot have an image's owners shows them all as himself. */
static void choose_map(const struct ffs_mount_options *options, char out[FFS_IDMAP_TEXT_BYTES])
{
        out[0] = '\0';
        if (options->id_map)
                (void)snprintf(out, FFS_IDMAP_TEXT_BYTES, "%s", options->id_map);
        else if (geteuid() != 0)
                (void)snprintf(out, FFS_IDMAP_TEXT_BYTES, "0:%u:1;0:%u:1;squash",
                               (unsigned)geteuid(), (unsigned)getegid());
}

void ffs_fusedriver_binding(const struct ffs_mount_options *options, struct ffs_binding *binding)
{
        choose_map(options, binding->id_map);
        if (ffs_fusedriver_is_privileged())
                return; /* as overlayfs does */
        binding->format = FFS_UPPER_USER;
        binding->owners_in_xattrs = true;
        binding->has_image = false; /* the server counts */
        (void)snprintf(binding->options, sizeof(binding->options), "userxattr");
}

/* ---- volumes ---- */

static void random_hex(char *out, size_t digits)
{
        struct cas_hash bytes;
        char hex[CAS_HASH_HEX_BYTES];
        ssize_t n = getrandom(&bytes, sizeof(bytes), 0);
        cas_assert(n == (ssize_t)sizeof(bytes));
        (void)snprintf(out, digits + 1, "%s", cas_hash_hex(&bytes, hex));
}

/* Mounts of the same trees that show the same owners are one volume. */
static void shared_id(const struct ffs_image *image, const char *id_map, char out[40])
{
        cas_cleanup_hasher struct cas_hasher *h = cas_hasher_new(CAS_DIGEST_SHA256);
        for (size_t i = 0; i < image->tree_count; i++)
                cas_hasher_update(h, &image->trees[i], sizeof(image->trees[i]));
        cas_hasher_update(h, id_map, strlen(id_map));
        struct cas_digest digest;
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_hasher_final(h, &digest);
        (void)snprintf(out, 40, "%.32s", cas_digest_hex(&digest, hex));
}

static int make_spec(const struct ffs_image *image, const struct ffs_mount_options *options,
                     const struct ffs_upper *upper, bool shared, struct ffs_volume_spec *out,
                     struct cas_err *err)
{
        char map[FFS_IDMAP_TEXT_BYTES];
        choose_map(options, map);
        *out = (struct ffs_volume_spec){.tree_count = image->tree_count, .rw = upper != NULL};
        if (ffs_idmap_parse(map, &out->map, err) < 0)
                return -(int)err->code;
        memcpy(out->trees, image->trees, sizeof(out->trees));
        memcpy(out->tree_paths, image->tree_paths, sizeof(out->tree_paths));
        if (upper) {
                out->format = upper->binding.format;
                out->owners_in_xattrs = upper->binding.owners_in_xattrs;
                /* One in a file system of its own is limited by that. */
                out->size_limit_bytes =
                        upper->binding.has_image ? 0 : upper->binding.size_limit_bytes;
        }
        if (!shared)
                (void)snprintf(out->id, sizeof(out->id), SINGLE_VOLUME);
        else if (upper)
                random_hex(out->id, 32);
        else
                shared_id(image, map, out->id);
        return 0;
}

/* ---- connections ---- */

static const char *const mode_names[] = {
        [FFS_PAGE_MODE_AUTO] = "auto",
        [FFS_PAGE_MODE_PASSTHROUGH] = "passthrough",
        [FFS_PAGE_MODE_INODE] = "inode",
        [FFS_PAGE_MODE_PRIVATE] = "private",
};

static void tree_spec(enum ffs_page_mode mode, bool shared, struct ffs_tree_spec *out)
{
        char random[17];
        random_hex(random, shared ? 8 : 16);
        *out = (struct ffs_tree_spec){.pages = mode == FFS_PAGE_MODE_PASSTHROUGH
                                                       ? FFS_PAGES_PASSTHROUGH
                                                       : FFS_PAGES_INODE,
                                      .shared = shared};
        (void)snprintf(out->name, sizeof(out->name), "%s-%s", shared ? mode_names[mode] : "single",
                       random);
}

/* A mount that is attached nowhere yet, and its device. */
static int make_mount(bool read_only, int *out_fuse_fd, int *out_mount_fd,
                      struct ffs_tree_spec *tree, struct cas_err *err)
{
        char fd_text[16], number[16];
        cas_cleanup_fd int fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        cas_cleanup_fd int mount_fd = -1;
        if (fuse_fd < 0)
                return cas_fail_sys(err, errno, "open /dev/fuse");
        ffs_cleanup_kmount struct ffs_kmount m = {0};
        (void)snprintf(fd_text, sizeof(fd_text), "%d", fuse_fd);
        (void)snprintf(number, sizeof(number), "%d", MAX_READ_BYTES);
        if (ffs_kmount_open("fuse", &m, err) < 0 ||
            ffs_kmount_set(&m, "source", "lamina", err) < 0 ||
            ffs_kmount_set(&m, "subtype", "lamina", err) < 0 ||
            ffs_kmount_set(&m, "fd", fd_text, err) < 0 ||
            ffs_kmount_set(&m, "rootmode", "40755", err) < 0 ||
            ffs_kmount_set(&m, "user_id", "0", err) < 0 ||
            ffs_kmount_set(&m, "group_id", "0", err) < 0 ||
            ffs_kmount_set(&m, "max_read", number, err) < 0 ||
            ffs_kmount_flag(&m, "allow_other", err) < 0 ||
            ffs_kmount_flag(&m, "default_permissions", err) < 0 ||
            (read_only && ffs_kmount_flag(&m, "ro", err) < 0) ||
            ffs_kmount_detached(&m, MOUNT_ATTR_NOATIME, &mount_fd, err) < 0)
                return -(int)err->code;
        struct ffs_mount_id id;
        if (ffs_kmount_identify_fd(mount_fd, &id, err) < 0)
                return -(int)err->code;
        tree->dev_major = id.dev_major;
        tree->dev_minor = id.dev_minor;
        *out_fuse_fd = cas_steal_fd(&fuse_fd);
        *out_mount_fd = cas_steal_fd(&mount_fd);
        return 0;
}

/* ---- shared connections ---- */

static int make_view(const struct ffs_host *host, enum ffs_page_mode mode,
                     struct ffs_tree_spec *tree, struct cas_err *err)
{
        cas_cleanup_fd int fuse_fd = -1;
        cas_cleanup_fd int mount_fd = -1;
        tree_spec(mode, true, tree);
        cas_cleanup_free char *dir = cas_xasprintf("%s/views/%s", host->run_dir, tree->name);
        if (make_mount(false, &fuse_fd, &mount_fd, tree, err) < 0)
                return -(int)err->code;
        if (mkdir(dir, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", dir);
        if (ffs_fs_tree_add(host->run_dir, tree, fuse_fd, NULL, -1, err) < 0)
                return -(int)err->code;
        return ffs_kmount_attach(mount_fd, dir, err);
}

static void drop_view(const struct ffs_host *host, const char *name)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = cas_xasprintf("%s/views/%s", host->run_dir, name);
        if (ffs_kmount_detach(dir, true, &err) < 0 || (rmdir(dir) < 0 && errno != ENOENT))
                cas_log(CAS_LOG_WARN, "mount.view", "dir=%s errno=%d", dir, errno);
}

/* The name of a view that is mounted here for the mode, "" when there is none. */
static int find_view(const struct ffs_host *host, enum ffs_page_mode mode,
                     char out[FFS_TREE_NAME_BYTES], struct cas_err *err)
{
        struct ffs_mount_id id;
        cas_cleanup_free char *views = cas_xasprintf("%s/views", host->run_dir);
        cas_cleanup_free char *prefix = cas_xasprintf("%s-", mode_names[mode]);
        DIR *d = opendir(views);
        if (!d)
                return cas_fail_sys(err, errno, "open %s", views);
        int rc = 0;
        out[0] = '\0';
        for (struct dirent *e; rc == 0 && !out[0] && (e = readdir(d));) {
                if (strncmp(e->d_name, prefix, strlen(prefix)) != 0 ||
                    strlen(e->d_name) >= FFS_TREE_NAME_BYTES)
                        continue;
                cas_cleanup_free char *dir = cas_xasprintf("%s/%s", views, e->d_name);
                rc = ffs_kmount_identify(dir, &id, err);
                if (rc == 0 && id.is_mount_root)
                        memcpy(out, e->d_name, strlen(e->d_name) + 1);
        }
        (void)closedir(d);
        return rc;
}

static unsigned attributes_of(const struct ffs_mount_options *options, bool rw)
{
        return MOUNT_ATTR_NOATIME | (rw ? 0U : (unsigned)MOUNT_ATTR_RDONLY) |
               (options->guarded ? MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID : 0U);
}

static int save_record(const struct ffs_host *host, const char *connection, const char *volume,
                       struct ffs_record *r, struct cas_err *err)
{
        (void)snprintf(r->connection, sizeof(r->connection), "%s", connection);
        (void)snprintf(r->volume, sizeof(r->volume), "%s", volume);
        return ffs_record_save(host->run_dir, r, err);
}

/* Puts the volume into a view of the mode, whose name the record has then. A view that fs does not
 * know is of a dead predecessor. */
static int place_volume(const struct ffs_host *host, enum ffs_page_mode mode,
                        const struct ffs_volume_spec *volume, int dir_fd, struct ffs_record *r,
                        struct cas_err *err)
{
        for (int i = 0; i < VIEW_TRIES; i++) {
                struct cas_err why = CAS_ERR_INIT;
                struct ffs_tree_spec tree;
                char name[FFS_TREE_NAME_BYTES];
                if (find_view(host, mode, name, err) < 0)
                        return -(int)err->code;
                if (!name[0] && make_view(host, mode, &tree, err) < 0)
                        return -(int)err->code;
                if (save_record(host, name[0] ? name : tree.name, volume->id, r, err) < 0)
                        return -(int)err->code;
                if (ffs_fs_volume_add(host->run_dir, r->connection, volume, dir_fd, &tree, &why) ==
                    0)
                        return 0;
                if (why.code != CAS_E_BUSY || why.sys_errno) {
                        *err = why;
                        return -(int)err->code;
                }
                drop_view(host, r->connection);
        }
        return cas_fail(err, CAS_E_IO, "connections end as soon as they are made");
}

static int mount_shared(const struct ffs_host *host, enum ffs_page_mode mode,
                        const struct ffs_mount_options *options,
                        const struct ffs_volume_spec *volume, int dir_fd, struct ffs_record *r,
                        struct cas_err *err)
{
        if (place_volume(host, mode, volume, dir_fd, r, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *from =
                cas_xasprintf("%s/views/%s/%s", host->run_dir, r->connection, volume->id);
        return ffs_kmount_bind(from, r->info.dir, attributes_of(options, volume->rw), err);
}

/* ---- connections of one mount ---- */

static int mount_by_helper(const struct ffs_host *host, const struct ffs_volume_spec *volume,
                           int dir_fd, struct ffs_tree_spec *tree, const char *dir,
                           struct cas_err *err)
{
        cas_cleanup_fd int fuse_fd = -1;
        struct ffs_mount_id id;
        if (ffs_fusermount_mount(dir,
                                 volume->rw ? "fsname=lamina,subtype=lamina,max_read=1048576"
                                            : "fsname=lamina,subtype=lamina,max_read=1048576,ro",
                                 &fuse_fd, err) < 0)
                return -(int)err->code;
        int rc = ffs_kmount_identify(dir, &id, err);
        if (rc == 0) {
                tree->dev_major = id.dev_major;
                tree->dev_minor = id.dev_minor;
                rc = ffs_fs_tree_add(host->run_dir, tree, fuse_fd, volume, dir_fd, err);
        }
        if (rc < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!ffs_fusermount_umount(dir, true, &ignored);
        }
        return rc;
}

static int mount_single(const struct ffs_host *host, const struct ffs_mount_options *options,
                        const struct ffs_volume_spec *volume, int dir_fd, struct ffs_record *r,
                        struct cas_err *err)
{
        struct ffs_tree_spec tree;
        tree_spec(FFS_PAGE_MODE_PRIVATE, false, &tree);
        if (save_record(host, tree.name, volume->id, r, err) < 0)
                return -(int)err->code;
        if (options->fuse_fd)
                return ffs_fs_tree_add(host->run_dir, &tree, *options->fuse_fd, volume, dir_fd,
                                       err);
        if (geteuid() != 0)
                return mount_by_helper(host, volume, dir_fd, &tree, r->info.dir, err);
        cas_cleanup_fd int fuse_fd = -1;
        cas_cleanup_fd int mount_fd = -1;
        if (make_mount(!volume->rw, &fuse_fd, &mount_fd, &tree, err) < 0 ||
            ffs_fs_tree_add(host->run_dir, &tree, fuse_fd, volume, dir_fd, err) < 0 ||
            ffs_kmount_set_attributes(mount_fd, attributes_of(options, volume->rw), err) < 0 ||
            ffs_kmount_attach(mount_fd, r->info.dir, err) < 0)
                return -(int)err->code;
        return 0;
}

int ffs_fusedriver_mount(const struct ffs_host *host, const struct ffs_image *image,
                         const struct ffs_mount_options *options, enum ffs_page_mode mode,
                         const struct ffs_upper *upper, struct ffs_record *record,
                         struct cas_err *err)
{
        bool shared = mode != FFS_PAGE_MODE_PRIVATE && geteuid() == 0 && !options->fuse_fd;
        cas_cleanup_free struct ffs_volume_spec *volume = cas_xmalloc(sizeof(*volume));
        if (make_spec(image, options, upper, shared, volume, err) < 0)
                return -(int)err->code;
        (void)snprintf(record->info.pages, sizeof(record->info.pages), "%s",
                       shared ? mode_names[mode] : "private");
        int dir_fd = upper ? upper->fd : -1;
        return shared ? mount_shared(host, mode, options, volume, dir_fd, record, err)
                      : mount_single(host, options, volume, dir_fd, record, err);
}

/* ---- unmounting ---- */

/* A connection of its own that is mounted where this process does not see it, and has not ended. */
static bool is_served(const struct ffs_host *host, const struct ffs_record *record)
{
        struct cas_err ignored = CAS_ERR_INIT;
        cas_cleanup_free char *status = NULL;
        return strcmp(record->volume, SINGLE_VOLUME) == 0 &&
               ffs_fs_status(host->run_dir, &status, &ignored) == 0 &&
               strstr(status, record->connection) != NULL;
}

/* The mount of a sandbox goes with its namespaces, a moment after its last process. */
static int await_end(const struct ffs_host *host, const struct ffs_record *record,
                     struct cas_err *err)
{
        for (int waited = 0; is_served(host, record); waited += END_TICK_MS) {
                if (waited >= END_WAIT_MS)
                        return cas_fail(err, CAS_E_BUSY, "%s is mounted in a sandbox",
                                        record->info.dir);
                struct timespec tick = {.tv_nsec = END_TICK_MS * 1000000};
                (void)nanosleep(&tick, NULL);
        }
        return 0;
}

int ffs_fusedriver_umount(const struct ffs_host *host, const struct ffs_record *record,
                          struct cas_err *err)
{
        struct ffs_mount_id id;
        struct cas_err why = CAS_ERR_INIT;
        if (ffs_kmount_identify(record->info.dir, &id, &why) == 0 && !id.is_mount_root)
                return await_end(host, record, err);
        return geteuid() == 0 ? ffs_kmount_detach(record->info.dir, false, err)
                              : ffs_fusermount_umount(record->info.dir, false, err);
}

struct use {
        const char *connection, *volume;
        bool connection_used, volume_used;
};

static bool note_use(void *arg, const struct ffs_record *record)
{
        struct use *use = arg;
        if (strcmp(record->connection, use->connection) == 0) {
                use->connection_used = true;
                use->volume_used |= use->volume && strcmp(record->volume, use->volume) == 0;
        }
        return true;
}

static int sweep_views(const struct ffs_host *host, struct cas_err *err)
{
        cas_cleanup_free char *views = cas_xasprintf("%s/views", host->run_dir);
        DIR *d = opendir(views);
        if (!d)
                return errno == ENOENT ? 0 : cas_fail_sys(err, errno, "open %s", views);
        int rc = 0;
        for (struct dirent *e; rc == 0 && (e = readdir(d));) {
                struct use use = {.connection = e->d_name};
                if (e->d_name[0] == '.')
                        continue;
                rc = ffs_record_each(host->run_dir, note_use, &use, err);
                if (rc == 0 && !use.connection_used)
                        drop_view(host, e->d_name);
        }
        (void)closedir(d);
        return rc;
}

int ffs_fusedriver_sweep(const struct ffs_host *host, const struct ffs_record *gone,
                         struct cas_err *err)
{
        struct use use = {.connection = gone->connection, .volume = gone->volume};
        if (!gone->connection[0])
                return 0;
        if (ffs_record_each(host->run_dir, note_use, &use, err) < 0)
                return -(int)err->code;
        struct cas_err why = CAS_ERR_INIT;
        /* Without fs there is no volume either. A connection that goes takes its volumes along. */
        if (use.connection_used && !use.volume_used &&
            ffs_fs_volume_remove(host->run_dir, gone->connection, gone->volume, &why) < 0)
                cas_log(CAS_LOG_WARN, "umount.volume", "why=\"%s\"", why.msg);
        return sweep_views(host, err);
}
