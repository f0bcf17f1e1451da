/* SPDX-License-Identifier: Apache-2.0 */
/* STORE/cluster: which bucket, and which of its nodes this store is. */
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>

#include "tiering/cluster_int.h"

#define CONFIG_PATH "cluster"
#define CONFIG_BYTES_MAX 65536

static const struct config_text {
        const char *word;
        size_t offset;
} texts[] = {
        {"endpoint", offsetof(struct tier_cluster_config, s3.endpoint)},
        {"region", offsetof(struct tier_cluster_config, s3.region)},
        {"ca", offsetof(struct tier_cluster_config, s3.ca_file)},
        {"profile", offsetof(struct tier_cluster_config, s3.credentials)},
};

static char **text_of(struct tier_cluster_config *c, const struct config_text *t)
{
        return (char **)(void *)((char *)c + t->offset);
}

void tier_cluster_config_release(struct tier_cluster_config *c)
{
        for (size_t i = 0; i < CAS_COUNT(texts); i++)
                free(*text_of(c, &texts[i]));
        free(c->s3.bucket);
        free(c->s3.prefix);
        free(c->where);
        *c = (struct tier_cluster_config){0};
}

int tier_cluster_config_where(struct tier_cluster_config *c, const char *where, struct cas_err *err)
{
        const char *bucket = where + strlen("s3://");
        size_t len = strncmp(where, "s3://", 5) == 0 ? strcspn(bucket, "/") : 0;
        const char *prefix = bucket + len + (len > 0 && bucket[len] == '/');
        size_t prefix_len = len > 0 ? strlen(prefix) : 0;
        if (len == 0)
                return cas_fail(err, CAS_E_INVALID, "\"%s\": not s3://BUCKET/PREFIX", where);
        if (prefix_len > 200 || strpbrk(where, "\r\n\t \""))
                return cas_fail(err, CAS_E_INVALID, "\"%s\": no prefix that can be used", where);
        free(c->s3.bucket);
        free(c->s3.prefix);
        free(c->where);
        c->where = cas_xstrdup(where);
        c->s3.bucket = cas_xstrndup(bucket, len);
        while (prefix_len > 0 && prefix[prefix_len - 1] == '/')
                prefix_len--;
        c->s3.prefix = prefix_len > 0 ? cas_xstrndup(prefix, prefix_len) : NULL;
        return 0;
}

struct reader {
        struct tier_cluster_config *c;
        struct cas_err *err;
};

static int line_seen(void *arg, const char *section, const char *key, const char *value)
{
        struct reader *r = arg;
        struct tier_cluster_config *c = r->c;
        if (strcmp(section, "cluster") != 0)
                return 0;
        if (strcmp(key, "where") == 0)
                return tier_cluster_config_where(c, value, r->err) == 0;
        if (strcmp(key, "node") == 0) {
                char *end;
                errno = 0;
                c->node = strtoull(value, &end, 10);
                return errno == 0 && !*end && c->node > 0;
        }
        if (strcmp(key, "style") == 0) {
                c->s3.path_style = strcmp(value, "path") == 0;
                return c->s3.path_style || strcmp(value, "virtual") == 0;
        }
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                if (strcmp(key, texts[i].word) != 0)
                        continue;
                free(*text_of(c, &texts[i]));
                *text_of(c, &texts[i]) = cas_xstrdup(value);
                return 1;
        }
        return 0;
}

int tier_cluster_config_read(int store_dirfd, struct tier_cluster_config *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err why = CAS_ERR_INIT;
        struct reader r = {.c = out, .err = &why};
        int rc = cas_io_read_file(cas_io_posix(), store_dirfd, CONFIG_PATH, CONFIG_BYTES_MAX,
                                  &bytes, err);
        if (rc < 0)
                return rc;
        int line = ini_parse_string(cas_buf_str(&bytes), line_seen, &r);
        if (line != 0)
                return cas_fail(err, CAS_E_INVALID, "STORE/cluster: line %d is not understood",
                                line);
        if (!out->where || out->node == 0)
                return cas_fail(err, CAS_E_INVALID, "STORE/cluster: where or node is missing");
        return 0;
}

int tier_cluster_config_write(int store_dirfd, const struct tier_cluster_config *c,
                              struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_buf_printf(&text, "[cluster]\nwhere = %s\nnode = %llu\nstyle = %s\n", c->where,
                       (unsigned long long)c->node, c->s3.path_style ? "path" : "virtual");
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                const char *value = *text_of((struct tier_cluster_config *)(uintptr_t)c, &texts[i]);
                if (value && strpbrk(value, "\r\n"))
                        return cas_fail(err, CAS_E_INVALID, "%s: more than a line", texts[i].word);
                if (value)
                        cas_buf_printf(&text, "%s = %s\n", texts[i].word, value);
        }
        return cas_io_replace_file(cas_io_posix(), store_dirfd, ".", CONFIG_PATH, text.data,
                                   text.len_bytes, 0600, err);
}
