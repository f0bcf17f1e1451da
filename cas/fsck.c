/* SPDX-License-Identifier: Apache-2.0 */
/* fsck: blobs, layers and trees, and what all parts share. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cas/blobcache_int.h"
#include "cas/dirwalk_int.h"
#include "cas/elsewhere_int.h"
#include "cas/fsck_int.h"
#include "cas/layer.h"
#include "cas/recipe_int.h"
#include "cas/record_int.h"
#include "cas/regen.h"

#define READ_BYTES (256 * CAS_KIB)

static const struct {
        enum cas_fsck_severity severity;
        const char *id;
        const char *meaning;
} messages[] = {
#define X(name, level, text_id, text)                                                              \
        [CAS_FSCK_##name] = {.severity = CAS_FSCK_##level, .id = (text_id), .meaning = (text)},
        CAS_FSCK_TABLE(X)
#undef X
};

void cas_fsck_say(struct cas_fsck_run *run, enum cas_fsck_message message, const char *subject,
                  const char *fmt, ...)
{
        char detail[CAS_ERR_MSG_MAX], text[CAS_ERR_MSG_MAX + 128];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(detail, sizeof(detail), fmt, ap);
        va_end(ap);
        (void)snprintf(text, sizeof(text), "%s%s%s", messages[message].meaning,
                       detail[0] ? ": " : "", detail);
        cas_mutex_lock(&run->mutex);
        if (messages[message].severity == CAS_FSCK_ERROR)
                run->out->errors++;
        else if (messages[message].severity == CAS_FSCK_WARNING)
                run->out->warnings++;
        if (run->fn)
                run->fn(run->arg, messages[message].severity, messages[message].id, subject, text);
        cas_mutex_unlock(&run->mutex);
}

void cas_fsck_fail(struct cas_fsck_run *run, const struct cas_err *err)
{
        cas_mutex_lock(&run->mutex);
        if (run->rc == 0) {
                run->rc = -(int)err->code;
                run->err = *err;
        }
        cas_mutex_unlock(&run->mutex);
}

void cas_fsck_progress(struct cas_fsck_run *run, const char *what, uint64_t bytes)
{
        cas_mutex_lock(&run->mutex);
        run->done_bytes += bytes;
        cas_progress_update(run->progress, what, run->done_bytes, run->total_bytes);
        cas_mutex_unlock(&run->mutex);
}

void cas_fsck_count(struct cas_fsck_run *run, uint64_t *counter)
{
        cas_mutex_lock(&run->mutex);
        (*counter)++;
        cas_mutex_unlock(&run->mutex);
}

/* ---- files named by their digest ---- */

/* Hashes a whole file. */
static int hash_file(struct cas_fsck_run *run, const char *path, enum cas_digest_alg alg,
                     const char *what, struct cas_digest *out, uint64_t *out_bytes,
                     struct cas_err *err)
{
        const struct cas_io *io = run->s->io;
        cas_cleanup_fd int fd = -1;
        cas_cleanup_free uint8_t *buf = cas_xmalloc(READ_BYTES);
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(alg);
        int rc = cas_io_open(io, run->s->dirfd, path, O_RDONLY | O_NOFOLLOW, 0, &fd, err);
        size_t got = READ_BYTES;
        *out_bytes = 0;
        while (rc == 0 && got == READ_BYTES) {
                rc = cas_io_pread(io, fd, buf, READ_BYTES, *out_bytes, &got, path, err);
                if (rc < 0)
                        return rc;
                cas_hasher_update(hasher, buf, got);
                *out_bytes += got;
                cas_fsck_progress(run, what, got);
        }
        if (rc == 0)
                cas_hasher_final(hasher, out);
        return rc;
}

/* ---- blobs ---- */

struct blob_task {
        struct cas_fsck_run *run;
        struct cas_digest digest;
        struct cas_blob_record rec;
};

/* A copy that is a cache may be lost. */
static void say_copy(struct cas_fsck_run *run, const struct blob_task *task,
                     enum cas_fsck_message message, const char *subject, const char *detail)
{
        if (task->rec.copy == CAS_BLOB_CACHED)
                message = CAS_FSCK_COPY_DAMAGED;
        cas_fsck_say(run, message, subject, "%s", detail);
}

static void check_blob(void *arg)
{
        cas_cleanup_free struct blob_task *task = arg;
        struct cas_fsck_run *run = task->run;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest got;
        uint64_t bytes = 0;
        char path[CAS_BLOB_PATH_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&task->digest, text);
        cas_blob_path(&task->digest, path);
        int rc = hash_file(run, path, task->digest.alg, "blobs", &got, &bytes, &err);
        if (rc == 0 && bytes != task->rec.size_bytes) {
                (void)snprintf(err.msg, sizeof(err.msg), "%llu bytes, the index says %llu",
                               (unsigned long long)bytes, (unsigned long long)task->rec.size_bytes);
                say_copy(run, task, CAS_FSCK_BLOB_SIZE, text, err.msg);
        } else if (rc == 0 && !cas_digest_equal(&got, &task->digest)) {
                say_copy(run, task, CAS_FSCK_BLOB_DIGEST, text, cas_digest_text(&got, path));
        } else if (rc == -CAS_E_NOTFOUND) {
                say_copy(run, task, CAS_FSCK_BLOB_MISSING, text, path);
        } else if (rc < 0) {
                say_copy(run, task, CAS_FSCK_BLOB_DIGEST, text, err.msg);
        }
}

/* What is not verbatim needs a recipe that was proved. */
static int check_condensed(struct cas_fsck_run *run, const struct blob_task *task,
                           struct cas_err *err)
{
        struct cas_recipe_record recipe;
        struct cas_err miss = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = cas_recipe_stat(run->s, &task->digest, &recipe, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND && rc != -CAS_E_CORRUPT) {
                *err = miss;
                return rc;
        }
        if (rc < 0 || !recipe.is_proved)
                cas_fsck_say(run, CAS_FSCK_RECIPE_MISSING, cas_digest_text(&task->digest, text),
                             "%s", rc < 0 ? miss.msg : "");
        return 0;
}

static int submit_blob(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct cas_fsck_run *run = arg;
        struct cas_err malformed = CAS_ERR_INIT;
        int rc = 0;
        cas_cleanup_free struct blob_task *task = cas_xcalloc(1, sizeof(*task));
        task->run = run;
        if (cas_digest_value_decode(key, key_len, &task->digest, &malformed) < 0 ||
            cas_blob_record_decode(value, value_len, &task->rec, &malformed) < 0) {
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, "blobs", "%s", malformed.msg);
                return 0;
        }
        cas_fsck_count(run, &run->out->blobs);
        if (task->rec.copy != CAS_BLOB_VERBATIM)
                rc = check_condensed(run, task, err);
        if (rc == 0 && task->rec.copy != CAS_BLOB_CONDENSED)
                cas_pool_submit(run->s->pool, &run->group, check_blob, cas_steal(&task));
        return rc;
}

static int check_blob_file(void *arg, const char *path, const struct cas_digest *digest,
                           struct cas_err *err)
{
        struct cas_fsck_run *run = arg;
        struct cas_blob_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_blob_record_get(run->s, digest, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND)
                cas_fsck_say(run, CAS_FSCK_BLOB_UNKNOWN, path, "%s", "");
        else if (rc == 0 && rec.copy == CAS_BLOB_CONDENSED)
                cas_fsck_say(run, CAS_FSCK_COPY_UNKNOWN, path, "%s", "");
        if (rc == 0 || rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT)
                return 0;
        *err = miss;
        return rc;
}

static int tell_stray(void *arg, const char *path, const char *name CAS_UNUSED,
                      struct cas_err *err CAS_UNUSED)
{
        cas_fsck_say(arg, CAS_FSCK_BLOB_STRAY, path, "%s", "");
        return 0;
}

static int check_blobs(struct cas_fsck_run *run, struct cas_err *err)
{
        int rc = cas_index_scan(run->s->index, &(struct cas_scan){.family = CAS_FAMILY_BLOBS},
                                submit_blob, run, err);
        cas_pool_wait(run->s->pool, &run->group);
        return rc < 0 ? rc : cas_blob_files_each(run->s, check_blob_file, tell_stray, run, err);
}

/* ---- recipes ---- */

struct recipe_task {
        struct cas_fsck_run *run;
        struct cas_recipe_record rec;
        char subject[CAS_DIGEST_TEXT_BYTES];
        bool whole; /* every object that it refers to is there */
};

static int check_referred(void *arg, const struct cas_hash *object, struct cas_err *err)
{
        struct recipe_task *task = arg;
        char hex[CAS_HASH_HEX_BYTES];
        bool here;
        int rc = cas_index_has(task->run->s->index, CAS_FAMILY_OBJECTS, object->bytes,
                               CAS_HASH_BYTES, &here, err);
        if (rc == 0 && !here && task->whole) {
                cas_fsck_say(task->run, CAS_FSCK_RECIPE_OBJECT, task->subject, "%s",
                             cas_hash_hex(object, hex));
                task->whole = false; /* one is enough to say */
        }
        return rc;
}

static int check_objects(struct recipe_task *task, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        int rc = cas_recipe_open(task->run->s, &task->rec.recipe, &recipe, err);
        return rc < 0 ? rc : cas_tarrecipe_each_object(recipe, check_referred, task, err);
}

/* Makes the blob: regeneration compares its digest. */
static int make_blob(struct recipe_task *task, struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        cas_cleanup_free uint8_t *piece = cas_xmalloc(READ_BYTES);
        size_t n = 1;
        int rc = cas_regen_open(task->run->s, &task->rec.blob, &task->rec.recipe, 0, 1, &g, err);
        while (rc == 0 && n > 0) {
                rc = cas_regen_read(g, piece, READ_BYTES, &n, err);
                if (rc == 0)
                        cas_fsck_progress(task->run, "recipes", n);
        }
        return rc;
}

static void check_recipe(void *arg)
{
        cas_cleanup_free struct recipe_task *task = arg;
        struct cas_err err = CAS_ERR_INIT;
        task->whole = true;
        int rc = check_objects(task, &err);
        if (rc == -CAS_E_NOTFOUND)
                cas_fsck_say(task->run, CAS_FSCK_RECIPE_OBJECT, task->subject, "%s", err.msg);
        else if (task->whole && (rc < 0 || make_blob(task, &err) < 0))
                cas_fsck_say(task->run, CAS_FSCK_RECIPE_DIGEST, task->subject, "%s", err.msg);
        cas_fsck_count(task->run, &task->run->out->recipes);
}

static int submit_recipe(void *arg, const void *key, size_t key_len, const void *value,
                         size_t value_len, struct cas_err *err)
{
        struct cas_fsck_run *run = arg;
        struct cas_err malformed = CAS_ERR_INIT;
        cas_cleanup_free struct recipe_task *task = cas_xcalloc(1, sizeof(*task));
        struct cas_digest blob;
        bool here;
        task->run = run;
        if (cas_digest_value_decode(key, key_len, &blob, &malformed) < 0 ||
            cas_recipe_record_decode(&blob, value, value_len, &task->rec, &malformed) < 0) {
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, "recipes", "%s", malformed.msg);
                return 0;
        }
        cas_digest_text(&blob, task->subject);
        int rc = cas_index_has(run->s->index, CAS_FAMILY_BLOBS, key, key_len, &here, err);
        if (rc < 0)
                return rc;
        if (!here)
                cas_fsck_say(run, CAS_FSCK_RECIPE_BLOB, task->subject, "%s", "");
        else if (task->rec.is_proved)
                cas_pool_submit(run->s->pool, &run->group, check_recipe, cas_steal(&task));
        return 0;
}

static int check_recipes(struct cas_fsck_run *run, struct cas_err *err)
{
        int rc = cas_index_scan(run->s->index, &(struct cas_scan){.family = CAS_FAMILY_RECIPES},
                                submit_recipe, run, err);
        cas_pool_wait(run->s->pool, &run->group);
        return rc;
}

/* ---- layers ---- */

/* The object is there and has the size that the layer says. */
static int check_file(struct cas_fsck_run *run, const char *layer, const char *path,
                      const struct cas_hash *id, uint64_t size_bytes, struct cas_err *err)
{
        struct cas_object_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_object(run->s->index, id, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT) {
                cas_fsck_say(run, CAS_FSCK_OBJECT_MISSING, layer, "%.200s: %s", path, miss.msg);
                return 0;
        }
        if (rc < 0)
                *err = miss;
        else if (rec.size_bytes != size_bytes)
                cas_fsck_say(run, CAS_FSCK_OBJECT_SIZE, layer,
                             "%.200s: %llu bytes, the layer says %llu", path,
                             (unsigned long long)rec.size_bytes, (unsigned long long)size_bytes);
        return rc;
}

static int check_listing(struct cas_fsck_run *run, const char *layer,
                         const struct cas_layer_record *rec, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        struct cas_err bad = CAS_ERR_INIT;
        int rc = cas_layer_listing(run->s, rec, &listing, &bad);
        if (rc < 0) {
                cas_fsck_say(run, CAS_FSCK_LAYER_LISTING, layer, "%s", bad.msg);
                return 0;
        }
        for (size_t i = 0; i < listing.count && rc == 0; i++) {
                const struct cas_entry *e = &listing.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        rc = check_file(run, layer, e->path, &e->object, e->size_bytes, err);
        }
        return rc;
}

static int check_layer(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct cas_fsck_run *run = arg;
        struct cas_layer_record rec;
        struct cas_digest blob;
        struct cas_err malformed = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        bool here;
        run->out->layers++;
        if (cas_digest_value_decode(key, key_len, &blob, &malformed) < 0 ||
            cas_layer_record_decode(&blob, value, value_len, &rec, &malformed) < 0) {
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, "layers", "%s", malformed.msg);
                return 0;
        }
        cas_digest_text(&blob, text);
        int rc = cas_index_has(run->s->index, CAS_FAMILY_BLOBS, key, key_len, &here, err);
        if (rc < 0)
                return rc;
        if (!here)
                cas_fsck_say(run, CAS_FSCK_LAYER_BLOB, text, "%s", "");
        return check_listing(run, text, &rec, err);
}

/* ---- layers that are elsewhere ---- */

static int count_files(struct cas_fsck_run *run, const struct cas_listing *listing, uint64_t *files,
                       uint64_t *here, struct cas_err *err)
{
        struct cas_hashset seen = CAS_HASHSET_INIT;
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < listing->count; i++) {
                const struct cas_entry *e = &listing->entries[i];
                bool is_here = false;
                if (e->type != CAS_ENTRY_FILE || e->size_bytes <= CAS_INLINE_BYTES_MAX ||
                    !cas_hashset_add(&seen, e->object.bytes))
                        continue;
                rc = cas_index_has(run->s->index, CAS_FAMILY_OBJECTS, e->object.bytes,
                                   CAS_HASH_BYTES, &is_here, err);
                ++*files;
                *here += is_here;
        }
        cas_hashset_release(&seen);
        return rc;
}

static int check_elsewhere(void *arg, const void *key, size_t key_len, const void *value,
                           size_t value_len, struct cas_err *err)
{
        struct cas_fsck_run *run = arg;
        cas_cleanup_listing struct cas_listing listing = {0};
        struct cas_elsewhere_layer rec;
        struct cas_digest blob;
        struct cas_err bad = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        uint64_t files = 0, here = 0;
        if (cas_digest_value_decode(key, key_len, &blob, &bad) < 0 ||
            cas_elsewhere_decode(&blob, value, value_len, &rec, &bad) < 0) {
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, "elsewhere", "%s", bad.msg);
                return 0;
        }
        struct cas_layer_record layer;
        if (cas_layer_stat(run->s, &blob, &layer, &bad) == 0)
                return 0; /* it came otherwise, and the record is about to go */
        cas_digest_text(&blob, text);
        if (cas_layer_listing(run->s, &rec.layer, &listing, &bad) < 0) {
                cas_fsck_say(run, CAS_FSCK_LAYER_LISTING, text, "%s", bad.msg);
                return 0;
        }
        int rc = count_files(run, &listing, &files, &here, err);
        if (rc == 0)
                cas_fsck_say(run, CAS_FSCK_LAYER_ELSEWHERE, text,
                             "%llu of %llu files are here, the others at %s",
                             (unsigned long long)here, (unsigned long long)files, rec.source);
        return rc;
}

/* ---- trees ---- */

struct trees {
        struct cas_fsck_run *run;
        struct cas_hashset known;
};

static int check_tree(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                      const void *value, size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct trees *trees = arg;
        struct cas_fsck_run *run = trees->run;
        struct cas_tree_record rec;
        struct cas_err bad = CAS_ERR_INIT;
        if (cas_tree_record_decode(value, value_len, &rec, &bad) < 0) {
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, "trees", "%s", bad.msg);
                return 0;
        }
        free(rec.layers);
        run->out->trees++;
        char path[CAS_DIGEST_TEXT_BYTES + 16], hex[CAS_DIGEST_TEXT_BYTES];
        struct cas_digest got;
        uint64_t bytes;
        (void)cas_hashset_add(&trees->known, rec.tree.bytes);
        (void)snprintf(path, sizeof(path), CAS_DIR_TREES "/%s.erofs",
                       cas_digest_hex(&rec.tree, hex));
        int rc = hash_file(run, path, CAS_DIGEST_SHA256, "trees", &got, &bytes, &bad);
        if (rc == -CAS_E_NOTFOUND)
                cas_fsck_say(run, CAS_FSCK_TREE_MISSING, path, "%s", "");
        else if (rc < 0)
                cas_fsck_say(run, CAS_FSCK_TREE_DIGEST, path, "%s", bad.msg);
        else if (bytes != rec.size_bytes || !cas_digest_equal(&got, &rec.tree))
                cas_fsck_say(run, CAS_FSCK_TREE_DIGEST, path, "%llu bytes, SHA-256 %s",
                             (unsigned long long)bytes, cas_digest_hex(&got, hex));
        return 0;
}

static int check_tree_file(void *arg, const char *path, const char *name,
                           struct cas_err *err CAS_UNUSED)
{
        struct trees *trees = arg;
        struct cas_hash hash;
        if (strlen(name) < 64 || !cas_hash_from_hex(name, 64, &hash) ||
            strcmp(name + 64, ".erofs") != 0 || !cas_hashset_has(&trees->known, hash.bytes))
                cas_fsck_say(trees->run, CAS_FSCK_TREE_UNKNOWN, path, "%s", "");
        return 0;
}

static int check_trees(struct cas_fsck_run *run, struct cas_err *err)
{
        struct trees trees = {.run = run};
        int rc = cas_index_scan(run->s->index, &(struct cas_scan){.family = CAS_FAMILY_TREES},
                                check_tree, &trees, err);
        if (rc == 0)
                rc = cas_dir_each(run->s, CAS_DIR_TREES, check_tree_file, &trees, err);
        cas_hashset_release(&trees.known);
        return rc;
}

/* ---- all ---- */

static int check_all(struct cas_fsck_run *run, struct cas_err *err)
{
        struct cas_store_stats stats;
        int rc = cas_store_stats(run->s, &stats, err);
        if (rc == -CAS_E_CORRUPT) { /* a record that will be told of; the total is not known */
                rc = 0;
                stats = (struct cas_store_stats){0};
        }
        run->total_bytes = stats.pack_bytes + stats.copy_bytes + stats.tree_bytes +
                           stats.cached_bytes + stats.condensed_bytes;
        if (rc == 0)
                rc = cas_fsck_packs(run, err);
        if (rc == 0)
                rc = cas_fsck_objects(run, err);
        if (rc == 0)
                rc = check_blobs(run, err);
        if (rc == 0)
                rc = check_recipes(run, err);
        if (rc == 0)
                rc = cas_index_scan(run->s->index, &(struct cas_scan){.family = CAS_FAMILY_LAYERS},
                                    check_layer, run, err);
        if (rc == 0)
                rc = cas_index_scan(run->s->index,
                                    &(struct cas_scan){.family = CAS_FAMILY_ELSEWHERE},
                                    check_elsewhere, run, err);
        if (rc == 0)
                rc = check_trees(run, err);
        if (rc == 0)
                rc = cas_fsck_names(run, err);
        if (rc == 0 && run->rc < 0) {
                *err = run->err;
                rc = run->rc;
        }
        return rc;
}

int cas_fsck(struct cas_store *s, const struct cas_fsck_options *options CAS_UNUSED,
             const struct cas_progress *progress, cas_fsck_fn fn, void *arg,
             struct cas_fsck_result *out, struct cas_err *err)
{
        struct cas_fsck_run run = {.s = s, .progress = progress, .fn = fn, .arg = arg, .out = out};
        *out = (struct cas_fsck_result){0};
        cas_mutex_init(&run.mutex, "fsck");
        cas_store_exclusive_begin(s);
        int rc = check_all(&run, err);
        cas_store_exclusive_end(s);
        cas_hashset_release(&run.chunks);
        cas_mutex_release(&run.mutex);
        return rc;
}
