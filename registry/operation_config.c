/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/operation_config.h"

#include "cas/limits.h"

static const struct reg_operation_config operation_default = {
        .metrics_for = REG_METRICS_LOOPBACK,
        .min_free_bytes = 256 * CAS_MIB,
        .stats_every_s = 300,
        .retention_every_s = 3600,
};
static const struct reg_log_config log_default = {.access = REG_ACCESS_LOG_OFF};
static const struct reg_web_config web_default = {.enabled = false};

const struct reg_operation_config *reg_operation_config(const struct reg_config *c)
{
        const struct reg_operation_config *area = reg_config_area(c, "operation");
        return area ? area : &operation_default;
}

const struct reg_log_config *reg_log_config(const struct reg_config *c)
{
        const struct reg_log_config *area = reg_config_area(c, "log");
        return area ? area : &log_default;
}

const struct reg_web_config *reg_web_config(const struct reg_config *c)
{
        const struct reg_web_config *area = reg_config_area(c, "web");
        return area ? area : &web_default;
}

/* Sections that there is one of. The area, made of its defaults when it is not there. */
static void *single(void **area, const char *name, const void *defaults, size_t bytes,
                    struct cas_err *err)
{
        if (name[0]) {
                (void)cas_fail(err, CAS_E_INVALID, "this section has no name");
                return NULL;
        }
        if (!*area) {
                *area = cas_xmalloc(bytes);
                memcpy(*area, defaults, bytes);
        }
        return *area;
}

/* The place of a word in a list. */
static bool word_place(const char *value, const char *const *words, size_t count, size_t *out)
{
        for (*out = 0; *out < count; ++*out) {
                if (strcmp(words[*out], value) == 0)
                        return true;
        }
        return false;
}

static int operation_set(void **area, const char *name, const char *key, const char *value,
                         struct cas_err *err)
{
        static const char *const who[] = {"loopback", "all", "no"};
        struct reg_operation_config *c = single(area, name, &operation_default, sizeof(*c), err);
        size_t at = 0;
        if (!c)
                return -(int)err->code;
        if (strcmp(key, "listen") == 0)
                return reg_config_text(value, &c->listen, err);
        if (strcmp(key, "min_free") == 0)
                return reg_config_bytes(value, &c->min_free_bytes, err);
        if (strcmp(key, "stats_every") == 0)
                return reg_config_seconds(value, &c->stats_every_s, err);
        if (strcmp(key, "retention_every") == 0)
                return reg_config_seconds(value, &c->retention_every_s, err);
        if (strcmp(key, "metrics") != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
        if (!word_place(value, who, CAS_COUNT(who), &at))
                return cas_fail(err, CAS_E_INVALID, "neither loopback nor all nor no: %.64s",
                                value);
        c->metrics_for = (enum reg_metrics_for)at;
        return 0;
}

static void operation_free(void *area)
{
        struct reg_operation_config *c = area;
        free(c->listen);
        free(c);
}

static int log_set(void **area, const char *name, const char *key, const char *value,
                   struct cas_err *err)
{
        static const char *const formats[] = {"off", "json", "combined"};
        struct reg_log_config *c = single(area, name, &log_default, sizeof(*c), err);
        size_t at = 0;
        if (!c)
                return -(int)err->code;
        if (strcmp(key, "file") == 0) {
                if (value[0] != '/' && strcmp(value, "stderr") != 0)
                        return cas_fail(err, CAS_E_INVALID,
                                        "neither stderr nor an absolute path: %.64s", value);
                free(c->file);
                c->file = value[0] == '/' ? cas_xstrdup(value) : NULL;
                return 0;
        }
        if (strcmp(key, "access") != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
        if (!word_place(value, formats, CAS_COUNT(formats), &at))
                return cas_fail(err, CAS_E_INVALID, "neither json nor combined nor off: %.64s",
                                value);
        c->access = (enum reg_access_log_format)at;
        return 0;
}

static void log_free(void *area)
{
        struct reg_log_config *c = area;
        free(c->file);
        free(c);
}

static int web_set(void **area, const char *name, const char *key, const char *value,
                   struct cas_err *err)
{
        struct reg_web_config *c = single(area, name, &web_default, sizeof(*c), err);
        if (!c)
                return -(int)err->code;
        if (strcmp(key, "enabled") == 0)
                return reg_config_switch(value, &c->enabled, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

const struct reg_config_area reg_operation_area = {"operation", operation_set, operation_free};
const struct reg_config_area reg_log_area = {"log", log_set, log_free};
const struct reg_config_area reg_web_area = {"web", web_set, free};
