/* SPDX-License-Identifier: Apache-2.0 */
/* What tests/spec/decode.py, written from spec/ alone, reads from a store is
 * compared with what our own code says. Runs in the top directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/wait.h>

#include "cas/elsewhere_int.h"
#include "cas/order.h"
#include "cas/blobcache_int.h"
#include "cas/commit_int.h"
#include "cas/condemned_int.h"
#include "cas/dirwalk_int.h"
#include "cas/dump.h"
#include "cas/fsck_messages.h"
#include "cas/lease.h"
#include "cas/packset_int.h"
#include "cas/recipe_int.h"
#include "cas/record_int.h"
#include "cas/refs_int.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)
#define DECODER "tests/spec/decode.py"

/* ---- running the decoder ---- */

static int run_decoder(struct teststore *t, const char *what, const char *file,
                       const struct cas_buf *input, struct cas_buf *out)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_io *io = cas_io_posix();
        int dirfd = open(t->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ok(cas_io_replace_file(io, dirfd, ".", "in", input ? input->data : NULL,
                               input ? input->len_bytes : 0, 0600, &err));
        pid_t pid = fork();
        if (pid == 0) {
                int in = openat(dirfd, "in", O_RDONLY);
                int to = openat(dirfd, "out", O_WRONLY | O_CREAT | O_TRUNC, 0600);
                if (dup2(in, 0) < 0 || dup2(to, 1) < 0)
                        _exit(126);
                (void)execl("/usr/bin/python3", "python3", DECODER, what, file, (char *)NULL);
                _exit(127);
        }
        int status = -1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        ok(cas_io_read_file(io, dirfd, "out", 64 << 20, out, &err));
        (void)close(dirfd);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- our own words ---- */

static int add_line(void *arg, const char *line, struct cas_err *err CAS_UNUSED)
{
        cas_buf_printf(arg, "%s\n", line);
        return 0;
}

static void print_layer(struct cas_buf *out, const char *what, const struct cas_layer_record *l)
{
        char blob[CAS_DIGEST_TEXT_BYTES], diff_id[CAS_DIGEST_TEXT_BYTES], hex[CAS_HASH_HEX_BYTES];
        cas_buf_printf(out,
                       "%s %s diff_id=%s tar=%llu content=%llu entries=%llu listing=%s version=%u "
                       "compression=%u\n",
                       what, cas_digest_text(&l->blob, blob), cas_digest_text(&l->diff_id, diff_id),
                       (unsigned long long)l->tar_bytes, (unsigned long long)l->content_bytes,
                       (unsigned long long)l->entry_count, cas_hash_hex(&l->listing, hex),
                       l->listing_version, l->compression);
}

static void print_recipe(struct cas_buf *out, const char *what, const struct cas_recipe_record *r)
{
        char blob[CAS_DIGEST_TEXT_BYTES], hex[CAS_HASH_HEX_BYTES];
        cas_buf_printf(out,
                       "%s %s recipe=%s wrap=%u analysis=%u blob=%llu bytes=%llu corrections=%llu "
                       "text=%s",
                       what, cas_digest_text(&r->blob, blob), cas_hash_hex(&r->recipe, hex),
                       r->wrap, r->analysis, (unsigned long long)r->blob_bytes,
                       (unsigned long long)r->recipe_bytes,
                       (unsigned long long)r->corrections_bytes, r->text);
}

static void print_refs(struct cas_buf *out, const struct cas_chunk_ref *refs, uint32_t count)
{
        char hex[CAS_HASH_HEX_BYTES];
        for (uint32_t i = 0; i < count; i++)
                cas_buf_printf(out, " %s:%u", cas_hash_hex(&refs[i].chunk, hex),
                               refs[i].length_bytes);
}

struct words {
        struct cas_buf *out;
        enum cas_family family;
        struct cas_index *index;
};

static void say_name(const struct words *w, const struct cas_name_record *rec)
{
        char digest[CAS_DIGEST_TEXT_BYTES], referrer[CAS_DIGEST_TEXT_BYTES];
        const char *family = cas_family_name(w->family);
        cas_digest_text(&rec->digest, digest);
        if (rec->kind == CAS_NAME_MANIFEST_LINK)
                cas_buf_printf(w->out, "%s %s %s %llu %s\n", family, rec->repo, digest,
                               (unsigned long long)rec->number, rec->media_type);
        else if (rec->kind == CAS_NAME_BLOB_LINK)
                cas_buf_printf(w->out, "%s %s %s %llu\n", family, rec->repo, digest,
                               (unsigned long long)rec->number);
        else if (rec->kind == CAS_NAME_TAG)
                cas_buf_printf(w->out, "%s %s %s %s\n", family, rec->repo, rec->tag, digest);
        else
                cas_buf_printf(w->out, "%s %s %s %s\n", family, rec->repo, digest,
                               cas_digest_text(&rec->referrer, referrer));
}

static void say_chunk(struct cas_buf *out, const char *prefix, const char *pack,
                      const struct cas_hash *name, const struct cas_chunk_record *rec)
{
        char hex[CAS_HASH_HEX_BYTES];
        cas_buf_printf(out,
                       "%s %s%s codec=%u checksum=%llu block=%llu stored=%u raw=%u offset=%u "
                       "length=%u\n",
                       prefix, cas_hash_hex(name, hex), pack, rec->codec,
                       (unsigned long long)rec->block_checksum,
                       (unsigned long long)rec->block_offset, rec->block_stored_bytes,
                       rec->block_raw_bytes, rec->chunk_offset, rec->length_bytes);
}

static void say_hex(struct cas_buf *out, const uint8_t *data, size_t len)
{
        for (size_t i = 0; i < len; i++)
                cas_buf_printf(out, "%02x", data[i]);
}

static void say_reference(const struct words *w, const uint8_t *key, size_t key_len,
                          const void *value, size_t len)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_cursor k = cas_cursor_over(key, key_len), v = cas_cursor_over(value, len);
        struct cas_digest digest;
        char text[CAS_DIGEST_TEXT_BYTES], type[256];
        const bool has_digest = w->family == CAS_FAMILY_NODES || w->family == CAS_FAMILY_BLOB_REFS;
        cas_buf_printf(w->out, "%s ", cas_family_name(w->family));
        if (has_digest) {
                cas_cursor_digest(&k, &digest);
                cas_buf_append_str(w->out, cas_digest_text(&digest, text));
        } else {
                say_hex(w->out, cas_cursor_take(&k, 8), 8);
        }
        if (w->family == CAS_FAMILY_NODES) {
                cas_cursor_text(&v, type, sizeof(type));
                ok(cas_cursor_end(&v, "node", &err));
                cas_buf_printf(w->out, " %s\n", type);
                return;
        }
        const char role = w->family == CAS_FAMILY_CHUNK_REFS ? '-' : (char)cas_cursor_u8(&k);
        if (role != '-')
                cas_buf_printf(w->out, " %c", role);
        cas_buf_append_str(w->out, " ");
        if (has_digest && (role == 'r' || role == 'b'))
                cas_buf_printf(w->out, "%.*s", (int)len, (const char *)value);
        else if (has_digest && role == 't')
                say_hex(w->out, value, len);
        else if (len == 0)
                say_hex(w->out, k.at, cas_cursor_left(&k));
        else {
                cas_cursor_digest(&v, &digest);
                cas_buf_append_str(w->out, cas_digest_text(&digest, text));
        }
        cas_buf_append_str(w->out, "\n");
}

static void say_entry(const struct words *w, const void *key, size_t key_len, const void *value,
                      size_t len)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_hash hash;
        struct cas_digest digest;
        char hex[CAS_HASH_HEX_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        const char *family = cas_family_name(w->family);
        memcpy(hash.bytes, key, key_len < CAS_HASH_BYTES ? key_len : CAS_HASH_BYTES);
        switch (w->family) {
        case CAS_FAMILY_PACKS: {
                struct cas_pack_record rec;
                ok(cas_pack_record_decode(value, len, &rec, &err));
                cas_buf_printf(w->out, "%s %llu sealed=%d density=%u tier=%u size=%llu%s%s\n",
                               family, (unsigned long long)cas_get_be64(key), rec.sealed,
                               rec.density, rec.tier, (unsigned long long)rec.size_bytes,
                               rec.sealed ? " sha256=" : "",
                               rec.sealed ? cas_hash_hex(&rec.sha256, hex) : "");
                return;
        }
        case CAS_FAMILY_CHUNKS: {
                struct cas_chunk_record rec;
                char pack[32];
                ok(cas_chunk_record_decode(value, len, &rec, &err));
                (void)snprintf(pack, sizeof(pack), " pack=%llu", (unsigned long long)rec.pack_id);
                say_chunk(w->out, family, pack, &hash, &rec);
                return;
        }
        case CAS_FAMILY_OBJECTS: {
                struct cas_object_record rec;
                ok(cas_object_record_decode(value, len, &rec, &err));
                cas_buf_printf(w->out, "%s %s size=%llu chunks=%u\n", family,
                               cas_hash_hex(&hash, hex), (unsigned long long)rec.size_bytes,
                               rec.chunk_count);
                return;
        }
        case CAS_FAMILY_OBJECT_CHUNKS: {
                struct cas_chunk_ref refs[256];
                uint32_t count;
                ok(cas_chunk_refs_decode((const uint8_t *)value + 8, len - 8, refs, 256, &count,
                                         &err));
                cas_buf_printf(w->out, "%s %s page=%u offset=%llu", family,
                               cas_hash_hex(&hash, hex), ((const uint8_t *)key)[35],
                               (unsigned long long)cas_get_le64(value));
                print_refs(w->out, refs, count);
                cas_buf_append_str(w->out, "\n");
                return;
        }
        case CAS_FAMILY_LAYERS: {
                struct cas_layer_record rec;
                ok(cas_digest_value_decode(key, key_len, &digest, &err));
                ok(cas_layer_record_decode(&digest, value, len, &rec, &err));
                print_layer(w->out, family, &rec);
                return;
        }
        case CAS_FAMILY_BLOBS: {
                struct cas_blob_record rec;
                ok(cas_digest_value_decode(key, key_len, &digest, &err));
                ok(cas_blob_record_decode(value, len, &rec, &err));
                cas_buf_printf(w->out, "%s %s size=%llu added=%llu copy=%d\n", family,
                               cas_digest_text(&digest, text), (unsigned long long)rec.size_bytes,
                               (unsigned long long)rec.added_unix_s, (int)rec.copy);
                return;
        }
        case CAS_FAMILY_RECIPES: {
                struct cas_recipe_record rec;
                ok(cas_digest_value_decode(key, key_len, &digest, &err));
                ok(cas_recipe_record_decode(&digest, value, len, &rec, &err));
                print_recipe(w->out, family, &rec);
                cas_buf_printf(w->out, " proved=%d reason=%s\n", rec.is_proved, rec.reason);
                return;
        }
        case CAS_FAMILY_TREES: {
                struct cas_tree_record rec;
                ok(cas_tree_record_decode(value, len, &rec, &err));
                cas_buf_printf(w->out, "%s %s tree=%s size=%llu", family, cas_hash_hex(&hash, hex),
                               cas_digest_text(&rec.tree, text),
                               (unsigned long long)rec.size_bytes);
                for (size_t i = 0; i < rec.layer_count; i++)
                        cas_buf_printf(w->out, " %s", cas_digest_text(&rec.layers[i], text));
                cas_buf_append_str(w->out, "\n");
                free(rec.layers);
                return;
        }
        case CAS_FAMILY_CHAINS: {
                const char *k = key;
                ok(cas_digest_value_decode(value, len, &digest, &err));
                memset(&hash, 0, sizeof(hash));
                memcpy(hash.bytes, k + 1, CAS_HASH_BYTES);
                cas_hash_hex(&hash, hex);
                cas_buf_printf(w->out, "%s %c %.32s %s %s\n", family, k[0], hex, hex + 32,
                               cas_digest_text(&digest, text));
                return;
        }
        case CAS_FAMILY_LEASES: {
                struct cas_lease lease;
                ok(cas_lease_decode(key, key_len, value, len, &lease, &err));
                cas_buf_printf(w->out, "%s %s root=%s expires=%llu %s\n", family, lease.id,
                               cas_digest_text(&lease.root, text),
                               (unsigned long long)lease.expires_unix_s, lease.owner);
                return;
        }
        case CAS_FAMILY_MANIFESTS:
        case CAS_FAMILY_TAGS:
        case CAS_FAMILY_BLOB_LINKS:
        case CAS_FAMILY_REFERRERS: {
                struct cas_name_record rec;
                ok(cas_name_record_from_index(w->family, key, key_len, value, len, &rec, &err));
                say_name(w, &rec);
                return;
        }
        case CAS_FAMILY_ELSEWHERE: {
                struct cas_elsewhere_layer rec;
                char manifest[CAS_DIGEST_TEXT_BYTES], diff_id[CAS_DIGEST_TEXT_BYTES];
                ok(cas_digest_value_decode(key, key_len, &digest, &err));
                ok(cas_elsewhere_decode(&digest, value, len, &rec, &err));
                cas_buf_printf(w->out,
                               "%s %s size=%llu added=%llu flags=%d manifest=%s %s diff_id=%s "
                               "tar=%llu content=%llu entries=%llu listing=%s version=%u "
                               "compression=%u\n",
                               family, cas_digest_text(&digest, text),
                               (unsigned long long)rec.blob_bytes,
                               (unsigned long long)rec.added_unix_s, rec.on_demand_only,
                               cas_digest_text(&rec.manifest, manifest), rec.source,
                               cas_digest_text(&rec.layer.diff_id, diff_id),
                               (unsigned long long)rec.layer.tar_bytes,
                               (unsigned long long)rec.layer.content_bytes,
                               (unsigned long long)rec.layer.entry_count,
                               cas_hash_hex(&rec.layer.listing, hex), rec.layer.listing_version,
                               rec.layer.compression);
                return;
        }
        case CAS_FAMILY_ORDERS: {
                cas_cleanup_free struct cas_hash *ids = NULL;
                size_t count;
                assert_true(cas_order_manifest(key, key_len, value, len, &digest));
                if (((const char *)key)[0] == 'r') {
                        cas_buf_printf(w->out, "%s r %.*s %s\n", family, (int)key_len - 1,
                                       (const char *)key + 1, cas_digest_text(&digest, text));
                        return;
                }
                ok(cas_order_decode(value, len, &ids, &count, SIZE_MAX, &err));
                cas_buf_printf(w->out, "%s m %s", family, cas_digest_text(&digest, text));
                for (size_t i = 0; i < count; i++)
                        cas_buf_printf(w->out, " %s", cas_hash_hex(&ids[i], hex));
                cas_buf_append_str(w->out, "\n");
                return;
        }
        case CAS_FAMILY_NODES:
        case CAS_FAMILY_BLOB_REFS:
        case CAS_FAMILY_OBJECT_REFS:
        case CAS_FAMILY_CHUNK_REFS:
                say_reference(w, key, key_len, value, len);
                return;
        case CAS_FAMILY_CONDEMNED: {
                struct cas_condemned c;
                ok(cas_condemned_decode(key, key_len, value, len, &c, &err));
                cas_buf_printf(w->out, "%s %d %s%s%s since=%llu\n", family, (int)c.kind, c.repo,
                               c.repo[0] ? " " : "",
                               c.kind <= CAS_CONDEMNED_BLOB ? cas_digest_text(&c.blob, text)
                                                            : cas_hash_hex(&c.hash, hex),
                               (unsigned long long)c.since_unix_s);
                return;
        }
        case CAS_FAMILY_PACK_DEAD: {
                uint64_t dead;
                ok(cas_pack_dead_get(w->index, cas_get_be64(key), &dead, &err));
                cas_buf_printf(w->out, "%s %llu %llu\n", family,
                               (unsigned long long)cas_get_be64(key), (unsigned long long)dead);
                return;
        }
        case CAS_FAMILY_TAG_TIMES:
        case CAS_FAMILY_META:
        case CAS_FAMILY_COUNT:
                break;
        }
}

static int say(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
               struct cas_err *err CAS_UNUSED)
{
        say_entry(arg, key, key_len, value, value_len);
        return 0;
}

static void say_meta(struct teststore *t, struct cas_buf *out)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_journal_position seen;
        ok(cas_commit_seen(t->store->index, &seen, &err));
        cas_buf_printf(out, "meta journal sequence=%llu generation=%llu offset=%llu\n",
                       (unsigned long long)seen.sequence, (unsigned long long)seen.generation,
                       (unsigned long long)seen.offset);
}

static void say_families(struct teststore *t, enum cas_family first, enum cas_family last,
                         struct cas_buf *out)
{
        struct cas_err err = CAS_ERR_INIT;
        for (enum cas_family f = first; f <= last; f++) {
                struct words w = {.out = out, .family = f, .index = t->store->index};
                ok(cas_index_scan(t->store->index, &(struct cas_scan){.family = f}, say, &w, &err));
        }
}

static int say_item(void *arg, const struct cas_pack_item *item, struct cas_err *err CAS_UNUSED)
{
        struct cas_buf *out = arg;
        char hex[CAS_HASH_HEX_BYTES];
        for (uint32_t i = 0; item->kind == CAS_PACK_BLOCK && i < item->chunk_count; i++) {
                const struct cas_pack_chunk *c = &item->chunks[i];
                const struct cas_chunk_record rec = {.codec = item->block.codec,
                                                     .block_checksum = item->block.block_checksum,
                                                     .block_offset = item->block.block_offset,
                                                     .block_stored_bytes =
                                                             item->block.block_stored_bytes,
                                                     .block_raw_bytes = item->block.block_raw_bytes,
                                                     .chunk_offset = c->chunk_offset,
                                                     .length_bytes = c->length_bytes};
                say_chunk(out, "chunk", "", &c->chunk, &rec);
                if (c->is_object)
                        cas_buf_printf(out, "object %s size=%u chunks=1\n",
                                       cas_hash_hex(&c->chunk, hex), c->length_bytes);
        }
        if (item->kind == CAS_PACK_OBJECT) {
                cas_buf_printf(out, "object %s size=%llu chunks=%u",
                               cas_hash_hex(&item->object, hex),
                               (unsigned long long)item->object_bytes, item->ref_count);
                print_refs(out, item->refs, item->ref_count);
                cas_buf_append_str(out, "\n");
        }
        if (item->kind == CAS_PACK_LAYER)
                print_layer(out, "layer", &item->layer);
        if (item->kind == CAS_PACK_RECIPE) {
                print_recipe(out, "recipe", &item->recipe);
                cas_buf_append_str(out, "\n");
        }
        return 0;
}

/* ---- the store ---- */

/* A proved recipe, and one that there is none. */
static void put_recipes(struct teststore *t, const struct cas_digest *proved,
                        const struct cas_digest *refused)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_cleanup_recipe struct cas_recipe *opened = NULL;
        struct cas_recipe_record yes = {
                .blob = *proved,
                .is_proved = true,
                .analysis = 1,
                .wrap = 2,
                .blob_bytes = 1000,
                .corrections_bytes = 4,
                .text = "zlib level 9",
        };
        const struct cas_recipe_record no = {
                .blob = *refused, .analysis = 300, .blob_bytes = 3, .reason = "too small"};
        ok(cas_publish_begin(t->store, &p, &err));
        cas_recipe_writer_init(&w, t->store);
        ok(cas_recipe_writer_mark(&w, &(struct cas_recipe_mark){0}, &err));
        ok(cas_recipe_writer_publish(&w, p, &yes.recipe, &err));
        ok(cas_publish_drain(p, &err));
        ok(cas_recipe_open_writer(&w, &opened, &err));
        yes.recipe_bytes = 8;
        ok(cas_publish_recipe(p, &no, NULL, &err));
        ok(cas_publish_recipe(p, &yes, opened, &err)); /* its blob has a copy from now on */
        ok(cas_publish_commit(p, &err));
}

static void fill(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        struct cas_hash empty;
        ok(testimage_put(t->store, "some/repo", "v1", 0, 12, &image, &err));
        ok(cas_packset_seal(t->store->packset, &err));
        ok(testimage_put(t->store, "other", NULL, 100, 7, &image, &err));
        const struct cas_lease lease = {
                .id = "mount:1", .root = image.manifest, .expires_unix_s = 77, .owner = "a test"};
        ok(cas_lease_put(t->store, &lease, &err));
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_digest sha512;
        cas_digest_of(CAS_DIGEST_SHA512, "512", 3, &sha512);
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_object(p, "", 0, &empty, &err));
        ok(cas_publish_blob(p, "512", 3, &sha512, NULL, &err));
        ok(cas_publish_blob_link(p, "other", &sha512, &err));
        ok(cas_publish_referrer(p, "other", &sha512, &image.manifest, &err));
        struct cas_elsewhere_layer far = {.layer = image.layer,
                                          .blob_bytes = 77,
                                          .on_demand_only = true,
                                          .manifest = image.manifest,
                                          .source = "far:1/repo"};
        far.layer.blob = sha512;
        ok(cas_elsewhere_put(p, &far, &(struct cas_listing){0}, &err));
        ok(cas_publish_commit(p, &err));
        const struct cas_hash order[] = {image.layer.listing, empty};
        ok(cas_order_put(t->store, "some/repo", &image.manifest, order, 2, &err));
        put_recipes(t, &image.layer.blob, &sha512);
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_digest layers[] = {image.layer.blob, sha512};
        const struct cas_tree_record tree = {
                .tree = image.config, .size_bytes = 4096, .layers = layers, .layer_count = 2};
        cas_batch_put_tree(batch, &image.layer.listing, &tree);
        cas_batch_put_blob_ref(batch, &sha512, CAS_BLOB_IN_TREE, image.layer.listing.bytes,
                               CAS_HASH_BYTES);
        cas_batch_put_pack_dead(batch, 5, 123456);
        uint8_t chain[33] = {'s'};
        memcpy(chain + 1, image.layer.listing.bytes, CAS_HASH_BYTES);
        cas_batch_put(batch, CAS_FAMILY_CHAINS, chain, sizeof(chain), &image.manifest, 33);
        ok(cas_index_write(t->store->index, batch, &err));
}

static void python_reads_the_index(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf dump = CAS_BUF_INIT, theirs = CAS_BUF_INIT,
                                       ours = CAS_BUF_INIT;
        fill(t);
        ok(cas_dump_index(t->store, add_line, &dump, &err));
        ok(run_decoder(t, "index", NULL, &dump, &theirs));
        say_meta(t, &ours);
        say_families(t, CAS_FAMILY_PACKS, CAS_FAMILY_OBJECT_REFS, &ours);
        assert_true(ours.len_bytes > 5000);
        assert_string_equal(cas_buf_str(&theirs), cas_buf_str(&ours));
}

static int check_pack(void *arg, const char *path, const char *name CAS_UNUSED, struct cas_err *err)
{
        struct teststore *t = arg;
        cas_cleanup_buf struct cas_buf theirs = CAS_BUF_INIT, ours = CAS_BUF_INIT;
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", t->path, path);
        uint64_t pack_id = strtoull(name, NULL, 16), end;
        bool sealed;
        struct cas_pack_record rec;
        cas_cleanup_fd int fd = open(full, O_RDONLY | O_CLOEXEC);
        char hex[CAS_HASH_HEX_BYTES];
        ok(run_decoder(t, "pack", full, NULL, &theirs));
        ok(cas_index_get_pack(t->store->index, pack_id, &rec, err));
        cas_buf_printf(&ours, "pack %llu sealed=%d size=%llu%s%s\n", (unsigned long long)pack_id,
                       rec.sealed, (unsigned long long)rec.size_bytes, rec.sealed ? " sha256=" : "",
                       rec.sealed ? cas_hash_hex(&rec.sha256, hex) : "");
        ok(cas_pack_walk(cas_io_posix(), fd, pack_id, say_item, &ours, &end, &sealed, err));
        assert_int_equal(sealed, rec.sealed);
        assert_string_equal(cas_buf_str(&theirs), cas_buf_str(&ours));
        return 0;
}

static void python_reads_packs(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        fill(t);
        ok(cas_dir_each(t->store, "packs", check_pack, t, &err));
}

static int by_line(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorts the lines of a text in place. */
static void sort_lines(struct cas_buf *text)
{
        cas_cleanup_buf struct cas_buf sorted = CAS_BUF_INIT;
        char *lines[1000];
        size_t count = 0;
        for (char *at = (char *)text->data, *end; (end = strchr(at, '\n')); at = end + 1) {
                *end = '\0';
                assert_true(count < CAS_COUNT(lines));
                lines[count++] = at;
        }
        qsort(lines, count, sizeof(lines[0]), by_line);
        for (size_t i = 0; i < count; i++)
                cas_buf_printf(&sorted, "%s\n", lines[i]);
        cas_buf_clear(text);
        cas_buf_append(text, sorted.data, sorted.len_bytes);
}

static void compare_journal(struct teststore *t)
{
        cas_cleanup_buf struct cas_buf theirs = CAS_BUF_INIT, ours = CAS_BUF_INIT,
                                       meta = CAS_BUF_INIT;
        cas_cleanup_free char *journal = cas_xasprintf("%s/journal/names", t->path);
        ok(run_decoder(t, "journal", journal, NULL, &theirs));
        say_families(t, CAS_FAMILY_MANIFESTS, CAS_FAMILY_REFERRERS, &ours);
        say_meta(t, &meta);
        cas_buf_append_str(&ours, cas_buf_str(&meta) + strlen("meta "));
        sort_lines(&ours);
        sort_lines(&theirs);
        assert_string_equal(cas_buf_str(&theirs), cas_buf_str(&ours));
}

static void python_reads_the_journal(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        fill(t);
        struct cas_digest gone = test_put_manifest(t->store, "some/repo", "gone", "x");
        struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_manifest_unlink(p, "some/repo", &gone, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(p);
        compare_journal(t);
        ok(cas_commit_compact(t->store, &err));
        (void)test_put_manifest(t->store, "some/repo", "after", "y");
        compare_journal(t);
}

static void python_rejects_damage(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        static const char *const lines[] = {
                "blobs 01 00\n",
                "leases 61 -\n",
                "packs 0000000000000001 060000\n",
                "recipes 01 00\n",
                "meta 6a6f75726e616c 00\n",
                "tags 6100 00\n",
                "unknown 00 00\n",
        };
        for (size_t i = 0; i < CAS_COUNT(lines); i++) {
                cas_cleanup_buf struct cas_buf input = CAS_BUF_INIT;
                cas_buf_append_str(&input, lines[i]);
                assert_int_equal(run_decoder(t, "index", NULL, &input, &out), 1);
        }
}

/* Every message of fsck stands in spec/store.md, with its severity and meaning. */
static void the_spec_lists_what_fsck_says(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf spec = CAS_BUF_INIT;
        ok(cas_io_read_file(cas_io_posix(), AT_FDCWD, "spec/store.md", 1 << 20, &spec, &err));
        static const char *const rows[] = {
#define ERROR "error"
#define WARNING "warning"
#define NOTE "note"
#define X(name, severity, id, meaning) "| `" id "` | " severity " | " meaning " |\n",
                CAS_FSCK_TABLE(X)
#undef X
        };
        const char *at = cas_buf_str(&spec);
        for (size_t i = 0; i < CAS_COUNT(rows); i++) {
                at = strstr(at, rows[i]);
                if (!at)
                        print_error("not in spec/store.md, or not in order: %s", rows[i]);
                assert_non_null(at);
        }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(python_reads_the_index),
                TEST(python_reads_packs),
                TEST(python_reads_the_journal),
                TEST(python_rejects_damage),
                cmocka_unit_test(the_spec_lists_what_fsck_says),
        };
        return cmocka_run_group_tests_name("spec", tests, NULL, NULL);
}
