/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/route.h"

#include "cas/names.h"

/* Joins segments [1, count) into the repository's name. */
static int join_repo(const struct reg_uri *uri, size_t count, struct reg_route *out,
                     struct cas_err *err)
{
        size_t len = 0;
        for (size_t i = 1; i < count; i++) {
                size_t part = strlen(uri->segments[i]), slash = i > 1;
                if (len + slash + part >= sizeof(out->repo))
                        return cas_fail(err, CAS_E_INVALID, "repository name of more than %d bytes",
                                        CAS_REPO_NAME_BYTES_MAX);
                if (slash)
                        out->repo[len++] = '/';
                memcpy(out->repo + len, uri->segments[i], part);
                len += part;
        }
        out->repo[len] = '\0';
        if (!cas_repo_name_valid(out->repo))
                return cas_fail(err, CAS_E_INVALID, "repository name \"%.255s\"", out->repo);
        return 0;
}

/* What is ours, under a word that no repository's name can have. *found false: it is not. */
static int parse_extension(const struct reg_uri *uri, struct reg_route *out, bool *found,
                           struct cas_err *err)
{
        const char *const *segments = uri->segments;
        size_t count = uri->segment_count;
        *found = true;
        if (count >= 4 && strcmp(segments[count - 3], "_oci") == 0 &&
            strcmp(segments[count - 2], "ext") == 0 &&
            strcmp(segments[count - 1], "discover") == 0) {
                out->noun = REG_NOUN_EXTENSIONS;
                return count == 4 ? 0 : join_repo(uri, count - 3, out, err);
        }
        for (size_t i = 2; i + 1 < count; i++) {
                if (strcmp(segments[i], "_lamina") != 0)
                        continue;
                out->noun = REG_NOUN_LAMINA;
                out->rest = &segments[i + 1];
                out->rest_count = count - i - 1;
                return join_repo(uri, i, out, err);
        }
        *found = false;
        return 0;
}

int reg_route_parse(const struct reg_uri *uri, struct reg_route *out, struct cas_err *err)
{
        const char *const *segments = uri->segments;
        size_t count = uri->segment_count;
        *out = (struct reg_route){.last = ""};
        if (count == 0 || strcmp(segments[0], "v2") != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no such path");
        const char *last = segments[count - 1];
        if (count == 1 || (count == 2 && last[0] == '\0')) {
                out->noun = REG_NOUN_PING;
                return 0;
        }
        if (count == 2 && strcmp(last, "_catalog") == 0) {
                out->noun = REG_NOUN_CATALOG;
                return 0;
        }
        bool found;
        int rc = parse_extension(uri, out, &found, err);
        if (rc < 0 || found)
                return rc;
        const char *noun = segments[count - 2];
        const char *before = count >= 3 ? segments[count - 3] : "";
        size_t name_end = count - 2;
        out->last = last;
        if (strcmp(before, "blobs") == 0 && strcmp(noun, "uploads") == 0) {
                out->noun = last[0] ? REG_NOUN_UPLOAD : REG_NOUN_UPLOADS;
                name_end = count - 3;
        } else if (strcmp(noun, "blobs") == 0) {
                out->noun = strcmp(last, "uploads") == 0 ? REG_NOUN_UPLOADS : REG_NOUN_BLOB;
        } else if (strcmp(noun, "manifests") == 0) {
                out->noun = REG_NOUN_MANIFEST;
        } else if (strcmp(noun, "tags") == 0 && strcmp(last, "list") == 0) {
                out->noun = REG_NOUN_TAGS;
        } else if (strcmp(noun, "referrers") == 0) {
                out->noun = REG_NOUN_REFERRERS;
        } else {
                return cas_fail(err, CAS_E_NOTFOUND, "no such path");
        }
        return join_repo(uri, name_end, out, err);
}
