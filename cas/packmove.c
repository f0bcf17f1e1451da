/* SPDX-License-Identifier: Apache-2.0 */
/* Moving the home copy of a pack to another tier, as it is (spec/tiering.md).
 *
 * The new copy is whole and durable under the pack's name; then one batch of the index says that it
 * is the home copy; then the old one goes. The pack is claimed from the beginning to the end, so
 * that nobody writes to it, and who finds a file that the index does not tell of knows that it is
 * in hand. What a crash leaves beside the home copy is removed at opening, or by collection.
 *
 * A pack that can be written to is sealed by the copy: what it is made of is not written to. */
#include <fcntl.h>

#include "cas/log.h"
#include "cas/packfile_int.h"
#include "cas/pace.h"

#define STEP_BYTES (1 * CAS_MIB)
#define COPY_MODE 0600

struct move {
        struct cas_packset *ps;
        const struct cas_pack_move_options *o;
        struct cas_tier_info to;
        char name[CAS_PACK_NAME_BYTES];
        struct cas_pack_claim claim;
        struct cas_pack_record before, after;
        uint64_t room_bytes;   /* taken on the new tier, for a copy that is not the home copy yet */
        struct cas_buf footer; /* what the new copy has more than the old one */
};

static bool is_stopped(const struct move *m)
{
        return m->o->stop && m->o->stop(m->o->stop_arg);
}

static void pay(const struct move *m, uint64_t bytes)
{
        if (m->o->pace)
                cas_pace_read(m->o->pace, bytes);
}

/* ---- reading the old copy ---- */

/* All of it goes to fn, in order, and what the footer adds; what was read is what it shall be.
 * fn NULL: it is only looked at. */
static int read_old(struct move *m, int fd,
                    int (*fn)(void *arg, const void *data, size_t len, uint64_t offset,
                              struct cas_err *err),
                    void *arg, struct cas_err *err)
{
        cas_cleanup_free uint8_t *step = cas_xmalloc(STEP_BYTES);
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        const uint64_t end = m->after.size_bytes - m->footer.len_bytes;
        struct cas_digest got;
        int rc = 0;
        for (uint64_t at = 0; rc == 0 && at < end;) {
                size_t n = cas_min_u64(end - at, STEP_BYTES);
                if (is_stopped(m))
                        return cas_fail(err, CAS_E_BUSY, "stopped");
                rc = cas_io_pread_exact(m->ps->io, fd, step, n, at, m->name, err);
                if (rc == 0)
                        cas_hasher_update(hasher, step, n);
                if (rc == 0 && fn)
                        rc = fn(arg, step, n, at, err);
                pay(m, fn ? 2 * n : n);
                at += n;
        }
        if (rc < 0)
                return rc;
        /* Nobody is expected to come back to what moves. */
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        cas_hasher_update(hasher, m->footer.data, m->footer.len_bytes);
        cas_hasher_final(hasher, &got);
        if (memcmp(got.bytes, m->after.sha256.bytes, CAS_HASH_BYTES) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "its SHA-256 differs");
        return 0;
}

/* What the pack will be: sealed. */
static int plan_after(struct move *m, int fd, struct cas_err *err)
{
        m->after = m->before;
        m->after.tier = m->o->to;
        if (m->before.sealed)
                return 0;
        const uint64_t end = m->claim.idle->size_bytes;
        int rc = cas_packfile_footer(m->ps, m->claim.pack_id, fd, end, &m->footer, &m->after.sha256,
                                     err);
        m->after.sealed = true;
        m->after.size_bytes = end + m->footer.len_bytes;
        return rc;
}

/* ---- to a directory ---- */

struct target {
        struct move *m;
        int dirfd; /* borrowed */
        int fd;
        char name[CAS_PACK_MOVING_NAME_BYTES];
        bool is_named; /* as the pack */
};

static int write_target(void *arg, const void *data, size_t len, uint64_t offset,
                        struct cas_err *err)
{
        const struct target *t = arg;
        return cas_io_pwrite_all(t->m->ps->io, t->fd, data, len, offset, t->name, err);
}

/* From one that is remote, or of a directory. */
static int fill_target(struct target *t, int old_fd, struct cas_err *err)
{
        struct move *m = t->m;
        const struct cas_backend_ops *ops = m->ps->backend->ops;
        int rc;
        if (old_fd < 0) {
                const struct cas_pack_file file = cas_pack_file_of(m->claim.pack_id, &m->before);
                rc = ops->remote_get(m->ps->backend, m->before.tier, &file, t->fd, err);
                pay(m, 2 * file.size_bytes);
        } else {
                rc = read_old(m, old_fd, write_target, t, err);
        }
        if (rc == 0 && m->footer.len_bytes > 0)
                rc = write_target(t, m->footer.data, m->footer.len_bytes,
                                  m->after.size_bytes - m->footer.len_bytes, err);
        if (rc == 0)
                rc = cas_io_fdatasync(m->ps->io, t->fd, t->name, err);
        if (rc == 0)
                (void)posix_fadvise(t->fd, 0, 0, POSIX_FADV_DONTNEED);
        return rc;
}

static int name_target(struct target *t, struct cas_err *err)
{
        struct move *m = t->m;
        int rc = cas_io_rename(m->ps->io, t->dirfd, t->name, t->dirfd, m->name, err);
        t->is_named = rc == 0;
        return rc < 0 ? rc : cas_io_sync_dir(m->ps->io, t->dirfd, ".", err);
}

/* The new copy, durable under the pack's name; nothing after a failure. */
static int copy_to_directory(struct move *m, int old_fd, struct cas_err *err)
{
        struct target t = {.m = m, .fd = -1};
        const struct cas_io *io = m->ps->io;
        uint32_t tier;
        int rc = m->ps->backend->ops->pack_place(m->ps->backend, m->claim.pack_id, m->o->to,
                                                 &t.dirfd, &tier, err);
        if (rc == 0)
                rc = cas_packset_room_take(m->ps, m->o->to, m->after.size_bytes, err);
        if (rc < 0)
                return rc;
        m->room_bytes = m->after.size_bytes;
        rc = cas_io_open(io, t.dirfd, cas_pack_moving_name(m->claim.pack_id, t.name),
                         O_RDWR | O_CREAT | O_TRUNC, COPY_MODE, &t.fd, err);
        if (rc < 0)
                return rc;
        rc = fill_target(&t, old_fd, err);
        (void)io->ops->close(io->ctx, t.fd);
        if (rc == 0)
                rc = name_target(&t, err);
        if (rc < 0)
                (void)io->ops->unlinkat(io->ctx, t.dirfd, t.is_named ? m->name : t.name, 0);
        return rc;
}

/* ---- to a remote tier ---- */

/* What is put is what was sealed: a pack that could be written to is sealed in its place first. */
static int put_remote(struct move *m, int old_fd, struct cas_err *err)
{
        const struct cas_backend_ops *ops = m->ps->backend->ops;
        cas_cleanup_fd int fetched = -1;
        struct cas_pack_file file = cas_pack_file_of(m->claim.pack_id, &m->after);
        int rc = 0;
        if (old_fd < 0) {
                rc = cas_packset_fetch(m->ps, m->before.tier, &file, false, &fetched, err);
                old_fd = fetched;
        } else {
                rc = read_old(m, old_fd, NULL, NULL, err);
        }
        if (rc < 0)
                return rc;
        pay(m, file.size_bytes);
        return ops->remote_put(m->ps->backend, m->o->to, &file, old_fd, err);
}

static int seal_old(struct move *m, struct cas_err *err)
{
        if (m->before.sealed)
                return 0;
        int rc = cas_packset_seal_one(m->ps, m->claim.idle, err);
        return rc < 0 ? rc : cas_index_get_pack(m->ps->index, m->claim.pack_id, &m->before, err);
}

/* ---- the batch, and the end ---- */

/* The index failed: it may have taken the batch, or not. *known false: nobody can tell now. */
static bool was_written(struct move *m, bool *known)
{
        struct cas_pack_record now;
        struct cas_err ignored = CAS_ERR_INIT;
        *known = cas_index_mend(m->ps->index, &ignored) == 0 &&
                 cas_index_get_pack(m->ps->index, m->claim.pack_id, &now, &ignored) == 0;
        return *known && now.tier == m->o->to;
}

/* *is_home: the index has the new copy. When that is not known both stay, and the next opening
 * tells. */
static int tell_index(struct move *m, bool *is_home, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        bool known = true;
        cas_batch_put_pack(batch, m->claim.pack_id, &m->after);
        int rc = cas_index_write(m->ps->index, batch, err);
        *is_home = rc == 0 || was_written(m, &known);
        if (!known)
                m->room_bytes = 0;
        if (rc < 0 && !*is_home && known) {
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!cas_packset_unlink_copy(m->ps, m->claim.pack_id, &m->after, &ignored);
                m->room_bytes = 0;
        }
        return *is_home ? 0 : rc;
}

/* The pack lies in its new place. What is left of the old one costs room, and no more. */
static void remove_old(struct move *m)
{
        struct cas_err err = CAS_ERR_INIT;
        m->room_bytes = 0;
        if (cas_packset_unlink(m->ps, m->claim.pack_id, &m->before, &err) < 0)
                cas_log(CAS_LOG_WARN, "move", "pack=%s left=\"%s\"", m->name, err.msg);
}

static int open_old(struct move *m, int *out_fd, struct cas_err *err)
{
        struct cas_pack_record rec;
        int rc = cas_packset_open_home(m->ps, m->claim.pack_id, out_fd, &rec, err);
        if (rc == -CAS_E_NOTFOUND)
                err->code = CAS_E_CORRUPT; /* the index has it */
        return rc < 0 ? -(int)err->code : 0;
}

static int move_claimed(struct move *m, bool *is_home, struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        int rc = m->to.remote ? seal_old(m, err) : 0;
        if (rc == 0)
                rc = open_old(m, &fd, err);
        if (rc == 0)
                rc = plan_after(m, fd, err);
        if (rc == 0)
                rc = m->to.remote ? put_remote(m, fd, err) : copy_to_directory(m, fd, err);
        return rc < 0 ? rc : tell_index(m, is_home, err);
}

int cas_packset_move(struct cas_packset *ps, uint64_t pack_id,
                     const struct cas_pack_move_options *o, uint64_t *out_bytes, bool *as_it_is,
                     struct cas_err *err)
{
        struct move m = {.ps = ps, .o = o, .footer = CAS_BUF_INIT};
        struct cas_err miss = CAS_ERR_INIT;
        bool is_home = false;
        *as_it_is = true;
        int rc = ps->backend->ops->tier_info(ps->backend, o->to, &m.to, err);
        if (rc < 0)
                return rc;
        (void)cas_pack_name(pack_id, m.name);
        if (!cas_packset_claim(ps, pack_id, &m.claim))
                return cas_fail(err, CAS_E_BUSY, "pack %s is in use", m.name);
        rc = cas_index_get_pack(ps->index, pack_id, &m.before, &miss);
        if (rc < 0)
                *err = miss;
        *as_it_is = rc < 0 || m.before.sealed || m.claim.idle;
        if (rc == 0 && *as_it_is && m.before.tier != o->to) {
                rc = move_claimed(&m, &is_home, err);
                *out_bytes = m.after.size_bytes;
        }
        if (is_home)
                remove_old(&m);
        cas_packset_room_give(ps, o->to, m.room_bytes);
        cas_packset_unclaim(ps, &m.claim, is_home);
        cas_buf_release(&m.footer);
        return rc < 0 ? cas_err_wrap(err, "move pack %s", m.name) : 0;
}
