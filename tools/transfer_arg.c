/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/transfer_arg.h"

#include "tools/paths.h"

int transfer_arg_absolute(const char *text, char **out, struct cas_err *err)
{
        const char *colon = strchr(text, ':');
        if (!colon)
                return cas_fail(err, CAS_E_INVALID,
                                "%s: say what it is: oci:DIR, oci-archive:FILE or "
                                "docker-archive:FILE",
                                text);
        cas_cleanup_free char *path = NULL;
        if (path_absolute(colon + 1, &path, err) < 0)
                return cas_err_wrap(err, "%s", text);
        *out = cas_xasprintf("%.*s:%s", (int)(colon - text), text, path);
        return 0;
}
