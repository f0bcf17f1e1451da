/* SPDX-License-Identifier: Apache-2.0 */
/* Upload sessions: a cell each, with the pieces that have come. Its version is the fence: who
 * writes replaces the one that he knows, and learns that way that another node was faster. */
#include <errno.h>
#include <stdio.h>

#include "tiering/cluster_int.h"

static void session_key(const struct cas_shared_session *session, char out[TIER_KEY_BYTES])
{
        tier_key_name(session->repo, "_uploads", session->id, out);
}

static uint64_t bytes_of(const struct tier_cell *cell)
{
        uint64_t bytes = 0;
        for (size_t i = 0; i < cell->piece_count; i++)
                bytes += cell->pieces[i].bytes;
        return bytes;
}

static void info_of(const struct tier_cell *cell, struct cas_upload_info *out)
{
        (void)snprintf(out->owner, sizeof(out->owner), "%s", cell->owner);
        out->alg = cell->alg;
        out->digest = cell->wanted;
        out->size_bytes = bytes_of(cell);
}

_Static_assert(CAS_SHARED_VERSION_BYTES >= TIER_CELL_NONCE_BYTES, "a version is a nonce");

/* A session that goes on. Errors: NOTFOUND (it is over). */
static int load(struct tier_cluster *c, const char *key, struct tier_cell *cell,
                struct tier_version *version, struct cas_err *err)
{
        bool there;
        int rc = tier_cell_read(c, key, cell, &there, version, err);
        if (rc == 0 && (!there || cell->state != TIER_CELL_LIVE))
                rc = cas_fail(err, CAS_E_NOTFOUND, "no such upload");
        return rc;
}

/* The same in the version that the caller knows. Errors: BUSY (it is another). */
static int load_known(struct tier_cluster *c, const struct cas_shared_session *session,
                      const char *key, struct tier_cell *cell, struct tier_version *version,
                      struct cas_err *err)
{
        int rc = load(c, key, cell, version, err);
        if (rc == 0 && strcmp(cell->nonce, session->version) != 0)
                rc = cas_fail(err, CAS_E_BUSY, "another node goes on with the upload");
        return rc;
}

static void note(struct cas_shared_session *session, const struct tier_cell *cell)
{
        memcpy(session->version, cell->nonce, TIER_CELL_NONCE_BYTES);
        session->size_bytes = bytes_of(cell);
}

/* EXISTS is what a fence is for. */
static int fenced(int rc, struct cas_err *err)
{
        if (rc != -CAS_E_EXISTS)
                return rc;
        return cas_fail(err, CAS_E_BUSY, "another node goes on with the upload");
}

int tier_op_upload_begin(struct cas_shared *sh, struct cas_shared_session *session,
                         const struct cas_upload_info *info, struct cas_err *err)
{
        struct tier_cell cell = {.alg = info->alg, .wanted = info->digest};
        const struct tier_version none = {0};
        char key[TIER_KEY_BYTES];
        (void)snprintf(cell.owner, sizeof(cell.owner), "%s", info->owner);
        session_key(session, key);
        int rc = tier_cell_write(tier_cluster_from(sh), key, &cell, &none, NULL, err);
        if (rc == 0)
                note(session, &cell);
        return rc;
}

int tier_op_upload_load(struct cas_shared *sh, struct cas_shared_session *session,
                        struct cas_upload_info *info, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES];
        session_key(session, key);
        int rc = load(tier_cluster_from(sh), key, &cell, &version, err);
        if (rc < 0)
                return rc;
        info_of(&cell, info);
        note(session, &cell);
        return 0;
}

int tier_op_upload_read(struct cas_shared *sh, const struct cas_shared_session *session,
                        cas_shared_sink_fn sink, void *arg, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES];
        session_key(session, key);
        int rc = load_known(tier_cluster_from(sh), session, key, &cell, &version, err);
        return rc < 0 ? rc : tier_pieces_read(tier_cluster_from(sh), &cell, sink, arg, err);
}

struct fd_source {
        int fd;
        uint64_t at;
};

static int fd_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct fd_source *s = arg;
        ssize_t n = pread(s->fd, buf, len, (off_t)s->at);
        if (n < 0)
                return cas_fail_sys(err, errno, "read an upload");
        s->at += (uint64_t)n;
        *out_len = (size_t)n;
        return 0;
}

/* Loads the session, and puts what it lacks of the file. */
static int bring(struct tier_cluster *c, const struct cas_shared_session *session, int fd,
                 uint64_t end, const char *key, struct tier_cell *cell,
                 struct tier_version *version, struct cas_err *err)
{
        int rc = load_known(c, session, key, cell, version, err);
        if (rc < 0)
                return rc;
        uint64_t from = bytes_of(cell);
        struct fd_source source = {.fd = fd, .at = from};
        if (end < from)
                return cas_fail(err, CAS_E_CORRUPT, "the upload is shorter here than it was");
        return tier_pieces_put(c, session->id, from, end - from, fd_read, &source, cell, err);
}

int tier_op_upload_append(struct cas_shared *sh, struct cas_shared_session *session, int fd,
                          uint64_t end, struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES];
        session_key(session, key);
        int rc = bring(c, session, fd, end, key, &cell, &version, err);
        if (rc == 0)
                rc = fenced(tier_cell_write(c, key, &cell, &version, NULL, err), err);
        if (rc == 0)
                note(session, &cell);
        return rc;
}

int tier_op_upload_finish(struct cas_shared *sh, struct cas_shared_session *session, int fd,
                          uint64_t end, const struct cas_digest *blob, struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES];
        session_key(session, key);
        int rc = bring(c, session, fd, end, key, &cell, &version, err);
        if (rc < 0)
                return rc;
        cell.state = TIER_CELL_FINISHING;
        cell.digest = *blob;
        rc = fenced(tier_cell_write(c, key, &cell, &version, NULL, err), err);
        if (rc == 0)
                rc = tier_blob_take(c, blob, end, &cell, key, err);
        return rc;
}

int tier_op_upload_end(struct cas_shared *sh, const struct cas_shared_session *session,
                       struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        char key[TIER_KEY_BYTES];
        session_key(session, key);
        for (unsigned i = 0; i < TIER_TRIES; i++) {
                tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
                struct tier_version version;
                struct cas_err why = CAS_ERR_INIT;
                uint64_t count = 0;
                bool there;
                int rc = tier_cell_read(c, key, &cell, &there, &version, err);
                if (rc < 0 || !there)
                        return rc;
                rc = tier_session_end(c, key, &cell, &version, &count, &count, &why);
                if (rc != -CAS_E_EXISTS) {
                        if (rc < 0)
                                *err = why;
                        return rc;
                }
        }
        return tier_fail_tries(key, err);
}

struct session_list {
        struct tier_cluster *c;
        bool (*fn)(void *arg, const struct cas_upload_info *info);
        void *arg;
};

static int session_seen(void *arg, const char *key, const struct s3_object *object,
                        struct cas_err *err)
{
        const struct session_list *l = arg;
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        struct cas_upload_info info = {0};
        struct cas_err miss = CAS_ERR_INIT;
        if (!object || object->size_bytes == 0)
                return 0;
        int rc = load(l->c, key, &cell, &version, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        (void)snprintf(info.id, sizeof(info.id), "%s", strrchr(key, '/') + 1);
        info_of(&cell, &info);
        info.touched_unix_s = (uint64_t)version.modified_unix_s;
        return l->fn(l->arg, &info) ? 0 : 1;
}

int tier_op_upload_each(struct cas_shared *sh, const char *repo,
                        bool (*fn)(void *arg, const struct cas_upload_info *info), void *arg,
                        struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        struct session_list list = {.c = c, .fn = fn, .arg = arg};
        char prefix[TIER_KEY_BYTES];
        if (!cas_repo_name_valid(repo))
                return 0;
        tier_key_name(repo, "_uploads", "", prefix);
        return c->objects->ops->list(c->objects, prefix, NULL, session_seen, &list, err);
}
