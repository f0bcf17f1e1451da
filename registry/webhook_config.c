/* SPDX-License-Identifier: Apache-2.0 */
/* Sections [webhook NAME]. */
#include "registry/webhook.h"

#include <strings.h>

#include "cas/limits.h"

#define TIMEOUT_S 10
#define TIMEOUT_S_MAX 300
#define QUEUE_BYTES (16 * CAS_MIB)
#define QUEUE_BYTES_MIN (128 * CAS_KIB)
#define QUEUE_BYTES_MAX (1 * CAS_GIB)

static const struct {
        const char *word;
        enum reg_webhook_action action;
} actions[] = {
        {"push", REG_WEBHOOK_PUSH},
        {"pull", REG_WEBHOOK_PULL},
        {"delete", REG_WEBHOOK_DELETE},
        {"mount", REG_WEBHOOK_MOUNT},
};

static bool name_valid(const char *name)
{
        size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_");
        return len > 0 && !name[len] && len < REG_WEBHOOK_NAME_BYTES;
}

static struct reg_webhook_config *hook_of(void **area, const char *name, struct cas_err *err)
{
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_webhooks_config));
        struct reg_webhooks_config *c = *area;
        for (size_t i = 0; i < c->count; i++) {
                if (strcmp(c->hooks[i]->name, name) == 0)
                        return c->hooks[i];
        }
        if (!name_valid(name)) {
                (void)cas_fail(err, CAS_E_INVALID,
                               "[webhook NAME]: a name of lower-case letters, digits, - and _");
                return NULL;
        }
        if (c->count == REG_WEBHOOKS_MAX) {
                (void)cas_fail(err, CAS_E_LIMIT, "more than %d webhooks", REG_WEBHOOKS_MAX);
                return NULL;
        }
        struct reg_webhook_config *hook = c->hooks[c->count++] = cas_xcalloc(1, sizeof(*hook));
        memcpy(hook->name, name, strlen(name) + 1);
        hook->actions = REG_WEBHOOK_PUSH | REG_WEBHOOK_DELETE;
        hook->timeout_s = TIMEOUT_S;
        hook->queue_bytes = QUEUE_BYTES;
        return hook;
}

static int set_url(struct reg_webhook_config *hook, const char *value, struct cas_err *err)
{
        if (strncmp(value, "http://", 7) != 0 && strncmp(value, "https://", 8) != 0)
                return cas_fail(err, CAS_E_INVALID, "neither http:// nor https://: %.64s", value);
        return reg_config_text(value, &hook->url, err);
}

static int add_header(struct reg_webhook_config *hook, const char *value, struct cas_err *err)
{
        static const char name_bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                         "0123456789-_";
        size_t len = strspn(value, name_bytes);
        if (len == 0 || value[len] != ':')
                return cas_fail(err, CAS_E_INVALID, "not \"Name: value\": %.64s", value);
        if (hook->header_count == REG_WEBHOOK_HEADERS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d headers", REG_WEBHOOK_HEADERS_MAX);
        hook->headers[hook->header_count++] = cas_xstrdup(value);
        return 0;
}

static int set_actions(struct reg_webhook_config *hook, const char *value, struct cas_err *err)
{
        unsigned set = 0;
        for (const char *at = value; *(at += strspn(at, " \t,"));) {
                size_t len = strcspn(at, " \t,"), i = 0;
                while (i < CAS_COUNT(actions) &&
                       (strlen(actions[i].word) != len || memcmp(actions[i].word, at, len) != 0))
                        i++;
                if (i == CAS_COUNT(actions))
                        return cas_fail(err, CAS_E_INVALID,
                                        "not push, pull, delete or mount: %.64s", at);
                set |= actions[i].action;
                at += len;
        }
        if (set == 0)
                return cas_fail(err, CAS_E_INVALID, "an action is missing");
        hook->actions = set;
        return 0;
}

static int set_size(struct reg_webhook_config *hook, const char *value, struct cas_err *err)
{
        uint64_t bytes;
        int rc = reg_config_bytes(value, &bytes, err);
        if (rc < 0)
                return rc;
        if (bytes < QUEUE_BYTES_MIN || bytes > QUEUE_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "not from 128KiB to 1GiB: %.64s", value);
        hook->queue_bytes = bytes;
        return 0;
}

static int set_timeout(struct reg_webhook_config *hook, const char *value, struct cas_err *err)
{
        uint64_t s;
        int rc = reg_config_seconds(value, &s, err);
        if (rc < 0)
                return rc;
        if (s == 0 || s > TIMEOUT_S_MAX)
                return cas_fail(err, CAS_E_INVALID, "not from 1s to 5m: %.64s", value);
        hook->timeout_s = s;
        return 0;
}

static int webhook_set(void **area, const char *name, const char *key, const char *value,
                       struct cas_err *err)
{
        struct reg_webhook_config *hook = hook_of(area, name, err);
        if (!hook)
                return -(int)err->code;
        if (strcmp(key, "url") == 0)
                return set_url(hook, value, err);
        if (strcmp(key, "header") == 0)
                return add_header(hook, value, err);
        if (strcmp(key, "secret") == 0)
                return reg_config_text(value, &hook->secret, err);
        if (strcmp(key, "actions") == 0)
                return set_actions(hook, value, err);
        if (strcmp(key, "blobs") == 0)
                return reg_config_switch(value, &hook->blobs, err);
        if (strcmp(key, "repositories") == 0)
                return reg_globs_add(&hook->repositories, value, err);
        if (strcmp(key, "timeout") == 0)
                return set_timeout(hook, value, err);
        if (strcmp(key, "queue") == 0)
                return set_size(hook, value, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void webhook_release(void *area)
{
        struct reg_webhooks_config *c = area;
        for (size_t i = 0; c && i < c->count; i++) {
                struct reg_webhook_config *hook = c->hooks[i];
                free(hook->url);
                free(hook->secret);
                for (size_t h = 0; h < hook->header_count; h++)
                        free(hook->headers[h]);
                reg_globs_release(&hook->repositories);
                free(hook);
        }
        free(c);
}

const struct reg_config_area reg_webhook_area = {"webhook", webhook_set, webhook_release};
