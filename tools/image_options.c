/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/image_options.h"

#include "tools/access.h"
#include "tools/ops_json.h"

static int list_set(json_t *config, const char *key, const struct cli_list *list,
                    struct cas_err *err)
{
        if (list->count == 0)
                return 0;
        json_t *out = json_array();
        json_object_set_new(config, key, out);
        for (size_t i = 0; i < list->count; i++) {
                json_t *word = json_string(list->items[i]);
                if (!word)
                        return cas_fail(err, CAS_E_INVALID, "%s: not UTF-8 text", key);
                json_array_append_new(out, word);
        }
        return 0;
}

int image_options_config(const struct image_options *o, char **out, struct cas_err *err)
{
        for (size_t i = 0; i < o->env.count; i++) {
                if (!strchr(o->env.items[i], '='))
                        return cas_fail(err, CAS_E_INVALID, "--env %s: not KEY=VALUE",
                                        o->env.items[i]);
        }
        op_cleanup_json json_t *top = json_object();
        json_t *config = json_object();
        json_object_set_new(top, "config", config);
        if (list_set(config, "Env", &o->env, err) < 0 ||
            list_set(config, "Entrypoint", &o->entrypoint, err) < 0 ||
            list_set(config, "Cmd", &o->cmd, err) < 0 ||
            access_arg(config, "User", o->user, err) < 0 ||
            access_arg(config, "WorkingDir", o->workdir, err) < 0)
                return -(int)err->code;
        *out = json_dumps(top, JSON_COMPACT);
        return 0;
}

void image_options_release(struct image_options *o)
{
        cli_list_release(&o->env);
        cli_list_release(&o->entrypoint);
        cli_list_release(&o->cmd);
}
