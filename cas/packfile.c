/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/packfile_int.h"
#include "cas/record_int.h"

#include <fcntl.h>

#define PACK_MODE 0600
#define HASH_STEP_BYTES (1 * CAS_MIB)

static struct cas_packfile *packfile_new(uint64_t id, uint32_t tier, enum cas_pack_density density,
                                         int dirfd)
{
        struct cas_packfile *pf = cas_xcalloc(1, sizeof(*pf));
        pf->id = id;
        pf->tier = tier;
        pf->density = density;
        pf->dirfd = dirfd;
        pf->fd = -1;
        pf->ref_count = 1;
        cas_mutex_init(&pf->sync, "packfile.sync");
        return pf;
}

static void packfile_free(struct cas_packset *ps, struct cas_packfile *pf)
{
        if (pf->fd >= 0)
                (void)ps->io->ops->close(ps->io->ctx, pf->fd);
        cas_mutex_release(&pf->sync);
        free(pf);
}

static void enlist(struct cas_packset *ps, struct cas_packfile *pf)
{
        struct cas_record_key key;
        cas_key_pack(pf->id, &key);
        cas_mutex_lock(&ps->mutex);
        *cas_map_put(ps->live, key.bytes, key.len, NULL) = (uint64_t)(uintptr_t)pf;
        cas_mutex_unlock(&ps->mutex);
}

static int create_file(struct cas_packset *ps, struct cas_packfile *pf, struct cas_err *err)
{
        uint8_t header[CAS_PACK_HEADER_BYTES];
        char name[CAS_PACK_NAME_BYTES];
        (void)cas_pack_name(pf->id, name);
        cas_pack_header_encode(pf->id, header);
        int rc = cas_io_open(ps->io, pf->dirfd, name, O_RDWR | O_CREAT | O_EXCL, PACK_MODE, &pf->fd,
                             err);
        if (rc < 0)
                return rc;
        rc = cas_io_pwrite_all(ps->io, pf->fd, header, sizeof(header), 0, name, err);
        /* So that a crash leaves no records without a header, which could only be put aside. */
        if (rc == 0)
                rc = cas_io_fdatasync(ps->io, pf->fd, name, err);
        if (rc < 0)
                (void)ps->io->ops->unlinkat(ps->io->ctx, pf->dirfd, name, 0);
        return rc;
}

int cas_packfile_create(struct cas_packset *ps, const struct cas_pack_place *place,
                        enum cas_pack_density density, struct cas_packfile **out,
                        struct cas_err *err)
{
        int rc = cas_packset_room_take(ps, place->tier, CAS_PACK_HEADER_BYTES, err);
        if (rc < 0)
                return rc;
        struct cas_packfile *pf = packfile_new(place->pack_id, place->tier, density, place->dirfd);
        enlist(ps, pf); /* before there is a file: who finds one asks whose it is */
        rc = create_file(ps, pf, err);
        if (rc < 0) {
                cas_packfile_unref(ps, pf);
                cas_packset_room_give(ps, place->tier, CAS_PACK_HEADER_BYTES);
                return rc;
        }
        cas_mutex_lock(&ps->mutex);
        pf->size_bytes = CAS_PACK_HEADER_BYTES;
        cas_mutex_unlock(&ps->mutex);
        *out = pf;
        return 0;
}

struct cas_packfile *cas_packfile_adopt(struct cas_packset *ps, uint64_t id,
                                        const struct cas_pack_record *rec, int dirfd)
{
        struct cas_packfile *pf =
                packfile_new(id, rec->tier, (enum cas_pack_density)rec->density, dirfd);
        pf->size_bytes = rec->size_bytes;
        pf->synced_bytes = rec->size_bytes;
        enlist(ps, pf);
        /* The index knows it, or its directory was synced by the recovery. */
        pf->dir_synced = true;
        return pf;
}

void cas_packfile_ref_locked(struct cas_packset *ps, struct cas_packfile *pf)
{
        cas_assert_held(&ps->mutex);
        pf->ref_count++;
}

void cas_packfile_unref_locked(struct cas_packset *ps, struct cas_packfile *pf)
{
        cas_assert_held(&ps->mutex);
        cas_assert(pf->ref_count > 0);
        if (--pf->ref_count > 0)
                return;
        struct cas_record_key key;
        cas_key_pack(pf->id, &key);
        (void)cas_map_remove(ps->live, key.bytes, key.len);
        packfile_free(ps, pf);
}

void cas_packfile_unref(struct cas_packset *ps, struct cas_packfile *pf)
{
        cas_mutex_lock(&ps->mutex);
        cas_packfile_unref_locked(ps, pf);
        cas_mutex_unlock(&ps->mutex);
}

int cas_packfile_reopen(struct cas_packset *ps, struct cas_packfile *pf, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        if (pf->fd >= 0)
                return 0;
        return cas_io_open(ps->io, pf->dirfd, cas_pack_name(pf->id, name), O_RDWR, 0, &pf->fd, err);
}

int cas_packfile_append(struct cas_packset *ps, struct cas_packfile *pf, const void *data,
                        size_t len, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        cas_assert(!pf->sealed);
        int rc = cas_packset_room_take(ps, pf->tier, len, err);
        if (rc < 0)
                return rc;
        rc = cas_io_pwrite_all(ps->io, pf->fd, data, len, pf->size_bytes,
                               cas_pack_name(pf->id, name), err);
        if (rc < 0) {
                /* Half a record would be the end of the pack for every reader. */
                if (ps->io->ops->ftruncate(ps->io->ctx, pf->fd, (off_t)pf->size_bytes) != 0)
                        atomic_store(&pf->failed, true);
                else
                        cas_packset_room_give(ps, pf->tier, len);
                return rc;
        }
        cas_mutex_lock(&ps->mutex);
        pf->size_bytes += len;
        cas_mutex_unlock(&ps->mutex);
        return 0;
}

int cas_packset_room_take(struct cas_packset *ps, uint32_t tier, uint64_t bytes,
                          struct cas_err *err)
{
        const struct cas_backend_ops *ops = ps->backend->ops;
        return ops->pack_grow ? ops->pack_grow(ps->backend, tier, bytes, err) : 0;
}

void cas_packset_room_give(struct cas_packset *ps, uint32_t tier, uint64_t bytes)
{
        const struct cas_backend_ops *ops = ps->backend->ops;
        if (ops->pack_shrunk && bytes > 0)
                ops->pack_shrunk(ps->backend, tier, bytes);
}

int cas_packfile_hash(const struct cas_io *io, int fd, uint64_t len, const char *what,
                      struct cas_hasher *hasher, struct cas_err *err)
{
        cas_cleanup_free uint8_t *step = cas_xmalloc(HASH_STEP_BYTES);
        for (uint64_t at = 0; at < len;) {
                size_t n = cas_min_u64(len - at, HASH_STEP_BYTES);
                int rc = cas_io_pread_exact(io, fd, step, n, at, what, err);
                if (rc < 0)
                        return rc;
                cas_hasher_update(hasher, step, n);
                at += n;
        }
        return 0;
}

struct entries {
        struct cas_pack_entry *list;
        uint32_t count, max;
};

static int collect_entry(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        struct entries *entries = arg;
        if (entries->count == CAS_PACK_RECORDS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %u records", CAS_PACK_RECORDS_MAX);
        if (entries->count == entries->max) {
                entries->max = entries->max ? entries->max * 2 : 1024;
                entries->list =
                        cas_xrealloc(entries->list, entries->max * sizeof(entries->list[0]));
        }
        entries->list[entries->count++] = (struct cas_pack_entry){
                .offset = item->record_offset,
                .length_bytes = (uint32_t)item->record_bytes,
                .kind = (uint8_t)item->kind,
        };
        return 0;
}

int cas_packfile_footer(struct cas_packset *ps, uint64_t pack_id, int fd, uint64_t size_bytes,
                        struct cas_buf *footer, struct cas_hash *sha256, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        struct entries entries = {0};
        uint64_t end;
        bool sealed;
        struct cas_digest digest;
        struct cas_hash before;
        (void)cas_pack_name(pack_id, name);
        int rc = cas_pack_walk(ps->io, fd, pack_id, collect_entry, &entries, &end, &sealed, err);
        cas_cleanup_free void *list = entries.list;
        if (rc < 0)
                return rc;
        if (sealed || end != size_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "pack %s: record at %llu reads back damaged",
                                name, (unsigned long long)end);
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        rc = cas_packfile_hash(ps->io, fd, end, name, hasher, err);
        if (rc < 0)
                return rc;
        cas_hasher_peek(hasher, &digest);
        memcpy(before.bytes, digest.bytes, CAS_HASH_BYTES);
        cas_pack_footer_encode(end, &before, list, entries.count, footer);
        cas_hasher_update(hasher, footer->data, footer->len_bytes);
        cas_hasher_final(hasher, &digest);
        memcpy(sha256->bytes, digest.bytes, CAS_HASH_BYTES);
        return 0;
}

int cas_packfile_seal(struct cas_packset *ps, struct cas_packfile *pf, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf footer = CAS_BUF_INIT;
        struct cas_hash sha256;
        int rc = cas_packfile_footer(ps, pf->id, pf->fd, pf->size_bytes, &footer, &sha256, err);
        /* What reads back damaged is not written to again, nor counted on. */
        if (rc == -CAS_E_CORRUPT)
                atomic_store(&pf->failed, true);
        if (rc == 0)
                rc = cas_packfile_append(ps, pf, footer.data, footer.len_bytes, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&ps->mutex);
        pf->sealed = true;
        pf->sha256 = sha256;
        cas_mutex_unlock(&ps->mutex);
        return 0;
}

static int sync_locked(struct cas_packset *ps, struct cas_packfile *pf, uint64_t end_offset,
                       struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        cas_assert_held(&pf->sync);
        if (atomic_load(&pf->failed))
                return cas_fail(err, CAS_E_IO, "pack %s failed before",
                                cas_pack_name(pf->id, name));
        if (pf->synced_bytes < end_offset) {
                cas_mutex_lock(&ps->mutex);
                uint64_t size_bytes = pf->size_bytes;
                cas_mutex_unlock(&ps->mutex);
                cas_assert(end_offset <= size_bytes);
                int rc = cas_io_fdatasync(ps->io, pf->fd, cas_pack_name(pf->id, name), err);
                if (rc < 0)
                        return rc;
                pf->synced_bytes = size_bytes;
        }
        if (!pf->dir_synced) {
                int rc = cas_io_sync_dir(ps->io, pf->dirfd, ".", err);
                if (rc < 0)
                        return rc;
                pf->dir_synced = true;
        }
        return 0;
}

int cas_packfile_sync(struct cas_packset *ps, struct cas_packfile *pf, uint64_t end_offset,
                      struct cas_err *err)
{
        cas_mutex_lock(&pf->sync);
        int rc = sync_locked(ps, pf, end_offset, err);
        /* After a failed sync the kernel may have dropped the dirty pages: a later sync that
         * succeeds would prove nothing. */
        if (rc < 0)
                atomic_store(&pf->failed, true);
        cas_mutex_unlock(&pf->sync);
        return rc;
}

void cas_packfile_record(struct cas_packset *ps, struct cas_packfile *pf,
                         struct cas_pack_record *out)
{
        *out = (struct cas_pack_record){.tier = pf->tier, .density = (uint8_t)pf->density};
        cas_mutex_lock(&pf->sync);
        out->size_bytes = pf->synced_bytes;
        cas_mutex_unlock(&pf->sync);
        cas_mutex_lock(&ps->mutex);
        if (pf->sealed && out->size_bytes == pf->size_bytes) {
                out->sealed = true;
                out->sha256 = pf->sha256;
        }
        cas_mutex_unlock(&ps->mutex);
}
