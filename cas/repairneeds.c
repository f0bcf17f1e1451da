/* SPDX-License-Identifier: Apache-2.0 */
/* Who needs what was lost: through the references up, from a chunk to the images of people. Of
 * objects, references tell the first bytes of the name alone, which is what asking takes. */
#include <stdio.h>

#include "cas/refs_int.h"
#include "cas/repair_run_int.h"

/* Manifests and indexes that are gone through for one thing, and images that are named. */
#define MANIFESTS_MAX 10000
#define IMAGES_MAX 1000

/* ---- from chunks and objects to blobs ---- */

struct up {
        struct cas_store *s;
        cas_need_fn fn;
        void *arg;
        bool is_layer; /* below a listing */
};

static int blob_parent(const struct cas_ref_seen *ref, struct cas_digest *out, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(ref->parent, ref->parent_len);
        cas_cursor_digest(&c, out);
        return cas_cursor_end(&c, "reference", err);
}

/* The blob of a listing or of a recipe. */
static int see_blob(void *arg, const struct cas_ref_seen *ref, struct cas_err *err)
{
        const struct up *up = arg;
        struct cas_digest blob;
        if (ref->role != CAS_OBJECT_LISTING && ref->role != CAS_OBJECT_RECIPE)
                return 0;
        int rc = blob_parent(ref, &blob, err);
        if (rc == 0)
                up->fn(up->arg, &blob, ref->role == CAS_OBJECT_LISTING);
        return rc;
}

static void hash_of_ref(const struct cas_ref_seen *ref, struct cas_hash *out)
{
        *out = (struct cas_hash){0};
        memcpy(out->bytes, ref->parent, cas_min_u64(ref->parent_len, CAS_HASH_BYTES));
}

static int see_parent(void *arg, const struct cas_ref_seen *ref, struct cas_err *err)
{
        const struct up *up = arg;
        struct cas_hash parent;
        if (ref->role == CAS_OBJECT_LISTING || ref->role == CAS_OBJECT_RECIPE)
                return see_blob(arg, ref, err);
        hash_of_ref(ref, &parent);
        return cas_object_refs_each(up->s->index, &parent, see_blob, arg, err);
}

int cas_needs_of_object(struct cas_store *s, const struct cas_hash *object, cas_need_fn fn,
                        void *arg, struct cas_err *err)
{
        struct up up = {.s = s, .fn = fn, .arg = arg};
        return cas_object_refs_each(s->index, object, see_parent, &up, err);
}

static int see_object(void *arg, const struct cas_ref_seen *ref, struct cas_err *err)
{
        const struct up *up = arg;
        struct cas_hash object;
        hash_of_ref(ref, &object);
        return cas_object_refs_each(up->s->index, &object, see_parent, arg, err);
}

int cas_needs_of_chunk(struct cas_store *s, const struct cas_hash *chunk, cas_need_fn fn, void *arg,
                       struct cas_err *err)
{
        struct up up = {.s = s, .fn = fn, .arg = arg};
        int rc = cas_chunk_refs_each(s->index, chunk, see_object, &up, err);
        /* It may be an object by itself. */
        return rc < 0 ? rc : cas_needs_of_object(s, chunk, fn, arg, err);
}

struct objects {
        struct cas_store *s;
        void (*fn)(void *arg, const struct cas_hash *object);
        void *arg;
};

static int give_object(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                       size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        const struct objects *o = arg;
        struct cas_hash object;
        if (key_len == CAS_HASH_BYTES) {
                memcpy(object.bytes, key, CAS_HASH_BYTES);
                o->fn(o->arg, &object);
        }
        return 0;
}

/* References have the beginning of the name. */
static int find_object(void *arg, const struct cas_ref_seen *ref, struct cas_err *err)
{
        const struct objects *o = arg;
        const struct cas_scan scan = {
                .family = CAS_FAMILY_OBJECTS, .prefix = ref->parent, .prefix_len = ref->parent_len};
        return cas_index_scan(o->s->index, &scan, give_object, arg, err);
}

int cas_needs_objects(struct cas_store *s, const struct cas_hash *chunk,
                      void (*fn)(void *arg, const struct cas_hash *object), void *arg,
                      struct cas_err *err)
{
        struct objects o = {.s = s, .fn = fn, .arg = arg};
        return cas_chunk_refs_each(s->index, chunk, find_object, &o, err);
}

/* ---- from blobs to repositories ---- */

struct climb {
        struct cas_store *s;
        struct cas_digest *todo; /* owned: blobs, manifests and indexes to be asked about */
        size_t count, max, next;
        struct cas_map *seen;
        int (*repo)(struct climb *c, const struct cas_digest *blob, bool is_manifest,
                    const char *repo, struct cas_err *err);
        void *arg;
};

static void climb_release(struct climb *c)
{
        free(c->todo);
        cas_map_free(c->seen);
}

static void climb_add(struct climb *c, const struct cas_digest *blob)
{
        bool made;
        if (c->count == MANIFESTS_MAX)
                return;
        (void)cas_map_put(c->seen, blob, sizeof(*blob), &made);
        if (!made)
                return;
        if (c->count == c->max) {
                c->max = c->max ? 2 * c->max : 16;
                c->todo = cas_xrealloc(c->todo, c->max * sizeof(c->todo[0]));
        }
        c->todo[c->count++] = *blob;
}

static int climb_see(void *arg, const struct cas_ref_seen *ref, struct cas_err *err)
{
        struct climb *c = arg;
        const struct cas_digest blob = c->todo[c->next];
        struct cas_digest parent;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        int rc = 0;
        switch (ref->role) {
        case CAS_BLOB_LINKED:
        case CAS_BLOB_IN_REPO:
                if (ref->parent_len > CAS_REPO_NAME_BYTES_MAX)
                        return cas_fail(err, CAS_E_CORRUPT, "reference: name is too long");
                memcpy(repo, ref->parent, ref->parent_len);
                repo[ref->parent_len] = '\0';
                return c->repo(c, &blob, ref->role == CAS_BLOB_LINKED, repo, err);
        case CAS_BLOB_NAMED:
        case CAS_BLOB_CHILD:
                rc = blob_parent(ref, &parent, err);
                if (rc == 0)
                        climb_add(c, &parent);
                return rc;
        default:
                return 0;
        }
}

static int climb_run(struct climb *c, struct cas_err *err)
{
        int rc = 0;
        for (c->next = 0; rc == 0 && c->next < c->count; c->next++) {
                const struct cas_digest blob = c->todo[c->next];
                rc = cas_blob_refs_each(c->s->index, &blob, climb_see, c, err);
        }
        return rc;
}

struct repo_list {
        char **names; /* owned, as each is */
        size_t count, max;
};

static int add_repo(struct climb *c, const struct cas_digest *blob CAS_UNUSED,
                    bool is_manifest CAS_UNUSED, const char *repo, struct cas_err *err CAS_UNUSED)
{
        struct repo_list *l = c->arg;
        for (size_t i = 0; i < l->count; i++)
                if (strcmp(l->names[i], repo) == 0)
                        return 0;
        if (l->count < l->max)
                l->names[l->count++] = cas_xstrdup(repo);
        return 0;
}

int cas_needs_repos(struct cas_store *s, const struct cas_digest *blob, char ***out,
                    size_t *out_count, size_t max, struct cas_err *err)
{
        struct repo_list list = {.names = cas_xcalloc(max + 1, sizeof(char *)), .max = max};
        __attribute__((cleanup(climb_release))) struct climb c = {
                .s = s, .seen = cas_map_new(), .repo = add_repo, .arg = &list};
        climb_add(&c, blob);
        int rc = climb_run(&c, err);
        *out = list.names;
        *out_count = list.count;
        return rc;
}

/* ---- telling ---- */

struct tell {
        struct cas_repair *r;
        const char *what, *subject;
        size_t images;
        /* of the manifest that is looked at */
        const struct cas_digest *manifest;
        const char *repo;
        bool has_tag;
};

static void tell_image(struct tell *t, const char *image)
{
        cas_cleanup_free char *message =
                cas_xasprintf("an image needs what was put aside: %s %s", t->what, t->subject);
        if (t->images++ < IMAGES_MAX && t->r->fn)
                t->r->fn(t->r->arg, CAS_FSCK_NOTE, CAS_REPAIR_IMAGE, image, message);
}

static bool tell_tag(void *arg, const char *tag, const struct cas_digest *manifest)
{
        struct tell *t = arg;
        if (cas_digest_equal(manifest, t->manifest)) {
                cas_cleanup_free char *image = cas_xasprintf("%s:%s", t->repo, tag);
                t->has_tag = true;
                tell_image(t, image);
        }
        return true;
}

static int tell_manifest(struct climb *c, const struct cas_digest *blob, bool is_manifest,
                         const char *repo, struct cas_err *err)
{
        struct tell *t = c->arg;
        char text[CAS_DIGEST_TEXT_BYTES];
        if (!is_manifest)
                return 0;
        t->manifest = blob;
        t->repo = repo;
        t->has_tag = false;
        int rc = cas_tag_each(c->s, repo, NULL, tell_tag, t, err);
        if (rc == 0 && !t->has_tag) {
                cas_cleanup_free char *image =
                        cas_xasprintf("%s@%s", repo, cas_digest_text(blob, text));
                tell_image(t, image);
        }
        return rc;
}

int cas_needs_tell(struct cas_repair *r, const char *what, const char *subject,
                   const struct cas_digest *blobs, size_t count, struct cas_err *err)
{
        struct tell tell = {.r = r, .what = what, .subject = subject};
        __attribute__((cleanup(climb_release))) struct climb c = {
                .s = r->s, .seen = cas_map_new(), .repo = tell_manifest, .arg = &tell};
        if (r->fn)
                r->fn(r->arg, CAS_FSCK_NOTE, CAS_REPAIR_QUARANTINED, subject,
                      "what could not be repaired was put aside: bring the images again");
        for (size_t i = 0; i < count; i++)
                climb_add(&c, &blobs[i]);
        return climb_run(&c, err);
}
