/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "cas/blobcache_int.h"
#include "cas/commit_int.h"
#include "cas/condemned_int.h"
#include "cas/kept_int.h"
#include "cas/mend_int.h"
#include "cas/packfile_int.h"
#include "cas/pins_int.h"
#include "cas/publishrefs_int.h"
#include "cas/shared_int.h"
#include "cas/store_int.h"

/* Names of one publication, as records. */
#define NAMES_BYTES_MAX (16 * CAS_MIB)

/* A blob of this length is compared with its digest before it is taken to be there. */
#define COMPARE_BYTES_MAX (256 * CAS_KIB)

struct cas_publish {
        struct cas_store *store;
        struct cas_pins *pins; /* what it counts on, or adds */
        struct cas_batch *batch;
        struct cas_publish_refs refs;
        struct cas_ingest *ingest;   /* made with the first object */
        const struct cas_mend *mend; /* borrowed; NULL: nothing is known to be damaged */

        struct cas_staged_blob *blobs; /* owned */
        size_t blob_count;
        size_t blob_alloc;
        struct { /* the blob that is being written; fd -1: none */
                int fd;
                char path[CAS_TEMPORARY_PATH_BYTES];
                enum cas_digest_alg alg;
                struct cas_hasher *hasher; /* owned */
                uint64_t size_bytes;
        } open;

        bool condenses; /* a recipe was proved, so that this blob's copy becomes a cache */
        bool assembles; /* the blob may be new: it is condensed then */
        struct cas_digest condensed;
        uint64_t condensed_bytes;

        struct cas_buf names;
        uint32_t name_count;
        bool removes;           /* manifests or blobs from repositories */
        bool renews;            /* links of blobs, however young */
        bool learned;           /* cas_publish_learned */
        cas_tag_guard_fn guard; /* NULL: none */
        void *guard_arg;
        bool ended; /* committed, or a commit was tried */
};

int cas_publish_begin(struct cas_store *s, struct cas_publish **out, struct cas_err *err CAS_UNUSED)
{
        struct cas_publish *p = cas_xcalloc(1, sizeof(*p));
        p->store = s;
        p->pins = cas_pins_new(s);
        p->batch = cas_batch_new();
        cas_publish_refs_init(&p->refs, s);
        p->open.fd = -1;
        *out = p;
        return 0;
}

void cas_publish_learned(struct cas_publish *p)
{
        p->learned = true;
}

struct cas_store *cas_publish_store(const struct cas_publish *p)
{
        return p->store;
}

struct cas_pins *cas_publish_pins(struct cas_publish *p)
{
        return p->pins;
}

void cas_publish_keep_blob(struct cas_publish *p, const struct cas_digest *blob)
{
        cas_pin_blob(p->pins, blob);
}

void cas_publish_keep_object(struct cas_publish *p, const struct cas_hash *object)
{
        cas_pin_object(p->pins, object);
}

void cas_publish_blob_drop(struct cas_publish *p)
{
        const struct cas_io *io = p->store->io;
        if (p->open.fd < 0)
                return;
        (void)io->ops->close(io->ctx, cas_steal_fd(&p->open.fd));
        (void)io->ops->unlinkat(io->ctx, p->store->dirfd, p->open.path, 0);
        cas_hasher_free(cas_steal(&p->open.hasher));
}

void cas_publish_free(struct cas_publish *p)
{
        if (!p)
                return;
        const struct cas_io *io = p->store->io;
        cas_publish_blob_drop(p);
        for (size_t i = 0; i < p->blob_count; i++) {
                if (p->blobs[i].path[0])
                        (void)io->ops->unlinkat(io->ctx, p->store->dirfd, p->blobs[i].path, 0);
        }
        if (p->ingest)
                cas_ingest_free(p->ingest);
        cas_batch_free(p->batch);
        cas_publish_refs_release(&p->refs);
        cas_buf_release(&p->names);
        free(p->blobs);
        cas_pins_free(p->pins); /* after all that was committed can be seen */
        free(p);
}

void cas_publish_mend(struct cas_publish *p, const struct cas_mend *mend)
{
        cas_assert(!p->ingest && p->blob_count == 0);
        p->mend = mend;
}

/* ---- objects and layers ---- */

static struct cas_ingest *ingest_of(struct cas_publish *p)
{
        if (!p->ingest) {
                p->ingest = cas_ingest_new(p->store->packset, p->pins);
                if (p->mend)
                        cas_ingest_mend(p->ingest, &p->mend->names);
        }
        return p->ingest;
}

int cas_publish_object_begin(struct cas_publish *p, struct cas_hash *id_slot, struct cas_err *err)
{
        return cas_ingest_object_begin(ingest_of(p), id_slot, err);
}

int cas_publish_named_begin(struct cas_publish *p, const struct cas_hash *id, struct cas_err *err)
{
        return cas_ingest_named_begin(ingest_of(p), id, err);
}

int cas_publish_object_write(struct cas_publish *p, const void *data, size_t len,
                             struct cas_err *err)
{
        return cas_ingest_object_write(p->ingest, data, len, err);
}

int cas_publish_object_end(struct cas_publish *p, struct cas_err *err)
{
        return cas_ingest_object_end(p->ingest, err);
}

int cas_publish_object(struct cas_publish *p, const void *data, size_t len,
                       struct cas_hash *id_slot, struct cas_err *err)
{
        int rc = cas_publish_object_begin(p, id_slot, err);
        if (rc == 0)
                rc = cas_publish_object_write(p, data, len, err);
        if (rc == 0)
                rc = cas_publish_object_end(p, err);
        return rc;
}

int cas_publish_kept_begin(struct cas_publish *p, const struct cas_hash *id, uint32_t frame_count,
                           struct cas_err *err)
{
        return cas_ingest_kept_begin(ingest_of(p), id, frame_count, err);
}

int cas_publish_kept_frame(struct cas_publish *p, const struct cas_kept_frame *frame,
                           struct cas_err *err)
{
        return cas_ingest_kept_frame(p->ingest, frame, err);
}

int cas_publish_kept_end(struct cas_publish *p, struct cas_err *err)
{
        return cas_ingest_kept_end(p->ingest, err);
}

int cas_publish_drain(struct cas_publish *p, struct cas_err *err)
{
        return p->ingest ? cas_ingest_drain(p->ingest, err) : 0;
}

int cas_publish_layer(struct cas_publish *p, const struct cas_layer_record *layer,
                      const struct cas_listing *listing, struct cas_err *err)
{
        cas_pin_blob(p->pins, &layer->blob);
        int rc = cas_publish_refs_layer(&p->refs, CAS_FAMILY_LAYERS, layer, listing, err);
        if (rc == 0)
                rc = cas_ingest_layer(ingest_of(p), layer, err);
        if (rc < 0)
                return rc;
        cas_batch_put_layer(p->batch, layer);
        return 0;
}

int cas_publish_elsewhere(struct cas_publish *p, const struct cas_layer_record *layer,
                          const struct cas_listing *listing, struct cas_err *err)
{
        return cas_publish_refs_layer(&p->refs, CAS_FAMILY_ELSEWHERE, layer, listing, err);
}

int cas_publish_recipe(struct cas_publish *p, const struct cas_recipe_record *recipe,
                       struct cas_recipe *opened, struct cas_err *err)
{
        cas_pin_blob(p->pins, &recipe->blob);
        cas_pin_object(p->pins, &recipe->recipe);
        int rc = cas_publish_refs_recipe(&p->refs, recipe, opened, err);
        if (rc == 0 && recipe->is_proved)
                rc = cas_ingest_recipe(ingest_of(p), recipe, err);
        if (rc < 0)
                return rc;
        cas_assert(!p->condenses);
        p->condenses = recipe->is_proved;
        p->condensed = recipe->blob;
        p->condensed_bytes = recipe->blob_bytes;
        cas_batch_put_recipe(p->batch, recipe);
        return 0;
}

int cas_publish_assembled(struct cas_publish *p, const struct cas_recipe_record *recipe,
                          struct cas_err *err)
{
        cas_assert(recipe->is_proved);
        p->assembles = true;
        return cas_publish_recipe(p, recipe, NULL, err);
}

/* ---- blobs ---- */

int cas_temporary_path(char out[CAS_TEMPORARY_PATH_BYTES], struct cas_err *err)
{
        uint64_t random[2];
        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return cas_fail_sys(err, errno, "random numbers");
        (void)snprintf(out, CAS_TEMPORARY_PATH_BYTES,
                       CAS_DIR_UPLOADS "/" CAS_TEMPORARY_PREFIX "%016llx%016llx",
                       (unsigned long long)random[0], (unsigned long long)random[1]);
        return 0;
}

static void stage_blob(struct cas_publish *p, const struct cas_digest *digest, uint64_t size_bytes,
                       const char *path)
{
        if (p->blob_count == p->blob_alloc) {
                p->blob_alloc = p->blob_alloc ? 2 * p->blob_alloc : 8;
                p->blobs = cas_xrealloc(p->blobs, p->blob_alloc * sizeof(p->blobs[0]));
        }
        struct cas_staged_blob *b = &p->blobs[p->blob_count++];
        *b = (struct cas_staged_blob){.digest = *digest, .size_bytes = size_bytes};
        memcpy(b->path, path, sizeof(b->path));
}

/* Whether the store has it, or this publication brings it. One whose bytes are gone (cas_blob_stat)
 * is not there, nor is a small one with other bytes: so a damaged store is healed by who brings the
 * blob again. To read large ones, or to make condensed ones again, would cost as much as to write
 * them. */
static int blob_is_here(struct cas_publish *p, const struct cas_digest *digest, bool *out,
                        struct cas_err *err)
{
        cas_pin_blob(p->pins, digest);
        for (size_t i = 0; i < p->blob_count; i++) {
                *out = cas_digest_equal(&p->blobs[i].digest, digest);
                if (*out)
                        return 0;
        }
        *out = false;
        if (p->mend && cas_digest_equal(&p->mend->blob, digest))
                return 0;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        uint64_t size_bytes;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_blob_stat(p->store, digest, &size_bytes, &miss);
        if (rc == 0 && size_bytes <= COMPARE_BYTES_MAX)
                rc = cas_blob_read(p->store, digest, COMPARE_BYTES_MAX, &bytes, &miss);
        *out = rc == 0 || rc == -CAS_E_UNSUPPORTED;
        if (*out || rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT)
                return 0;
        *err = miss;
        return rc;
}

int cas_publish_blob_begin(struct cas_publish *p, enum cas_digest_alg alg, struct cas_err *err)
{
        cas_assert(p->open.fd < 0);
        cas_assert(cas_digest_alg_bytes(alg) > 0);
        int rc = cas_temporary_path(p->open.path, err);
        if (rc == 0)
                rc = cas_blob_dirs_make(p->store, alg, err);
        if (rc == 0)
                rc = cas_io_open(p->store->io, p->store->dirfd, p->open.path,
                                 O_WRONLY | O_CREAT | O_EXCL, 0600, &p->open.fd, err);
        if (rc < 0)
                return rc;
        p->open.alg = alg;
        p->open.hasher = cas_hasher_new(alg);
        p->open.size_bytes = 0;
        return 0;
}

int cas_publish_blob_write(struct cas_publish *p, const void *data, size_t len, struct cas_err *err)
{
        cas_assert(p->open.fd >= 0);
        if (len > CAS_UPLOAD_BYTES_MAX - p->open.size_bytes)
                return cas_fail(err, CAS_E_LIMIT, "blob: more than %llu bytes",
                                (unsigned long long)CAS_UPLOAD_BYTES_MAX);
        int rc = cas_store_own_room(p->store, len, err);
        if (rc < 0)
                return rc;
        rc = cas_io_pwrite_all(p->store->io, p->open.fd, data, len, p->open.size_bytes,
                               p->open.path, err);
        if (rc < 0)
                return rc;
        cas_hasher_update(p->open.hasher, data, len);
        p->open.size_bytes += len;
        return 0;
}

/* Checks the open blob's digest and stages it, unless it is here already. */
static int end_open_blob(struct cas_publish *p, const struct cas_digest *expected,
                         const struct cas_digest *digest, struct cas_err *err)
{
        const struct cas_io *io = p->store->io;
        if (expected && !cas_digest_equal(expected, digest)) {
                char want[CAS_DIGEST_TEXT_BYTES], got[CAS_DIGEST_TEXT_BYTES];
                return cas_fail(err, CAS_E_INVALID, "blob: digest is %s, %s expected",
                                cas_digest_text(digest, got), cas_digest_text(expected, want));
        }
        bool here;
        int rc = blob_is_here(p, digest, &here, err);
        if (rc < 0 || here)
                return rc;
        rc = cas_io_fsync(io, p->open.fd, p->open.path, err);
        if (rc == 0)
                rc = cas_io_close(io, &p->open.fd, p->open.path, err);
        if (rc < 0)
                return rc;
        stage_blob(p, digest, p->open.size_bytes, p->open.path);
        cas_hasher_free(cas_steal(&p->open.hasher));
        return 0;
}

int cas_publish_blob_end(struct cas_publish *p, const struct cas_digest *expected,
                         struct cas_digest *out, uint64_t *out_bytes, struct cas_err *err)
{
        cas_assert(p->open.fd >= 0);
        cas_assert(p->open.alg == CAS_DIGEST_SHA256 || expected != NULL);
        struct cas_digest digest;
        cas_hasher_final(p->open.hasher, &digest);
        int rc = end_open_blob(p, expected, &digest, err);
        uint64_t size_bytes = p->open.size_bytes;
        cas_publish_blob_drop(p); /* where it was not staged */
        if (rc < 0)
                return rc;
        if (out)
                *out = digest;
        if (out_bytes)
                *out_bytes = size_bytes;
        return 0;
}

int cas_publish_blob(struct cas_publish *p, const void *data, size_t len,
                     const struct cas_digest *expected, struct cas_digest *out, struct cas_err *err)
{
        int rc = cas_publish_blob_begin(p, expected ? expected->alg : CAS_DIGEST_SHA256, err);
        if (rc < 0)
                return rc;
        rc = cas_publish_blob_write(p, data, len, err);
        if (rc < 0) {
                cas_publish_blob_drop(p);
                return rc;
        }
        return cas_publish_blob_end(p, expected, out, NULL, err);
}

int cas_publish_blob_adopt(struct cas_publish *p, const char *name, const struct cas_digest *digest,
                           uint64_t size_bytes, struct cas_err *err)
{
        struct cas_store *s = p->store;
        bool here;
        int rc = blob_is_here(p, digest, &here, err);
        if (rc < 0 || here)
                return rc;
        char from[CAS_TEMPORARY_PATH_BYTES], path[CAS_TEMPORARY_PATH_BYTES];
        cas_assert(strlen(name) < sizeof(from) - sizeof(CAS_DIR_UPLOADS));
        (void)snprintf(from, sizeof(from), CAS_DIR_UPLOADS "/%s", name);
        rc = cas_temporary_path(path, err);
        if (rc == 0)
                rc = cas_blob_dirs_make(s, digest->alg, err);
        if (rc == 0)
                rc = cas_io_link(s->io, s->dirfd, from, s->dirfd, path, err);
        if (rc < 0)
                return rc;
        stage_blob(p, digest, size_bytes, path);
        p->blobs[p->blob_count - 1].adopted = true;
        return 0;
}

/* What the index says of a blob that is new. Unless something refers to it from now on, it is for
 * collection to look at. */
static void put_blob(struct cas_publish *p, const struct cas_digest *digest,
                     const struct cas_blob_record *rec)
{
        cas_batch_put_blob(p->batch, digest, rec);
        if (!cas_publish_refs_keeps(&p->refs, digest))
                cas_batch_condemn_blob(p->batch, digest, rec->added_unix_s);
}

/* Gives a staged blob its name. What has that name already is the same content (another
 * publication's, or one that never was committed) and is replaced: it may not be relied upon,
 * since whoever wrote it may not have synced the directory. */
static int name_blob(struct cas_publish *p, struct cas_staged_blob *b, struct cas_err *err)
{
        const struct cas_io *io = p->store->io;
        char path[CAS_BLOB_PATH_BYTES];
        cas_blob_path(&b->digest, path);
        int rc = cas_io_rename(io, p->store->dirfd, b->path, p->store->dirfd, path, err);
        if (rc == 0 && b->adopted) /* a rename from one name of a file to another does nothing */
                rc = cas_io_unlink(io, p->store->dirfd, b->path, err);
        if (rc < 0)
                return rc;
        b->path[0] = '\0';
        put_blob(p, &b->digest,
                 &(struct cas_blob_record){.size_bytes = b->size_bytes,
                                           .added_unix_s = (uint64_t)time(NULL)});
        return 0;
}

static int name_blobs(struct cas_publish *p, struct cas_err *err)
{
        bool synced[3][256] = {{false}};
        for (size_t i = 0; i < p->blob_count; i++) {
                int rc = name_blob(p, &p->blobs[i], err);
                if (rc < 0)
                        return rc;
        }
        for (size_t i = 0; i < p->blob_count; i++) {
                const struct cas_digest *d = &p->blobs[i].digest;
                if (synced[d->alg][d->bytes[0]])
                        continue;
                synced[d->alg][d->bytes[0]] = true;
                char path[CAS_BLOB_PATH_BYTES];
                cas_blob_path(d, path);
                *strrchr(path, '/') = '\0';
                int rc = cas_io_sync_dir(p->store->io, p->store->dirfd, path, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* ---- names ---- */

/* A record to be filled and added. Owned. */
static int new_name(enum cas_name_kind kind, const char *repo, struct cas_name_record **out,
                    struct cas_err *err)
{
        if (!cas_repo_name_valid(repo))
                return cas_fail(err, CAS_E_INVALID, "invalid repository name %.255s", repo);
        *out = cas_xcalloc(1, sizeof(**out));
        (*out)->kind = kind;
        memcpy((*out)->repo, repo, strlen(repo) + 1);
        return 0;
}

static int add_name(struct cas_publish *p, const struct cas_name_record *rec, struct cas_err *err)
{
        if (p->names.len_bytes > NAMES_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %llu bytes of names at once",
                                (unsigned long long)NAMES_BYTES_MAX);
        cas_name_record_encode(rec, &p->names);
        p->name_count++;
        return 0;
}

static int add_digest_name(struct cas_publish *p, enum cas_name_kind kind, const char *repo,
                           const struct cas_digest *digest, struct cas_err *err)
{
        cas_cleanup_free struct cas_name_record *rec = NULL;
        int rc = new_name(kind, repo, &rec, err);
        if (rc < 0)
                return rc;
        rec->digest = *digest;
        if (kind == CAS_NAME_BLOB_LINK) {
                cas_pin_blob(p->pins, digest);
                rec->number = (uint64_t)time(NULL);
        }
        return add_name(p, rec, err);
}

static int add_tag(struct cas_publish *p, enum cas_name_kind kind, const char *repo,
                   const char *tag, const struct cas_digest *manifest, struct cas_err *err)
{
        cas_cleanup_free struct cas_name_record *rec = NULL;
        int rc = new_name(kind, repo, &rec, err);
        if (rc < 0)
                return rc;
        if (!cas_tag_valid(tag))
                return cas_fail(err, CAS_E_INVALID, "invalid tag %.128s", tag);
        memcpy(rec->tag, tag, strlen(tag) + 1);
        if (manifest)
                rec->digest = *manifest;
        return add_name(p, rec, err);
}

int cas_publish_manifest_link(struct cas_publish *p, const char *repo,
                              const struct cas_digest *manifest, const char *media_type,
                              uint64_t size_bytes, struct cas_err *err)
{
        cas_cleanup_free struct cas_name_record *rec = NULL;
        int rc = new_name(CAS_NAME_MANIFEST_LINK, repo, &rec, err);
        if (rc < 0)
                return rc;
        if (strlen(media_type) >= sizeof(rec->media_type))
                return cas_fail(err, CAS_E_INVALID, "media type of more than %zu bytes",
                                sizeof(rec->media_type) - 1);
        cas_pin_blob(p->pins, manifest);
        rec->digest = *manifest;
        rec->number = size_bytes;
        memcpy(rec->media_type, media_type, strlen(media_type) + 1);
        return add_name(p, rec, err);
}

int cas_publish_manifest_unlink(struct cas_publish *p, const char *repo,
                                const struct cas_digest *manifest, struct cas_err *err)
{
        p->removes = true;
        return add_digest_name(p, CAS_NAME_MANIFEST_UNLINK, repo, manifest, err);
}

int cas_publish_blob_link(struct cas_publish *p, const char *repo, const struct cas_digest *blob,
                          struct cas_err *err)
{
        return add_digest_name(p, CAS_NAME_BLOB_LINK, repo, blob, err);
}

void cas_publish_renew_links(struct cas_publish *p)
{
        p->renews = true;
}

int cas_publish_blob_unlink(struct cas_publish *p, const char *repo, const struct cas_digest *blob,
                            struct cas_err *err)
{
        p->removes = true;
        return add_digest_name(p, CAS_NAME_BLOB_UNLINK, repo, blob, err);
}

int cas_publish_tag(struct cas_publish *p, const char *repo, const char *tag,
                    const struct cas_digest *manifest, struct cas_err *err)
{
        return add_tag(p, CAS_NAME_TAG, repo, tag, manifest, err);
}

int cas_publish_untag(struct cas_publish *p, const char *repo, const char *tag, struct cas_err *err)
{
        return add_tag(p, CAS_NAME_UNTAG, repo, tag, NULL, err);
}

int cas_publish_referrer(struct cas_publish *p, const char *repo, const struct cas_digest *subject,
                         const struct cas_digest *referrer, struct cas_err *err)
{
        cas_cleanup_free struct cas_name_record *rec = NULL;
        int rc = new_name(CAS_NAME_REFERRER, repo, &rec, err);
        if (rc < 0)
                return rc;
        rec->digest = *subject;
        rec->referrer = *referrer;
        return add_name(p, rec, err);
}

void cas_publish_guard_tags(struct cas_publish *p, cas_tag_guard_fn fn, void *arg)
{
        p->guard = fn;
        p->guard_arg = arg;
}

struct cas_batch *cas_publish_batch(struct cas_publish *p)
{
        return p->batch;
}

/* ---- the end ---- */

/* What the store has of a blob whose recipe was proved. */
static int note_copy(struct cas_publish *p, struct cas_blob_record *rec, struct cas_err *err)
{
        struct cas_err gone = CAS_ERR_INIT;
        char path[CAS_BLOB_PATH_BYTES];
        uint64_t bytes;
        int rc = cas_blob_record_get(p->store, &p->condensed, rec, &gone);
        if (rc == -CAS_E_NOTFOUND && p->assembles) {
                *rec = (struct cas_blob_record){.size_bytes = p->condensed_bytes,
                                                .added_unix_s = (uint64_t)time(NULL),
                                                .copy = CAS_BLOB_CONDENSED};
                put_blob(p, &p->condensed, rec);
                return 0;
        }
        if (rc < 0) {
                *err = gone;
                return rc;
        }
        cas_blob_path(&p->condensed, path);
        rc = cas_io_size(p->store->io, p->store->dirfd, path, &bytes, &gone);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = gone;
                return rc;
        }
        bool file = rc == 0 && rec->copy != CAS_BLOB_CONDENSED && bytes == rec->size_bytes;
        rec->copy = file ? CAS_BLOB_CACHED : CAS_BLOB_CONDENSED;
        cas_batch_put_blob(p->batch, &p->condensed, rec);
        return 0;
}

static int write_batch(struct cas_publish *p, struct cas_err *err)
{
        bool replaces = p->ingest && cas_ingest_replaces(p->ingest);
        cas_assert(!replaces || p->name_count == 0); /* frames come without names */
        if (p->name_count > 0) {
                const struct cas_name_changes changes = {
                        .records = &p->names,
                        .count = p->name_count,
                        .removes = p->removes,
                        .named = p->refs.named,
                        .renews = p->renews,
                        .guard = p->guard,
                        .guard_arg = p->guard_arg,
                };
                return cas_commit_names(p->store, p->batch, &changes, err);
        }
        return cas_packset_write(p->store->packset, p->batch, replaces, err);
}

/* Locks blob files, as it is needed, and finds out which references the commit changes. */
static int lock_files(struct cas_publish *p, bool *locked, struct cas_err *err)
{
        struct cas_publish_plan plan = {.names = &p->names,
                                        .name_count = p->name_count,
                                        .staged = p->blobs,
                                        .staged_count = p->blob_count,
                                        .exclusive = p->condenses};
        bool again = true;
        int rc = 0;
        *locked = p->condenses || cas_publish_refs_lock(&p->refs, &plan);
        while (rc == 0 && *locked && again) {
                cas_blob_files_lock(p->store, plan.exclusive);
                rc = cas_publish_refs_settle(&p->refs, &plan, &again, err);
                if (rc == 0 && again) {
                        cas_blob_files_unlock(p->store);
                        plan.exclusive = true;
                }
        }
        return rc;
}

static int commit_here(struct cas_publish *p, struct cas_err *err)
{
        int rc = p->ingest ? cas_ingest_flush(p->ingest, p->batch,
                                              cas_publish_refs_objects(&p->refs), err)
                           : 0;
        if (rc < 0)
                return rc;
        struct cas_blob_record copy = {0};
        bool locked;
        rc = lock_files(p, &locked, err);
        if (rc == 0)
                rc = name_blobs(p, err);
        if (rc == 0 && p->condenses)
                rc = note_copy(p, &copy, err);
        if (rc == 0) {
                cas_publish_refs_write(&p->refs, p->batch);
                rc = write_batch(p, err);
        }
        if (rc == 0 && copy.copy == CAS_BLOB_CACHED)
                cas_blobcache_add(p->store->blobcache, &p->condensed, copy.size_bytes);
        if (locked)
                cas_blob_files_unlock(p->store);
        if (rc == 0 && p->ingest)
                cas_ingest_published(p->ingest);
        return rc;
}

int cas_publish_commit(struct cas_publish *p, struct cas_err *err)
{
        cas_assert(!p->ended);
        cas_assert(p->open.fd < 0);
        p->ended = true;
        if (!p->store->shared || p->learned || p->name_count == 0)
                return commit_here(p, err);
        struct cas_shared_plan plan = {.names = &p->names,
                                       .count = &p->name_count,
                                       .staged = p->blobs,
                                       .staged_count = p->blob_count,
                                       .guard = p->guard,
                                       .guard_arg = p->guard_arg};
        int rc = cas_shared_publish(p->store, &plan, err);
        if (rc == 0) {
                p->guard = NULL; /* it was asked where it counts */
                rc = commit_here(p, err);
        }
        if (plan.ordered)
                cas_mutex_unlock(plan.ordered);
        return rc;
}
