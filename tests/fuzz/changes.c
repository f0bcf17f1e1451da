/* SPDX-License-Identifier: Apache-2.0 */
/* Property: whatever an upper directory says of an image, its changes are refused, or make a layer:
 * in order, and applied to the image the same tree, with opaque marks and with deletions by name.
 * The bytes are steps that make the upper: names, whiteouts, links, marks of overlayfs, its index.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "cas/path.h"
#include "cas/removetree.h"
#include "fusefs/changes_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS_MAX 40
#define ENTRIES_MAX 5000

static const char *const names[] = {"a", "b", "c", "d"};
static const char *const below[] = {/* directories end with a slash */
                                    "a/",  "a/a",  "a/b/", "a/b/c", "a/c", "b/",
                                    "b/a", "b/b/", "c",    "d/",    "d/a", "d/d"};
/* d/a and a/b/c are one inode, and c and b/a. */
static const char *const links[][2] = {{"d/a", "a/b/c"}, {"c", "b/a"}};

struct steps {
        const uint8_t *at, *end;
        char dir[64];
        int upper_fd;
        bool user;
        const struct ffs_view *view;
};

static unsigned draw(struct steps *s, unsigned limit)
{
        return s->at < s->end ? *s->at++ % limit : 0;
}

static const char *draw_path(struct steps *s, char out[16])
{
        size_t len = 0;
        for (unsigned depth = draw(s, 3) + 1; depth > 0; depth--) {
                if (len > 0)
                        out[len++] = '/';
                out[len++] = names[draw(s, CAS_COUNT(names))][0];
        }
        out[len] = '\0';
        return out;
}

/* ---- the image ---- */

static const char *link_target(const char *path)
{
        for (size_t i = 0; i < CAS_COUNT(links); i++) {
                if (strcmp(links[i][0], path) == 0)
                        return links[i][1];
        }
        return NULL;
}

static struct cas_merge *image_merge(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_merge *m = cas_merge_new();
        /* Names first, then links, which are above their targets. */
        for (int round = 0; round < 2; round++) {
                struct cas_listing l = {.entries =
                                                cas_xcalloc(CAS_COUNT(below), sizeof(*l.entries))};
                for (size_t i = 0; i < CAS_COUNT(below); i++) {
                        struct cas_entry *e = &l.entries[l.count];
                        size_t len = strlen(below[i]);
                        bool dir = below[i][len - 1] == '/';
                        const char *target = link_target(below[i]);
                        if ((target != NULL) != (round == 1))
                                continue;
                        e->path = cas_xstrndup(below[i], len - dir);
                        e->type = target ? CAS_ENTRY_HARDLINK
                                  : dir  ? CAS_ENTRY_DIR
                                         : CAS_ENTRY_FILE;
                        e->mode = target ? 0 : 0755;
                        e->below = target != NULL;
                        e->target = target ? cas_xstrdup(target) : NULL;
                        e->size_bytes = e->type != CAS_ENTRY_FILE ? 0 : i % 2 ? 3 : 100;
                        if (e->size_bytes > CAS_INLINE_BYTES_MAX)
                                memset(&e->object, (int)i + 1, sizeof(e->object));
                        l.count++;
                }
                int rc = cas_merge_apply(m, &l, &err);
                cas_assert(rc == 0);
                cas_listing_release(&l);
        }
        return m;
}

static struct ffs_view *image_view(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_view *v = NULL;
        struct cas_tree *tree = NULL;
        struct cas_digest digest;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_merge struct cas_merge *m = image_merge();
        const struct cas_tree_options options = {0};
        int rc = cas_merge_write_erofs(m, &options, &bytes, &digest, &err);
        cas_assert(rc == 0);
        cas_cleanup_fd int fd = memfd_create("tree", MFD_CLOEXEC);
        ssize_t n = write(fd, bytes.data, bytes.len_bytes);
        cas_assert(n == (ssize_t)bytes.len_bytes);
        rc = cas_tree_open_fd(fd, &tree, &err);
        cas_assert(rc == 0);
        rc = ffs_view_new(&digest, &tree, 1, &v, &err);
        cas_assert(rc == 0);
        return v;
}

/* ---- the upper: what cannot be done is left ---- */

static void set_mark(struct steps *s, const char *path, const char *mark, const void *value,
                     size_t len)
{
        char at[96], name[64];
        (void)snprintf(at, sizeof(at), "/proc/self/fd/%d/%s", s->upper_fd, path);
        (void)snprintf(name, sizeof(name), "%s.overlay.%s", s->user ? "user" : "trusted", mark);
        (void)lsetxattr(at, name, value, len, 0);
}

static void step_redirect(struct steps *s, const char *path)
{
        char text[20] = "/", raw[8];
        size_t len = 1;
        switch (draw(s, 3)) {
        case 0:
                (void)draw_path(s, text + 1);
                len = strlen(text);
                break;
        case 1:
                text[0] = names[draw(s, CAS_COUNT(names))][0];
                break;
        default:
                len = cas_min_u64(sizeof(raw), (uint64_t)(s->end - s->at));
                memcpy(text, s->at, len);
                s->at += len;
        }
        set_mark(s, path, "redirect", text, len);
}

static void step_index(struct steps *s, const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        char name[128], other[16];
        uint64_t vid;
        if (ffs_view_path(s->view, draw_path(s, other), &vid, &err) < 0)
                return;
        (void)mkdirat(s->upper_fd, "../work", 0755);
        (void)mkdirat(s->upper_fd, "../work/index", 0755);
        (void)snprintf(name, sizeof(name), "../work/index/00fb1d0001%032d%02x%02x%02x%02x00000000",
                       0, (unsigned)(vid & 255), (unsigned)(vid >> 8 & 255),
                       (unsigned)(vid >> 16 & 255), (unsigned)(vid >> 24 & 255));
        (void)linkat(s->upper_fd, path, s->upper_fd, name, 0);
}

static void step(struct steps *s)
{
        char path[16], other[16];
        unsigned what = draw(s, 12);
        (void)draw_path(s, path);
        cas_cleanup_fd int fd = -1;
        switch (what) {
        case 0:
        case 1:
                (void)mkdirat(s->upper_fd, path, 0755);
                break;
        case 2:
                fd = openat(s->upper_fd, path,
                            O_WRONLY | O_CREAT | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0644);
                (void)!write(fd, "data", draw(s, 5));
                break;
        case 3:
                (void)mknodat(s->upper_fd, path, S_IFCHR, makedev(0, draw(s, 2)));
                break;
        case 4:
                (void)linkat(s->upper_fd, path, s->upper_fd, draw_path(s, other), 0);
                break;
        case 5:
                (void)symlinkat(draw_path(s, other), s->upper_fd, path);
                break;
        case 6:
                set_mark(s, path, "opaque", draw(s, 2) ? "y" : "x", 1);
                break;
        case 7:
                step_redirect(s, path);
                break;
        case 8:
                fd = openat(s->upper_fd, path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
                (void)!ftruncate(fd, draw(s, 2) ? 100 : 3);
                set_mark(s, path, "metacopy", "", 0);
                break;
        case 9:
                set_mark(s, path, "whiteout", "y", 1);
                break;
        case 10:
                step_index(s, path);
                break;
        default:
                (void)mkfifoat(s->upper_fd, path, 0600);
        }
}

/* ---- the layer ---- */

struct layer {
        struct cas_listing listing;
};

static void copy_entry(const struct ffs_change *change, struct cas_entry *out)
{
        const struct cas_entry *e = change->entry;
        *out = *e;
        out->path = cas_xstrdup(e->path);
        out->target = e->target ? cas_xstrdup(e->target) : NULL;
        out->xattrs = NULL;
        out->xattr_count = 0;
        if (e->type == CAS_ENTRY_SOCKET)
                out->type = CAS_ENTRY_FIFO;
        if (change->data == FFS_CHANGE_IN_UPPER) {
                cas_assert(e->type == CAS_ENTRY_FILE && change->fd >= 0);
                ssize_t n = pread(change->fd, out->inline_data, sizeof(out->inline_data), 0);
                cas_assert(n >= 0);
                if (e->size_bytes > CAS_INLINE_BYTES_MAX)
                        memset(&out->object, 99, sizeof(out->object));
        }
}

static int take(void *arg, const struct ffs_change *change, struct cas_err *err)
{
        struct layer *l = arg;
        struct cas_listing *list = &l->listing;
        if (list->count == ENTRIES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "enough");
        cas_assert(cas_path_valid(change->entry->path));
        cas_assert(list->count == 0 ||
                   cas_path_compare(list->entries[list->count - 1].path, change->entry->path) < 0);
        cas_assert((change->kind == FFS_CHANGE_DELETED) ==
                   (change->entry->type == CAS_ENTRY_WHITEOUT));
        if ((list->count & (list->count - 1)) == 0)
                list->entries = cas_xrealloc(list->entries, (list->count ? 2 * list->count : 1) *
                                                                    sizeof(*list->entries));
        copy_entry(change, &list->entries[list->count++]);
        return 0;
}

/* The tree that comes of the image and its changes; false when they are refused. */
static bool changed_tree(const struct ffs_changes_source *source, bool explicit_deletions,
                         struct cas_digest *out)
{
        struct cas_err err = CAS_ERR_INIT;
        struct layer l = {0};
        const struct ffs_changes_options options = {.explicit_deletions = explicit_deletions};
        int rc = ffs_changes_walk(source, &options, take, &l, &err);
        if (rc == 0) {
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                cas_cleanup_merge struct cas_merge *m = image_merge();
                const struct cas_tree_options flat = {0};
                struct cas_listing again = {0};
                int made = cas_listing_encode(&l.listing, &bytes, &err);
                cas_assert(made == 0);
                made = cas_listing_decode(bytes.data, bytes.len_bytes, &again, &err);
                cas_assert(made == 0);
                made = cas_merge_apply(m, &again, &err);
                cas_assert(made == 0);
                made = cas_merge_write_erofs(m, &flat, &bytes, out, &err);
                cas_assert(made == 0);
                cas_listing_release(&again);
        } else {
                cas_assert(err.code == CAS_E_CORRUPT || err.code == CAS_E_LIMIT);
        }
        cas_listing_release(&l.listing);
        return rc == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct ffs_view *view;
        if (!view)
                view = image_view();
        struct steps s = {
                .at = data, .end = data + size, .dir = "/tmp/lamina-fuzz-XXXXXX", .view = view};
        char upper[96];
        if (access("/dev/shm", W_OK) == 0)
                (void)snprintf(s.dir, sizeof(s.dir), "/dev/shm/lamina-fuzz-XXXXXX");
        char *dir = mkdtemp(s.dir);
        cas_assert(dir != NULL);
        (void)snprintf(upper, sizeof(upper), "%s/upper", s.dir);
        int rc = mkdir(upper, 0755);
        cas_assert(rc == 0);
        cas_cleanup_fd int dir_fd = open(s.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        s.upper_fd = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        s.user = draw(&s, 4) == 0;
        for (unsigned i = 0; i < STEPS_MAX && s.at < s.end; i++)
                step(&s);
        struct ffs_upperlayer_config config = {.dir_fd = dir_fd,
                                               .format =
                                                       s.user ? FFS_UPPER_USER : FFS_UPPER_TRUSTED,
                                               .read_only = true};
        struct ffs_changes_source source = {.view = view};
        if (ffs_upperlayer_open(&config, &source.upper) == 0) {
                struct cas_digest marks, deletions;
                bool fits = changed_tree(&source, false, &marks);
                bool same = changed_tree(&source, true, &deletions);
                cas_assert(fits == same);
                cas_assert(!fits || cas_digest_equal(&marks, &deletions));
                ffs_upperlayer_close(source.upper);
        }
        (void)close(s.upper_fd);
        struct cas_err err = CAS_ERR_INIT;
        rc = cas_remove_tree(s.dir, &err);
        cas_assert(rc == 0);
        return 0;
}
