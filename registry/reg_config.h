/* SPDX-License-Identifier: Apache-2.0 */
/* The registry's part of the configuration file (lamina-serve(1)): sections of
 * words and an optional name, "[upstream docker.io]". Each area reads its own. */
#ifndef REG_CONFIG_H
#define REG_CONFIG_H

#include "cas/buf.h"

/* An area's settings. name: what follows the word in the section's header, "" when nothing does.
 * Errors: NOTFOUND (no such key), INVALID (the message says what is expected). */
struct reg_config_area {
        const char *word; /* of the section */
        int (*set)(void **area, const char *name, const char *key, const char *value,
                   struct cas_err *err);
        void (*release)(void *area); /* NULL is nothing */
};

#define REG_CONFIG_AREAS_MAX 24
struct reg_config {
        char *listen;                                         /* owned; NULL: no registry */
        unsigned threads;                                     /* 0: one per CPU */
        unsigned connections_max, idle_s, header_s, rate_min; /* 0: as reg_http_config has them */
        char *trusted_proxies;             /* owned; NULL: none (reg_http_config) */
        void *areas[REG_CONFIG_AREAS_MAX]; /* in the order of the table in reg_config.c */
        /* Appends what others count to /metrics; may be NULL. From many threads. */
        void (*more_metrics)(void *arg, struct cas_buf *out);
        void *more_metrics_arg;
};
void reg_config_release(struct reg_config *c);
/* One line of the file. *known false: the section is none of the registry's. */
int reg_config_set(struct reg_config *c, const char *section, const char *key, const char *value,
                   bool *known, struct cas_err *err) CAS_MUST_CHECK;
/* What was set under the word, NULL when nothing was; asserts that there is such a word. */
void *reg_config_area(const struct reg_config *c, const char *word);

/* For the areas: values of several kinds. Errors: INVALID. */
int reg_config_text(const char *value, char **out, struct cas_err *err) CAS_MUST_CHECK;
int reg_config_switch(const char *value, bool *out, struct cas_err *err) CAS_MUST_CHECK;
int reg_config_number(const char *value, uint64_t max, uint64_t *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* "10", "4KiB", "1GiB"; "90s", "5m", "2h", "7d". */
int reg_config_bytes(const char *value, uint64_t *out, struct cas_err *err) CAS_MUST_CHECK;
int reg_config_seconds(const char *value, uint64_t *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
