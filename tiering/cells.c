/* SPDX-License-Identifier: Apache-2.0 */
/* How cells are read and written: under conditions only, and what a condition that failed means. */
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

#include "tiering/cluster_int.h"

/* ---- keys ---- */

char *tier_digest_name(const struct cas_digest *digest, char out[CAS_DIGEST_TEXT_BYTES])
{
        cas_digest_text(digest, out);
        *strchr(out, ':') = '-';
        return out;
}

bool tier_digest_from_name(const char *name, struct cas_digest *out)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        struct cas_err ignored = CAS_ERR_INIT;
        const char *dash = strchr(name, '-');
        if (!dash || strlen(name) >= sizeof(text))
                return false;
        memcpy(text, name, strlen(name) + 1);
        text[dash - name] = ':';
        return cas_digest_parse(text, out, &ignored) == 0;
}

void tier_key_blob(const struct cas_digest *blob, char out[TIER_KEY_BYTES])
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_digest_hex(blob, hex);
        (void)snprintf(out, TIER_KEY_BYTES, "blobs/%s/%.2s/%s", cas_digest_alg_name(blob->alg), hex,
                       hex);
}

void tier_key_name(const char *repo, const char *kind, const char *name, char out[TIER_KEY_BYTES])
{
        (void)snprintf(out, TIER_KEY_BYTES, "repos/%s/%s/%s", repo, kind, name);
}

void tier_key_digest(const char *repo, const char *kind, const struct cas_digest *digest,
                     char out[TIER_KEY_BYTES])
{
        char name[CAS_DIGEST_TEXT_BYTES];
        tier_key_name(repo, kind, tier_digest_name(digest, name), out);
}

bool tier_key_split(const char *key, char repo[CAS_REPO_NAME_BYTES_MAX + 1], const char **kind,
                    const char **name)
{
        if (strncmp(key, "repos/", 6) != 0)
                return false;
        const char *begin = key + 6, *at = strstr(begin, "/_");
        size_t len = at ? (size_t)(at - begin) : 0;
        const char *slash = at ? strchr(at + 1, '/') : NULL;
        if (!slash || len == 0 || len > CAS_REPO_NAME_BYTES_MAX)
                return false;
        memcpy(repo, begin, len);
        repo[len] = '\0';
        *kind = at + 1;
        *name = slash + 1;
        return cas_repo_name_valid(repo);
}

/* ---- cells ---- */

void tier_random_hex(char *out, size_t digits)
{
        uint8_t bytes[32];
        cas_assert(digits <= 2 * sizeof(bytes));
        ssize_t n = getrandom(bytes, (digits + 1) / 2, 0);
        cas_assert(n == (ssize_t)((digits + 1) / 2)); /* so few are always given */
        for (size_t i = 0; i < digits; i++)
                out[i] = "0123456789abcdef"[i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4];
        out[digits] = '\0';
}

int tier_cell_read(struct tier_cluster *c, const char *key, struct tier_cell *out, bool *there,
                   struct tier_version *version, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct s3_object object = {0};
        struct cas_err miss = CAS_ERR_INIT;
        *there = false;
        *version = (struct tier_version){0};
        int rc = c->objects->ops->get(c->objects, key, TIER_CELL_BYTES_MAX, &bytes, &object, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        memcpy(version->etag, object.etag, sizeof(version->etag));
        version->modified_unix_s = object.modified_unix_s;
        *there = bytes.len_bytes > 0;
        rc = *there ? tier_cell_decode(bytes.data, bytes.len_bytes, out, err) : 0;
        return rc < 0 ? cas_err_wrap(err, "%s", key) : 0;
}

static struct s3_condition condition_of(const struct tier_version *version)
{
        return version->etag[0] ? (struct s3_condition){.if_match = version->etag}
                                : (struct s3_condition){.if_absent = true};
}

int tier_cell_write(struct tier_cluster *c, const char *key, struct tier_cell *cell,
                    const struct tier_version *version, struct tier_version *out,
                    struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct s3_object object = {0};
        struct cas_err why = CAS_ERR_INIT;
        const struct s3_condition condition = condition_of(version);
        tier_random_hex(cell->nonce, TIER_CELL_NONCE_BYTES - 1);
        int rc = tier_cell_encode(cell, &bytes, err);
        if (rc < 0)
                return rc;
        if (bytes.len_bytes > TIER_CELL_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "%s: %zu bytes", key, bytes.len_bytes);
        rc = c->objects->ops->put(c->objects, key, bytes.data, bytes.len_bytes, &condition, &object,
                                  &why);
        struct tier_version now = {0};
        memcpy(now.etag, object.etag, sizeof(now.etag));
        now.modified_unix_s = object.modified_unix_s;
        /* An object that went meanwhile fails If-Match by another name. */
        bool refused = rc == -CAS_E_EXISTS || rc == -CAS_E_NOTFOUND;
        if (refused) { /* an answer that was lost? */
                tier_cleanup_cell struct tier_cell seen = TIER_CELL_INIT;
                bool there;
                if (tier_cell_read(c, key, &seen, &there, &now, err) < 0)
                        return -(int)err->code;
                if (!there || strcmp(seen.nonce, cell->nonce) != 0)
                        return cas_fail(err, CAS_E_EXISTS, "%s has changed", key);
                rc = 0;
        }
        if (rc < 0)
                *err = why;
        else if (out)
                *out = now;
        return rc;
}

int tier_cell_empty(struct tier_cluster *c, const char *key, const struct tier_version *version,
                    struct cas_err *err)
{
        struct s3_object object = {0};
        struct cas_err why = CAS_ERR_INIT, ignored = CAS_ERR_INIT;
        const struct s3_condition condition = {.if_match = version->etag};
        cas_assert(version->etag[0]);
        int rc = c->objects->ops->put(c->objects, key, "", 0, &condition, &object, &why);
        if (rc == -CAS_E_EXISTS || rc == -CAS_E_NOTFOUND) {
                tier_cleanup_cell struct tier_cell seen = TIER_CELL_INIT;
                struct tier_version now;
                bool there;
                rc = tier_cell_read(c, key, &seen, &there, &now, err);
                if (rc == 0 && there)
                        return cas_fail(err, CAS_E_EXISTS, "%s has changed", key);
                return rc; /* it is not there: by us, or by others */
        }
        if (rc < 0) {
                *err = why;
                return rc;
        }
        if (c->abilities.conditional_delete && object.etag[0])
                (void)!c->objects->ops->delete (c->objects, key, object.etag, &ignored);
        return 0;
}

int tier_fail_tries(const char *key, struct cas_err *err)
{
        return cas_fail(err, CAS_E_BUSY, "%s is changed by others all the time", key);
}

int tier_cell_hold(struct tier_cluster *c, const char *key, struct tier_cell *out,
                   struct cas_err *err)
{
        for (unsigned i = 0; i < TIER_TRIES; i++) {
                struct tier_version version;
                struct cas_err why = CAS_ERR_INIT;
                bool there;
                tier_cell_release(out);
                int rc = tier_cell_read(c, key, out, &there, &version, err);
                if (rc < 0)
                        return rc;
                if (!there || !tier_cell_is_there(out))
                        return cas_fail(err, CAS_E_NOTFOUND, "%s: there is none", key);
                if (out->state == TIER_CELL_LIVE)
                        return 0;
                out->state = TIER_CELL_LIVE;
                rc = tier_cell_write(c, key, out, &version, NULL, &why);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_EXISTS) {
                        *err = why;
                        return rc;
                }
        }
        return tier_fail_tries(key, err);
}

int tier_cell_remove(struct tier_cluster *c, const char *key, struct cas_err *err)
{
        for (unsigned i = 0; i < TIER_TRIES; i++) {
                tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
                struct tier_version version;
                struct cas_err why = CAS_ERR_INIT;
                bool there;
                int rc = tier_cell_read(c, key, &cell, &there, &version, err);
                if (rc < 0 || !there)
                        return rc;
                rc = tier_cell_empty(c, key, &version, &why);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_EXISTS) {
                        *err = why;
                        return rc;
                }
        }
        return tier_fail_tries(key, err);
}
