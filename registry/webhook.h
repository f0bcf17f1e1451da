/* SPDX-License-Identifier: Apache-2.0 */
/* Webhooks: what happens in the registry is told to other programs by POST, in
 * the envelope that docker's registry uses (spec/registry-operation.md). Each
 * endpoint has a queue and a thread of its own, so that one that is dead holds
 * up nobody; order is kept per endpoint, and what was acknowledged to a client
 * is delivered at least once. */
#ifndef REG_WEBHOOK_H
#define REG_WEBHOOK_H

#include "cas/store.h"
#include "registry/events.h"
#include "registry/glob.h"
#include "registry/reg_config.h"

#define REG_WEBHOOK_NAME_BYTES 33
#define REG_WEBHOOKS_MAX 16
#define REG_WEBHOOK_HEADERS_MAX 16

enum reg_webhook_action {
        REG_WEBHOOK_PUSH = 1,
        REG_WEBHOOK_PULL = 2,
        REG_WEBHOOK_DELETE = 4,
        REG_WEBHOOK_MOUNT = 8,
};

struct reg_webhook_config {
        char name[REG_WEBHOOK_NAME_BYTES];
        char *url; /* owned, as the texts that follow */
        size_t header_count;
        char *headers[REG_WEBHOOK_HEADERS_MAX + 1]; /* "Name: value"; NULL at the end */
        char *secret;                               /* NULL: not signed */
        unsigned actions;                           /* enum reg_webhook_action */
        bool blobs;                                 /* events of blobs, too */
        struct reg_globs repositories;              /* none: all */
        uint64_t timeout_s;
        uint64_t queue_bytes;
};
struct reg_webhooks_config {
        size_t count;
        struct reg_webhook_config *hooks[REG_WEBHOOKS_MAX]; /* owned */
};
extern const struct reg_config_area reg_webhook_area;

/* Who sends: one POST, to its end. *status: of the answer. Errors: whatever kept it from one. */
struct reg_webhook_sender {
        int (*send)(void *arg, const struct reg_webhook_config *hook, const char *const *headers,
                    const void *body, size_t len, unsigned *status, struct cas_err *err);
        void *arg; /* outlives the webhooks */
};

struct reg_webhooks;
/* config NULL: no webhooks, *out is NULL. It is borrowed, as the store. Opens the queues, which go
 * on where they ended, and listens. sender NULL: by HTTP. */
int reg_webhooks_start(struct cas_store *store, const struct reg_webhooks_config *config,
                       const struct reg_webhook_sender *sender, struct reg_events *events,
                       struct reg_webhooks **out, struct cas_err *err) CAS_MUST_CHECK;
/* What was not delivered stays in the queues. NULL is nothing. */
void reg_webhooks_stop(struct reg_webhooks *w);

struct reg_webhook_stats {
        const char *name;
        uint64_t pending_events, pending_bytes;
        uint64_t delivered, failed; /* events; attempts */
        uint64_t dropped;           /* events for which there was no room */
};
size_t reg_webhooks_count(const struct reg_webhooks *w); /* NULL: 0 */
void reg_webhooks_stats(struct reg_webhooks *w, size_t i, struct reg_webhook_stats *out);

/* webhook_event.c: an event as text, appended. */
struct reg_webhook_event_context {
        struct cas_store *store; /* for what a manifest refers to; NULL: not looked up */
        const char *source;      /* host name */
        const char *id;
        uint64_t unix_ns;
};
void reg_webhook_event_json(const struct reg_webhook_event_context *context,
                            const struct reg_event *event, struct cas_buf *out);
enum reg_webhook_action reg_webhook_action_of(enum reg_event_kind kind);
/* "sha256=" and the HMAC of the body, in hex; out has REG_WEBHOOK_SIGNATURE_BYTES. */
#define REG_WEBHOOK_SIGNATURE_BYTES 72
void reg_webhook_sign(const char *secret, const void *body, size_t len,
                      char out[REG_WEBHOOK_SIGNATURE_BYTES]);

#endif
