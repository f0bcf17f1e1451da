/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/overlay_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "cas/map.h"
#include "fusefs/idmap_int.h"
#include "fusefs/kmount_int.h"
#include "fusefs/loopdev_int.h"
#include "fusefs/userns.h"

int ffs_overlay_probe(struct cas_err *err)
{
        if (geteuid() != 0)
                return cas_fail(err, CAS_E_DENIED, "mounting images by overlayfs needs root");
        if (access("/dev/fuse", R_OK | W_OK) < 0)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "there is no usable /dev/fuse (modprobe fuse?)");
        static const char *const types[] = {"erofs", "overlay"};
        for (size_t i = 0; i < CAS_COUNT(types); i++) {
                ffs_cleanup_kmount struct ffs_kmount m = {0};
                if (ffs_kmount_open(types[i], &m, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

/* ---- trees ---- */

static void tree_dir(const struct ffs_host *host, const struct cas_digest *tree, char *out,
                     size_t out_bytes)
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        (void)snprintf(out, out_bytes, "%s/trees/%s", host->run_dir, cas_digest_hex(tree, hex));
}

static int make_dir(const char *dir, struct cas_err *err)
{
        if (mkdir(dir, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", dir);
        return 0;
}

static int mount_erofs(const char *source, const char *dir, struct cas_err *err)
{
        ffs_cleanup_kmount struct ffs_kmount m = {0};
        if (ffs_kmount_open("erofs", &m, err) < 0 ||
            ffs_kmount_set(&m, "source", source, err) < 0 || ffs_kmount_flag(&m, "ro", err) < 0 ||
            ffs_kmount_finish(&m, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME, dir, err) < 0)
                return -(int)err->code;
        return 0;
}

static int mount_tree(const char *path, const char *dir, struct cas_err *err)
{
        /* By its descriptor: the kernel takes no source of more than 255 bytes. */
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open tree %s", path);
        char source[64];
        (void)snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
        struct cas_err why = CAS_ERR_INIT;
        if (mount_erofs(strlen(path) <= 255 ? path : source, dir, &why) == 0)
                return 0;
        if (why.sys_errno != ENOTBLK) {
                *err = why;
                return cas_err_wrap(err, "tree %s", path);
        }
        char name[FFS_LOOP_NAME_BYTES];
        cas_cleanup_fd int loop_fd = -1;
        if (ffs_loop_attach(fd, LO_FLAGS_READ_ONLY, name, &loop_fd, err) < 0 ||
            mount_erofs(name, dir, err) < 0)
                return cas_err_wrap(err,
                                    "this kernel mounts no EROFS from a file (Linux 6.12): "
                                    "tree %s",
                                    path);
        return 0;
}

int ffs_overlay_trees(const struct ffs_host *host, const struct ffs_image *image,
                      struct cas_err *err)
{
        for (size_t i = 0; i < image->tree_count; i++) {
                char dir[4352];
                struct ffs_mount_id id;
                tree_dir(host, &image->trees[i], dir, sizeof(dir));
                if (make_dir(dir, err) < 0 || ffs_kmount_identify(dir, &id, err) < 0 ||
                    (!id.is_mount_root && mount_tree(image->tree_paths[i], dir, err) < 0))
                        return -(int)err->code;
        }
        return 0;
}

/* ---- overlays ---- */

static int set_options(struct ffs_kmount *m, const char *options, struct cas_err *err)
{
        cas_cleanup_free char *copy = cas_xstrdup(options);
        char *rest = copy;
        for (char *key; (key = strsep(&rest, ","));) {
                char *value = strchr(key, '=');
                cas_assert(value != NULL);
                *value++ = '\0';
                if (ffs_kmount_set(m, key, value, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

/* Clones of mounts with other owners, from an id map. The kernel takes them as layers only as long
 * as their descriptors are open. */
struct mapping {
        int userns_fd; /* -1: owners as they are */
        int clones[FFS_TREES_MAX + 1];
        size_t clone_count;
};

static void mapping_release(struct mapping *m)
{
        for (size_t i = 0; i < m->clone_count; i++)
                (void)close(m->clones[i]);
        if (m->userns_fd >= 0)
                (void)close(m->userns_fd);
}
#define cleanup_mapping __attribute__((cleanup(mapping_release)))

static int mapping_open(const char *id_map, struct mapping *out, struct cas_err *err)
{
        *out = (struct mapping){.userns_fd = -1};
        return id_map ? ffs_userns_open(id_map, &out->userns_fd, err) : 0;
}

static int mapping_clone(struct mapping *m, const char *dir, int *out_fd, struct cas_err *err)
{
        cas_assert(m->clone_count < CAS_COUNT(m->clones));
        if (ffs_kmount_clone_mapped(dir, m->userns_fd, out_fd, err) < 0)
                return -(int)err->code;
        m->clones[m->clone_count++] = *out_fd;
        return 0;
}

static int set_tree(struct ffs_kmount *m, const char *dir, struct mapping *mapping,
                    struct cas_err *err)
{
        int fd;
        if (mapping->userns_fd < 0)
                return ffs_kmount_set_path(m, "lowerdir+", dir, err);
        if (mapping_clone(mapping, dir, &fd, err) < 0)
                return -(int)err->code;
        return ffs_kmount_set_fd(m, "lowerdir+", fd, err);
}

static int set_layers(struct ffs_kmount *m, const struct ffs_host *host,
                      const struct ffs_image *image, struct mapping *mapping, struct cas_err *err)
{
        char dir[4352];
        for (size_t i = 0; i < image->tree_count; i++) {
                tree_dir(host, &image->trees[i], dir, sizeof(dir));
                if (set_tree(m, dir, mapping, err) < 0)
                        return -(int)err->code;
        }
        /* Nobody sees the owners of objects. */
        (void)snprintf(dir, sizeof(dir), "%s/objects", host->run_dir);
        return ffs_kmount_set_path(m, "datadir+", dir, err);
}

static int open_below(int dir_fd, const char *name, int *out_fd, struct cas_err *err)
{
        *out_fd = openat(dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return *out_fd < 0 ? cas_fail_sys(err, errno, "open %s of the upper", name) : 0;
}

static int set_upper(struct ffs_kmount *m, const struct ffs_upper *upper, struct mapping *mapping,
                     struct cas_err *err)
{
        if (mapping->userns_fd < 0) {
                if (ffs_kmount_set_path(m, "upperdir", upper->upper, err) < 0 ||
                    ffs_kmount_set_path(m, "workdir", upper->work, err) < 0)
                        return -(int)err->code;
                return 0;
        }
        /* One clone, since both must be of one mount. */
        cas_cleanup_free char *dir =
                cas_xstrndup(upper->upper, (size_t)(strrchr(upper->upper, '/') - upper->upper));
        cas_cleanup_fd int upper_fd = -1;
        cas_cleanup_fd int work_fd = -1;
        int fd;
        if (mapping_clone(mapping, dir, &fd, err) < 0 ||
            open_below(fd, "upper", &upper_fd, err) < 0 ||
            open_below(fd, "work", &work_fd, err) < 0 ||
            ffs_kmount_set_fd(m, "upperdir", upper_fd, err) < 0 ||
            ffs_kmount_set_fd(m, "workdir", work_fd, err) < 0)
                return -(int)err->code;
        return 0;
}

/* One overlay per image and instance of the object file system: one that stands on an instance
 * whose connection is gone is never used again. */
static void image_key(const struct ffs_image *image, const char *id_map,
                      const struct ffs_serving *serving, char key[FFS_IMAGE_KEY_BYTES])
{
        cas_cleanup_hasher struct cas_hasher *h = cas_hasher_new(CAS_DIGEST_SHA256);
        for (size_t i = 0; i < image->tree_count; i++)
                cas_hasher_update(h, &image->trees[i], sizeof(image->trees[i]));
        cas_hasher_update(h, FFS_OVERLAY_OPTIONS, sizeof(FFS_OVERLAY_OPTIONS));
        if (id_map)
                cas_hasher_update(h, id_map, strlen(id_map) + 1);
        struct cas_digest digest;
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_hasher_final(h, &digest);
        (void)snprintf(key, FFS_IMAGE_KEY_BYTES, "%.32s-%.16s", cas_digest_hex(&digest, hex),
                       serving->instance);
}

int ffs_overlay_image(const struct ffs_host *host, const struct ffs_image *image,
                      const char *id_map, const struct ffs_serving *serving,
                      char key[FFS_IMAGE_KEY_BYTES], struct cas_err *err)
{
        image_key(image, id_map, serving, key);
        cas_cleanup_free char *dir = cas_xasprintf("%s/images/%s", host->run_dir, key);
        struct ffs_mount_id id;
        if (make_dir(dir, err) < 0 || ffs_kmount_identify(dir, &id, err) < 0)
                return -(int)err->code;
        if (id.is_mount_root)
                return 0;
        ffs_cleanup_kmount struct ffs_kmount m = {0};
        cleanup_mapping struct mapping mapping;
        if (mapping_open(id_map, &mapping, err) < 0 || ffs_kmount_open("overlay", &m, err) < 0 ||
            ffs_kmount_set(&m, "source", "lamina", err) < 0 || ffs_kmount_flag(&m, "ro", err) < 0 ||
            set_layers(&m, host, image, &mapping, err) < 0 ||
            set_options(&m, FFS_OVERLAY_OPTIONS, err) < 0 ||
            ffs_kmount_finish(&m, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME, dir, err) < 0)
                return -(int)err->code;
        return 0;
}

/* This thread makes files as an owner; root's rights stay. */
static int become_owner(uint32_t uid, uint32_t gid, struct cas_err *err)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
        (void)setfsgid(gid);
        (void)setfsuid(uid); /* which drops rights to files, unless it is 0 */
        if (syscall(SYS_capget, &header, data) < 0)
                return cas_fail_sys(err, errno, "capget");
        for (size_t i = 0; i < CAS_COUNT(data); i++)
                data[i].effective = data[i].permitted;
        if (syscall(SYS_capset, &header, data) < 0)
                return cas_fail_sys(err, errno, "capset");
        return 0;
}

/* overlayfs makes files of its own, in work/, as who mounts it: whose ids must be among those that
 * the upper's map knows. */
static int finish_as_owner(struct ffs_kmount *m, const char *id_map, unsigned attributes,
                           const char *dir, struct cas_err *err)
{
        struct ffs_idmap map;
        struct cas_err back = CAS_ERR_INIT;
        if (ffs_idmap_parse(id_map, &map, err) < 0)
                return -(int)err->code;
        int rc = become_owner(ffs_idmap_uid_to_host(&map, 0), ffs_idmap_gid_to_host(&map, 0), err);
        if (rc == 0)
                rc = ffs_kmount_finish(m, attributes, dir, err);
        if (become_owner(0, 0, &back) < 0 && rc == 0) {
                *err = back;
                rc = -(int)back.code;
        }
        return rc;
}

int ffs_overlay_writable(const struct ffs_host *host, const struct ffs_image *image,
                         const struct ffs_upper *upper, const char *id_map, unsigned attributes,
                         const char *dir, struct cas_err *err)
{
        ffs_cleanup_kmount struct ffs_kmount m = {0};
        cleanup_mapping struct mapping mapping;
        if (mapping_open(id_map, &mapping, err) < 0 || ffs_kmount_open("overlay", &m, err) < 0 ||
            ffs_kmount_set(&m, "source", "lamina", err) < 0 ||
            set_layers(&m, host, image, &mapping, err) < 0 ||
            set_upper(&m, upper, &mapping, err) < 0 ||
            set_options(&m, FFS_OVERLAY_OPTIONS_RW, err) < 0)
                return -(int)err->code;
        return id_map ? finish_as_owner(&m, id_map, attributes, dir, err)
                      : ffs_kmount_finish(&m, attributes, dir, err);
}

/* ---- what nobody needs ---- */

static bool note_used(void *arg, const struct ffs_record *record)
{
        struct cas_map *used = arg;
        char hex[CAS_DIGEST_TEXT_BYTES];
        for (size_t i = 0; i < record->tree_count; i++) {
                (void)cas_digest_hex(&record->trees[i], hex);
                (void)cas_map_put(used, hex, strlen(hex), NULL);
        }
        (void)cas_map_put(used, record->image, strlen(record->image), NULL);
        return true;
}

static int sweep_dir(const char *path, const struct cas_map *used, struct cas_err *err)
{
        DIR *d = opendir(path);
        if (!d)
                return cas_fail_sys(err, errno, "open %s", path);
        int rc = 0;
        for (struct dirent *e; rc == 0 && (e = readdir(d));) {
                if (e->d_name[0] == '.' || cas_map_get_str(used, e->d_name))
                        continue;
                cas_cleanup_free char *dir = cas_xasprintf("%s/%s", path, e->d_name);
                /* Lazily: binds and overlays hold what they stand on by themselves. */
                rc = ffs_kmount_detach(dir, true, err);
                if (rc == 0)
                        (void)rmdir(dir);
        }
        (void)closedir(d);
        return rc;
}

int ffs_overlay_sweep(const struct ffs_host *host, struct cas_err *err)
{
        cas_cleanup_map struct cas_map *used = cas_map_new();
        cas_cleanup_free char *images = cas_xasprintf("%s/images", host->run_dir);
        cas_cleanup_free char *trees = cas_xasprintf("%s/trees", host->run_dir);
        if (ffs_record_each(host->run_dir, note_used, used, err) < 0 ||
            sweep_dir(images, used, err) < 0 || sweep_dir(trees, used, err) < 0)
                return -(int)err->code;
        return 0;
}
