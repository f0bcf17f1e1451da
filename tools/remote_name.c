/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/remote_name.h"

#include <stdio.h>

bool remote_name_is(const char *text)
{
        size_t len = strcspn(text, "/");
        if (text[len] == '\0' || len == 0)
                return false;
        return memchr(text, '.', len) || memchr(text, ':', len) ||
               (len == strlen("localhost") && memcmp(text, "localhost", len) == 0);
}

int remote_name_parse(const char *text, struct remote_name *out, struct cas_err *err)
{
        size_t len = strcspn(text, "/");
        memset(out, 0, sizeof(*out));
        if (!remote_name_is(text) || len >= sizeof(out->host))
                return cas_fail(err, CAS_E_INVALID, "%.200s: HOST[:PORT]/NAME[:TAG] is meant",
                                text);
        memcpy(out->host, text, len);
        if (cas_ref_parse(text + len + 1, &out->there, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *here = cas_xstrdup(text);
        for (char *c = here; c < here + len; c++) {
                if (*c == ':' || *c == '[' || *c == ']')
                        *c = '_';
        }
        (void)snprintf(out->source, sizeof(out->source), "%s/%s", out->host, out->there.repo);
        return cas_ref_parse(here, &out->here, err);
}
