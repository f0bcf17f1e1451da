/* SPDX-License-Identifier: Apache-2.0 */
/* Recovery of packs when a store is opened (spec/pack.md, spec/tiering.md): tails of packs that
 * were being written, and copies that a move which broke off has left. Of a tier that cannot be
 * reached nothing is known, and nothing is decided by that. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "cas/log.h"
#include "cas/packfile_int.h"

struct found_pack {
        uint64_t id;
        uint32_t tier;
        int dirfd;
        bool in_index, in_directory;
        struct cas_pack_record rec;
};

struct found_list {
        struct found_pack *list;
        size_t count, max;
};

struct recovery {
        struct cas_packset *ps;
        struct found_list found;   /* sorted by id once complete */
        struct found_list garbage; /* copies that go, when the index is right */
        struct found_list moving;  /* copies that were not finished */
        struct cas_batch *batch;
        bool changed; /* something is in the batch */
};

static void recovery_release(struct recovery *r)
{
        free(r->found.list);
        free(r->garbage.list);
        free(r->moving.list);
        cas_batch_free(r->batch);
}

static void add_found(struct found_list *l, const struct found_pack *found)
{
        if (l->count == l->max) {
                l->max = l->max ? l->max * 2 : 256;
                l->list = cas_xrealloc(l->list, l->max * sizeof(l->list[0]));
        }
        l->list[l->count++] = *found;
}

/* ---- what there is ---- */

static bool add_indexed(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        struct recovery *r = arg;
        add_found(&r->found,
                  &(struct found_pack){
                          .id = pack_id, .tier = rec->tier, .in_index = true, .rec = *rec});
        return true;
}

static void add_name(struct recovery *r, const char *name, uint32_t tier, int dirfd)
{
        struct found_pack found = {.tier = tier, .dirfd = dirfd, .in_directory = true};
        if (cas_pack_name_parse(name, &found.id))
                add_found(&r->found, &found);
        else if (cas_pack_moving_name_parse(name, &found.id))
                add_found(&r->moving, &found);
}

static void closedir_(DIR **dir)
{
        if (*dir)
                (void)closedir(*dir);
}

static int add_directory(void *arg, const struct cas_tier_info *info, int dirfd,
                         struct cas_err *err)
{
        uint32_t tier = info->tier;
        if (dirfd < 0)
                return 0;
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        __attribute__((cleanup(closedir_))) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir) {
                int sys_errno = errno;
                if (fd >= 0)
                        (void)close(fd);
                return cas_fail_sys(err, sys_errno, "list the packs of tier %u", tier);
        }
        for (;;) {
                errno = 0;
                const struct dirent *e = readdir(dir);
                if (!e && errno != 0)
                        return cas_fail_sys(err, errno, "list the packs of tier %u", tier);
                if (!e)
                        return 0;
                add_name(arg, e->d_name, tier, dirfd);
        }
}

/* Of one pack: what the index says comes first, then files from the fastest tier on. */
static int by_id(const void *a, const void *b)
{
        const struct found_pack *x = a, *y = b;
        if (x->id != y->id)
                return x->id < y->id ? -1 : 1;
        if (x->in_index != y->in_index)
                return x->in_index ? -1 : 1;
        return x->tier < y->tier ? -1 : x->tier > y->tier;
}

/* ---- one pack ---- */

static int ignore_item(void *arg CAS_UNUSED, const struct cas_pack_item *item CAS_UNUSED,
                       struct cas_err *err CAS_UNUSED)
{
        return 0;
}

/* A whole pack whose footer was written, but the index was not told. */
static int adopt_sealed(struct recovery *r, const struct found_pack *found, int fd,
                        uint64_t size_bytes, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        struct cas_digest digest;
        struct cas_pack_record rec = {
                .tier = found->tier,
                .sealed = true,
                .size_bytes = size_bytes,
                .density = found->rec.density,
        };
        int rc = cas_packfile_hash(r->ps->io, fd, size_bytes, cas_pack_name(found->id, name),
                                   hasher, err);
        if (rc == 0)
                rc = cas_io_fdatasync(r->ps->io, fd, name, err);
        if (rc < 0)
                return rc;
        cas_hasher_final(hasher, &digest);
        memcpy(rec.sha256.bytes, digest.bytes, CAS_HASH_BYTES);
        cas_batch_put_pack(r->batch, found->id, &rec);
        r->changed = true;
        return 0;
}

/* Tells the index how far the pack's records go. */
static int note_length(struct recovery *r, const struct found_pack *found, int fd, uint64_t end,
                       struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        struct cas_pack_record rec = {
                .tier = found->tier, .size_bytes = end, .density = found->rec.density};
        if (found->in_index && end == found->rec.size_bytes)
                return 0;
        int rc = cas_io_fdatasync(r->ps->io, fd, cas_pack_name(found->id, name), err);
        if (rc == 0)
                rc = cas_io_sync_dir(r->ps->io, found->dirfd, ".", err);
        if (rc < 0)
                return rc;
        cas_batch_put_pack(r->batch, found->id, &rec);
        r->changed = true;
        return 0;
}

/* Packs of older versions are read, but nothing new is put into them. */
static int read_version(struct recovery *r, const struct found_pack *found, int fd, uint32_t *out,
                        struct cas_err *err)
{
        uint8_t header[CAS_PACK_HEADER_BYTES];
        char name[CAS_PACK_NAME_BYTES];
        int rc = cas_io_pread_exact(r->ps->io, fd, header, sizeof(header), 0,
                                    cas_pack_name(found->id, name), err);
        return rc < 0 ? rc : cas_pack_header_decode(header, found->id, out, err);
}

/* A pack to go on with, or merely to be known: what is in it beyond what the index knows was
 * never acknowledged and is garbage for gc to find. A torn tail is cut. One with whole records
 * behind the damage has lost something in its middle: it stays as it is and nobody writes to it. */
static int adopt_unsealed(struct recovery *r, const struct found_pack *found, int fd,
                          uint64_t file_bytes, uint64_t end, struct cas_err *err)
{
        struct cas_packset *ps = r->ps;
        char name[CAS_PACK_NAME_BYTES];
        bool more = false;
        uint32_t version;
        (void)cas_pack_name(found->id, name);
        int rc = read_version(r, found, fd, &version, err);
        if (rc == 0 && end < file_bytes)
                rc = cas_pack_has_record(ps->io, fd, found->id, end + 1, &more, err);
        if (rc == 0 && end < file_bytes && !more) {
                rc = cas_io_ftruncate(ps->io, fd, end, name, err);
                if (rc == 0)
                        cas_packset_room_give(ps, found->tier, file_bytes - end);
        }
        if (rc == 0)
                rc = note_length(r, found, fd, end, err);
        if (rc < 0 || more || version < CAS_PACK_VERSION)
                return rc;
        const struct cas_pack_record rec = {
                .tier = found->tier, .size_bytes = end, .density = found->rec.density};
        cas_packset_give(ps, cas_packfile_adopt(ps, found->id, &rec, found->dirfd));
        return 0;
}

/* A new pack whose header never reached the disk, and that the index does not know: nothing in it
 * was acknowledged. Without a record in it it is removed; else, the index may be the one that is
 * wrong, and it is put aside, where nobody takes it for a pack. */
static int clear_headless(struct recovery *r, const struct found_pack *found, int fd,
                          uint64_t file_bytes, struct cas_err *err)
{
        const struct cas_io *io = r->ps->io;
        char name[CAS_PACK_NAME_BYTES];
        bool more;
        (void)cas_pack_name(found->id, name);
        int rc = cas_pack_has_record(io, fd, found->id, 0, &more, err);
        if (rc < 0)
                return rc;
        if (!more) {
                rc = cas_io_unlink(io, found->dirfd, name, err);
                if (rc == 0)
                        cas_packset_room_give(r->ps, found->tier, file_bytes);
                return rc;
        }
        cas_cleanup_free char *aside = cas_xasprintf("%s.damaged", name);
        rc = cas_io_rename(io, found->dirfd, name, found->dirfd, aside, err);
        return rc < 0 ? rc : cas_io_sync_dir(io, found->dirfd, ".", err);
}

static int recover_file(struct recovery *r, const struct found_pack *found, int fd,
                        struct cas_err *err)
{
        struct cas_packset *ps = r->ps;
        char name[CAS_PACK_NAME_BYTES];
        uint64_t known = found->in_index ? found->rec.size_bytes : 0;
        uint64_t file_bytes, end;
        bool sealed;
        int rc =
                cas_io_size(ps->io, found->dirfd, cas_pack_name(found->id, name), &file_bytes, err);
        if (rc < 0)
                return rc;
        if (file_bytes < known)
                return 0;
        struct cas_err reason = CAS_ERR_INIT;
        rc = cas_pack_walk_from(ps->io, fd, found->id, known, ignore_item, NULL, &end, &sealed,
                                &reason);
        if (rc == -CAS_E_CORRUPT && !found->in_index && end == 0)
                return clear_headless(r, found, fd, file_bytes, err);
        if (rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED)
                return 0; /* nobody writes to it; fsck tells */
        if (rc < 0) {
                *err = reason;
                return rc;
        }
        if (sealed)
                return adopt_sealed(r, found, fd, file_bytes, err);
        return adopt_unsealed(r, found, fd, file_bytes, end, err);
}

static int recover_pack(struct recovery *r, const struct found_pack *found, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        int fd;
        if (!found->in_directory || (found->in_index && found->rec.sealed))
                return 0;
        int rc = cas_io_open(r->ps->io, found->dirfd, cas_pack_name(found->id, name), O_RDWR, 0,
                             &fd, err);
        if (rc < 0)
                return rc;
        rc = recover_file(r, found, fd, err);
        (void)r->ps->io->ops->close(r->ps->io->ctx, fd);
        return rc < 0 ? cas_err_wrap(err, "recover pack %s", name) : 0;
}

/* ---- several copies of one ---- */

/* Whether a file is all of the pack: what the index knows of it, or, of one that it knows to be
 * open or does not know, a sealed pack that is no shorter. *out: the record of it. */
static int is_whole_copy(struct recovery *r, const struct found_pack *file,
                         const struct cas_pack_record *known, struct cas_pack_record *out,
                         bool *whole, struct cas_err *err)
{
        const struct cas_io *io = r->ps->io;
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        cas_cleanup_fd int fd = -1;
        char name[CAS_PACK_NAME_BYTES];
        struct cas_err why = CAS_ERR_INIT;
        struct cas_digest digest;
        uint64_t end;
        *whole = false;
        *out = (struct cas_pack_record){
                .tier = file->tier, .density = known->density, .sealed = true};
        (void)cas_pack_name(file->id, name);
        int rc = cas_io_size(io, file->dirfd, name, &out->size_bytes, err);
        if (rc < 0 || out->size_bytes < known->size_bytes)
                return rc;
        rc = cas_io_open(io, file->dirfd, name, O_RDONLY, 0, &fd, err);
        if (rc == 0)
                rc = cas_packfile_hash(io, fd, out->size_bytes, name, hasher, err);
        if (rc < 0)
                return rc;
        cas_hasher_final(hasher, &digest);
        memcpy(out->sha256.bytes, digest.bytes, CAS_HASH_BYTES);
        if (known->sealed) {
                *whole = cas_hash_equal(&out->sha256, &known->sha256);
                return 0;
        }
        rc = cas_pack_walk(io, fd, file->id, ignore_item, NULL, &end, whole, &why);
        if (rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED) {
                *whole = false;
                return 0;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

/* Takes the first of the files that is all of the pack for the home copy; the others are garbage.
 * Where none is, all stay as they are. */
static int adopt_copy(struct recovery *r, const struct found_pack *known,
                      const struct found_pack *files, size_t count, bool *adopted,
                      struct cas_err *err)
{
        size_t chosen = 0;
        struct cas_pack_record rec;
        *adopted = false;
        for (size_t i = 0; i < count && !*adopted; i++) {
                int rc = is_whole_copy(r, &files[i], &known->rec, &rec, adopted, err);
                if (rc < 0)
                        return rc;
                chosen = i;
        }
        if (!*adopted)
                return 0;
        cas_batch_put_pack(r->batch, known->id, &rec);
        r->changed = true;
        for (size_t i = 0; i < count; i++) {
                if (i != chosen)
                        add_found(&r->garbage, &files[i]);
        }
        return 0;
}

/* Whether the index's word on the tier holds. Where the tier cannot be looked at, it does, but
 * nothing is removed. */
static int look_at_home(struct recovery *r, const struct found_pack *home, bool *there,
                        bool *reachable, struct cas_err *err)
{
        struct cas_tier_info info = {.reachable = false};
        struct cas_err none = CAS_ERR_INIT;
        char name[CAS_PACK_NAME_BYTES];
        uint64_t bytes;
        int rc = r->ps->backend->ops->tier_info(r->ps->backend, home->tier, &info, &none);
        *reachable = rc == 0 && info.reachable;
        *there = !*reachable || info.remote;
        if (*there || !home->in_directory)
                return 0;
        rc = cas_io_size(r->ps->io, home->dirfd, cas_pack_name(home->id, name), &bytes, err);
        *there = rc == 0 && bytes >= home->rec.size_bytes;
        return rc;
}

static int recover_indexed(struct recovery *r, struct found_pack *home,
                           const struct found_pack *files, size_t count, struct cas_err *err)
{
        bool there = true, reachable = true, adopted = false;
        size_t others = count;
        for (size_t i = 0; i < count; i++) {
                if (files[i].tier == home->tier) {
                        home->in_directory = true;
                        home->dirfd = files[i].dirfd;
                        others--;
                }
        }
        int rc = others > 0 ? look_at_home(r, home, &there, &reachable, err) : 0;
        if (rc == 0 && !there)
                rc = adopt_copy(r, home, files, count, &adopted, err);
        if (rc < 0 || adopted)
                return rc;
        for (size_t i = 0; there && reachable && i < count; i++) {
                if (files[i].tier != home->tier)
                        add_found(&r->garbage, &files[i]);
        }
        return recover_pack(r, home, err);
}

static int recover_unknown(struct recovery *r, const struct found_pack *files, size_t count,
                           struct cas_err *err)
{
        bool adopted = false;
        int rc = count > 1 ? adopt_copy(r, &files[0], files, count, &adopted, err) : 0;
        return rc < 0 || adopted ? rc : recover_pack(r, &files[0], err);
}

static int recover_all(struct recovery *r, struct cas_err *err)
{
        struct found_list *l = &r->found;
        if (l->count > 0)
                qsort(l->list, l->count, sizeof(l->list[0]), by_id);
        for (size_t i = 0, end; i < l->count; i = end) {
                struct found_pack *first = &l->list[i];
                for (end = i + 1; end < l->count && l->list[end].id == first->id;)
                        end++;
                r->ps->next_id = cas_max_u64(r->ps->next_id, first->id + 1);
                int rc = first->in_index ? recover_indexed(r, first, first + 1, end - i - 1, err)
                                         : recover_unknown(r, first, end - i, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* ---- what goes ---- */

/* It costs room, and no more: the next opening tries again. */
static void remove_garbage(struct recovery *r)
{
        for (size_t i = 0; i < r->garbage.count; i++) {
                const struct found_pack *found = &r->garbage.list[i];
                const struct cas_pack_record rec = {.tier = found->tier};
                struct cas_err err = CAS_ERR_INIT;
                if (cas_packset_unlink_copy(r->ps, found->id, &rec, &err) < 0)
                        cas_log(CAS_LOG_WARN, "recover", "left=\"%s\"", err.msg);
        }
        for (size_t i = 0; i < r->moving.count; i++) {
                const struct found_pack *found = &r->moving.list[i];
                char name[CAS_PACK_MOVING_NAME_BYTES];
                struct cas_err err = CAS_ERR_INIT;
                uint64_t bytes = 0;
                (void)cas_pack_moving_name(found->id, name);
                int rc = cas_io_size(r->ps->io, found->dirfd, name, &bytes, &err);
                if (rc == 0)
                        rc = cas_io_unlink(r->ps->io, found->dirfd, name, &err);
                if (rc == 0)
                        cas_packset_room_give(r->ps, found->tier, bytes);
                else
                        cas_log(CAS_LOG_WARN, "recover", "left=\"%s\"", err.msg);
        }
}

int cas_packset_recover(struct cas_packset *ps, struct cas_err *err)
{
        __attribute__((cleanup(recovery_release))) struct recovery r = {.ps = ps,
                                                                        .batch = cas_batch_new()};
        int rc = cas_index_each_pack(ps->index, add_indexed, &r, err);
        if (rc == 0)
                rc = ps->backend->ops->tier_each(ps->backend, add_directory, &r, err);
        if (rc == 0)
                rc = recover_all(&r, err);
        if (rc == 0 && r.changed)
                rc = cas_index_write(ps->index, r.batch, err);
        if (rc == 0)
                remove_garbage(&r);
        return rc;
}
