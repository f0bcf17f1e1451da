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
        memset(out, 0, sizeof(*out));
        if (remote_address_parse(text, &out->there, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *here = cas_xstrdup(text);
        for (char *c = here; *c != '/'; c++) {
                if (strchr(":[]%", *c))
                        *c = '_';
        }
        (void)snprintf(out->source, sizeof(out->source), "%s/%s", out->there.host,
                       out->there.ref.repo);
        return cas_ref_parse(here, &out->here, err);
}
