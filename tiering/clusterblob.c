/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs: a cell each, with the content in it or the pieces that it is made of. Pieces belong to
 * the session that brought them (clusterupload.c) until a blob's cell has them. */
#include <stdio.h>
#include <time.h>

#include "tiering/cluster_int.h"

#define READ_BYTES (1 * CAS_MIB)
#define TAKE_WAITS 8 /* for another who ends an upload of the same blob */

/* ---- pieces ---- */

/* Up to len bytes; fewer only at the end. */
static int source_fill(cas_shared_source_fn source, void *arg, uint8_t *buf, size_t len,
                       size_t *out_len, struct cas_err *err)
{
        size_t n = 1;
        *out_len = 0;
        while (*out_len < len && n > 0) {
                int rc = source(arg, buf + *out_len, len - *out_len, &n, err);
                if (rc < 0)
                        return rc;
                *out_len += n;
        }
        return 0;
}

int tier_pieces_put(struct tier_cluster *c, const char *id, uint64_t offset, uint64_t bytes,
                    cas_shared_source_fn source, void *arg, struct tier_cell *cell,
                    struct cas_err *err)
{
        size_t room = cas_min_u64(bytes, TIER_PIECE_BYTES);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(room + 1);
        for (uint64_t end = offset + bytes; offset < end;) {
                char key[TIER_PIECE_KEY_BYTES], nonce[17];
                size_t len = cas_min_u64(end - offset, room), n;
                int rc = source_fill(source, arg, buf, len, &n, err);
                if (rc == 0 && n != len)
                        rc = cas_fail(err, CAS_E_CORRUPT, "it is %llu bytes shorter than expected",
                                      (unsigned long long)(end - offset - n));
                if (rc < 0)
                        return rc;
                tier_random_hex(nonce, 16);
                (void)snprintf(key, sizeof(key), "data/%s/%llu-%s", id, (unsigned long long)offset,
                               nonce);
                rc = c->objects->ops->put(c->objects, key, buf, len, NULL, NULL, err);
                if (rc < 0)
                        return rc;
                tier_cell_add_piece(cell, key, len);
                offset += len;
        }
        return 0;
}

static int piece_read(struct tier_cluster *c, const struct tier_piece *piece, uint8_t *buf,
                      cas_shared_sink_fn sink, void *arg, struct cas_err *err)
{
        for (uint64_t at = 0; at < piece->bytes;) {
                size_t len = cas_min_u64(READ_BYTES, piece->bytes - at);
                int rc = c->objects->ops->get_range(c->objects, piece->key, at, buf, len, err);
                if (rc == 0)
                        rc = sink(arg, buf, len, err);
                if (rc < 0)
                        return rc;
                at += len;
        }
        return 0;
}

int tier_pieces_read(struct tier_cluster *c, const struct tier_cell *cell, cas_shared_sink_fn sink,
                     void *arg, struct cas_err *err)
{
        cas_cleanup_free uint8_t *buf = cas_xmalloc(READ_BYTES);
        int rc = 0;
        if (cell->content.len_bytes > 0)
                rc = sink(arg, cell->content.data, cell->content.len_bytes, err);
        for (size_t i = 0; rc == 0 && i < cell->piece_count; i++)
                rc = piece_read(c, &cell->pieces[i], buf, sink, arg, err);
        return rc;
}

int tier_pieces_delete(struct tier_cluster *c, const struct tier_cell *cell,
                       const struct tier_cell *kept, uint64_t *count, uint64_t *bytes,
                       struct cas_err *err)
{
        for (size_t i = 0; i < cell->piece_count; i++) {
                const struct tier_piece *piece = &cell->pieces[i];
                if (kept && tier_cell_has_piece(kept, piece->key))
                        continue;
                int rc = c->objects->ops->delete (c->objects, piece->key, NULL, err);
                if (rc < 0)
                        return rc;
                *count += 1;
                *bytes += piece->bytes;
        }
        return 0;
}

/* All that the session ever put, noted in its cell or not. */
struct sweep {
        struct tier_cluster *c;
        const struct tier_cell *kept;
        uint64_t *count, *bytes;
};

static int sweep_one(void *arg, const char *key, const struct s3_object *object,
                     struct cas_err *err)
{
        struct sweep *s = arg;
        if (!object || tier_cell_has_piece(s->kept, key))
                return 0;
        int rc = s->c->objects->ops->delete (s->c->objects, key, NULL, err);
        if (rc < 0)
                return rc;
        *s->count += 1;
        *s->bytes += object->size_bytes;
        return 0;
}

/* ---- a session's pieces become a blob ---- */

static int session_is(struct tier_cluster *c, const char *key, const char *nonce,
                      struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell now = TIER_CELL_INIT;
        struct tier_version version;
        bool there;
        int rc = tier_cell_read(c, key, &now, &there, &version, err);
        if (rc == 0 &&
            (!there || now.state != TIER_CELL_FINISHING || strcmp(now.nonce, nonce) != 0))
                rc = cas_fail(err, CAS_E_BUSY, "the upload was ended by others");
        return rc;
}

/* Somebody else is about to give the blob its pieces, and may have died. False: wait. */
static bool may_replace(const struct tier_cell *now, char waited_for[TIER_CELL_NONCE_BYTES],
                        unsigned attempt)
{
        if (now->state != TIER_CELL_FINISHING ||
            (attempt >= TAKE_WAITS && strcmp(waited_for, now->nonce) == 0))
                return true;
        memcpy(waited_for, now->nonce, TIER_CELL_NONCE_BYTES);
        return false;
}

struct take {
        struct tier_cluster *c;
        char key[TIER_KEY_BYTES];
        uint64_t bytes;
        const struct tier_cell *session;
        const char *session_key; /* NULL: all is in the cell */
        unsigned attempt;
        bool tried; /* to make it live: that may have been, and its pieces may be gone since */
        char waited_for[TIER_CELL_NONCE_BYTES];
};

/* The cell gets the pieces, but is not there yet; the session is seen to be alive; it is. Who ends
 * the session meanwhile replaces the version in between (spec/cluster.md). */
static int take_pieces(struct take *t, const struct tier_version *version, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = {.size_bytes = t->bytes};
        struct tier_version made = *version;
        for (size_t i = 0; i < t->session->piece_count; i++)
                tier_cell_add_piece(&cell, t->session->pieces[i].key, t->session->pieces[i].bytes);
        cas_buf_append(&cell.content, t->session->content.data, t->session->content.len_bytes);
        if (t->session_key) {
                cell.state = TIER_CELL_FINISHING;
                int rc = tier_cell_write(t->c, t->key, &cell, version, &made, err);
                if (rc == 0)
                        rc = session_is(t->c, t->session_key, t->session->nonce, err);
                if (rc < 0)
                        return rc;
                cell.state = TIER_CELL_LIVE;
                t->tried = true;
        }
        return tier_cell_write(t->c, t->key, &cell, &made, NULL, err);
}

/* One attempt; EXISTS: again. */
static int take_once(struct take *t, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell now = TIER_CELL_INIT;
        struct tier_version version;
        struct cas_err ignored = CAS_ERR_INIT;
        uint64_t count = 0;
        bool there;
        int rc = tier_cell_read(t->c, t->key, &now, &there, &version, err);
        if (rc < 0 || (there && now.state == TIER_CELL_LIVE))
                return rc;
        if (there && now.state == TIER_CELL_CONDEMNED) {
                now.state = TIER_CELL_LIVE;
                return tier_cell_write(t->c, t->key, &now, &version, NULL, err);
        }
        if (there && !may_replace(&now, t->waited_for, t->attempt)) {
                const struct timespec pause = {.tv_nsec = 20000000L * (1 + t->attempt)};
                (void)nanosleep(&pause, NULL);
                return cas_fail(err, CAS_E_EXISTS, "another upload of it ends");
        }
        if (t->tried)
                return cas_fail(err, CAS_E_BUSY, "the blob went while it came");
        rc = take_pieces(t, &version, err);
        if (rc == 0 && there && now.state == TIER_CELL_DEAD) /* who collected it may have died */
                (void)!tier_pieces_delete(t->c, &now, t->session, &count, &count, &ignored);
        return rc;
}

int tier_blob_take(struct tier_cluster *c, const struct cas_digest *blob, uint64_t bytes,
                   const struct tier_cell *session, const char *session_key, struct cas_err *err)
{
        struct take t = {.c = c, .bytes = bytes, .session = session, .session_key = session_key};
        tier_key_blob(blob, t.key);
        for (; t.attempt < TIER_TRIES; t.attempt++) {
                struct cas_err why = CAS_ERR_INIT;
                int rc = take_once(&t, &why);
                if (rc != -CAS_E_EXISTS) {
                        if (rc < 0)
                                *err = why;
                        return rc;
                }
        }
        return tier_fail_tries(t.key, err);
}

/* The session is dead. Who saw it alive has written the blob's cell before: if that has the pieces
 * and is there, they stay (`kept` has them); if it is not there yet, it never will be. */
static int settle_blob(struct tier_cluster *c, const struct cas_digest *blob, const char *prefix,
                       struct tier_cell *kept, struct cas_err *err)
{
        char key[TIER_KEY_BYTES];
        tier_key_blob(blob, key);
        for (unsigned i = 0; i < TIER_TRIES; i++) {
                struct tier_version version;
                struct cas_err why = CAS_ERR_INIT;
                bool there;
                tier_cell_release(kept);
                int rc = tier_cell_read(c, key, kept, &there, &version, err);
                if (rc < 0 || !there || kept->state != TIER_CELL_FINISHING)
                        return rc;
                bool ours = kept->piece_count > 0 &&
                            strncmp(kept->pieces[0].key, prefix, strlen(prefix)) == 0;
                kept->piece_count = 0;
                if (!ours)
                        return 0;
                kept->state = TIER_CELL_DEAD;
                rc = tier_cell_write(c, key, kept, &version, NULL, &why);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_EXISTS) {
                        *err = why;
                        return rc;
                }
        }
        return tier_fail_tries(key, err);
}

int tier_session_end(struct tier_cluster *c, const char *key, struct tier_cell *session,
                     struct tier_version *version, uint64_t *pieces, uint64_t *bytes,
                     struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell blob = TIER_CELL_INIT;
        const char *id = strrchr(key, '/') + 1;
        char prefix[TIER_PIECE_KEY_BYTES];
        int rc = 0;
        (void)snprintf(prefix, sizeof(prefix), "data/%s/", id);
        if (session->state != TIER_CELL_DEAD) {
                session->state = TIER_CELL_DEAD;
                rc = tier_cell_write(c, key, session, version, version, err);
        }
        if (rc == 0 && session->digest.alg != CAS_DIGEST_NONE)
                rc = settle_blob(c, &session->digest, prefix, &blob, err);
        struct sweep sweep = {.c = c, .kept = &blob, .count = pieces, .bytes = bytes};
        if (rc == 0)
                rc = c->objects->ops->list(c->objects, prefix, NULL, sweep_one, &sweep, err);
        return rc < 0 ? rc : tier_cell_empty(c, key, version, err);
}

/* ---- operations ---- */

int tier_op_blob_hold(struct cas_shared *sh, const struct cas_digest *blob, uint64_t *out_bytes,
                      struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        char key[TIER_KEY_BYTES];
        tier_key_blob(blob, key);
        int rc = tier_cell_hold(tier_cluster_from(sh), key, &cell, err);
        if (rc == 0)
                *out_bytes = cell.size_bytes;
        return rc;
}

/* A session of our own, for what is longer than a cell holds. */
static int put_by_session(struct tier_cluster *c, const struct cas_digest *blob, uint64_t bytes,
                          cas_shared_source_fn source, void *arg, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell session = {.digest = *blob,
                                                      .state = TIER_CELL_FINISHING};
        struct tier_version version = {0};
        struct cas_err ignored = CAS_ERR_INIT;
        char key[TIER_KEY_BYTES], id[33];
        uint64_t count = 0;
        tier_random_hex(id, 32);
        tier_key_name("_", "_uploads", id, key); /* of no repository */
        int rc = tier_cell_write(c, key, &session, &version, &version, err);
        if (rc < 0)
                return rc;
        rc = tier_pieces_put(c, id, 0, bytes, source, arg, &session, err);
        if (rc == 0)
                rc = tier_blob_take(c, blob, bytes, &session, key, err);
        /* what is left of it goes later */
        (void)!tier_session_end(c, key, &session, &version, &count, &count, &ignored);
        return rc;
}

int tier_op_blob_put(struct cas_shared *sh, const struct cas_digest *blob, uint64_t bytes,
                     cas_shared_source_fn source, void *arg, struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        if (bytes > TIER_CELL_CONTENT_BYTES_MAX)
                return put_by_session(c, blob, bytes, source, arg, err);
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        size_t n;
        cas_buf_reserve(&cell.content, bytes + 1);
        int rc = source_fill(source, arg, cell.content.data, bytes, &n, err);
        if (rc == 0 && n != bytes)
                rc = cas_fail(err, CAS_E_CORRUPT, "a blob is shorter than it should be");
        cell.content.len_bytes = bytes;
        return rc < 0 ? rc : tier_blob_take(c, blob, bytes, &cell, NULL, err);
}

int tier_op_blob_read(struct cas_shared *sh, const struct cas_digest *blob, cas_shared_sink_fn sink,
                      void *arg, struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        bool there;
        tier_key_blob(blob, key);
        int rc = tier_cell_read(c, key, &cell, &there, &version, err);
        if (rc == 0 && (!there || !tier_cell_is_there(&cell)))
                rc = cas_fail(err, CAS_E_NOTFOUND, "no blob %s", cas_digest_text(blob, text));
        return rc < 0 ? rc : tier_pieces_read(c, &cell, sink, arg, err);
}
