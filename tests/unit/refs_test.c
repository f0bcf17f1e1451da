/* SPDX-License-Identifier: Apache-2.0 */
/* References are what they should be, whatever was done: after each of many random changes of a
 * store they are compared with what all of its records ask for, worked out here anew from spec/
 * index.md; and all that nothing needs is condemned, so that collection finds it. The seed is told;
 * LAMINA_TEST_SEED replays it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <time.h>
#include <zstd.h>

#include "cas/condemned_int.h"
#include "cas/condense.h"
#include "cas/elsewhere_int.h"
#include "cas/format_int.h"
#include "cas/image.h"
#include "cas/kept_int.h"
#include "cas/lease.h"
#include "cas/maintain.h"
#include "cas/map.h"
#include "cas/namerecord_int.h"
#include "cas/packset_int.h"
#include "cas/recipe_int.h"
#include "cas/refs_int.h"
#include "cas/refscheck_int.h"
#include "cas/store_int.h"
#include "cas/verity.h"
#include "tests/support/deflatesample.h"
#include "tests/support/farstore.h"
#include "tests/support/memsource.h"
#include "tests/support/tarmake.h"

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

/* ---- what should be ---- */

/* Lines "family key value" in hex, sorted, each once. */
struct lines {
        char **list; /* owned */
        size_t count, max;
};

static void lines_release(struct lines *l)
{
        for (size_t i = 0; i < l->count; i++)
                free(l->list[i]);
        free(l->list);
}
#define cleanup_lines __attribute__((cleanup(lines_release)))

static void append_hex(struct cas_buf *out, const void *data, size_t len)
{
        for (size_t i = 0; i < len; i++)
                cas_buf_printf(out, "%02x", ((const uint8_t *)data)[i]);
}

static void add_line(struct lines *l, char prefix, const void *key, size_t key_len,
                     const void *value, size_t value_len)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_buf_printf(&text, "%c ", prefix);
        append_hex(&text, key, key_len);
        cas_buf_append_str(&text, " ");
        append_hex(&text, value, value_len);
        if (l->count == l->max) {
                l->max = l->max ? 2 * l->max : 256;
                l->list = cas_xrealloc(l->list, l->max * sizeof(l->list[0]));
        }
        l->list[l->count++] = cas_xstrdup(cas_buf_str(&text));
}

static int by_text(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_lines(struct lines *l)
{
        size_t kept = 0;
        if (l->count == 0)
                return;
        qsort(l->list, l->count, sizeof(l->list[0]), by_text);
        for (size_t i = 1; i < l->count; i++) {
                if (strcmp(l->list[i], l->list[kept]) == 0)
                        free(l->list[i]);
                else
                        l->list[++kept] = l->list[i];
        }
        l->count = kept + 1;
}

struct world {
        struct cas_store *s;
        struct lines lines;
        struct cas_map *roots; /* digests of manifests that are nodes */
        struct cas_digest *queue;
        size_t count, max;
        struct cas_map *named; /* repo NUL digest: manifests of the repository lead to it */
};

/* prefix 'e': child digest, role, 16 bytes; value. */
static void blob_line(struct world *w, const struct cas_digest *child, char role,
                      const void *parent16, const void *value, size_t value_len)
{
        uint8_t key[1 + 64 + 1 + 16];
        size_t n = cas_digest_alg_bytes(child->alg);
        key[0] = child->alg;
        memcpy(key + 1, child->bytes, n);
        key[1 + n] = (uint8_t)role;
        memcpy(key + 2 + n, parent16, 16);
        add_line(&w->lines, 'e', key, n + 18, value, value_len);
}

static void repo_line(struct world *w, const struct cas_digest *child, char role, const char *repo)
{
        struct cas_hash h;
        cas_sha256(repo, strlen(repo), &h);
        blob_line(w, child, role, h.bytes, repo, strlen(repo));
}

static void object_line(struct world *w, const struct cas_hash *child, char role,
                        const void *parent16, const void *value, size_t value_len)
{
        uint8_t key[8 + 1 + 16];
        memcpy(key, child->bytes, 8);
        key[8] = (uint8_t)role;
        memcpy(key + 9, parent16, 16);
        add_line(&w->lines, 'f', key, sizeof(key), value, value_len);
}

static size_t digest_bytes(const struct cas_digest *d, uint8_t out[65])
{
        size_t n = cas_digest_alg_bytes(d->alg);
        out[0] = d->alg;
        memcpy(out + 1, d->bytes, n);
        return n + 1;
}

static void visit(struct world *w, const struct cas_digest *manifest)
{
        bool is_new;
        (void)cas_map_put(w->roots, manifest, sizeof(*manifest), &is_new);
        if (!is_new)
                return;
        if (w->count == w->max) {
                w->max = w->max ? 2 * w->max : 64;
                w->queue = cas_xrealloc(w->queue, w->max * sizeof(w->queue[0]));
        }
        w->queue[w->count++] = *manifest;
}

static bool read_manifest(struct world *w, const struct cas_digest *d, struct cas_manifest *m)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        return cas_blob_read(w->s, d, CAS_MANIFEST_BYTES_MAX, &bytes, &err) == 0 &&
               cas_manifest_parse(bytes.data, bytes.len_bytes, NULL, m, &err) == 0;
}

static void name_child(struct world *w, const struct cas_digest *parent,
                       const struct cas_descriptor *d, bool as_manifest)
{
        uint8_t value[65];
        size_t len = digest_bytes(parent, value);
        blob_line(w, &d->digest, as_manifest ? 'i' : 'm', parent->bytes, value, len);
        if (as_manifest)
                visit(w, &d->digest);
}

static void add_nodes(struct world *w)
{
        for (size_t i = 0; i < w->count; i++) {
                cas_cleanup_manifest struct cas_manifest m = {0};
                const struct cas_digest d = w->queue[i];
                uint8_t key[65], value[257];
                if (!read_manifest(w, &d, &m))
                        continue;
                size_t type_len = strlen(m.media_type);
                value[0] = (uint8_t)type_len;
                memcpy(value + 1, m.media_type, type_len);
                add_line(&w->lines, 'n', key, digest_bytes(&d, key), value, type_len + 1);
                if (m.kind == CAS_MANIFEST_IMAGE)
                        name_child(w, &d, &m.config, false);
                for (size_t c = 0; c < m.child_count; c++)
                        name_child(w, &d, &m.children[c],
                                   m.kind == CAS_MANIFEST_INDEX &&
                                           cas_media_type_is_manifest(m.children[c].media_type));
        }
}

/* What a repository's manifest leads to may be linked there. */
static void follow(struct world *w, const char *repo, const struct cas_digest *d, unsigned depth)
{
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_record_key key;
        if (depth > 8 || !read_manifest(w, d, &m))
                return;
        if (m.kind == CAS_MANIFEST_IMAGE) {
                cas_key_repo_digest(repo, &m.config.digest, &key);
                (void)cas_map_put(w->named, key.bytes, key.len, NULL);
        }
        for (size_t i = 0; i < m.child_count; i++) {
                cas_key_repo_digest(repo, &m.children[i].digest, &key);
                (void)cas_map_put(w->named, key.bytes, key.len, NULL);
                if (m.kind == CAS_MANIFEST_INDEX)
                        follow(w, repo, &m.children[i].digest, depth + 1);
        }
}

static int see_manifest(void *arg, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct world *w = arg;
        struct cas_name_record rec;
        ok(cas_name_record_from_index(CAS_FAMILY_MANIFESTS, key, key_len, value, value_len, &rec,
                                      &err));
        repo_line(w, &rec.digest, 'r', rec.repo);
        visit(w, &rec.digest);
        follow(w, rec.repo, &rec.digest, 0);
        return 0;
}

static int see_link(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                    struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_name_record rec;
        ok(cas_name_record_from_index(CAS_FAMILY_BLOB_LINKS, key, key_len, value, value_len, &rec,
                                      &err));
        repo_line(arg, &rec.digest, 'b', rec.repo);
        return 0;
}

static bool is_condemned(struct cas_store *s, const struct cas_condemned *c)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_record_key key;
        bool there;
        cas_condemned_key(c, &key);
        ok(cas_index_has(s->index, CAS_FAMILY_CONDEMNED, key.bytes, key.len, &there, &err));
        return there;
}

static bool hash_is_condemned(struct cas_store *s, enum cas_condemned_kind kind,
                              const struct cas_hash *hash)
{
        return is_condemned(s, &(struct cas_condemned){.kind = kind, .hash = *hash});
}

static bool blob_is_needed(struct cas_store *s, const struct cas_digest *d)
{
        struct cas_err err = CAS_ERR_INIT;
        bool needed;
        ok(cas_blob_is_needed(s->index, d, &needed, &err));
        return needed;
}

/* A manifest that was unlinked is a node until it is collected, and is condemned. */
static int see_node(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                    size_t value_len CAS_UNUSED, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct world *w = arg;
        struct cas_digest d;
        ok(cas_digest_value_decode(key, key_len, &d, &err));
        if (!blob_is_needed(w->s, &d) &&
            is_condemned(w->s, &(struct cas_condemned){.kind = CAS_CONDEMNED_BLOB, .blob = d}))
                visit(w, &d);
        return 0;
}

static void listing_lines(struct world *w, const struct cas_layer_record *rec)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        uint8_t blob[65];
        object_line(w, &rec->listing, 'l', rec->blob.bytes, blob, digest_bytes(&rec->blob, blob));
        ok(cas_layer_listing(w->s, rec, &listing, &err));
        for (size_t i = 0; i < listing.count; i++) {
                const struct cas_entry *e = &listing.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        object_line(w, &e->object, 'f', rec->listing.bytes, NULL, 0);
        }
}

static int see_layer(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record rec;
        struct cas_digest blob;
        ok(cas_digest_value_decode(key, key_len, &blob, &err));
        ok(cas_layer_record_decode(&blob, value, value_len, &rec, &err));
        listing_lines(arg, &rec);
        return 0;
}

static int see_elsewhere(void *arg, const void *key, size_t key_len, const void *value,
                         size_t value_len, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_elsewhere_layer rec;
        struct cas_digest blob;
        ok(cas_digest_value_decode(key, key_len, &blob, &err));
        ok(cas_elsewhere_decode(&blob, value, value_len, &rec, &err));
        listing_lines(arg, &rec.layer);
        return 0;
}

struct of_recipe {
        struct world *w;
        const struct cas_hash *recipe;
};

static int see_source(void *arg, const struct cas_hash *object, struct cas_err *e CAS_UNUSED)
{
        const struct of_recipe *of = arg;
        object_line(of->w, object, 's', of->recipe->bytes, NULL, 0);
        return 0;
}

static int see_recipe(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct world *w = arg;
        struct cas_recipe_record rec;
        cas_cleanup_recipe struct cas_recipe *opened = NULL;
        struct cas_digest blob;
        uint8_t value_bytes[65];
        ok(cas_digest_value_decode(key, key_len, &blob, &err));
        ok(cas_recipe_record_decode(&blob, value, value_len, &rec, &err));
        if (cas_hash_is_zero(&rec.recipe))
                return 0;
        object_line(w, &rec.recipe, 'r', blob.bytes, value_bytes, digest_bytes(&blob, value_bytes));
        ok(cas_recipe_open(w->s, &rec.recipe, &opened, &err));
        struct of_recipe of = {w, &rec.recipe};
        ok(cas_tarrecipe_each_object(opened, see_source, &of, &err));
        return 0;
}

static int see_tree(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                    struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree_record rec;
        ok(cas_tree_record_decode(value, value_len, &rec, &err));
        for (size_t i = 0; i < rec.layer_count; i++)
                blob_line(arg, &rec.layers[i], 't', key, key, key_len);
        blob_line(arg, &rec.tree, 't', key, key, key_len); /* its file */
        free(rec.layers);
        return 0;
}

static int see_object(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct world *w = arg;
        struct cas_object_record rec;
        struct cas_hash id;
        struct cas_chunk_ref refs[100];
        uint32_t count = 1;
        memcpy(id.bytes, key, key_len);
        ok(cas_object_record_decode(value, value_len, &rec, &err));
        for (uint32_t first = 0; rec.chunk_count > 1 && count > 0; first += count) {
                ok(cas_index_get_object_chunks(w->s->index, &id, first, refs, 100, &count, &err));
                for (uint32_t i = 0; i < count; i++) {
                        uint8_t ref[24];
                        memcpy(ref, refs[i].chunk.bytes, 8);
                        memcpy(ref + 8, id.bytes, 16);
                        add_line(&w->lines, 'k', ref, sizeof(ref), NULL, 0);
                }
        }
        return 0;
}

static void scan(struct cas_store *s, enum cas_family family, cas_scan_fn fn, void *arg)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(cas_index_scan(s->index, &(struct cas_scan){.family = family}, fn, arg, &err));
}

static void world_fill(struct world *w, struct cas_store *s)
{
        *w = (struct world){.s = s, .roots = cas_map_new(), .named = cas_map_new()};
        scan(s, CAS_FAMILY_MANIFESTS, see_manifest, w);
        scan(s, CAS_FAMILY_BLOB_LINKS, see_link, w);
        scan(s, CAS_FAMILY_NODES, see_node, w);
        add_nodes(w);
        scan(s, CAS_FAMILY_LAYERS, see_layer, w);
        scan(s, CAS_FAMILY_ELSEWHERE, see_elsewhere, w);
        scan(s, CAS_FAMILY_RECIPES, see_recipe, w);
        scan(s, CAS_FAMILY_TREES, see_tree, w);
        scan(s, CAS_FAMILY_OBJECTS, see_object, w);
        sort_lines(&w->lines);
}

static void world_release(struct world *w)
{
        lines_release(&w->lines);
        cas_map_free(w->roots);
        cas_map_free(w->named);
        free(w->queue);
}
#define cleanup_world __attribute__((cleanup(world_release)))

/* ---- what is ---- */

struct reading {
        struct cas_store *s;
        struct lines *lines;
        const struct lines *should;
        char prefix;
};

static int note_any(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                    const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                    struct cas_err *e CAS_UNUSED)
{
        *(bool *)arg = true;
        return 1;
}

/* References of listings and recipes that were replaced stay until these are collected. */
static bool waits_for_collection(const struct reading *r, const uint8_t *key)
{
        struct cas_err err = CAS_ERR_INIT;
        uint8_t prefix[17];
        bool found = false;
        if (r->prefix != 'f' || (key[8] != 'f' && key[8] != 's'))
                return false;
        prefix[0] = key[8] == 'f' ? CAS_CONDEMNED_LISTING : CAS_CONDEMNED_RECIPE;
        memcpy(prefix + 1, key + 9, 16);
        const struct cas_scan of_parent = {
                .family = CAS_FAMILY_CONDEMNED, .prefix = prefix, .prefix_len = sizeof(prefix)};
        ok(cas_index_scan(r->s->index, &of_parent, note_any, &found, &err));
        return found;
}

static int read_line(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *e CAS_UNUSED)
{
        const struct reading *r = arg;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_buf_printf(&text, "%c ", r->prefix);
        append_hex(&text, key, key_len);
        cas_buf_append_str(&text, " ");
        append_hex(&text, value, value_len);
        const char *wanted = cas_buf_str(&text);
        const struct lines *should = r->should;
        bool expected = should->count > 0 && bsearch(&wanted, should->list, should->count,
                                                     sizeof(should->list[0]), by_text) != NULL;
        if (!expected && waits_for_collection(r, key))
                return 0;
        add_line(r->lines, r->prefix, key, key_len, value, value_len);
        return 0;
}

static void compare(const struct lines *should, const struct lines *is)
{
        size_t i = 0;
        while (i < should->count && i < is->count && strcmp(should->list[i], is->list[i]) == 0)
                i++;
        if (i == should->count && i == is->count)
                return;
        fail_msg("references differ:\n should be: %s\n is:        %s",
                 i < should->count ? should->list[i] : "(nothing more)",
                 i < is->count ? is->list[i] : "(nothing more)");
}

/* ---- what nothing needs is condemned ---- */

static int check_blob(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                      size_t value_len CAS_UNUSED, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct world *w = arg;
        struct cas_digest d;
        char text[CAS_DIGEST_TEXT_BYTES];
        ok(cas_digest_value_decode(key, key_len, &d, &err));
        if (!blob_is_needed(w->s, &d) &&
            !is_condemned(w->s, &(struct cas_condemned){.kind = CAS_CONDEMNED_BLOB, .blob = d}))
                fail_msg("blob %s: nobody's, and not condemned", cas_digest_text(&d, text));
        return 0;
}

static int check_link(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct world *w = arg;
        struct cas_name_record rec;
        struct cas_condemned c = {.kind = CAS_CONDEMNED_LINK};
        char text[CAS_DIGEST_TEXT_BYTES];
        ok(cas_name_record_from_index(CAS_FAMILY_BLOB_LINKS, key, key_len, value, value_len, &rec,
                                      &err));
        memcpy(c.repo, rec.repo, sizeof(c.repo));
        c.blob = rec.digest;
        if (!cas_map_get(w->named, key, key_len) && !is_condemned(w->s, &c))
                fail_msg("link of %s in %s: nobody names it, and not condemned",
                         cas_digest_text(&rec.digest, text), rec.repo);
        return 0;
}

static int check_object(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                        size_t value_len CAS_UNUSED, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct world *w = arg;
        struct cas_hash id;
        char text[CAS_HASH_HEX_BYTES];
        bool needed;
        memcpy(id.bytes, key, key_len);
        ok(cas_object_is_needed(w->s->index, &id, NULL, &needed, &err));
        if (!needed && !hash_is_condemned(w->s, CAS_CONDEMNED_OBJECT, &id) &&
            !hash_is_condemned(w->s, CAS_CONDEMNED_LISTING, &id) &&
            !hash_is_condemned(w->s, CAS_CONDEMNED_RECIPE, &id))
                fail_msg("object %s: nobody's, and not condemned", cas_hash_hex(&id, text));
        return 0;
}

static int check_chunk(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                       size_t value_len CAS_UNUSED, struct cas_err *e CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct world *w = arg;
        struct cas_hash id;
        char text[CAS_HASH_HEX_BYTES];
        bool needed;
        memcpy(id.bytes, key, key_len);
        ok(cas_chunk_is_needed(w->s->index, &id, &needed, &err));
        if (!needed && !hash_is_condemned(w->s, CAS_CONDEMNED_CHUNK, &id))
                fail_msg("chunk %s: nobody's, and not condemned", cas_hash_hex(&id, text));
        return 0;
}

static void tell_finding(void *arg, bool missing, const struct cas_reference *ref)
{
        char text[CAS_REFERENCE_TEXT_BYTES];
        print_error("%s: %s\n", missing ? "missing" : "stale", cas_reference_text(ref, text));
        ++*(unsigned *)arg;
}

/* What the check of references finds, in steps of a few records. */
static void check_all(struct cas_store *s, cas_refs_found_fn fn, void *arg)
{
        struct cas_err err = CAS_ERR_INIT;
        for (enum cas_family f = 0; f < CAS_FAMILY_COUNT; f++) {
                struct cas_record_key at = {.len = 0};
                if (!cas_refs_checks(f))
                        continue;
                do
                        ok(cas_refs_check(s, f, &at, 7, fn, arg, &err));
                while (at.len > 0);
        }
}

static void expect_right(struct cas_store *s, bool and_condemned)
{
        static const struct {
                enum cas_family family;
                char prefix;
        } families[] = {{CAS_FAMILY_BLOB_REFS, 'e'},
                        {CAS_FAMILY_OBJECT_REFS, 'f'},
                        {CAS_FAMILY_CHUNK_REFS, 'k'},
                        {CAS_FAMILY_NODES, 'n'}};
        cleanup_world struct world w;
        cleanup_lines struct lines is = {0};
        unsigned findings = 0;
        world_fill(&w, s);
        for (size_t i = 0; i < CAS_COUNT(families); i++) {
                struct reading r = {
                        .s = s, .lines = &is, .should = &w.lines, .prefix = families[i].prefix};
                scan(s, families[i].family, read_line, &r);
        }
        sort_lines(&is);
        compare(&w.lines, &is);
        if (and_condemned) {
                scan(s, CAS_FAMILY_BLOBS, check_blob, &w);
                scan(s, CAS_FAMILY_BLOB_LINKS, check_link, &w);
                scan(s, CAS_FAMILY_OBJECTS, check_object, &w);
                scan(s, CAS_FAMILY_CHUNKS, check_chunk, &w);
        }
        check_all(s, tell_finding, &findings);
        assert_int_equal(findings, 0);
}

static void expect_references(struct cas_store *s)
{
        expect_right(s, true);
}

/* ---- random changes ---- */

#define IMAGES 8 /* texts of manifests that come and go */
#define LAYERS 9
#define STEPS 60

struct play {
        struct teststore *t;
        struct farstore far;
        uint64_t random;
        struct cas_digest layers[LAYERS];
        bool has_layer[LAYERS];
        unsigned lazy; /* images that were noted as elsewhere */
};

static unsigned any(struct play *p, unsigned below)
{
        p->random = p->random * 6364136223846793005u + 1442695040888963407u;
        return (unsigned)((p->random >> 33) % below);
}

static const char *any_repo(struct play *p)
{
        static const char *const repos[] = {"a", "b/c", "a-repository/with-a-longer-name"};
        return repos[any(p, CAS_COUNT(repos))];
}

static void frame(struct cas_buf *out, const void *data, size_t len)
{
        ZSTD_CCtx *ctx = ZSTD_createCCtx();
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_minMatch, 7);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_searchLog, 2);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_hashLog, 8);
        cas_buf_reserve(out, ZSTD_compressBound(len));
        size_t n =
                ZSTD_compress2(ctx, out->data + out->len_bytes, ZSTD_compressBound(len), data, len);
        assert_false(ZSTD_isError(n));
        out->len_bytes += n;
        (void)ZSTD_freeCCtx(ctx);
}

/* A tar whose files other layers have, too, of one to a few chunks; every third as zstd frames of
 * an encoder of its own, so that condensing keeps them, in pieces that differ. */
static void make_layer(unsigned number, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, content = CAS_BUF_INIT;
        static const size_t sizes[] = {700, 30000, 300000, 900000};
        const bool frames = number % 3 == 2;
        const size_t piece = 60000 + 30000 * (number % 5);
        for (unsigned i = number / 2; i < number / 2 + 4; i++) {
                cas_cleanup_free char *name = cas_xasprintf("file%u", i);
                cas_buf_clear(&content);
                deflate_sample(DEFLATE_SAMPLE_TEXT, i, sizes[i % CAS_COUNT(sizes)], &content);
                tarmake_header(&tar, &(struct tarmake){.name = name,
                                                       .size = content.len_bytes,
                                                       .mode = 0644,
                                                       .mtime = number});
                if (frames) {
                        frame(out, tar.data, tar.len_bytes);
                        for (size_t at = 0; at < content.len_bytes; at += piece)
                                frame(out, content.data + at,
                                      cas_min_u64(piece, content.len_bytes - at));
                        cas_buf_clear(&tar);
                        for (size_t n = content.len_bytes; n % 512 != 0; n++)
                                cas_buf_append_byte(&tar, 0);
                } else {
                        tarmake_data(&tar, content.data, content.len_bytes);
                }
        }
        tarmake_end(&tar);
        if (frames)
                frame(out, tar.data, tar.len_bytes);
        else
                cas_buf_append(out, tar.data, tar.len_bytes);
}

static void import_layer(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
        struct cas_layer_record rec;
        unsigned number = any(p, LAYERS);
        make_layer(number, &blob);
        struct memsource source = {.data = blob.data, .len = blob.len_bytes, .step = SIZE_MAX};
        ok(cas_layer_import(p->t->store, memsource_read, &source, NULL, NULL, &rec, &err));
        p->layers[number] = rec.blob;
        p->has_layer[number] = true;
}

static const struct cas_digest *any_layer(struct play *p)
{
        unsigned first = any(p, LAYERS);
        for (unsigned i = 0; i < LAYERS; i++) {
                if (p->has_layer[(first + i) % LAYERS])
                        return &p->layers[(first + i) % LAYERS];
        }
        return NULL;
}

/* The manifest of an image: number n names a config and two blobs that others name as well. */
static void image_text(unsigned n, struct cas_buf *out)
{
        char config[32], one[32], two[32], text[3][CAS_DIGEST_TEXT_BYTES];
        (void)snprintf(config, sizeof(config), "loose %u", n);
        (void)snprintf(one, sizeof(one), "loose %u", n / 2 + 10);
        (void)snprintf(two, sizeof(two), "loose %u", n / 3 + 20);
        const struct cas_digest d[] = {test_digest(config), test_digest(one), test_digest(two)};
        for (size_t i = 0; i < 3; i++)
                cas_digest_text(&d[i], text[i]);
        cas_buf_printf(out,
                       "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                       "\",\"config\":{\"mediaType\":\"" CAS_MT_OCI_CONFIG
                       "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"x/y\","
                       "\"digest\":\"%s\",\"size\":%zu},{\"mediaType\":\"x/y\",\"digest\":"
                       "\"%s\",\"size\":%zu}]}",
                       text[0], strlen(config), text[1], strlen(one), text[2], strlen(two));
}

/* An index of images, and from number 2 on of another index. */
static void index_text(unsigned n, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf child = CAS_BUF_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        struct cas_digest d;
        cas_buf_printf(out, "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_INDEX
                            "\",\"manifests\":[");
        for (unsigned i = n; i < n + 3; i++) {
                cas_buf_clear(&child);
                bool nested = i == n + 2 && n >= 2;
                if (nested)
                        index_text(n - 2, &child);
                else
                        image_text(i % IMAGES, &child);
                cas_digest_of(CAS_DIGEST_SHA256, child.data, child.len_bytes, &d);
                cas_buf_printf(out, "%s{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu}",
                               i > n ? "," : "", nested ? CAS_MT_OCI_INDEX : CAS_MT_OCI_MANIFEST,
                               cas_digest_text(&d, text), child.len_bytes);
        }
        cas_buf_append_str(out, "]}");
}

static void any_manifest(struct play *p, struct cas_buf *out)
{
        if (any(p, 2))
                image_text(any(p, IMAGES), out);
        else
                index_text(any(p, 6), out);
}

static void put_manifest(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        const struct cas_manifest_put_options options = {.repo = any_repo(p),
                                                         .tag = any(p, 2) ? "t" : NULL,
                                                         .allow_sparse = true,
                                                         .allow_absent = true};
        any_manifest(p, &text);
        ok(cas_manifest_put(p->t->store, &options, text.data, text.len_bytes, NULL, &err));
}

/* One that is named perhaps, and comes as any blob does. */
static void bring_manifest(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_cleanup_publish struct cas_publish *pub = NULL;
        any_manifest(p, &text);
        ok(cas_publish_begin(p->t->store, &pub, &err));
        ok(cas_publish_blob(pub, text.data, text.len_bytes, NULL, NULL, &err));
        ok(cas_publish_commit(pub, &err));
}

static bool take_manifest(void *arg, const struct cas_manifest_info *info)
{
        struct cas_digest *out = arg;
        *out = info->digest;
        return out->bytes[0] % 3 != 0; /* not always the last */
}

static void unlink_manifest(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d = {.alg = CAS_DIGEST_NONE};
        const char *repo = any_repo(p);
        ok(cas_manifest_each(p->t->store, repo, take_manifest, &d, &err));
        if (d.alg != CAS_DIGEST_NONE)
                ok(cas_manifest_delete(p->t->store, repo, NULL, &d, NULL, NULL, &err));
}

static void put_loose(struct play *p)
{
        cas_cleanup_free char *text = cas_xasprintf("loose %u", any(p, 24));
        (void)test_put_blob(p->t->store, any(p, 2) ? any_repo(p) : NULL, text);
}

static void link_or_unlink(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *text = cas_xasprintf("loose %u", any(p, 24));
        cas_cleanup_publish struct cas_publish *pub = NULL;
        const struct cas_digest d = test_digest(text);
        ok(cas_publish_begin(p->t->store, &pub, &err));
        if (any(p, 2))
                ok(cas_publish_blob_link(pub, any_repo(p), &d, &err));
        else
                ok(cas_publish_blob_unlink(pub, any_repo(p), &d, &err));
        ok(cas_publish_commit(pub, &err));
}

static void put_image(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        ok(testimage_put(p->t->store, any_repo(p), any(p, 2) ? "i" : NULL, any(p, 5), 6, &image,
                         &err));
}

static void condense(struct play *p)
{
        static const struct cas_condense_options options = {.threads = 1};
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record rec;
        const struct cas_digest *layer = any_layer(p);
        if (layer)
                ok(cas_condense_blob(p->t->store, layer, &options, NULL, &rec, &err));
}

static void recode(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recode_result r;
        ok(cas_packset_seal(p->t->store->packset, &err));
        ok(cas_condense_packs(p->t->store, any(p, 2) ? CAS_CONDENSE_COLD : CAS_CONDENSE_DEFAULT,
                              NULL, NULL, &r, &err));
}

static void make_tree(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record layers[2];
        struct cas_tree_ref tree;
        const struct cas_digest *layer = any_layer(p);
        const size_t count = 1 + any(p, 2);
        for (size_t i = 0; layer && i < count; i++, layer = any_layer(p))
                ok(cas_layer_stat(p->t->store, layer, &layers[i], &err));
        if (layer)
                ok(cas_tree_ensure(p->t->store, layers, count, &tree, &err));
}

static void note_lazy(struct play *p)
{
        struct testimage image;
        struct cas_err err = CAS_ERR_INIT;
        if (p->lazy == 3)
                return;
        farstore_image(&p->far, any_repo(p), NULL, 100 + 3 * p->lazy, 6, &image);
        p->lazy++;
        const struct cas_hash file = farstore_file(&p->far, &image, any(p, 6));
        if (any(p, 2))
                ok(cas_elsewhere_bring(p->t->store, &file, 10000, &err));
}

static bool take_elsewhere(void *arg, const struct cas_elsewhere_layer *layer)
{
        *(struct cas_digest *)arg = layer->layer.blob;
        return false;
}

static void complete_lazy(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest blob = {.alg = CAS_DIGEST_NONE};
        ok(cas_elsewhere_each(p->t->store, take_elsewhere, &blob, &err));
        if (blob.alg != CAS_DIGEST_NONE)
                ok(cas_elsewhere_complete(p->t->store, &blob, NULL, &err));
}

/* Objects that nobody asked for; now and then nothing comes of them. */
static void put_objects(struct play *p)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *pub = NULL;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_hash ids[4];
        ok(cas_publish_begin(p->t->store, &pub, &err));
        for (size_t i = 0; i < 4; i++) {
                test_file(any(p, 200), &bytes);
                ok(cas_publish_object(pub, bytes.data, bytes.len_bytes, &ids[i], &err));
        }
        if (any(p, 3) > 0)
                ok(cas_publish_commit(pub, &err));
}

static void reopen(struct play *p)
{
        teststore_reopen(p->t);
        farstore_wire(&p->far, 10000);
}

static void play(struct play *p, unsigned steps)
{
        static void (*const moves[])(struct play * p) = {
                import_layer, import_layer,   put_manifest,   put_manifest,    put_manifest,
                put_manifest, bring_manifest, bring_manifest, unlink_manifest, unlink_manifest,
                put_loose,    put_loose,      link_or_unlink, put_image,       condense,
                condense,     recode,         make_tree,      note_lazy,       complete_lazy,
                put_objects,  reopen,
        };
        for (unsigned i = 0; i < steps; i++) {
                moves[any(p, CAS_COUNT(moves))](p);
                expect_references(p->t->store);
        }
}

static void references_are_what_they_should_be(void **state)
{
        const char *given = getenv("LAMINA_TEST_SEED");
        struct cas_err err = CAS_ERR_INIT;
        struct play p = {.t = *state};
        uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
        print_message("LAMINA_TEST_SEED=%llu\n", (unsigned long long)seed);
        p.random = seed;
        farstore_open(&p.far, p.t, 10000);
        play(&p, STEPS);
        ok(cas_refs_rebuild(p.t->store, NULL, &err));
        expect_right(p.t->store, false);
        play(&p, STEPS / 10);
        farstore_close(&p.far);
}

/* ---- one by one ---- */

static int drop_record(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                       size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        const struct reading *r = arg;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_batch_del(b, (enum cas_family)r->prefix, key, key_len);
        return cas_index_write(r->s->index, b, err);
}

static void drop_family(struct cas_store *s, enum cas_family family)
{
        struct reading r = {.s = s, .prefix = (char)family};
        scan(s, family, drop_record, &r);
}

static const enum cas_family since_version_3[] = {CAS_FAMILY_NODES,       CAS_FAMILY_BLOB_REFS,
                                                  CAS_FAMILY_OBJECT_REFS, CAS_FAMILY_CHUNK_REFS,
                                                  CAS_FAMILY_CONDEMNED,   CAS_FAMILY_PACK_DEAD};

/* A store of everything, in the same way each time. */
static void fill(struct teststore *t)
{
        struct play p = {.t = t, .random = 7};
        for (unsigned i = 0; i < 12; i++)
                import_layer(&p);
        for (unsigned i = 0; i < 6; i++) {
                put_manifest(&p);
                put_loose(&p);
                put_image(&p);
                condense(&p);
        }
        bring_manifest(&p);
        make_tree(&p);
}

static void stores_of_version_2_are_upgraded(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_store_config config = {.path = t->path};
        struct cas_format format;
        unsigned from, to;
        fill(t);
        for (size_t i = 0; i < CAS_COUNT(since_version_3); i++)
                drop_family(t->store, since_version_3[i]);
        int dirfd = dup(t->store->dirfd);
        teststore_close(t);
        ok(cas_format_read(cas_io_posix(), dirfd, &format, &err));
        format.version = 2;
        ok(cas_format_write(cas_io_posix(), dirfd, &format, &err));
        assert_int_equal(teststore_open(t, &err), -CAS_E_UNSUPPORTED);
        assert_non_null(strstr(err.msg, "lamina upgrade"));
        err = (struct cas_err)CAS_ERR_INIT;
        ok(cas_upgrade(&config, &from, &to, &err));
        assert_int_equal(from, 2);
        assert_int_equal(to, 3);
        ok(teststore_open(t, &err));
        expect_right(t->store, false);
        (void)close(dirfd);
}

/* A lost index is made anew before the upgrade, which it needs. */
static void rebuilds_make_references(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_store_config config = {.path = t->path};
        cas_cleanup_free char *index = cas_xasprintf("%s/index", t->path);
        struct cas_format format;
        unsigned from, to;
        fill(t);
        int dirfd = dup(t->store->dirfd);
        teststore_close(t);
        ok(cas_rebuild(&config, NULL, &err));
        ok(teststore_open(t, &err));
        expect_right(t->store, false);
        teststore_close(t);
        ok(cas_format_read(cas_io_posix(), dirfd, &format, &err));
        format.version = 2;
        ok(cas_format_write(cas_io_posix(), dirfd, &format, &err));
        ok(cas_index_destroy(index, &err));
        ok(cas_rebuild(&config, NULL, &err));
        ok(cas_upgrade(&config, &from, &to, &err));
        assert_int_equal(from, 2);
        ok(teststore_open(t, &err));
        expect_right(t->store, false);
        (void)close(dirfd);
}

struct damage {
        struct cas_store *s;
        unsigned missing, stale;
        bool repair;
};

static void take_finding(void *arg, bool missing, const struct cas_reference *ref)
{
        struct damage *d = arg;
        struct cas_err err = CAS_ERR_INIT;
        *(missing ? &d->missing : &d->stale) += 1;
        if (d->repair)
                ok(cas_refs_repair(d->s, missing, ref, &err));
}

/* Takes every fourth reference away. */
static int drop_some(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err)
{
        struct damage *d = arg;
        return d->missing++ % 4 != 0
                       ? 0
                       : drop_record(&(struct reading){.s = d->s, .prefix = (char)d->stale}, key,
                                     key_len, value, value_len, err);
}

static void damage_is_found_and_repaired(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        const struct cas_hash nobody = {.bytes = {1, 2, 3}};
        const struct cas_digest gone = test_digest("gone");
        struct cas_record_key parent;
        fill(t);
        for (size_t i = 0; i < 4; i++) {
                struct damage taken = {.s = t->store, .stale = since_version_3[i]};
                scan(t->store, since_version_3[i], drop_some, &taken);
                assert_true(taken.missing > 0);
        }
        cas_key_digest(&gone, &parent);
        cas_batch_put_chunk_ref(b, &nobody, &nobody);
        cas_batch_put_object_ref(b, &nobody, CAS_OBJECT_FILE, nobody.bytes, CAS_HASH_BYTES);
        cas_batch_put_object_ref(b, &nobody, CAS_OBJECT_SOURCE, nobody.bytes, CAS_HASH_BYTES);
        cas_batch_put_object_ref(b, &nobody, CAS_OBJECT_LISTING, parent.bytes, parent.len);
        cas_batch_put_object_ref(b, &nobody, CAS_OBJECT_RECIPE, parent.bytes, parent.len);
        cas_batch_put_blob_ref(b, &gone, CAS_BLOB_LINKED, "a", 1);
        cas_batch_put_blob_ref(b, &gone, CAS_BLOB_IN_REPO, "a", 1);
        cas_batch_put_blob_ref(b, &gone, CAS_BLOB_NAMED, parent.bytes, parent.len);
        cas_batch_put_blob_ref(b, &gone, CAS_BLOB_CHILD, parent.bytes, parent.len);
        cas_batch_put_blob_ref(b, &gone, CAS_BLOB_IN_TREE, nobody.bytes, CAS_HASH_BYTES);
        ok(cas_index_write(t->store->index, b, &err));
        struct damage first = {.s = t->store, .repair = true}, second = first;
        check_all(t->store, take_finding, &first);
        assert_true(first.missing > 10);
        assert_true(first.stale >= 10);
        check_all(t->store, take_finding,
                  &second); /* of nodes that came again, and what they led to */
        expect_right(t->store, false);
}

/* The listing of a layer that is published again with another is not the layer's any more. */
static void a_listing_that_is_replaced_is_condemned(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image, other;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_publish struct cas_publish *p = NULL;
        bool needed;
        ok(testimage_put(t->store, "a", "x", 0, 4, &image, &err));
        ok(testimage_put(t->store, "a", "y", 50, 4, &other, &err));
        ok(cas_layer_listing(t->store, &other.layer, &listing, &err));
        struct cas_layer_record again = image.layer;
        again.listing = other.layer.listing;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_layer(p, &again, &listing, &err));
        ok(cas_publish_commit(p, &err));
        ok(cas_object_is_needed(t->store->index, &image.layer.listing, "l", &needed, &err));
        assert_false(needed);
        assert_true(hash_is_condemned(t->store, CAS_CONDEMNED_LISTING, &image.layer.listing));
        expect_references(t->store);
}

/* More objects than one batch of the index takes: what went before the last is condemned, too. */
static void large_publications_are_true(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        struct cas_layer_record rec;
        for (unsigned i = 0; i < 17000; i++) {
                char name[32], content[400];
                (void)snprintf(name, sizeof(name), "f%05u", i);
                (void)snprintf(content, sizeof(content), "%0399u", i);
                tarmake_header(&tar, &(struct tarmake){
                                             .name = name, .size = sizeof(content), .mode = 0644});
                tarmake_data(&tar, content, sizeof(content));
        }
        tarmake_end(&tar);
        struct memsource source = {.data = tar.data, .len = tar.len_bytes, .step = SIZE_MAX};
        ok(cas_layer_import(t->store, memsource_read, &source, NULL, NULL, &rec, &err));
        expect_references(t->store);
}

/* An index that is linked before its children, and two that lead to each other's. */
static void children_become_nodes_when_they_come(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_manifest_put_options options = {
                .repo = "a", .allow_sparse = true, .allow_absent = true};
        cas_cleanup_buf struct cas_buf outer = CAS_BUF_INIT, inner = CAS_BUF_INIT,
                                       image = CAS_BUF_INIT;
        struct cas_digest d;
        bool is_node;
        index_text(2, &outer);
        index_text(0, &inner);
        image_text(1, &image);
        cas_digest_of(CAS_DIGEST_SHA256, image.data, image.len_bytes, &d);
        (void)test_put_blob(t->store, NULL, cas_buf_str(&image)); /* here, but nobody's */
        ok(cas_node_get(t->store->index, &d, &is_node, NULL, &err));
        assert_false(is_node);
        ok(cas_manifest_put(t->store, &options, outer.data, outer.len_bytes, NULL, &err));
        ok(cas_node_get(t->store->index, &d, &is_node, NULL, &err));
        assert_false(is_node);
        (void)test_put_blob(t->store, NULL, cas_buf_str(&inner)); /* it leads to the image */
        ok(cas_node_get(t->store->index, &d, &is_node, NULL, &err));
        assert_true(is_node);
        expect_references(t->store);
}

/* An object as frames of so many bytes each. */
static void keep_object(struct teststore *t, const struct cas_buf *bytes, size_t piece)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
        struct cas_hash id;
        cas_verity_of(bytes->data, bytes->len_bytes, &id);
        ok(cas_publish_begin(t->store, &p, &err));
        cas_keeping_lock(t->store);
        ok(cas_publish_kept_begin(p, &id, (uint32_t)((bytes->len_bytes + piece - 1) / piece),
                                  &err));
        for (size_t at = 0; at < bytes->len_bytes; at += piece) {
                const size_t n = cas_min_u64(piece, bytes->len_bytes - at);
                cas_buf_clear(&stored);
                frame(&stored, bytes->data + at, n);
                const struct cas_kept_frame kept = {.stored = stored.data,
                                                    .plain = bytes->data + at,
                                                    .stored_bytes = (uint32_t)stored.len_bytes,
                                                    .plain_bytes = (uint32_t)n};
                ok(cas_publish_kept_frame(p, &kept, &err));
        }
        ok(cas_publish_kept_end(p, &err));
        ok(cas_publish_commit(p, &err));
        cas_keeping_unlock(t->store);
}

static void put_object(struct teststore *t, const struct cas_buf *bytes)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_hash id;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_object(p, bytes->data, bytes->len_bytes, &id, &err));
        ok(cas_publish_commit(p, &err));
}

/* Chunks of lists that are replaced, and those that were cut though the object has others. */
static void chunks_without_an_object_are_condemned(void **state)
{
        struct teststore *t = *state;
        for (unsigned i = 0; i < 3; i++) {
                cas_cleanup_buf struct cas_buf large = CAS_BUF_INIT, small = CAS_BUF_INIT;
                deflate_sample(DEFLATE_SAMPLE_TEXT, 10 + i, 900000, &large);
                deflate_sample(DEFLATE_SAMPLE_TEXT, 20 + i, 100000, &small);
                if (i != 1) { /* 1: the frames come first */
                        put_object(t, &large);
                        put_object(t, &small);
                }
                keep_object(t, &large, 200000);
                keep_object(t, &small, i == 2 ? 100000 : 60000);
                expect_references(t->store);
                put_object(t, &large);
                put_object(t, &small);
                expect_references(t->store);
        }
}

/* Two blobs of one tar have one tree: it lives with the blob that was used last. */
static void a_tree_refers_to_its_blobs_of_now(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, packed = CAS_BUF_INIT;
        struct cas_layer_record layers[2];
        struct cas_tree_ref trees[2];
        make_layer(0, &plain);
        frame(&packed, plain.data, plain.len_bytes);
        const struct cas_buf *const blobs[] = {&plain, &packed};
        for (size_t i = 0; i < 2; i++) {
                struct memsource source = {
                        .data = blobs[i]->data, .len = blobs[i]->len_bytes, .step = SIZE_MAX};
                ok(cas_layer_import(t->store, memsource_read, &source, NULL, NULL, &layers[i],
                                    &err));
                ok(cas_tree_ensure(t->store, &layers[i], 1, &trees[i], &err));
                expect_references(t->store);
        }
        assert_true(cas_digest_equal(&trees[0].digest, &trees[1].digest));
}

int main(void)
{
#define in_store(test) cmocka_unit_test_setup_teardown(test, teststore_setup, teststore_teardown)
        const struct CMUnitTest tests[] = {
                in_store(children_become_nodes_when_they_come),
                in_store(a_listing_that_is_replaced_is_condemned),
                in_store(chunks_without_an_object_are_condemned),
                in_store(a_tree_refers_to_its_blobs_of_now),
                in_store(large_publications_are_true),
                in_store(damage_is_found_and_repaired),
                in_store(stores_of_version_2_are_upgraded),
                in_store(rebuilds_make_references),
                in_store(references_are_what_they_should_be),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
