/* SPDX-License-Identifier: Apache-2.0 */
/* lamina serve --check-cdn: tests a cache in front of a registry. */
#ifndef TOOLS_CHECK_CDN_H
#define TOOLS_CHECK_CDN_H

#include "tools/cli.h"

/* Options; borrowed. */
struct check_cdn_args {
        const char *url; /* NULL: not asked for */
        const char *repo, *user, *password_file, *upload_size;
        bool insecure;
};
/* Returns an exit status: 0 when nothing is wrong. */
int check_cdn_run(const struct cli *cli, const struct check_cdn_args *args);

#endif
