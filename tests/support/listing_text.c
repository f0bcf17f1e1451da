/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/listing_text.h"

#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "cas/map.h"

#define must(cond)                                                                                 \
        do {                                                                                       \
                if (!(cond)) {                                                                     \
                        (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);           \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)

/* ---- listings ---- */

/* len may be NULL. */
static char *word_unescape(const char *word, size_t *len)
{
        char *out = cas_xstrdup(word), *to = out;
        for (const char *at = word; *at; at++) {
                if (*at == '%') {
                        char hex[3] = {at[1], at[2], '\0'};
                        *to++ = (char)strtoul(hex, NULL, 16);
                        at += 2;
                } else {
                        *to++ = *at;
                }
        }
        *to = '\0';
        if (len)
                *len = (size_t)(to - out);
        return out;
}

void listing_object(const char *path, uint64_t size_bytes, struct cas_hash *out)
{
        cas_cleanup_free char *text =
                cas_xasprintf("%s@%llu", path, (unsigned long long)size_bytes);
        cas_sha256(text, strlen(text), out);
}

static void read_attributes(struct cas_entry *e, char **words, size_t count)
{
        size_t number = 0;
        for (size_t i = 0; i < count; i++) {
                if (strcmp(words[i], "opaque") == 0) {
                        e->opaque = true;
                        continue;
                }
                if (strcmp(words[i], "below") == 0) {
                        e->below = true;
                        continue;
                }
                if (strcmp(words[i], "implied") == 0) {
                        e->implied = true;
                        continue;
                }
                char *end;
                switch (number++) {
                case 0:
                        e->mode = (uint32_t)strtoul(words[i], &end, 8);
                        break;
                case 1:
                        e->uid = (uint32_t)strtoul(words[i], &end, 10);
                        break;
                case 2:
                        e->gid = (uint32_t)strtoul(words[i], &end, 10);
                        break;
                default:
                        e->mtime_s = strtoll(words[i], &end, 10);
                        if (*end == '.')
                                e->mtime_ns = (uint32_t)strtoul(end + 1, &end, 10);
                        break;
                }
                must(*end == '\0');
        }
}

static void read_file(struct cas_entry *e, const char *path, const char *content)
{
        if (content[0] == '=') {
                size_t len;
                cas_cleanup_free char *text = word_unescape(content + 1, &len);
                e->size_bytes = len;
                must(e->size_bytes <= CAS_INLINE_BYTES_MAX);
                memcpy(e->inline_data, text, e->size_bytes);
                return;
        }
        e->size_bytes = strtoull(content, NULL, 10);
        if (e->size_bytes > CAS_INLINE_BYTES_MAX)
                listing_object(path, e->size_bytes, &e->object);
        else
                memset(e->inline_data, 'i', e->size_bytes);
}

static void read_entry(struct cas_entry *e, char **words, size_t count)
{
        static const struct {
                char letter;
                enum cas_entry_type type;
                size_t words; /* before the attributes */
        } kinds[] = {
                {'d', CAS_ENTRY_DIR, 2},      {'f', CAS_ENTRY_FILE, 3},
                {'l', CAS_ENTRY_SYMLINK, 3},  {'h', CAS_ENTRY_HARDLINK, 3},
                {'c', CAS_ENTRY_CHARDEV, 4},  {'b', CAS_ENTRY_BLOCKDEV, 4},
                {'p', CAS_ENTRY_FIFO, 2},     {'s', CAS_ENTRY_SOCKET, 2},
                {'w', CAS_ENTRY_WHITEOUT, 2},
        };
        size_t k = 0;
        while (k < CAS_COUNT(kinds) && kinds[k].letter != words[0][0])
                k++;
        must(k < CAS_COUNT(kinds) && count >= kinds[k].words);
        e->type = kinds[k].type;
        e->path = strcmp(words[1], ".") == 0 ? cas_xstrdup("") : word_unescape(words[1], NULL);
        e->mode = e->type == CAS_ENTRY_DIR ? 0755 : e->type == CAS_ENTRY_SYMLINK ? 0777 : 0644;
        if (e->type == CAS_ENTRY_SYMLINK || e->type == CAS_ENTRY_HARDLINK)
                e->target = word_unescape(words[2], NULL);
        if (e->type == CAS_ENTRY_FILE)
                read_file(e, e->path, words[2]);
        if (e->type == CAS_ENTRY_CHARDEV || e->type == CAS_ENTRY_BLOCKDEV) {
                e->dev_major = (uint32_t)strtoul(words[2], NULL, 10);
                e->dev_minor = (uint32_t)strtoul(words[3], NULL, 10);
        }
        read_attributes(e, words + kinds[k].words, count - kinds[k].words);
}

/* Kept sorted by name, as listings have them. */
static void read_xattr(struct cas_entry *e, const char *name, const char *value)
{
        e->xattrs = cas_xrealloc(e->xattrs, (e->xattr_count + 1) * sizeof(e->xattrs[0]));
        size_t i = e->xattr_count++;
        for (; i > 0 && strcmp(e->xattrs[i - 1].name, name) > 0; i--)
                e->xattrs[i] = e->xattrs[i - 1];
        e->xattrs[i].name = cas_xstrdup(name);
        e->xattrs[i].value = (uint8_t *)word_unescape(value, &e->xattrs[i].value_bytes);
}

void listing_from_text(const char *text, struct cas_listing *out)
{
        *out = (struct cas_listing){0};
        cas_cleanup_free char *copy = cas_xstrdup(text);
        char *line_state = NULL;
        for (char *line = strtok_r(copy, "\n", &line_state); line;
             line = strtok_r(NULL, "\n", &line_state)) {
                char *words[16], *word_state = NULL;
                size_t count = 0;
                for (char *w = strtok_r(line, " ", &word_state); w;
                     w = strtok_r(NULL, " ", &word_state)) {
                        must(count < CAS_COUNT(words));
                        words[count++] = w;
                }
                if (count == 0)
                        continue;
                if (words[0][0] == 'x') {
                        must(out->count > 0 && count >= 2);
                        read_xattr(&out->entries[out->count - 1], words[1],
                                   count > 2 ? words[2] : "");
                        continue;
                }
                if ((out->count & (out->count - 1)) == 0) /* full at every power of two */
                        out->entries = cas_xrealloc(out->entries,
                                                    (out->count * 2 + 1) * sizeof(*out->entries));
                memset(&out->entries[out->count], 0, sizeof(*out->entries));
                read_entry(&out->entries[out->count++], words, count);
        }
}

int merge_text(struct cas_merge *m, const char *text, struct cas_err *err)
{
        struct cas_err own = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        listing_from_text(text, &l);
        int rc = cas_merge_apply(m, &l, err ? err : &own);
        if (rc < 0 && !err) {
                (void)fprintf(stderr, "merge: %s\n", own.msg);
                abort();
        }
        return rc;
}

/* ---- trees ---- */

struct tree_dump {
        const struct cas_tree *t;
        struct cas_buf *out;
        struct cas_map *seen; /* nid -> 1 + offset of its first path in paths */
        struct cas_buf *paths;
};

char *xattr_to_text(const char *name, const void *value, size_t len)
{
        struct cas_buf text = CAS_BUF_INIT;
        cas_buf_printf(&text, " %s=", name);
        for (size_t i = 0; i < len; i++) {
                uint8_t c = ((const uint8_t *)value)[i];
                cas_buf_printf(&text, c > ' ' && c < 0x7f && c != '%' ? "%c" : "%%%02x", c);
        }
        return (char *)text.data;
}

static int compare_texts(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

void xattrs_append(char **texts, size_t count, struct cas_buf *out)
{
        if (count > 0)
                qsort(texts, count, sizeof(texts[0]), compare_texts);
        for (size_t i = 0; i < count; i++) {
                cas_buf_append_str(out, texts[i]);
                free(texts[i]);
        }
        free(texts);
}

struct xattr_texts {
        char **texts;
        size_t count;
};

static bool dump_xattr(void *arg, const char *name, const void *value, size_t len)
{
        struct xattr_texts *x = arg;
        x->texts = cas_xrealloc(x->texts, (x->count + 1) * sizeof(x->texts[0]));
        x->texts[x->count++] = xattr_to_text(name, value, len);
        return true;
}

static void dump_xattrs(const struct tree_dump *d, uint64_t nid)
{
        struct cas_err err = CAS_ERR_INIT;
        struct xattr_texts x = {0};
        must(cas_tree_xattrs(d->t, nid, dump_xattr, &x, &err) == 0);
        xattrs_append(x.texts, x.count, d->out);
}

static char type_letter(const struct cas_inode *i)
{
        if (i->whiteout)
                return 'w';
        switch (i->mode & S_IFMT) {
        case S_IFDIR:
                return 'd';
        case S_IFREG:
                return 'f';
        case S_IFLNK:
                return 'l';
        case S_IFCHR:
                return 'c';
        case S_IFBLK:
                return 'b';
        case S_IFIFO:
                return 'p';
        default:
                return 's';
        }
}

static void dump_content(struct tree_dump *d, const struct cas_inode *i)
{
        struct cas_err err = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        if (S_ISCHR(i->mode) || S_ISBLK(i->mode)) {
                cas_buf_printf(d->out, " %u:%u", major(i->rdev), minor(i->rdev));
        } else if (i->has_object) {
                cas_buf_printf(d->out, " @%.16s", cas_hash_hex(&i->object, hex));
        } else if (S_ISLNK(i->mode) || S_ISREG(i->mode)) {
                const void *data;
                size_t len;
                must(cas_tree_inline(d->t, i->nid, &data, &len, &err) == 0);
                if (len <= 64)
                        cas_buf_printf(d->out, " \"%.*s\"", (int)len, (const char *)data);
        }
        if (i->opaque)
                cas_buf_append_str(d->out, " opaque");
}

static void dump_inode(struct tree_dump *d, uint64_t nid, const char *path);

struct dump_names {
        struct tree_dump *d;
        const char *path;
};

static bool dump_name(void *arg, const char *name, size_t len, uint64_t nid,
                      uint8_t type CAS_UNUSED, uint64_t next CAS_UNUSED)
{
        struct dump_names *n = arg;
        cas_cleanup_free char *path = cas_xasprintf("%s/%.*s", n->path, (int)len, name);
        dump_inode(n->d, nid, path);
        return true;
}

static void dump_inode(struct tree_dump *d, uint64_t nid, const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_inode i;
        must(cas_tree_inode(d->t, nid, &i, &err) == 0);
        uint64_t *seen = cas_map_put(d->seen, &nid, sizeof(nid), NULL);
        if (*seen > 0 && !i.whiteout) {
                cas_buf_printf(d->out, "%s =%s\n", path, (char *)d->paths->data + *seen - 1);
                return;
        }
        *seen = d->paths->len_bytes + 1;
        cas_buf_append(d->paths, *path ? path : "/", strlen(*path ? path : "/") + 1);
        if (i.whiteout) {
                cas_buf_printf(d->out, "%s w\n", path);
                return;
        }
        cas_buf_printf(d->out, "%s %c %o %u %u %u %lld.%u %llu", *path ? path : "/",
                       type_letter(&i), i.mode & 07777, i.uid, i.gid, i.nlink, (long long)i.mtime_s,
                       i.mtime_ns, (unsigned long long)(S_ISDIR(i.mode) ? 0 : i.size_bytes));
        dump_content(d, &i);
        dump_xattrs(d, nid);
        cas_buf_append_byte(d->out, '\n');
        if (S_ISDIR(i.mode)) {
                struct dump_names n = {d, path};
                uint64_t cookie = 0;
                must(cas_tree_readdir(d->t, nid, &cookie, dump_name, &n, &err) == 0);
        }
}

void tree_to_text(const struct cas_tree *t, struct cas_buf *out)
{
        cas_cleanup_map struct cas_map *seen = cas_map_new();
        cas_cleanup_buf struct cas_buf paths = CAS_BUF_INIT;
        struct tree_dump d = {t, out, seen, &paths};
        dump_inode(&d, cas_tree_root(t), "");
}
