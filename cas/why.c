/* SPDX-License-Identifier: Apache-2.0 */
/* Ways from a thing up to what keeps it, by references, leases and pins (spec/gc.md). References of
 * objects and chunks have 64 bits of the child in their keys: whether they are of this one is
 * looked up in what the parent says of itself. */
#include <stdio.h>
#include <time.h>

#include "cas/blob.h"
#include "cas/condemned_int.h"
#include "cas/lease.h"
#include "cas/limits.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/pins_int.h"
#include "cas/recipe_int.h"
#include "cas/refs_int.h"
#include "cas/store_int.h"

/* A chunk of an object of a listing of a layer of a manifest of indexes of a repository. */
#define STEPS_MAX (8 + CAS_INDEX_DEPTH_MAX)
/* Of one thing, and in all: what more there is is not looked at. */
#define REFS_MAX 1000
#define LOOKS_MAX 10000

struct step {
        const char *kind;
        char *name, *text; /* owned */
};

struct why {
        struct cas_store *s;
        unsigned max_paths, paths;
        unsigned looks;
        void (*fn)(void *arg, unsigned path, const struct cas_why_step *step);
        void *arg;
        struct step steps[STEPS_MAX];
        size_t count;
};

static bool is_enough(const struct why *w)
{
        return w->paths >= w->max_paths || w->looks >= LOOKS_MAX;
}

__attribute__((format(printf, 4, 5))) static void push(struct why *w, const char *kind,
                                                       const char *name, const char *format, ...)
{
        va_list args;
        char text[1024];
        cas_assert(w->count < STEPS_MAX);
        va_start(args, format);
        (void)vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        w->steps[w->count++] =
                (struct step){.kind = kind, .name = cas_xstrdup(name), .text = cas_xstrdup(text)};
}

static void pop(struct why *w)
{
        struct step *step = &w->steps[--w->count];
        free(step->name);
        free(step->text);
}

/* The steps so far are a way. */
static void tell(struct why *w)
{
        for (size_t i = 0; i < w->count; i++)
                w->fn(w->arg, w->paths,
                      &(struct cas_why_step){.kind = w->steps[i].kind,
                                             .name = w->steps[i].name,
                                             .text = w->steps[i].text});
        w->paths++;
}

/* ---- references ---- */

struct parent {
        uint8_t role;
        uint8_t name[CAS_REPO_NAME_BYTES_MAX + 1]; /* as the reference tells it */
        size_t len;
};
struct parents {
        struct parent *list; /* owned */
        size_t count;
};

static int add_parent(void *arg, const struct cas_ref_seen *ref, struct cas_err *err CAS_UNUSED)
{
        struct parents *p = arg;
        if (ref->role == CAS_BLOB_IN_TREE || ref->parent_len > CAS_REPO_NAME_BYTES_MAX)
                return 0;
        if (p->count % 64 == 0)
                p->list = cas_xrealloc(p->list, (p->count + 64) * sizeof(p->list[0]));
        struct parent *parent = &p->list[p->count++];
        parent->role = ref->role;
        parent->len = ref->parent_len;
        memcpy(parent->name, ref->parent, ref->parent_len);
        parent->name[parent->len] = '\0';
        return p->count == REFS_MAX;
}

static void parents_release(struct parents *p)
{
        free(p->list);
}
#define cleanup_parents __attribute__((cleanup(parents_release)))

/* The object whose name begins so; *found false when there is none. */
struct object_search {
        struct cas_hash hash;
        bool found;
};

static int take_object(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                       size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        struct object_search *search = arg;
        if (key_len != CAS_HASH_BYTES)
                return 0;
        memcpy(search->hash.bytes, key, CAS_HASH_BYTES);
        search->found = true;
        return 1;
}

static int find_object(struct why *w, const struct parent *parent, struct object_search *out,
                       struct cas_err *err)
{
        *out = (struct object_search){.found = false};
        return cas_index_scan(w->s->index,
                              &(struct cas_scan){.family = CAS_FAMILY_OBJECTS,
                                                 .prefix = parent->name,
                                                 .prefix_len = parent->len},
                              take_object, out, err);
}

/* ---- whether a parent means this child ---- */

struct child_search {
        const struct cas_hash *hash;
        bool found;
};

static int see_source(void *arg, const struct cas_hash *object, struct cas_err *err CAS_UNUSED)
{
        struct child_search *search = arg;
        search->found = search->found || cas_hash_equal(object, search->hash);
        return 0;
}

static int listing_has(struct why *w, const struct cas_hash *listing, struct child_search *search,
                       struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        int rc = cas_object_read(w->s, listing, CAS_LISTING_BYTES_MAX, &bytes, err);
        if (rc == 0)
                rc = cas_listing_decode(bytes.data, bytes.len_bytes, &l, err);
        for (size_t i = 0; rc == 0 && i < l.count; i++) {
                const struct cas_entry *e = &l.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        (void)see_source(search, &e->object, err);
        }
        return rc;
}

static int recipe_has(struct why *w, const struct cas_hash *hash, struct child_search *search,
                      struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        int rc = cas_recipe_open(w->s, hash, &recipe, err);
        return rc < 0 ? rc : cas_tarrecipe_each_object(recipe, see_source, search, err);
}

static int object_has(struct why *w, const struct cas_hash *object, struct child_search *search,
                      struct cas_err *err)
{
        struct cas_chunk_ref refs[256];
        uint32_t first = 0, count = 1;
        int rc = 0;
        while (rc == 0 && count > 0 && !search->found) {
                rc = cas_index_get_object_chunks(w->s->index, object, first, refs, CAS_COUNT(refs),
                                                 &count, err);
                for (uint32_t i = 0; rc == 0 && i < count; i++)
                        (void)see_source(search, &refs[i].chunk, err);
                first += count;
        }
        return rc;
}

/* What cannot be read is taken to mean it: it keeps it, too. */
static bool parent_has(struct why *w, uint8_t role, const struct cas_hash *parent,
                       const struct cas_hash *child)
{
        struct child_search search = {.hash = child};
        struct cas_err ignored = CAS_ERR_INIT;
        int rc;
        if (role == CAS_OBJECT_FILE)
                rc = listing_has(w, parent, &search, &ignored);
        else if (role == CAS_OBJECT_SOURCE)
                rc = recipe_has(w, parent, &search, &ignored);
        else
                rc = object_has(w, parent, &search, &ignored);
        return rc < 0 || search.found;
}

/* ---- blobs ---- */

static int climb_blob(struct why *w, const struct cas_digest *blob, struct cas_err *err);

struct tag_search {
        struct why *w;
        const char *repo;
        const struct cas_digest *manifest;
        bool found;
};

static bool tag_seen(void *arg, const char *tag, const struct cas_digest *manifest)
{
        struct tag_search *search = arg;
        if (!cas_digest_equal(manifest, search->manifest))
                return true;
        cas_cleanup_free char *name = cas_xasprintf("%s:%s", search->repo, tag);
        push(search->w, "tag", name, "tag %s", name);
        tell(search->w);
        pop(search->w);
        search->found = true;
        return !is_enough(search->w);
}

static int climb_to_repo(struct why *w, const struct cas_digest *blob, const char *repo,
                         bool linked, struct cas_err *err)
{
        struct tag_search search = {.w = w, .repo = repo, .manifest = blob};
        int rc = linked ? cas_tag_each(w->s, repo, NULL, tag_seen, &search, err) : 0;
        if (rc < 0 || search.found)
                return rc;
        push(w, "repository", repo,
             linked ? "repository %s, which has it as a manifest"
                    : "repository %s, which it was pushed to: for as long as a manifest there "
                      "names "
                      "it, or the grace",
             repo);
        tell(w);
        pop(w);
        return 0;
}

struct lease_search {
        struct why *w;
        const struct cas_digest *root;
        bool found;
};

static bool lease_seen(void *arg, const struct cas_lease *lease)
{
        struct lease_search *search = arg;
        if (!cas_digest_equal(&lease->root, search->root))
                return true;
        push(search->w, "lease", lease->id, "lease %s of %s", lease->id, lease->owner);
        tell(search->w);
        pop(search->w);
        search->found = true;
        return !is_enough(search->w);
}

/* Operations under way, else nothing: why it is still here. */
static int tell_unreferred(struct why *w, const struct cas_digest *blob, const char *name,
                           struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        uint64_t since = 0;
        cas_gate_close(w->s);
        bool pinned = cas_blob_is_pinned(w->s, blob);
        cas_gate_open(w->s);
        int rc = cas_condemned_blob_since(w->s->index, blob, &since, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        if (pinned)
                push(w, "pinned", name, "an operation that is under way");
        else if (rc == 0)
                push(w, "condemned", name,
                     "nothing: the next collection after its grace removes it (condemned %llu s "
                     "ago)",
                     (unsigned long long)((uint64_t)time(NULL) -
                                          cas_min_u64(since, (uint64_t)time(NULL))));
        else
                push(w, "garbage", name, "nothing: `lamina gc --full` removes it");
        tell(w);
        pop(w);
        return 0;
}

static int climb_parent_blob(struct why *w, const struct parent *parent, struct cas_err *err)
{
        struct cas_digest digest;
        int rc = cas_digest_value_decode(parent->name, parent->len, &digest, err);
        return rc < 0 ? rc : climb_blob(w, &digest, err);
}

static int climb_from_blob(struct why *w, const struct cas_digest *blob, const char *name,
                           struct cas_err *err)
{
        cleanup_parents struct parents parents = {0};
        struct lease_search leases = {.w = w, .root = blob};
        unsigned before = w->paths;
        int rc = cas_lease_each(w->s, lease_seen, &leases, err);
        if (rc == 0)
                rc = cas_blob_refs_each(w->s->index, blob, add_parent, &parents, err);
        for (size_t i = 0; rc == 0 && i < parents.count && !is_enough(w); i++) {
                const struct parent *p = &parents.list[i];
                if (p->role == CAS_BLOB_LINKED || p->role == CAS_BLOB_IN_REPO)
                        rc = climb_to_repo(w, blob, (const char *)p->name,
                                           p->role == CAS_BLOB_LINKED, err);
                else
                        rc = climb_parent_blob(w, p, err);
        }
        return rc < 0 || w->paths > before || is_enough(w) ? rc
                                                           : tell_unreferred(w, blob, name, err);
}

static const char *blob_kind(struct why *w, const struct cas_digest *blob)
{
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_layer_record layer;
        char media_type[256];
        bool node = false;
        if (cas_node_get(w->s->index, blob, &node, media_type, &ignored) == 0 && node)
                return strstr(media_type, "index") || strstr(media_type, "list") ? "index"
                                                                                 : "manifest";
        return cas_index_get_layer(w->s->index, blob, &layer, &ignored) == 0 ? "layer" : "blob";
}

static int climb_blob(struct why *w, const struct cas_digest *blob, struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        if (w->count + 2 > STEPS_MAX)
                return 0;
        w->looks++;
        const char *kind = blob_kind(w, blob);
        push(w, kind, cas_digest_text(blob, text), "%s %s", kind, text);
        int rc = climb_from_blob(w, blob, text, err);
        pop(w);
        return rc;
}

/* ---- objects and chunks ---- */

static int climb_object(struct why *w, const struct cas_hash *object, const char *kind,
                        struct cas_err *err);

/* A listing or recipe (of objects), or an object (of chunks). */
static int climb_parent_object(struct why *w, const struct parent *parent,
                               const struct cas_hash *child, struct cas_err *err)
{
        struct object_search search;
        int rc = find_object(w, parent, &search, err);
        w->looks++;
        if (rc < 0 || !search.found || !parent_has(w, parent->role, &search.hash, child))
                return rc;
        return climb_object(w, &search.hash,
                            parent->role == CAS_OBJECT_FILE     ? "listing"
                            : parent->role == CAS_OBJECT_SOURCE ? "recipe"
                                                                : "object",
                            err);
}

static int tell_nothing(struct why *w, const char *name)
{
        push(w, "garbage", name, "nothing: the next collection looks at it");
        tell(w);
        pop(w);
        return 0;
}

static int climb_from_object(struct why *w, const struct cas_hash *object, const char *kind,
                             const char *name, struct cas_err *err)
{
        cleanup_parents struct parents parents = {0};
        unsigned before = w->paths;
        int rc = cas_object_refs_each(w->s->index, object, add_parent, &parents, err);
        for (size_t i = 0; rc == 0 && i < parents.count && !is_enough(w); i++) {
                const struct parent *p = &parents.list[i];
                bool of_blob = p->role == CAS_OBJECT_LISTING || p->role == CAS_OBJECT_RECIPE;
                /* What a listing is wanted for as a listing, and no more, where that is asked. */
                if (strcmp(kind, "listing") == 0 && p->role != CAS_OBJECT_LISTING)
                        continue;
                if (strcmp(kind, "recipe") == 0 && p->role != CAS_OBJECT_RECIPE)
                        continue;
                rc = of_blob ? climb_parent_blob(w, p, err)
                             : climb_parent_object(w, p, object, err);
        }
        return rc < 0 || w->paths > before || is_enough(w) ? rc : tell_nothing(w, name);
}

static int climb_object(struct why *w, const struct cas_hash *object, const char *kind,
                        struct cas_err *err)
{
        char hex[CAS_HASH_HEX_BYTES];
        if (w->count + 2 > STEPS_MAX)
                return 0;
        push(w, kind, cas_hash_hex(object, hex), "%s %s",
             strcmp(kind, "object") == 0 ? "file object" : kind, hex);
        int rc = climb_from_object(w, object, kind, hex, err);
        pop(w);
        return rc;
}

static int climb_chunk(struct why *w, const struct cas_hash *chunk, struct cas_err *err)
{
        cleanup_parents struct parents parents = {0};
        char hex[CAS_HASH_HEX_BYTES];
        push(w, "chunk", cas_hash_hex(chunk, hex), "chunk %s", hex);
        int rc = cas_chunk_refs_each(w->s->index, chunk, add_parent, &parents, err);
        for (size_t i = 0; rc == 0 && i < parents.count && !is_enough(w); i++)
                rc = climb_parent_object(w, &parents.list[i], chunk, err);
        if (rc == 0 && w->paths == 0)
                rc = tell_nothing(w, hex);
        pop(w);
        return rc;
}

/* ---- what was asked for ---- */

static int why_hash(struct why *w, const char *what, const struct cas_hash *hash, bool *found,
                    struct cas_err *err)
{
        bool object, chunk = false;
        int rc = cas_index_has(w->s->index, CAS_FAMILY_OBJECTS, hash->bytes, CAS_HASH_BYTES,
                               &object, err);
        if (rc == 0 && !object)
                rc = cas_index_has(w->s->index, CAS_FAMILY_CHUNKS, hash->bytes, CAS_HASH_BYTES,
                                   &chunk, err);
        *found = object || chunk;
        if (rc < 0 || !*found)
                return rc;
        rc = object ? climb_object(w, hash, "object", err) : climb_chunk(w, hash, err);
        return rc < 0 ? cas_err_wrap(err, "%s", what) : 0;
}

static int why_blob(struct why *w, const struct cas_digest *digest, bool *found,
                    struct cas_err *err)
{
        struct cas_record_key key;
        cas_key_digest(digest, &key);
        int rc = cas_index_has(w->s->index, CAS_FAMILY_BLOBS, key.bytes, key.len, found, err);
        if (rc == 0 && !*found)
                rc = cas_index_has(w->s->index, CAS_FAMILY_ELSEWHERE, key.bytes, key.len, found,
                                   err);
        return rc < 0 || !*found ? rc : climb_blob(w, digest, err);
}

static int why_name(struct why *w, const char *what, struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_manifest_info info;
        int rc = cas_ref_parse(what, &ref, err);
        if (rc == 0)
                rc = cas_ref_resolve(w->s, &ref, &info, err);
        return rc < 0 ? rc : climb_blob(w, &info.digest, err);
}

int cas_why(struct cas_store *s, const char *what, unsigned max_paths,
            void (*fn)(void *arg, unsigned path, const struct cas_why_step *step), void *arg,
            struct cas_err *err)
{
        struct why w = {.s = s, .max_paths = max_paths, .fn = fn, .arg = arg};
        struct cas_digest digest;
        struct cas_hash hash;
        struct cas_err ignored = CAS_ERR_INIT;
        bool found = false;
        int rc;
        if (strlen(what) == 64 && cas_hash_from_hex(what, 64, &hash)) {
                rc = why_hash(&w, what, &hash, &found, err);
                digest = (struct cas_digest){.alg = CAS_DIGEST_SHA256};
                memcpy(digest.bytes, hash.bytes, CAS_HASH_BYTES);
                if (rc == 0 && !found)
                        rc = why_blob(&w, &digest, &found, err);
        } else if (cas_digest_parse(what, &digest, &ignored) == 0) {
                rc = why_blob(&w, &digest, &found, err);
        } else {
                return why_name(&w, what, err);
        }
        if (rc == 0 && !found)
                rc = cas_fail(err, CAS_E_NOTFOUND, "%s is not in the store", what);
        return rc;
}
