/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/config.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>

#include "cas/limits.h"
#include "tools/care_defaults.h"
#include "tools/options.h"

#define THREADS_MAX 1024
#define LOCK_WAIT_S_DEFAULT 30
#define LEARN_S_MAX 3600
#define TIME_S_MAX (10 * 365 * 24 * 3600)
#define SOURCE_WAIT_S_MAX 3600
#define LOCK_WAIT_S_MAX 86400
#define BLOB_CACHE_BYTES_DEFAULT CAS_GIB
#define CONDENSE_SHARE_DEFAULT 50
#define REGENERATIONS_MAX 1024

void config_init(struct config *c)
{
        *c = (struct config){
                .lock_wait_s = LOCK_WAIT_S_DEFAULT,
                .blob_cache_bytes = BLOB_CACHE_BYTES_DEFAULT,
                .condense = true,
                .condense_share_percent = CONDENSE_SHARE_DEFAULT,
                .gc_every_s = GC_EVERY_DEFAULT_S,
                .gc_grace_s = GC_GRACE_DEFAULT_S,
                .gc_share_percent = GC_SHARE_DEFAULT,
                .gc_live_percent = GC_LIVE_PERCENT_DEFAULT,
                .scrub_every_s = SCRUB_EVERY_DEFAULT_S,
                .scrub_rate_bytes = SCRUB_RATE_DEFAULT,
                .scrub_share_percent = SCRUB_SHARE_DEFAULT,
                .scrub_repair = true,
        };
}

void config_release(struct config *c)
{
        free(c->store_path);
        reg_config_release(&c->registry);
        *c = (struct config){0};
}

struct parse {
        struct config *config;
        struct cas_err *err; /* of the first line that is wrong */
        bool failed;
};

static bool number_set(const char *text, unsigned max, unsigned *out)
{
        char *end;
        unsigned long v = strtoul(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || v > max)
                return false;
        *out = (unsigned)v;
        return true;
}

static bool switch_set(const char *text, bool *out)
{
        *out = strcmp(text, "yes") == 0;
        return *out || strcmp(text, "no") == 0;
}

/* 1 to 100. */
static bool share_set(const char *text, unsigned *out)
{
        return number_set(text, 100, out) && *out > 0;
}

/* Seconds, or "10m" and the like. */
static bool time_set(const char *text, uint64_t *out)
{
        struct cas_err err = CAS_ERR_INIT;
        return reg_config_seconds(text, out, &err) == 0 && *out <= TIME_S_MAX;
}

static bool codec_set(const char *text, bool *out_cold)
{
        *out_cold = strcmp(text, "cold") == 0;
        return *out_cold || strcmp(text, "default") == 0;
}

static bool text_set(const char *text, char **out)
{
        free(*out);
        *out = cas_xstrdup(text);
        return text[0] != '\0';
}

static bool trees_set(const char *text, bool *out_flat)
{
        *out_flat = strcmp(text, "flat") == 0;
        return *out_flat || strcmp(text, "shared") == 0;
}

static bool confine_set(const char *text, enum decoder_confine *out)
{
        static const char *const words[] = {
                [DECODER_AUTO] = "auto", [DECODER_REQUIRE] = "require", [DECODER_OFF] = "off"};
        for (size_t i = 0; i < CAS_COUNT(words); i++) {
                if (strcmp(text, words[i]) != 0)
                        continue;
                *out = (enum decoder_confine)i;
                return true;
        }
        return false;
}

/* A line of the registry's sections. */
static bool registry_line(struct parse *p, const char *section, const char *key, const char *value,
                          bool *known)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = reg_config_set(&p->config->registry, section, key, value, known, &err);
        if (rc < 0 && !p->failed) {
                (void)cas_fail(p->err, CAS_E_INVALID, "[%s] %s: %s", section, key, err.msg);
                p->failed = true;
        }
        return rc == 0;
}

/* A line of what looks after the store. */
static bool care_line(struct config *c, const char *name, const char *value, bool *known)
{
        if (strcmp(name, "gc.every") == 0)
                return time_set(value, &c->gc_every_s);
        if (strcmp(name, "gc.grace") == 0)
                return time_set(value, &c->gc_grace_s);
        if (strcmp(name, "gc.share") == 0)
                return share_set(value, &c->gc_share_percent);
        if (strcmp(name, "gc.live") == 0)
                return number_set(value, 100, &c->gc_live_percent);
        if (strcmp(name, "scrub.every") == 0)
                return time_set(value, &c->scrub_every_s);
        if (strcmp(name, "scrub.rate") == 0)
                return cli_bytes_parse(value, &c->scrub_rate_bytes);
        if (strcmp(name, "scrub.share") == 0)
                return share_set(value, &c->scrub_share_percent);
        if (strcmp(name, "scrub.repair") == 0)
                return switch_set(value, &c->scrub_repair);
        *known = false;
        return false;
}

/* Returns 0 for a line that is wrong, as inih wants it. */
static int line_seen(void *user, const char *section, const char *key, const char *value)
{
        struct parse *p = user;
        struct config *c = p->config;
        cas_cleanup_free char *name = cas_xasprintf("%s.%s", section, key);
        bool known = true, good = registry_line(p, section, key, value, &known);
        if (known)
                return good;
        known = true;
        good = false;
        if (strcmp(name, "store.path") == 0)
                good = value[0] == '/' && text_set(value, &c->store_path);
        else if (strcmp(name, "store.threads") == 0)
                good = number_set(value, THREADS_MAX, &c->store_threads);
        else if (strcmp(name, "store.lock_wait_s") == 0)
                good = number_set(value, LOCK_WAIT_S_MAX, &c->lock_wait_s);
        else if (strcmp(name, "store.trees") == 0)
                good = trees_set(value, &c->flat_trees);
        else if (strcmp(name, "store.blob_cache") == 0)
                good = cli_bytes_parse(value, &c->blob_cache_bytes);
        else if (strcmp(name, "store.regenerations") == 0)
                good = number_set(value, REGENERATIONS_MAX, &c->regenerations);
        else if (strcmp(name, "decode.confine") == 0)
                good = confine_set(value, &c->confine);
        else if (strcmp(name, "mount.source_wait_s") == 0)
                good = number_set(value, SOURCE_WAIT_S_MAX, &c->source_wait_s) &&
                       c->source_wait_s > 0;
        else if (strcmp(name, "mount.learn_s") == 0)
                good = number_set(value, LEARN_S_MAX, &c->learn_s) && c->learn_s > 0;
        else if (strcmp(name, "condense.background") == 0)
                good = switch_set(value, &c->condense);
        else if (strcmp(name, "condense.share") == 0)
                good = share_set(value, &c->condense_share_percent);
        else if (strcmp(name, "condense.codec") == 0)
                good = codec_set(value, &c->condense_cold);
        else
                good = care_line(c, name, value, &known);
        if (good)
                return 1;
        if (!p->failed && known)
                (void)cas_fail(p->err, CAS_E_INVALID, "%s: bad value: %s", name, value);
        else if (!p->failed)
                (void)cas_fail(p->err, CAS_E_INVALID, "%s: no such setting", name);
        p->failed = true;
        return 0;
}

int config_read(const char *path, struct config *c, struct cas_err *err)
{
        struct parse p = {.config = c, .err = err};
        errno = 0;
        int line = ini_parse(path, line_seen, &p);
        if (line == 0)
                return 0;
        if (line < 0)
                return cas_fail_sys(err, errno ? errno : EIO, "%s", path);
        if (!p.failed)
                return cas_fail(err, CAS_E_INVALID, "%s: line %d: not understood", path, line);
        return cas_err_wrap(err, "%s: line %d", path, line);
}
