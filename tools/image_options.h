/* SPDX-License-Identifier: Apache-2.0 */
/* What an image that is made is to run: the options that `pack` and `commit`
 * share. */
#ifndef TOOLS_IMAGE_OPTIONS_H
#define TOOLS_IMAGE_OPTIONS_H

#include "tools/options.h"

struct image_options {
        const char *user;
        const char *workdir;
        struct cli_list env;
        struct cli_list entrypoint;
        struct cli_list cmd;
};

/* Rows of a command's table whose arguments hold a `struct image_options` at offset `at`. */
#define IMAGE_OPTIONS(at)                                                                           \
        {"env",       'e',                                                                          \
         CLI_LIST,    (at) + offsetof(struct image_options, env),                                   \
         "KEY=VALUE", "set a variable of the image; again for more"},                               \
                {"entrypoint", 0,                                                                   \
                 CLI_LIST,     (at) + offsetof(struct image_options, entrypoint),                   \
                 "WORD",       "a word of the command that always runs; again for more words"},     \
                {"cmd",    0,                                                                       \
                 CLI_LIST, (at) + offsetof(struct image_options, cmd),                              \
                 "WORD",   "a word of the default command or its arguments; again for more words"}, \
                {"user",         'u',                                                               \
                 CLI_STRING,     (at) + offsetof(struct image_options, user),                       \
                 "USER[:GROUP]", "whom it runs as"},                                                \
        {                                                                                           \
                "workdir", 'w', CLI_STRING, (at) + offsetof(struct image_options, workdir), "DIR",  \
                        "where it runs"                                                             \
        }

/* The image config that they describe, as text; owned. Errors: INVALID. */
int image_options_config(const struct image_options *o, char **out,
                         struct cas_err *err) CAS_MUST_CHECK;
void image_options_release(struct image_options *o);

#endif
