/* SPDX-License-Identifier: Apache-2.0 */
/* What happens in the registry, told to those who listen: webhooks, purges of
 * caches, metrics, retention. */
#ifndef REG_EVENTS_H
#define REG_EVENTS_H

#include "cas/names.h"

enum reg_event_kind {
        REG_EVENT_PULL_MANIFEST,
        REG_EVENT_PULL_BLOB,
        REG_EVENT_PUSH_MANIFEST, /* one for each tag that was set; tag "" when by digest alone */
        REG_EVENT_PUSH_BLOB,
        REG_EVENT_MOUNT_BLOB,
        REG_EVENT_DELETE_MANIFEST,
        REG_EVENT_DELETE_TAG,
        REG_EVENT_DELETE_BLOB,
};

struct reg_http_req;

/* Strings are borrowed for the call, and never NULL. */
struct reg_event {
        enum reg_event_kind kind;
        const char *repo;
        const char *tag;       /* "" when none */
        const char *from_repo; /* of a mount; else "" */
        struct cas_digest digest;
        struct cas_digest before; /* PUSH_MANIFEST: what the tag named before; alg NONE when new */
        const char *media_type;
        uint64_t bytes;
        const char *user;               /* "" when anonymous */
        const char *client;             /* address; "" when the store's own commands did it */
        const char *request_id;         /* "" when there is none */
        const struct reg_http_req *req; /* of the client, for its headers; NULL: none */
};

struct reg_events;
struct reg_events *reg_events_new(void);
void reg_events_free(struct reg_events *e);
/* All listeners are added before the first event. fn is called from many threads at once. Of
 * pushes and deletions it is told when they are durable and before the client is: it may block for
 * a sync, so that what was acknowledged is never forgotten. Of pulls it is told on event threads:
 * it must not block. */
void reg_events_listen(struct reg_events *e, void (*fn)(void *arg, const struct reg_event *event),
                       void *arg);
void reg_events_tell(struct reg_events *e, const struct reg_event *event);

#endif
