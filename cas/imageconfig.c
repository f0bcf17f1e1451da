/* SPDX-License-Identifier: Apache-2.0 */
/* Image configurations: what to run, as whom, and the diff_ids of the layers.
 * OCI's and Docker's are the same where we look. No state, no I/O. */
#include "cas/image.h"
#include "cas/json.h"

static void strings_free(char **strings)
{
        for (size_t i = 0; strings && strings[i]; i++)
                free(strings[i]);
        free(strings);
}

/* A NULL-terminated array, also where the member is absent. */
static int strings_in(const json_t *j, const char *key, char ***out, struct cas_err *err)
{
        const json_t *array;
        int r = cas_json_array_in(j, key, &array, err);
        if (r < 0)
                return r;
        size_t count = array ? json_array_size(array) : 0;
        if (count > CAS_CONFIG_STRINGS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "\"%s\" has more than %d strings", key,
                                CAS_CONFIG_STRINGS_MAX);
        *out = cas_xcalloc(count + 1, sizeof(**out));
        for (size_t i = 0; i < count; i++) {
                const char *text = json_string_value(json_array_get(array, i));
                if (!text)
                        return cas_fail(err, CAS_E_INVALID, "\"%s\" must hold strings", key);
                (*out)[i] = cas_xstrdup(text);
        }
        return 0;
}

static int string_in(const json_t *j, const char *key, char **out, struct cas_err *err)
{
        const char *text;
        int r = cas_json_string_in(j, key, &text, err);
        if (r < 0)
                return r;
        *out = cas_xstrdup(text ? text : "");
        return 0;
}

static int diff_ids_in(const json_t *j, struct cas_image_config *c, struct cas_err *err)
{
        const json_t *rootfs, *ids = NULL;
        int r = cas_json_object_in(j, "rootfs", &rootfs, err);
        if (r == 0 && rootfs)
                r = cas_json_array_in(rootfs, "diff_ids", &ids, err);
        if (r < 0)
                return r;
        if (!rootfs)
                return cas_fail(err, CAS_E_INVALID, "\"rootfs\" is missing");
        size_t count = ids ? json_array_size(ids) : 0;
        if (count > CAS_LAYERS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "an image of %zu layers, over %d", count,
                                CAS_LAYERS_MAX);
        c->diff_ids = cas_xcalloc(count + 1, sizeof(*c->diff_ids));
        c->diff_id_count = count;
        for (size_t i = 0; i < count; i++) {
                const char *text = json_string_value(json_array_get(ids, i));
                if (!text)
                        return cas_fail(err, CAS_E_INVALID, "\"diff_ids\" must hold strings");
                r = cas_digest_parse(text, &c->diff_ids[i], err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int config_from_json(const json_t *j, struct cas_image_config *c, struct cas_err *err)
{
        if (!json_is_object(j))
                return cas_fail(err, CAS_E_INVALID, "an image config must be an object");
        struct cas_platform *p = &c->platform;
        int r = cas_json_copy_in(j, "os", p->os, sizeof(p->os), err);
        if (r == 0)
                r = cas_json_copy_in(j, "architecture", p->arch, sizeof(p->arch), err);
        if (r == 0)
                r = cas_json_copy_in(j, "variant", p->variant, sizeof(p->variant), err);
        if (r == 0)
                r = diff_ids_in(j, c, err);
        const json_t *run = NULL; /* getters take NULL for an object without members */
        if (r == 0)
                r = cas_json_object_in(j, "config", &run, err);
        if (r == 0)
                r = string_in(run, "User", &c->user, err);
        if (r == 0)
                r = string_in(run, "WorkingDir", &c->working_dir, err);
        if (r == 0)
                r = strings_in(run, "Env", &c->env, err);
        if (r == 0)
                r = strings_in(run, "Entrypoint", &c->entrypoint, err);
        if (r == 0)
                r = strings_in(run, "Cmd", &c->cmd, err);
        return r;
}

int cas_image_config_parse(const void *data, size_t len, struct cas_image_config *out,
                           struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        cas_cleanup_image_config struct cas_image_config c = {0};
        if (cas_json_parse(data, len, CAS_CONFIG_BYTES_MAX, &j, err) < 0 ||
            config_from_json(j, &c, err) < 0)
                return cas_err_wrap(err, "image config");
        *out = c;
        c = (struct cas_image_config){0};
        return 0;
}

void cas_image_config_release(struct cas_image_config *c)
{
        free(c->user);
        free(c->working_dir);
        strings_free(c->env);
        strings_free(c->entrypoint);
        strings_free(c->cmd);
        free(c->diff_ids);
        *c = (struct cas_image_config){0};
}
