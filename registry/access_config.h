/* SPDX-License-Identifier: Apache-2.0 */
/* What the configuration says about access (spec/registry-access.md): the
 * sections [access], [rule NAME], [group NAME], [limits] and [quota NAME].
 * Filled in line by line, then never changed. */
#ifndef REG_ACCESS_CONFIG_H
#define REG_ACCESS_CONFIG_H

#include "registry/reg_access.h"
#include "registry/reg_config.h"

struct cas_store;

#define REG_WORDS_MAX 4096
struct reg_words {
        size_t count;
        char **items; /* owned */
};

enum reg_audit { REG_AUDIT_CHANGES, REG_AUDIT_ALL, REG_AUDIT_OFF };

/* [access] */
struct reg_access_settings {
        char *htpasswd; /* all owned; NULL when not set */
        char *realm, *service, *issuer;
        char *token_key;             /* private key that our own tokens are signed with */
        char *token_keys;            /* public keys of an outside issuer: PEM or JWKS */
        char *token_keys_url;        /* the same, fetched */
        char *token_keys_ca;         /* certificates that vouch for the URL's host */
        bool basic;                  /* the challenge; else Bearer */
        bool certificates;           /* a client's certificate says who asks */
        enum reg_audit audit;        /* which requests are told */
        uint64_t token_lifetime_s;   /* 0: the default */
        uint64_t refresh_lifetime_s; /* 0: the default */
};

/* [rule NAME]: what the users may (allow) or may not (deny) do to the repositories. */
struct reg_access_rule {
        char *name;                           /* owned */
        struct reg_words repositories, users; /* as written */
        unsigned allow, deny;                 /* enum reg_action */
};
struct reg_access_rules {
        size_t count;
        struct reg_access_rule *items; /* owned; in the order of the file */
};

/* [group NAME] */
struct reg_access_group {
        char *name; /* owned */
        struct reg_words users;
};
struct reg_access_groups {
        size_t count;
        struct reg_access_group *items; /* owned */
};

/* "100/s per client burst 200" */
struct reg_rate {
        uint64_t count; /* 0: no limit */
        uint64_t period_s;
        uint64_t burst;
        bool per_user; /* who has no name is told by the address */
};
/* [limits] */
#define REG_RATES_MAX 4 /* lines of one kind */
struct reg_access_limits {
        size_t request_count, pull_count;
        struct reg_rate requests[REG_RATES_MAX]; /* of any kind */
        struct reg_rate pulls[REG_RATES_MAX];    /* of manifests by GET */
        struct reg_rate failed_logins;           /* per address */
};

/* [quota NAME] */
struct reg_access_quota {
        char *name; /* owned */
        struct reg_words repositories;
        uint64_t bytes;
        bool together; /* all repositories share it; else each has its own */
};
struct reg_access_quotas {
        size_t count;
        struct reg_access_quota *items; /* owned */
};

/* Borrowed parts; each may be NULL. */
struct reg_access_config {
        const struct reg_access_settings *settings;
        const struct reg_access_rules *rules;
        const struct reg_access_groups *groups;
        const struct reg_access_limits *limits;
        const struct reg_access_quotas *quotas;
        struct cas_store *store; /* holds the key of our own tokens; quotas count what is in it */
};

extern const struct reg_config_area reg_access_area, reg_rule_area, reg_group_area, reg_limits_area,
        reg_quota_area;

/* What was configured; false: nothing of it, everybody may do everything. */
bool reg_access_configured(const struct reg_config *c, struct cas_store *store,
                           struct reg_access_config *out);

/* "100/s per user burst 20". Errors: INVALID. */
int reg_rate_parse(const char *text, struct reg_rate *out, struct cas_err *err) CAS_MUST_CHECK;
/* "pull, push, delete" or "all" as bits. Errors: INVALID. */
int reg_actions_parse(const char *text, unsigned *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
