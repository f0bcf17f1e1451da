/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/fewtiers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/pack_int.h"

#define COPY_BYTES (64 * 1024)

static struct fewtiers *of(struct cas_backend *b)
{
        return (struct fewtiers *)b;
}

/* NULL and an error when there is no such tier. */
static struct fewtier *find(struct cas_backend *b, uint32_t tier, struct cas_err *err)
{
        struct fewtiers *t = of(b);
        if (tier < t->count)
                return &t->tiers[tier];
        (void)!cas_fail(err, CAS_E_UNSUPPORTED, "no tier %u", tier);
        return NULL;
}

/* ---- directories ---- */

static bool has_room(const struct fewtier *tier, uint64_t bytes)
{
        return tier->capacity_bytes == 0 ||
               atomic_load(&tier->used_bytes) + bytes <= tier->capacity_bytes;
}

static int place(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t want, int *out_dirfd,
                 uint32_t *out_tier, struct cas_err *err)
{
        struct fewtiers *t = of(b);
        for (uint32_t i = 0; i < t->count; i++) {
                const struct fewtier *tier = &t->tiers[i];
                if (want != CAS_TIER_ANY && want != i)
                        continue;
                if (tier->remote || (want != CAS_TIER_ANY && tier->leaving))
                        return cas_fail(err, CAS_E_UNSUPPORTED, "not on tier %s", tier->name);
                if (tier->leaving || tier->unreachable ||
                    (want == CAS_TIER_ANY && !has_room(tier, CAS_PACK_HEADER_BYTES)))
                        continue;
                *out_dirfd = tier->dirfd;
                *out_tier = i;
                return 0;
        }
        return cas_fail(err, CAS_E_NOSPACE, "no tier has room");
}

static int grow(struct cas_backend *b, uint32_t number, uint64_t bytes, struct cas_err *err)
{
        struct fewtier *tier = find(b, number, err);
        if (!tier)
                return -(int)err->code;
        if (!has_room(tier, bytes))
                return cas_fail(err, CAS_E_NOSPACE, "tier %s is full", tier->name);
        atomic_fetch_add(&tier->used_bytes, bytes);
        return 0;
}

static void shrunk(struct cas_backend *b, uint32_t number, uint64_t bytes)
{
        struct cas_err ignored = CAS_ERR_INIT;
        struct fewtier *tier = find(b, number, &ignored);
        if (!tier)
                return;
        cas_assert(atomic_load(&tier->used_bytes) >= bytes);
        atomic_fetch_sub(&tier->used_bytes, bytes);
}

static int dir(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t number, int *out_dirfd,
               struct cas_err *err)
{
        struct fewtier *tier = find(b, number, err);
        if (!tier)
                return -(int)err->code;
        if (tier->remote)
                return cas_fail(err, CAS_E_UNSUPPORTED, "tier %s is remote", tier->name);
        if (tier->unreachable)
                return cas_fail(err, CAS_E_IO, "tier %s cannot be reached", tier->name);
        *out_dirfd = tier->dirfd;
        return 0;
}

static int info(struct cas_backend *b, uint32_t number, struct cas_tier_info *out,
                struct cas_err *err)
{
        struct fewtier *tier = find(b, number, err);
        if (!tier)
                return -(int)err->code;
        *out = (struct cas_tier_info){.tier = number,
                                      .name = tier->name,
                                      .remote = tier->remote,
                                      .reachable = !tier->unreachable,
                                      .writable = !tier->leaving && !tier->unreachable,
                                      .shared = tier->shared,
                                      .density = tier->density};
        return 0;
}

static int each(struct cas_backend *b,
                int (*fn)(void *arg, const struct cas_tier_info *tier, int dirfd,
                          struct cas_err *err),
                void *arg, struct cas_err *err)
{
        struct fewtiers *t = of(b);
        int rc = 0;
        for (uint32_t i = 0; rc == 0 && i < t->count; i++) {
                const struct fewtier *tier = &t->tiers[i];
                struct cas_tier_info one;
                rc = info(b, i, &one, err);
                if (rc == 0)
                        rc = fn(arg, &one, tier->remote || tier->unreachable ? -1 : tier->dirfd,
                                err);
        }
        return rc;
}

/* ---- remote ---- */

static char *remote_name(const struct cas_pack_file *pack)
{
        char hex[CAS_HASH_HEX_BYTES];
        return cas_xasprintf("%016llx-%s", (unsigned long long)pack->pack_id,
                             cas_hash_hex(&pack->sha256, hex));
}

static bool remote_name_parse(const char *name, struct cas_pack_file *out)
{
        char id[24];
        if (strlen(name) != 81 || name[16] != '-')
                return false;
        (void)snprintf(id, sizeof(id), "%.16s.pack", name);
        return cas_pack_name_parse(id, &out->pack_id) &&
               cas_hash_from_hex(name + 17, 64, &out->sha256);
}

static struct fewtier *find_remote(struct cas_backend *b, uint32_t number, struct cas_err *err)
{
        struct fewtier *tier = find(b, number, err);
        if (tier && !tier->remote)
                (void)!cas_fail(err, CAS_E_UNSUPPORTED, "tier %s is not remote", tier->name);
        else if (tier && tier->unreachable)
                (void)!cas_fail(err, CAS_E_IO, "tier %s cannot be reached", tier->name);
        else
                return tier;
        return NULL;
}

/* Copies, and says what it copied. */
static int copy(int from, int to, uint64_t *bytes, struct cas_hash *sha256, struct cas_err *err)
{
        const struct cas_io *io = cas_io_posix();
        cas_cleanup_free uint8_t *step = cas_xmalloc(COPY_BYTES);
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        struct cas_digest digest;
        size_t n = 1;
        int rc = 0;
        for (*bytes = 0; rc == 0 && n > 0; *bytes += n) {
                rc = cas_io_pread(io, from, step, COPY_BYTES, *bytes, &n, "pack", err);
                if (rc == 0)
                        rc = cas_io_pwrite_all(io, to, step, n, *bytes, "pack", err);
                if (rc == 0)
                        cas_hasher_update(hasher, step, n);
        }
        cas_hasher_final(hasher, &digest);
        memcpy(sha256->bytes, digest.bytes, CAS_HASH_BYTES);
        return rc;
}

static int put_file(struct fewtier *tier, const char *name, const struct cas_pack_file *pack,
                    int fd, struct cas_err *err)
{
        const struct cas_io *io = cas_io_posix();
        struct cas_hash got;
        uint64_t bytes;
        cas_cleanup_fd int to = -1;
        int rc = cas_io_open(io, tier->dirfd, "new", O_RDWR | O_CREAT | O_TRUNC, 0600, &to, err);
        if (rc == 0)
                rc = copy(fd, to, &bytes, &got, err);
        if (rc == 0 && (bytes != pack->size_bytes || !cas_hash_equal(&got, &pack->sha256)))
                rc = cas_fail(err, CAS_E_INVALID, "put: it is not the pack that was told");
        if (rc == 0)
                rc = cas_io_fsync(io, to, "new", err);
        if (rc == 0)
                rc = cas_io_rename(io, tier->dirfd, "new", tier->dirfd, name, err);
        return rc < 0 ? rc : cas_io_sync_dir(io, tier->dirfd, ".", err);
}

static int remote_put(struct cas_backend *b, uint32_t number, const struct cas_pack_file *pack,
                      int fd, struct cas_err *err)
{
        struct stat st;
        cas_cleanup_free char *name = remote_name(pack);
        struct fewtier *tier = find_remote(b, number, err);
        if (!tier)
                return -(int)err->code;
        atomic_fetch_add(&of(b)->stores, 1);
        if (fstatat(tier->dirfd, name, &st, 0) == 0)
                return cas_io_sync_dir(cas_io_posix(), tier->dirfd, ".", err);
        return put_file(tier, name, pack, fd, err);
}

static int remote_get(struct cas_backend *b, uint32_t number, const struct cas_pack_file *pack,
                      int fd, struct cas_err *err)
{
        struct cas_hash got;
        uint64_t bytes;
        cas_cleanup_fd int from = -1;
        cas_cleanup_free char *name = remote_name(pack);
        struct fewtier *tier = find_remote(b, number, err);
        if (!tier)
                return -(int)err->code;
        atomic_fetch_add(&of(b)->fetches, 1);
        int rc = cas_io_open(cas_io_posix(), tier->dirfd, name, O_RDONLY, 0, &from, err);
        if (rc == 0)
                rc = copy(from, fd, &bytes, &got, err);
        if (rc == 0 && !cas_hash_equal(&got, &pack->sha256))
                rc = cas_fail(err, CAS_E_CORRUPT, "%s: other bytes", name);
        return rc;
}

static int remote_delete(struct cas_backend *b, uint32_t number, const struct cas_pack_file *pack,
                         struct cas_err *err)
{
        cas_cleanup_free char *name = remote_name(pack);
        struct fewtier *tier = find_remote(b, number, err);
        if (!tier)
                return -(int)err->code;
        atomic_fetch_add(&of(b)->deletes, 1);
        int rc = cas_io_unlink(cas_io_posix(), tier->dirfd, name, err);
        return rc < 0 ? rc : cas_io_sync_dir(cas_io_posix(), tier->dirfd, ".", err);
}

static int remote_each(struct cas_backend *b, uint32_t number,
                       int (*fn)(void *arg, const struct cas_pack_file *pack, struct cas_err *err),
                       void *arg, struct cas_err *err)
{
        struct fewtier *tier = find_remote(b, number, err);
        if (!tier)
                return -(int)err->code;
        int rc = 0;
        DIR *list = fdopendir(openat(tier->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!list)
                return cas_fail_sys(err, errno, "list tier %s", tier->name);
        for (struct dirent *e; rc == 0 && (e = readdir(list));) {
                struct cas_pack_file pack = {0};
                struct stat st;
                if (!remote_name_parse(e->d_name, &pack) ||
                    fstatat(tier->dirfd, e->d_name, &st, 0) != 0)
                        continue;
                pack.size_bytes = (uint64_t)st.st_size;
                pack.put_unix_s = st.st_mtime;
                rc = fn(arg, &pack, err);
        }
        (void)closedir(list);
        return rc;
}

/* ---- blocks ---- */

/* A file of its own for each place. */
static int bring(struct fewtier *tier, const struct cas_pack_file *pack, int home_fd,
                 uint64_t offset, uint32_t bytes, bool bad, int out_fd, struct cas_err *err)
{
        const struct cas_io *io = cas_io_posix();
        cas_cleanup_free uint8_t *block = cas_xmalloc(bytes);
        cas_cleanup_free char *name = remote_name(pack);
        cas_cleanup_fd int opened = -1;
        int rc = 0;
        if (tier->remote)
                rc = cas_io_open(io, tier->dirfd, name, O_RDONLY, 0, &opened, err);
        if (rc == 0)
                rc = cas_io_pread_exact(io, tier->remote ? opened : home_fd, block, bytes, offset,
                                        name, err);
        if (rc == 0 && bad)
                memset(block, 0, bytes);
        return rc < 0 ? rc : cas_io_pwrite_all(io, out_fd, block, bytes, offset, "place", err);
}

static void touched(struct cas_backend *b, uint32_t tier, uint64_t pack_id CAS_UNUSED,
                    uint64_t offset CAS_UNUSED, uint32_t bytes CAS_UNUSED)
{
        atomic_fetch_add(&of(b)->touched, 1);
        atomic_store(&of(b)->touched_tier, tier);
}

static int block_open(struct cas_backend *b, uint32_t number, const struct cas_pack_file *pack,
                      int home_fd, uint64_t offset, uint32_t bytes, struct cas_block_place *out,
                      struct cas_err *err)
{
        struct fewtiers *t = of(b);
        struct fewtier *tier = find(b, number, err);
        if (!tier)
                return -(int)err->code;
        if (tier->unreachable)
                return cas_fail(err, CAS_E_IO, "tier %s cannot be reached", tier->name);
        cas_assert(tier->remote == (home_fd < 0));
        cas_cleanup_fd int fd = open(t->tiers[0].dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0)
                return cas_fail_sys(err, errno, "place");
        bool bad = t->bad_places > 0;
        t->bad_places -= bad;
        int rc = bring(tier, pack, home_fd, offset, bytes, bad, fd, err);
        if (rc < 0)
                return rc;
        atomic_fetch_add(&t->places, 1);
        touched(b, number, pack->pack_id, offset, bytes);
        *out = (struct cas_block_place){.fd = cas_steal_fd(&fd)};
        return 0;
}

static void block_close(struct cas_backend *b, struct cas_block_place *given, bool bad)
{
        atomic_fetch_add(&of(b)->bad_closed, bad);
        (void)close(given->fd);
}

static void pack_gone(struct cas_backend *b, uint64_t pack_id CAS_UNUSED)
{
        atomic_fetch_add(&of(b)->gone, 1);
}

/* ---- making ---- */

static void nothing(struct cas_backend *b CAS_UNUSED)
{
}

void fewtiers_init(struct fewtiers *t)
{
        *t = (struct fewtiers){.ops = {
                                       .pack_place = place,
                                       .pack_grow = grow,
                                       .pack_shrunk = shrunk,
                                       .pack_dir = dir,
                                       .tier_info = info,
                                       .tier_each = each,
                                       .remote_put = remote_put,
                                       .remote_get = remote_get,
                                       .remote_delete = remote_delete,
                                       .remote_each = remote_each,
                                       .block_open = block_open,
                                       .block_close = block_close,
                                       .touched = touched,
                                       .pack_gone = pack_gone,
                                       .close = nothing,
                               }};
        t->backend.ops = &t->ops;
}

static void recount(struct fewtier *tier)
{
        uint64_t bytes = 0;
        DIR *list = fdopendir(openat(tier->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        cas_assert(list != NULL);
        for (struct dirent *e; (e = readdir(list));) {
                struct stat st;
                if (fstatat(tier->dirfd, e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
                        bytes += (uint64_t)st.st_size;
        }
        (void)closedir(list);
        atomic_store(&tier->used_bytes, bytes);
}

struct fewtier *fewtiers_add(struct fewtiers *t, const char *name, const char *path, bool is_remote,
                             enum cas_pack_density density)
{
        cas_assert(t->count < FEWTIERS_MAX);
        struct fewtier *tier = &t->tiers[t->count++];
        (void)snprintf(tier->name, sizeof(tier->name), "%s", name);
        tier->dir = cas_xstrdup(path);
        tier->remote = is_remote;
        tier->density = (uint8_t)density;
        int made = mkdir(path, 0700);
        cas_assert(made == 0 || errno == EEXIST);
        tier->dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cas_assert(tier->dirfd >= 0);
        recount(tier);
        return tier;
}

void fewtiers_recount(struct fewtiers *t)
{
        for (unsigned i = 0; i < t->count; i++)
                recount(&t->tiers[i]);
}

void fewtiers_release(struct fewtiers *t)
{
        for (unsigned i = 0; i < t->count; i++) {
                (void)close(t->tiers[i].dirfd);
                free(t->tiers[i].dir);
        }
        t->count = 0;
}

unsigned fewtiers_packs(const struct fewtiers *t, uint32_t number, unsigned *others)
{
        const struct fewtier *tier = &t->tiers[number];
        unsigned packs = 0;
        DIR *list = fdopendir(openat(tier->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        cas_assert(list != NULL);
        *others = 0;
        for (struct dirent *e; (e = readdir(list));) {
                struct cas_pack_file pack;
                if (e->d_name[0] == '.')
                        continue;
                if (tier->remote ? remote_name_parse(e->d_name, &pack)
                                 : cas_pack_name_parse(e->d_name, &pack.pack_id))
                        packs++;
                else
                        ++*others;
        }
        (void)closedir(list);
        return packs;
}

char *fewtiers_path(const struct fewtiers *t, uint32_t number, const struct cas_pack_file *pack)
{
        const struct fewtier *tier = &t->tiers[number];
        char name[CAS_PACK_NAME_BYTES];
        if (!tier->remote)
                return cas_xasprintf("%s/%s", tier->dir, cas_pack_name(pack->pack_id, name));
        cas_cleanup_free char *remote_key = remote_name(pack);
        return cas_xasprintf("%s/%s", tier->dir, remote_key);
}
