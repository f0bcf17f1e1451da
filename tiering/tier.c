/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/tier.h"

#include <ini.h>
#include <inttypes.h>
#include <stdio.h>

#define TIERS_FILE "tiers"
#define LINE_BYTES_MAX 190 /* what inih takes */
#define VALUE_BYTES_MAX 160
#define OWN_NAME "own"
#define RATE_BYTES_MAX (UINT64_C(1) << 40)
#define CAPACITY_BYTES_MAX (UINT64_C(1) << 60)
#define COOL_S_MAX (UINT64_C(100) * 365 * 24 * 3600)
#define ID_MAX (UINT32_MAX / 2)

static const char *const class_names[] = {
        [TIER_NVME] = "nvme", [TIER_SSD] = "ssd", [TIER_HDD] = "hdd", [TIER_REMOTE] = "remote"};
static const char *const density_names[] = {
        [CAS_PACK_FAST] = "fast", [CAS_PACK_DEFAULT] = "default", [CAS_PACK_COLD] = "cold"};

static bool word_parse(const char *const *words, size_t count, const char *text, unsigned *out)
{
        for (size_t i = 0; i < count; i++) {
                if (strcmp(words[i], text) == 0) {
                        *out = (unsigned)i;
                        return true;
                }
        }
        return false;
}

const char *tier_class_name(enum tier_class class)
{
        return class_names[class];
}

bool tier_class_parse(const char *text, enum tier_class *out)
{
        unsigned v;
        if (!word_parse(class_names, CAS_COUNT(class_names), text, &v))
                return false;
        *out = (enum tier_class)v;
        return true;
}

const char *tier_density_name(uint8_t density)
{
        return density < CAS_COUNT(density_names) ? density_names[density] : "unknown";
}

bool tier_density_parse(const char *text, uint8_t *out)
{
        unsigned v;
        if (!word_parse(density_names, CAS_COUNT(density_names), text, &v))
                return false;
        *out = (uint8_t)v;
        return true;
}

bool tier_name_is_valid(const char *name)
{
        size_t len = strlen(name);
        return len > 0 && len < TIER_NAME_BYTES && name[0] != '-' && name[0] != '.' &&
               strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
                       len;
}

/* ---- one tier ---- */

void tier_config_init(struct tier_config *c, enum tier_class class)
{
        static const uint8_t densities[] = {[TIER_NVME] = CAS_PACK_FAST,
                                            [TIER_SSD] = CAS_PACK_DEFAULT,
                                            [TIER_HDD] = CAS_PACK_COLD,
                                            [TIER_REMOTE] = CAS_PACK_COLD};
        *c = (struct tier_config){
                .class = class, .high_percent = 90, .low_percent = 80, .density = densities[class]};
}

static char *copied(const char *text)
{
        return text ? cas_xstrdup(text) : NULL;
}

void tier_config_copy(struct tier_config *to, const struct tier_config *from)
{
        *to = *from;
        to->where = copied(from->where);
        if (!from->s3)
                return;
        to->s3 = cas_xmalloc(sizeof(*to->s3));
        *to->s3 = *from->s3;
        to->s3->endpoint = copied(from->s3->endpoint);
        to->s3->region = copied(from->s3->region);
        to->s3->bucket = copied(from->s3->bucket);
        to->s3->prefix = copied(from->s3->prefix);
        to->s3->ca_file = copied(from->s3->ca_file);
        to->s3->sse = copied(from->s3->sse);
        to->s3->sse_kms_key = copied(from->s3->sse_kms_key);
        to->s3->credentials = copied(from->s3->credentials);
}

void tier_config_release(struct tier_config *c)
{
        if (c->s3) {
                free(c->s3->endpoint);
                free(c->s3->region);
                free(c->s3->bucket);
                free(c->s3->prefix);
                free(c->s3->ca_file);
                free(c->s3->sse);
                free(c->s3->sse_kms_key);
                free(c->s3->credentials);
                free(c->s3);
        }
        free(c->where);
        *c = (struct tier_config){0};
}

static bool number_parse(const char *text, uint64_t max, uint64_t *out)
{
        uint64_t v = 0;
        if (!text[0])
                return false;
        for (; *text; text++) {
                if (*text < '0' || *text > '9' || v > (max - (uint64_t)(*text - '0')) / 10)
                        return false;
                v = v * 10 + (uint64_t)(*text - '0');
        }
        *out = v;
        return true;
}

static bool unsigned_parse(const char *text, unsigned max, unsigned *out)
{
        uint64_t v;
        if (!number_parse(text, max, &v))
                return false;
        *out = (unsigned)v;
        return true;
}

/* What the file can hold: one line, without what ends a value. */
static bool text_is_plain(const char *text)
{
        size_t len = strlen(text);
        if (len == 0 || len > VALUE_BYTES_MAX || text[0] == ' ' || text[len - 1] == ' ')
                return false;
        for (size_t i = 0; i < len; i++) {
                if ((unsigned char)text[i] < ' ' || text[i] == 0x7f || text[i] == ';')
                        return false;
        }
        return true;
}

static bool text_set(const char *text, char **out)
{
        if (!text_is_plain(text))
                return false;
        free(*out);
        *out = cas_xstrdup(text);
        return true;
}

static struct s3_config *s3_of(struct tier_config *c)
{
        if (!c->s3)
                c->s3 = cas_xcalloc(1, sizeof(*c->s3));
        return c->s3;
}

/* /DIRECTORY, or s3://BUCKET/PREFIX with or without a prefix. */
static bool where_set(struct tier_config *c, const char *text)
{
        if (text[0] == '/')
                return text_set(text, &c->where);
        if (strncmp(text, "s3://", 5) != 0 || !text_is_plain(text))
                return false;
        const char *bucket = text + 5, *slash = strchr(bucket, '/');
        size_t len = slash ? (size_t)(slash - bucket) : strlen(bucket);
        if (len == 0)
                return false;
        struct s3_config *s3 = s3_of(c);
        free(s3->bucket);
        free(s3->prefix);
        s3->bucket = cas_xstrndup(bucket, len);
        s3->prefix = slash && slash[1] ? cas_xstrdup(slash + 1) : NULL;
        return text_set(text, &c->where);
}

/* What only a bucket has. *known false: no such key. */
static bool bucket_key_set(struct tier_config *c, const char *key, const char *value, bool *known)
{
        const struct {
                const char *key;
                size_t offset;
        } texts[] = {
                {"endpoint", offsetof(struct s3_config, endpoint)},
                {"region", offsetof(struct s3_config, region)},
                {"ca", offsetof(struct s3_config, ca_file)},
                {"sse", offsetof(struct s3_config, sse)},
                {"sse_key", offsetof(struct s3_config, sse_kms_key)},
                {"profile", offsetof(struct s3_config, credentials)},
        };
        if (strcmp(key, "style") == 0) {
                bool path = strcmp(value, "path") == 0;
                if (!path && strcmp(value, "virtual") != 0)
                        return false;
                s3_of(c)->path_style = path;
                return true;
        }
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                if (strcmp(key, texts[i].key) == 0)
                        return text_set(value, (char **)((char *)s3_of(c) + texts[i].offset));
        }
        *known = false;
        return false;
}

static bool key_set(struct tier_config *c, const char *key, const char *value, bool *known,
                    const char **takes)
{
        uint64_t id;
        *takes = "a number";
        if (strcmp(key, "id") == 0) {
                if (!number_parse(value, ID_MAX, &id))
                        return false;
                c->id = (uint32_t)id;
                return true;
        }
        if (strcmp(key, "capacity") == 0)
                return number_parse(value, CAPACITY_BYTES_MAX, &c->capacity_bytes);
        if (strcmp(key, "cache") == 0)
                return number_parse(value, CAPACITY_BYTES_MAX, &c->cache_bytes);
        if (strcmp(key, "rate") == 0)
                return number_parse(value, RATE_BYTES_MAX, &c->bytes_per_s);
        if (strcmp(key, "cool_after") == 0)
                return number_parse(value, COOL_S_MAX, &c->cool_after_s);
        *takes = "a number from 1 to 100";
        if (strcmp(key, "high") == 0)
                return unsigned_parse(value, 100, &c->high_percent) && c->high_percent > 0;
        if (strcmp(key, "low") == 0)
                return unsigned_parse(value, 100, &c->low_percent) && c->low_percent > 0;
        *takes = "nvme, ssd, hdd or remote";
        if (strcmp(key, "class") == 0)
                return tier_class_parse(value, &c->class);
        *takes = "fast, default or cold";
        if (strcmp(key, "density") == 0)
                return tier_density_parse(value, &c->density);
        *takes = "leaving";
        if (strcmp(key, "state") == 0) {
                c->leaving = strcmp(value, "leaving") == 0;
                return c->leaving;
        }
        *takes = "an absolute directory or s3://BUCKET/PREFIX, up to 160 bytes without ';'";
        if (strcmp(key, "where") == 0)
                return where_set(c, value);
        *takes = strcmp(key, "style") == 0 ? "path or virtual" : "a text of one line without ';'";
        return bucket_key_set(c, key, value, known);
}

int tier_config_set(struct tier_config *c, const char *key, const char *value, struct cas_err *err)
{
        bool known = true;
        const char *takes;
        if (key_set(c, key, value, &known, &takes))
                return 0;
        if (!known)
                return cas_fail(err, CAS_E_INVALID, "a tier has no setting %.40s", key);
        return cas_fail(err, CAS_E_INVALID, "%s takes %s, not %.100s", key, takes, value);
}

int tier_config_check(const struct tier_config *c, struct cas_err *err)
{
        bool remote = c->class == TIER_REMOTE;
        bool bucket = c->where && c->where[0] != '/';
        if (!tier_name_is_valid(c->name))
                return cas_fail(err, CAS_E_INVALID,
                                "a tier's name has up to %d letters, digits, '-', '_' and '.'",
                                TIER_NAME_BYTES - 1);
        if (c->id == CAS_TIER_OWN && (c->where || remote || c->leaving))
                return cas_fail(err, CAS_E_INVALID,
                                "tier 0 is the store's own directory: it has no other place, and "
                                "cannot leave");
        if (c->id != CAS_TIER_OWN && !c->where)
                return cas_fail(err, CAS_E_INVALID, "tier %s: where it lies is not said", c->name);
        if (bucket != remote || (!remote && c->s3))
                return cas_fail(err, CAS_E_INVALID,
                                "tier %s: class remote goes with s3://…, the others with "
                                "directories",
                                c->name);
        if (c->low_percent > c->high_percent)
                return cas_fail(err, CAS_E_INVALID, "tier %s: low (%u) is above high (%u)", c->name,
                                c->low_percent, c->high_percent);
        if (remote && c->cache_bytes)
                return cas_fail(err, CAS_E_INVALID, "tier %s: a bucket holds no cache", c->name);
        if (c->capacity_bytes && c->cache_bytes > c->capacity_bytes)
                return cas_fail(err, CAS_E_INVALID,
                                "tier %s: its cache is larger than its capacity", c->name);
        return 0;
}

/* ---- the list ---- */

void tier_list_init(struct tier_list *l)
{
        *l = (struct tier_list){.count = 1, .next_id = 1};
        tier_config_init(&l->tiers[0], TIER_NVME);
        (void)snprintf(l->tiers[0].name, TIER_NAME_BYTES, OWN_NAME);
}

void tier_list_release(struct tier_list *l)
{
        for (size_t i = 0; i < l->count; i++)
                tier_config_release(&l->tiers[i]);
        l->count = 0;
}

struct tier_config *tier_list_find(struct tier_list *l, const char *name)
{
        for (size_t i = 0; i < l->count; i++) {
                if (strcmp(l->tiers[i].name, name) == 0)
                        return &l->tiers[i];
        }
        return NULL;
}

struct parse {
        struct tier_list list; /* tier 0 is not in it before its section has come */
        char section[64];
        char seen[512]; /* keys of the section, each between blanks */
        struct cas_err *err;
        bool failed;
};

static int section_begin(struct parse *p, const char *section, struct cas_err *err)
{
        (void)snprintf(p->section, sizeof(p->section), "%s", section);
        p->seen[0] = '\0';
        if (!section[0])
                return 0;
        const char *name = strncmp(section, "tier ", 5) == 0 ? section + 5 : "";
        if (!tier_name_is_valid(name))
                return cas_fail(err, CAS_E_INVALID, "[%s]: not [tier NAME]", section);
        if (tier_list_find(&p->list, name))
                return cas_fail(err, CAS_E_INVALID, "[%s]: there are two of it", section);
        if (p->list.count == TIERS_MAX)
                return cas_fail(err, CAS_E_INVALID, "more than %d tiers", TIERS_MAX);
        struct tier_config *c = &p->list.tiers[p->list.count++];
        tier_config_init(c, TIER_NVME);
        (void)snprintf(c->name, TIER_NAME_BYTES, "%s", name);
        return 0;
}

static int key_once(struct parse *p, const char *key, struct cas_err *err)
{
        char word[64];
        size_t len = strlen(p->seen);
        (void)snprintf(word, sizeof(word), " %.60s ", key);
        if (strstr(p->seen, word))
                return cas_fail(err, CAS_E_INVALID, "[%s]: %s is there twice", p->section, key);
        if (len + strlen(word) >= sizeof(p->seen))
                return cas_fail(err, CAS_E_INVALID, "[%s]: too many keys", p->section);
        (void)snprintf(p->seen + len, sizeof(p->seen) - len, "%s", word);
        return 0;
}

static int head_set(struct parse *p, const char *key, const char *value, struct cas_err *err)
{
        uint64_t v;
        if (strcmp(key, "next") == 0 && number_parse(value, ID_MAX, &v)) {
                p->list.next_id = (uint32_t)v;
                return 0;
        }
        if (strcmp(key, "mover") == 0 && strcmp(value, "paused") == 0) {
                p->list.paused = true;
                return 0;
        }
        return cas_fail(err, CAS_E_INVALID, "%s = %s: not understood", key, value);
}

/* Returns 0 for a line that is wrong, as inih wants it. */
static int line_seen(void *user, const char *section, const char *key, const char *value)
{
        struct parse *p = user;
        if (p->failed)
                return 0;
        int rc = 0;
        if (strcmp(section, p->section) != 0)
                rc = section_begin(p, section, p->err);
        if (rc == 0)
                rc = key_once(p, key, p->err);
        if (rc == 0)
                rc = section[0] ? tier_config_set(&p->list.tiers[p->list.count - 1], key, value,
                                                  p->err)
                                : head_set(p, key, value, p->err);
        p->failed = rc < 0;
        return !p->failed;
}

static void own_add(struct tier_list *l)
{
        struct tier_list own;
        tier_list_init(&own);
        memmove(&l->tiers[1], &l->tiers[0], l->count * sizeof(l->tiers[0]));
        l->tiers[0] = own.tiers[0];
        l->count++;
}

static int by_id(const void *a, const void *b)
{
        const struct tier_config *x = a, *y = b;
        return x->id < y->id ? -1 : x->id > y->id;
}

static int list_check(struct tier_list *l, struct cas_err *err)
{
        qsort(l->tiers, l->count, sizeof(l->tiers[0]), by_id);
        if (l->count == 0 || l->tiers[0].id != CAS_TIER_OWN) {
                if (tier_list_find(l, OWN_NAME) || l->count == TIERS_MAX)
                        return cas_fail(err, CAS_E_INVALID,
                                        "no tier of id 0, and no place for one called " OWN_NAME);
                own_add(l);
        }
        for (size_t i = 0; i < l->count; i++) {
                if (tier_config_check(&l->tiers[i], err) < 0)
                        return -(int)err->code;
                if (i > 0 && l->tiers[i].id == l->tiers[i - 1].id)
                        return cas_fail(err, CAS_E_INVALID, "tiers %s and %s have one id",
                                        l->tiers[i - 1].name, l->tiers[i].name);
        }
        uint32_t above = l->tiers[l->count - 1].id + 1;
        if (l->next_id < above)
                l->next_id = above;
        return 0;
}

/* inih cuts long lines, and goes on with a value on lines that are indented. */
static int lines_check(const char *text, size_t len, struct cas_err *err)
{
        unsigned line = 1;
        for (size_t at = 0, begin = 0; at <= len; at++) {
                unsigned char c = at < len ? (unsigned char)text[at] : '\n';
                if (c == '\n') {
                        if (at - begin > LINE_BYTES_MAX)
                                return cas_fail(err, CAS_E_INVALID, "line %u is too long", line);
                        begin = at + 1;
                        line++;
                } else if ((c < ' ' && c != '\t') || c == 0x7f ||
                           (at == begin && (c == ' ' || c == '\t'))) {
                        return cas_fail(err, CAS_E_INVALID,
                                        "line %u has a control character, or is indented", line);
                }
        }
        return 0;
}

int tier_list_parse(const char *text, size_t len, struct tier_list *l, struct cas_err *err)
{
        struct parse p = {.err = err};
        if (len > TIER_LIST_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "longer than %d bytes", TIER_LIST_BYTES_MAX);
        int rc = lines_check(text, len, err);
        if (rc < 0)
                return rc;
        cas_cleanup_free char *copy = cas_xstrndup(text, len);
        int line = ini_parse_string(copy, line_seen, &p);
        if (line != 0 && !p.failed)
                rc = cas_fail(err, CAS_E_INVALID, "not understood");
        else if (line != 0)
                rc = -(int)err->code;
        if (rc < 0 && line > 0)
                (void)cas_err_wrap(err, "line %d", line);
        if (rc == 0)
                rc = list_check(&p.list, err);
        if (rc < 0) {
                tier_list_release(&p.list);
                return rc;
        }
        *l = p.list;
        return 0;
}

static void text_format(struct cas_buf *out, const char *key, const char *text)
{
        if (text)
                cas_buf_printf(out, "%s = %s\n", key, text);
}

static void config_format(const struct tier_config *c, struct cas_buf *out)
{
        cas_buf_printf(out, "\n[tier %s]\nid = %" PRIu32 "\nclass = %s\n", c->name, c->id,
                       tier_class_name(c->class));
        text_format(out, "where", c->where);
        cas_buf_printf(out,
                       "capacity = %" PRIu64 "\nhigh = %u\nlow = %u\ndensity = %s\ncache = %" PRIu64
                       "\nrate = %" PRIu64 "\ncool_after = %" PRIu64 "\n",
                       c->capacity_bytes, c->high_percent, c->low_percent,
                       tier_density_name(c->density), c->cache_bytes, c->bytes_per_s,
                       c->cool_after_s);
        if (c->leaving)
                text_format(out, "state", "leaving");
        if (!c->s3)
                return;
        text_format(out, "endpoint", c->s3->endpoint);
        text_format(out, "region", c->s3->region);
        text_format(out, "style", c->s3->path_style ? "path" : "virtual");
        text_format(out, "ca", c->s3->ca_file);
        text_format(out, "sse", c->s3->sse);
        text_format(out, "sse_key", c->s3->sse_kms_key);
        text_format(out, "profile", c->s3->credentials);
}

void tier_list_format(const struct tier_list *l, struct cas_buf *out)
{
        cas_buf_printf(out,
                       "; Tiers of this store: written by `lamina tier`.\nnext = %" PRIu32 "\n",
                       l->next_id);
        if (l->paused)
                text_format(out, "mover", "paused");
        for (size_t i = 0; i < l->count; i++)
                config_format(&l->tiers[i], out);
}

int tier_list_read(int store_dirfd, struct tier_list *l, bool *there, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_io_read_file(cas_io_posix(), store_dirfd, TIERS_FILE, TIER_LIST_BYTES_MAX,
                                  &text, &miss);
        *there = rc == 0;
        if (rc == -CAS_E_NOTFOUND) {
                tier_list_init(l);
                return 0;
        }
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        rc = tier_list_parse(cas_buf_str(&text), text.len_bytes, l, err);
        return rc < 0 ? cas_err_wrap(err, "the store's list of tiers (" TIERS_FILE ")") : 0;
}

int tier_list_write(int store_dirfd, const struct tier_list *l, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        tier_list_format(l, &text);
        return cas_io_replace_file(cas_io_posix(), store_dirfd, ".", TIERS_FILE, text.data,
                                   text.len_bytes, 0600, err);
}
