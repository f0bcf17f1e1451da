/* SPDX-License-Identifier: Apache-2.0 */
/* Tags that stay what they are once they are set: "[immutable NAME]" sections
 * of the configuration, each with patterns of repositories and of tags. */
#ifndef REG_IMMUTABLE_H
#define REG_IMMUTABLE_H

#include "registry/glob.h"
#include "registry/reg_config.h"

#define REG_IMMUTABLE_RULES_MAX 64
struct reg_immutable {
        size_t count;
        struct reg_immutable_rule {
                char *name;                    /* owned; of the section */
                struct reg_globs repositories; /* empty: all */
                struct reg_globs tags;         /* empty: all */
        } rules[REG_IMMUTABLE_RULES_MAX];
};
extern const struct reg_config_area reg_immutable_area;

/* The name of the first section that holds for the tag, NULL when none does. i may be NULL. */
const char *reg_immutable_rule(const struct reg_immutable *i, const char *repo, const char *tag);

#endif
