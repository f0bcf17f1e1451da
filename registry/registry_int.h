/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the registry share: one file per noun (blobs.c, uploads.c,
 * manifests.c, tags.c, referrers.c, peer_serve.c), content.c for what is served by digest,
 * decode.c for layers that are decoded in the background.
 *
 * Handlers that only look run in begin, on an event thread; whatever waits for
 * the disk (publications, ends of uploads) runs in end, on a worker's. */
#ifndef REG_REGISTRY_INT_H
#define REG_REGISTRY_INT_H

#include "cas/blob.h"
#include "cas/image.h"
#include "cas/publish.h"
#include "registry/cachepolicy.h"
#include "registry/reg_access.h"
#include "registry/answers.h"
#include "registry/events.h"
#include "registry/purge.h"
#include "registry/http.h"
#include "registry/immutable.h"
#include "registry/reg_err.h"
#include "registry/registry.h"
#include "registry/route.h"

struct reg_decoder;
struct reg_shared_blobs;
struct reg_operation;
struct reg_peer_sets;

/* What is said when reg_access_room is too little. */
#define REG_NO_ROOM "there is no room left: the quota is used up"
struct reg_upstreams;

struct reg_registry {
        struct cas_store *store;         /* borrowed */
        const struct reg_config *config; /* borrowed */
        struct reg_http_server *http;
        struct reg_decoder *decoder;
        struct reg_access *access;
        struct reg_events *events;
        struct reg_upstreams *upstreams;
        struct reg_cachepolicy *caches;
        struct reg_shared_blobs *shared; /* NULL: not configured */
        struct reg_purger *purger;       /* NULL: not configured */
        struct reg_operation *operation;
        struct reg_peer_sets *peer_sets;       /* peer_serve.c */
        const struct reg_immutable *immutable; /* the configuration's; may be NULL */
        struct reg_answers *answers;
};

#define REG_REQUEST_ID_BYTES 65
/* What is kept with a request (reg_http_set_context) whose sender is known. */
struct reg_context {
        struct reg_identity identity;
        char id[REG_REQUEST_ID_BYTES]; /* the client's X-Request-Id, or one of our own */
};

/* One request on its way through a handler: who asks is known, and that they may. May be copied;
 * what it borrows lives as long as the request. */
struct reg_call {
        struct reg_registry *registry;
        struct cas_store *store;
        struct reg_http_req *req;
        struct reg_route route;
        const struct reg_identity *identity; /* borrowed from the request's context */
        const char *id;                      /* of the request; likewise */
        /* The answer depends on nothing but the target, the repository's names and the
         * configuration, and may be kept for others who may have it (registry/answers.h). A handler
         * of which that is not true clears it. */
        bool keep;
        uint64_t names_generation; /* from before anything was looked up */
};
typedef void (*reg_handler)(struct reg_call *call);

/* Tells of what was asked for and done, once it is durable and before the answer. Fills in the
 * repository, who asks, and "" for texts that are NULL. */
void reg_call_tell(const struct reg_call *call, struct reg_event event);

void reg_ping(struct reg_call *call);
void reg_catalog(struct reg_call *call);
void reg_blob_get(struct reg_call *call);
void reg_blob_delete(struct reg_call *call);
void reg_upload_create(struct reg_call *call);
void reg_upload_list(struct reg_call *call);
void reg_upload_status(struct reg_call *call);
void reg_upload_patch(struct reg_call *call);
void reg_upload_put(struct reg_call *call);
void reg_upload_delete(struct reg_call *call);
void reg_manifest_get(struct reg_call *call);
void reg_manifest_put(struct reg_call *call);
void reg_manifest_delete(struct reg_call *call);
void reg_tags_list(struct reg_call *call);
void reg_referrers_list(struct reg_call *call);
void reg_peer_get(struct reg_call *call);
void reg_extensions_get(struct reg_call *call);

/* Work without a body that waits for the disk: `work` runs on a worker's thread and answers.
 * The call is copied; route.last stays valid. A body that comes nevertheless is ignored. */
void reg_call_work(const struct reg_call *call, reg_handler work);

/* content.c: what a digest names, served whole, in part, by its headers or not at all (304). */
struct reg_content {
        enum reg_event_kind pull; /* what sending it is */
        const struct cas_digest *digest;
        uint64_t size_bytes;
        const char *media_type;
        const char *tag; /* that it was asked for by; NULL: by digest */
};
/* Answers a GET or HEAD with the verbatim bytes of a blob that the caller may see; 404 when the
 * store has lost them. Fills in size_bytes. True when that is a pull: the content is on its way,
 * from its first byte. */
bool reg_reply_content(struct reg_call *call, struct reg_content *content, enum reg_about about);
/* A list made for this request, with an entity tag over its bytes. Takes the body. */
void reg_reply_list(struct reg_call *call, const char *media_type, struct cas_buf *body);

/* shared_blobs.c. *out NULL: not configured. config (may be NULL) is borrowed. */
int reg_shared_blobs_new(struct cas_store *s, const struct reg_cache_config *config,
                         struct reg_shared_blobs **out, struct cas_err *err) CAS_MUST_CHECK;
void reg_shared_blobs_free(struct reg_shared_blobs *b); /* NULL is nothing */
int reg_shared_blobs_reload(struct reg_shared_blobs *b, struct cas_err *err) CAS_MUST_CHECK;
/* Sends who may pull the blob to the address that all share, where that is wanted. False: it is
 * not, and nothing was answered. */
bool reg_shared_blob_redirect(struct reg_call *call, const struct cas_digest *digest,
                              uint64_t *out_bytes);
/* Answers a request for such an address, whoever asks: its signature is what counts. False: it is
 * for none. */
bool reg_shared_blob_serve(struct reg_registry *registry, struct reg_http_req *req);

/* Whether the query asks for pages, and how large. False: answered with an error. */
#define REG_PAGE_MAX 10000
bool reg_page_size(struct reg_call *call, uint64_t absent, uint64_t max, bool clamp, uint64_t *out);

/* decode.c: makes pushed images ready to be mounted, one layer after the other, on a thread of
 * its own; also drops upload sessions that nobody came back to. */
struct reg_decoder *reg_decoder_start(struct cas_store *store);
/* Queues the layers of an image; what does not fit in the queue is left to the first use. */
void reg_decoder_add(struct reg_decoder *d, const struct cas_manifest *manifest);
/* Ends after the layer that is being decoded. */
void reg_decoder_stop(struct reg_decoder *d);

#endif
