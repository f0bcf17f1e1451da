/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/bucket.h"

#include <inttypes.h>

#include "cas/digest.h"

#define MARKER "tier"
#define MARKER_TITLE "lamina tier\n"
#define MARKER_BYTES_MAX ((size_t)4096)
#define PACKS "packs/"
#define KEY_BYTES 112 /* packs/HH/ID-SHA256 */
#define UPLOADS_OLD_S (24 * 3600)

struct tier_bucket {
        struct s3 *s3;
        struct s3_abilities abilities;
};

/* Abilities, as the marker has them. */
#define ABILITIES(X)                                                                               \
        X(if_absent, "if-absent")                                                                  \
        X(if_match, "if-match")                                                                    \
        X(multipart_if_absent, "multipart-if-absent")                                              \
        X(conditional_delete, "conditional-delete")                                                \
        X(checksums, "checksums")                                                                  \
        X(ranges, "ranges")                                                                        \
        X(list_after_write, "list-after-write")                                                    \
        X(bare_etags, "bare-etags")

static void append_identity(const struct tier_bucket_config *c, struct cas_buf *out)
{
        cas_buf_printf(out, MARKER_TITLE "store = %s\nid = %" PRIu32 "\nname = %s\n", c->store_id,
                       c->tier, c->name);
}

static void append_abilities(const struct s3_abilities *a, struct cas_buf *out)
{
        cas_buf_append_str(out, "abilities =");
#define X(field, word)                                                                             \
        if (a->field)                                                                              \
                cas_buf_append_str(out, " " word);
        ABILITIES(X)
#undef X
        cas_buf_append_str(out, "\n");
}

/* The value of a line "NAME = VALUE"; owned; NULL: there is none. */
static char *value_of(const char *text, const char *name)
{
        size_t len = strlen(name);
        for (const char *line = text; line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, name, len) == 0 && strncmp(line + len, " =", 2) == 0) {
                        const char *value = line + len + 2;
                        value += *value == ' ';
                        return cas_xstrndup(value, strcspn(value, "\n"));
                }
        }
        return NULL;
}

static void parse_abilities(const char *text, struct s3_abilities *out)
{
        cas_cleanup_free char *line = value_of(text, "abilities");
        cas_cleanup_free char *words = cas_xasprintf(" %s ", line ? line : "");
        *out = (struct s3_abilities){0};
#define X(field, word) out->field = strstr(words, " " word " ") != NULL;
        ABILITIES(X)
#undef X
}

/* A marker that was read. Errors: DENIED. */
static int check_marker(const struct tier_bucket_config *c, const struct cas_buf *text,
                        struct s3_abilities *out, struct cas_err *err)
{
        const char *at = cas_buf_str(text);
        cas_cleanup_free char *store = value_of(at, "store"), *id = value_of(at, "id");
        cas_cleanup_free char *ours = cas_xasprintf("%" PRIu32, c->tier);
        if (strncmp(at, MARKER_TITLE, strlen(MARKER_TITLE)) != 0 || strlen(at) != text->len_bytes)
                return cas_fail(err, CAS_E_DENIED,
                                "s3://%s: its object \"tier\" is no marker of ours", c->s3->bucket);
        if (!store || strcmp(store, c->store_id) != 0)
                return cas_fail(err, CAS_E_DENIED, "s3://%s: it is another store's (%.40s)",
                                c->s3->bucket, store ? store : "which one it does not say");
        if (!id || strcmp(id, ours) != 0)
                return cas_fail(err, CAS_E_DENIED,
                                "s3://%s: it is tier %.20s of this store, not %s", c->s3->bucket,
                                id ? id : "?", ours);
        parse_abilities(at, out);
        return 0;
}

static int read_marker(struct s3 *s3, const struct tier_bucket_config *c, struct s3_abilities *out,
                       struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        int rc = s3_get(s3, MARKER, MARKER_BYTES_MAX, &text, NULL, err);
        if (rc == -CAS_E_LIMIT)
                return cas_fail(err, CAS_E_DENIED,
                                "s3://%s: its object \"tier\" is no marker of ours", c->s3->bucket);
        return rc < 0 ? rc : check_marker(c, &text, out, err);
}

int tier_bucket_open(const struct tier_bucket_config *config, struct tier_bucket **out,
                     struct cas_err *err)
{
        tier_cleanup_bucket struct tier_bucket *b = cas_xcalloc(1, sizeof(*b));
        if (s3_open(config->s3, &b->s3, err) < 0 ||
            read_marker(b->s3, config, &b->abilities, err) < 0)
                return cas_err_wrap(err, "tier %s", config->name);
        s3_set_abilities(b->s3, &b->abilities);
        *out = cas_steal(&b);
        return 0;
}

void tier_bucket_close(struct tier_bucket *b)
{
        if (!b)
                return;
        s3_close(b->s3);
        free(b);
}

void tier_bucket_break(struct tier_bucket *b)
{
        s3_break(b->s3);
}

static int found_one(void *arg, const char *key, const struct s3_object *object CAS_UNUSED,
                     struct cas_err *err CAS_UNUSED)
{
        /* What a probe left that was killed is nobody's. */
        if (strncmp(key, "probe/", 6) == 0)
                return 0;
        *(char **)arg = cas_xstrdup(key);
        return 1;
}

/* There is no marker: nothing else may be there. */
static int check_empty(struct s3 *s3, const struct tier_bucket_config *c, struct cas_err *err)
{
        cas_cleanup_free char *key = NULL;
        if (s3_list(s3, "", NULL, 0, found_one, &key, err) < 0)
                return -(int)err->code;
        if (key)
                return cas_fail(err, CAS_E_DENIED,
                                "s3://%s: there are objects (%.100s) and no marker of a tier",
                                c->s3->bucket, key);
        return 0;
}

static int put_marker(struct s3 *s3, const struct tier_bucket_config *c,
                      const struct s3_abilities *abilities, struct cas_err *err)
{
        const struct s3_condition absent = {.if_absent = true};
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        append_identity(c, &text);
        append_abilities(abilities, &text);
        return s3_put(s3, MARKER, text.data, text.len_bytes, abilities->if_absent ? &absent : NULL,
                      NULL, err);
}

static int make(struct s3 *s3, const struct tier_bucket_config *c, struct cas_err *err)
{
        struct s3_abilities abilities;
        struct cas_err none = CAS_ERR_INIT;
        int rc = read_marker(s3, c, &abilities, &none);
        if (rc == 0)
                return 0;
        if (rc != -CAS_E_NOTFOUND) {
                *err = none;
                return rc;
        }
        if (check_empty(s3, c, err) < 0 || s3_probe(s3, &abilities, err) < 0)
                return -(int)err->code;
        if (!abilities.ranges)
                return cas_fail(err, CAS_E_UNSUPPORTED, "s3://%s: the store does not read ranges",
                                c->s3->bucket);
        struct cas_err why = CAS_ERR_INIT;
        rc = put_marker(s3, c, &abilities, &why);
        if (rc < 0 && rc != -CAS_E_EXISTS) {
                *err = why;
                return rc;
        }
        /* Somebody else may have been faster, or at the same time where conditions are not kept. */
        return read_marker(s3, c, &abilities, err);
}

int tier_bucket_make(const struct tier_bucket_config *config, struct cas_err *err)
{
        s3_cleanup_client struct s3 *s3 = NULL;
        if (s3_open(config->s3, &s3, err) < 0 || make(s3, config, err) < 0)
                return cas_err_wrap(err, "tier %s", config->name);
        return 0;
}

/* Packs. */

static void key_of(const struct cas_pack_file *pack, char *out)
{
        char hex[CAS_HASH_HEX_BYTES];
        (void)cas_hash_hex(&pack->sha256, hex);
        (void)snprintf(out, KEY_BYTES, PACKS "%.2s/%" PRIu64 "-%s", hex, pack->pack_id, hex);
}

/* False: it is no pack's key. */
static bool parse_key(const char *key, struct cas_pack_file *out)
{
        char again[KEY_BYTES];
        size_t skip = strlen(PACKS "HH/");
        if (strlen(key) >= KEY_BYTES || strlen(key) <= skip)
                return false;
        const char *id = key + skip, *dash = strchr(id, '-');
        if (!dash || dash == id || dash - id > 20)
                return false;
        out->pack_id = strtoull(id, NULL, 10);
        if (!cas_hash_from_hex(dash + 1, strlen(dash + 1), &out->sha256))
                return false;
        key_of(out, again);
        return strcmp(again, key) == 0;
}

static void digest_of(const struct cas_pack_file *pack, struct cas_digest *out)
{
        *out = (struct cas_digest){.alg = CAS_DIGEST_SHA256};
        memcpy(out->bytes, pack->sha256.bytes, CAS_HASH_BYTES);
}

int tier_bucket_put(struct tier_bucket *b, const struct cas_pack_file *pack, int fd,
                    struct cas_err *err)
{
        char key[KEY_BYTES];
        struct cas_digest digest;
        struct s3_object there;
        struct cas_err none = CAS_ERR_INIT;
        key_of(pack, key);
        digest_of(pack, &digest);
        int rc = s3_head(b->s3, key, &there, &none);
        if (rc == 0 && there.size_bytes == pack->size_bytes)
                return 0;
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = none;
                return rc;
        }
        return s3_put_file(b->s3, key, fd, pack->size_bytes, &digest, NULL, err);
}

int tier_bucket_get(struct tier_bucket *b, const struct cas_pack_file *pack, int fd,
                    struct cas_err *err)
{
        char key[KEY_BYTES];
        struct cas_digest digest;
        key_of(pack, key);
        digest_of(pack, &digest);
        return s3_get_file(b->s3, key, fd, pack->size_bytes, &digest, err);
}

int tier_bucket_delete(struct tier_bucket *b, const struct cas_pack_file *pack, struct cas_err *err)
{
        char key[KEY_BYTES];
        key_of(pack, key);
        return s3_delete(b->s3, key, NULL, err);
}

int tier_bucket_read(struct tier_bucket *b, const struct cas_pack_file *pack, uint64_t offset,
                     void *out, size_t len, struct cas_err *err)
{
        char key[KEY_BYTES];
        key_of(pack, key);
        return s3_get_range(b->s3, key, offset, out, len, err);
}

struct each {
        int (*fn)(void *arg, const struct cas_pack_file *pack, struct cas_err *err);
        void *arg;
};

static int on_key(void *arg, const char *key, const struct s3_object *object, struct cas_err *err)
{
        struct each *e = arg;
        struct cas_pack_file pack = {0};
        if (!parse_key(key, &pack))
                return 0;
        pack.size_bytes = object->size_bytes;
        pack.put_unix_s = object->modified_unix_s;
        return e->fn(e->arg, &pack, err);
}

int tier_bucket_each(struct tier_bucket *b,
                     int (*fn)(void *arg, const struct cas_pack_file *pack, struct cas_err *err),
                     void *arg, struct cas_err *err)
{
        struct each e = {.fn = fn, .arg = arg};
        struct cas_err ignored = CAS_ERR_INIT;
        /* Not every store lists them, nor everybody may: they cost money, not correctness. */
        (void)!s3_abort_uploads(b->s3, PACKS, UPLOADS_OLD_S, NULL, &ignored);
        return s3_list(b->s3, PACKS, NULL, 0, on_key, &e, err);
}

static int found_pack(void *arg, const struct cas_pack_file *pack CAS_UNUSED,
                      struct cas_err *err CAS_UNUSED)
{
        *(bool *)arg = true;
        return 1;
}

int tier_bucket_unmake(struct tier_bucket *b, struct cas_err *err)
{
        bool any = false;
        if (tier_bucket_each(b, found_pack, &any, err) < 0)
                return -(int)err->code;
        if (any)
                return cas_fail(err, CAS_E_BUSY, "packs are there");
        return s3_delete(b->s3, MARKER, NULL, err);
}

const struct s3_abilities *tier_bucket_abilities(const struct tier_bucket *b)
{
        return &b->abilities;
}

void tier_bucket_counts(struct tier_bucket *b, struct s3_counts *out)
{
        s3_counts(b->s3, out);
}
