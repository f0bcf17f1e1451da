/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar of names (OCI distribution-spec) and of references. */
#include "cas/names.h"

static bool is_lower_alnum(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* Length of the separator at s ('.', '_', "__" or any run of '-'), 0 when there is none. */
static size_t separator_len(const char *s)
{
        if (*s == '.')
                return 1;
        if (*s == '_')
                return s[1] == '_' ? 2 : 1;
        return strspn(s, "-");
}

/* Components of [a-z0-9]+((.|_|__|-+)[a-z0-9]+)*, joined by '/'. */
bool cas_repo_name_valid(const char *repo)
{
        if (strnlen(repo, CAS_REPO_NAME_BYTES_MAX + 1) > CAS_REPO_NAME_BYTES_MAX)
                return false;
        const char *s = repo;
        for (;;) {
                if (!is_lower_alnum(*s))
                        return false;
                while (is_lower_alnum(*s))
                        s++;
                if (*s == '\0')
                        return true;
                size_t len = *s == '/' ? 1 : separator_len(s);
                if (len == 0)
                        return false;
                s += len;
        }
}

static bool is_word(char c)
{
        return is_lower_alnum(c) || (c >= 'A' && c <= 'Z') || c == '_';
}

/* [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} */
bool cas_tag_valid(const char *tag)
{
        if (!is_word(tag[0]))
                return false;
        size_t len = 1;
        while (is_word(tag[len]) || tag[len] == '.' || tag[len] == '-')
                len++;
        return tag[len] == '\0' && len <= CAS_TAG_BYTES_MAX;
}

/* Copies [from, to) when it fits. */
static bool take(char *out, size_t out_bytes, const char *from, const char *to)
{
        size_t len = (size_t)(to - from);
        if (len >= out_bytes)
                return false;
        memcpy(out, from, len);
        out[len] = '\0';
        return true;
}

int cas_ref_parse(const char *text, struct cas_ref *out, struct cas_err *err)
{
        struct cas_ref ref;
        memset(&ref, 0, sizeof(ref));
        const char *at = strchr(text, '@');
        if (at) {
                int rc = cas_digest_parse(at + 1, &ref.digest, err);
                if (rc < 0)
                        return cas_err_wrap(err, "reference %.300s", text);
        }
        const char *end = at ? at : text + strlen(text);
        const char *slash = memrchr(text, '/', (size_t)(end - text));
        const char *rest = slash ? slash : text;
        const char *colon = memchr(rest, ':', (size_t)(end - rest));
        const char *repo_end = colon ? colon : end;
        if (!take(ref.repo, sizeof(ref.repo), text, repo_end) || !cas_repo_name_valid(ref.repo))
                return cas_fail(err, CAS_E_INVALID,
                                "reference %.300s: the name must be lower-case words joined by "
                                "'/', '.', '_' or '-'",
                                text);
        if (colon && (!take(ref.tag, sizeof(ref.tag), colon + 1, end) || !cas_tag_valid(ref.tag)))
                return cas_fail(err, CAS_E_INVALID, "reference %.300s: bad tag", text);
        if (!colon && !at)
                memcpy(ref.tag, "latest", sizeof("latest"));
        *out = ref;
        return 0;
}
