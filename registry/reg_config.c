/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/reg_config.h"

#include <errno.h>
#include <string.h>

#include "registry/access_config.h"
#include "registry/cache_config.h"
#include "registry/purge_config.h"
#include "registry/immutable.h"
#include "registry/operation_config.h"
#include "registry/retention.h"
#include "registry/tls_config.h"
#include "registry/upstream_config.h"
#include "registry/webhook.h"

/* What may be configured: a word of section headers, and who reads it. */
/* clang-format off */
static const struct reg_config_area *const areas[] = {
        &reg_access_area,
        &reg_cache_area,
        &reg_group_area,
        &reg_immutable_area,
        &reg_limits_area,
        &reg_log_area,
        &reg_operation_area,
        &reg_purge_area,
        &reg_retention_area,
        &reg_quota_area,
        &reg_rule_area,
        &reg_tls_area,
        &reg_upstream_area,
        &reg_web_area,
        &reg_webhook_area,
        NULL,
};
/* clang-format on */
_Static_assert(sizeof(areas) / sizeof(areas[0]) <= REG_CONFIG_AREAS_MAX + 1, "room for each");

void reg_config_release(struct reg_config *c)
{
        free(c->listen);
        free(c->trusted_proxies);
        for (size_t i = 0; areas[i]; i++) {
                if (c->areas[i])
                        areas[i]->release(c->areas[i]);
        }
        *c = (struct reg_config){0};
}

static int registry_set(struct reg_config *c, const char *key, const char *value,
                        struct cas_err *err)
{
        const struct {
                const char *key;
                unsigned *to;
                uint64_t max;
                bool seconds;
        } numbers[] = {
                {"threads", &c->threads, 1024, false},
                {"connections", &c->connections_max, 1 << 20, false},
                {"rate_min", &c->rate_min, 1 << 30, false},
                {"idle", &c->idle_s, 86400, true},
                {"header_time", &c->header_s, 86400, true},
        };
        if (strcmp(key, "listen") == 0)
                return reg_config_text(value, &c->listen, err);
        if (strcmp(key, "trusted_proxies") == 0)
                return reg_config_text(value, &c->trusted_proxies, err);
        for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
                uint64_t n = 0;
                if (strcmp(key, numbers[i].key) != 0)
                        continue;
                int rc = numbers[i].seconds ? reg_config_seconds(value, &n, err)
                                            : reg_config_number(value, numbers[i].max, &n, err);
                if (rc == 0 && n > numbers[i].max)
                        rc = cas_fail(err, CAS_E_INVALID, "more than %llu",
                                      (unsigned long long)numbers[i].max);
                if (rc == 0)
                        *numbers[i].to = (unsigned)n;
                return rc;
        }
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

int reg_config_set(struct reg_config *c, const char *section, const char *key, const char *value,
                   bool *known, struct cas_err *err)
{
        size_t word = strcspn(section, " ");
        const char *name = section + word + strspn(section + word, " ");
        *known = true;
        if (strcmp(section, "registry") == 0)
                return registry_set(c, key, value, err);
        for (size_t i = 0; areas[i]; i++) {
                if (strlen(areas[i]->word) == word && memcmp(section, areas[i]->word, word) == 0)
                        return areas[i]->set(&c->areas[i], name, key, value, err);
        }
        *known = false;
        return 0;
}

void *reg_config_area(const struct reg_config *c, const char *word)
{
        size_t i = 0;
        while (areas[i] && strcmp(areas[i]->word, word) != 0)
                i++;
        cas_assert(areas[i] != NULL);
        return c->areas[i];
}

int reg_config_text(const char *value, char **out, struct cas_err *err)
{
        if (!value[0])
                return cas_fail(err, CAS_E_INVALID, "a value is missing");
        free(*out);
        *out = cas_xstrdup(value);
        return 0;
}

int reg_config_switch(const char *value, bool *out, struct cas_err *err)
{
        *out = strcmp(value, "yes") == 0;
        if (*out || strcmp(value, "no") == 0)
                return 0;
        return cas_fail(err, CAS_E_INVALID, "neither yes nor no: %.64s", value);
}

/* Digits, and what follows them. */
static int number_take(const char *value, uint64_t *out, const char **rest, struct cas_err *err)
{
        char *end;
        errno = 0;
        *out = strtoull(value, &end, 10);
        if (value[0] < '0' || value[0] > '9' || errno)
                return cas_fail(err, CAS_E_INVALID, "not a number: %.64s", value);
        *rest = end;
        return 0;
}

int reg_config_number(const char *value, uint64_t max, uint64_t *out, struct cas_err *err)
{
        const char *rest;
        uint64_t n;
        int rc = number_take(value, &n, &rest, err);
        if (rc < 0)
                return rc;
        if (*rest || n > max)
                return cas_fail(err, CAS_E_INVALID, "not a number up to %llu: %.64s",
                                (unsigned long long)max, value);
        *out = n;
        return 0;
}

struct unit {
        const char *text;
        uint64_t factor;
};

static int with_unit(const char *value, const struct unit *units, const char *expected,
                     uint64_t *out, struct cas_err *err)
{
        const char *rest;
        uint64_t n;
        int rc = number_take(value, &n, &rest, err);
        for (; rc == 0 && units->text; units++) {
                if (strcmp(rest, units->text) == 0 && n <= UINT64_MAX / units->factor) {
                        *out = n * units->factor;
                        return 0;
                }
        }
        return rc < 0 ? rc : cas_fail(err, CAS_E_INVALID, "not %s: %.64s", expected, value);
}

int reg_config_bytes(const char *value, uint64_t *out, struct cas_err *err)
{
        static const struct unit units[] = {
                {"", 1},
                {"KiB", UINT64_C(1) << 10},
                {"MiB", UINT64_C(1) << 20},
                {"GiB", UINT64_C(1) << 30},
                {"TiB", UINT64_C(1) << 40},
                {NULL, 0},
        };
        return with_unit(value, units, "a size such as 512MiB", out, err);
}

int reg_config_seconds(const char *value, uint64_t *out, struct cas_err *err)
{
        static const struct unit units[] = {
                {"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {NULL, 0},
        };
        return with_unit(value, units, "a time such as 90s, 5m, 2h or 7d", out, err);
}
