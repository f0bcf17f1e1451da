/* SPDX-License-Identifier: Apache-2.0 */
/* Events as text: application/vnd.docker.distribution.events.v1+json. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <time.h>

#include "cas/blob.h"
#include "cas/image.h"
#include "cas/json.h"
#include "registry/http.h"
#include "registry/webhook.h"

#define REFERENCES_MAX 200 /* an event must stay below REG_HOOKQUEUE_EVENT_BYTES_MAX */
#define HEADER_BYTES_MAX 512

enum reg_webhook_action reg_webhook_action_of(enum reg_event_kind kind)
{
        switch (kind) {
        case REG_EVENT_PULL_MANIFEST:
        case REG_EVENT_PULL_BLOB:
                return REG_WEBHOOK_PULL;
        case REG_EVENT_PUSH_MANIFEST:
        case REG_EVENT_PUSH_BLOB:
                return REG_WEBHOOK_PUSH;
        case REG_EVENT_MOUNT_BLOB:
                return REG_WEBHOOK_MOUNT;
        case REG_EVENT_DELETE_MANIFEST:
        case REG_EVENT_DELETE_TAG:
        case REG_EVENT_DELETE_BLOB:
                return REG_WEBHOOK_DELETE;
        }
        return 0;
}

static const char *action_text(enum reg_event_kind kind)
{
        switch (reg_webhook_action_of(kind)) {
        case REG_WEBHOOK_PULL:
                return "pull";
        case REG_WEBHOOK_PUSH:
                return "push";
        case REG_WEBHOOK_MOUNT:
                return "mount";
        case REG_WEBHOOK_DELETE:
                return "delete";
        }
        return "";
}

static bool about_blob(enum reg_event_kind kind)
{
        return kind == REG_EVENT_PULL_BLOB || kind == REG_EVENT_PUSH_BLOB ||
               kind == REG_EVENT_MOUNT_BLOB || kind == REG_EVENT_DELETE_BLOB;
}

/* Text of a client's: bytes that are no UTF-8 would make the whole no JSON. */
static json_t *client_text(const char *text)
{
        char plain[HEADER_BYTES_MAX];
        size_t len = 0;
        for (; text && text[len] && len < sizeof(plain) - 1; len++)
                plain[len] = text[len] >= ' ' && text[len] < 0x7f ? text[len] : '?';
        return json_stringn(plain, len);
}

static void set_text(json_t *object, const char *key, const char *value)
{
        if (value[0])
                (void)json_object_set_new(object, key, client_text(value));
}

static json_t *descriptor_json(const struct cas_descriptor *d)
{
        char digest[CAS_DIGEST_TEXT_BYTES];
        json_t *j = json_object();
        set_text(j, "mediaType", d->media_type);
        (void)json_object_set_new(j, "size", json_integer((json_int_t)d->size_bytes));
        set_text(j, "digest", cas_digest_text(&d->digest, digest));
        return j;
}

/* What a pushed manifest names. It was there a moment ago; if it is not, it names nothing. */
static json_t *references(struct cas_store *store, const struct reg_event *event)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_err err = CAS_ERR_INIT;
        const char *type = event->media_type[0] ? event->media_type : NULL;
        if (cas_blob_read(store, &event->digest, CAS_MANIFEST_BYTES_MAX, &bytes, &err) < 0 ||
            cas_manifest_parse(bytes.data, bytes.len_bytes, type, &m, &err) < 0)
                return NULL;
        json_t *list = json_array();
        if (m.kind == CAS_MANIFEST_IMAGE)
                (void)json_array_append_new(list, descriptor_json(&m.config));
        for (size_t i = 0; i < m.child_count && i < REFERENCES_MAX; i++)
                (void)json_array_append_new(list, descriptor_json(&m.children[i]));
        return list;
}

static json_t *target_json(const struct reg_webhook_event_context *context,
                           const struct reg_event *event)
{
        char digest[CAS_DIGEST_TEXT_BYTES] = "";
        json_t *t = json_object();
        set_text(t, "mediaType", event->media_type);
        if (event->digest.alg != CAS_DIGEST_NONE) {
                set_text(t, "digest", cas_digest_text(&event->digest, digest));
                (void)json_object_set_new(t, "size", json_integer((json_int_t)event->bytes));
                (void)json_object_set_new(t, "length", json_integer((json_int_t)event->bytes));
        }
        set_text(t, "repository", event->repo);
        set_text(t, "fromRepository", event->from_repo);
        set_text(t, "tag", event->tag);
        const char *host = event->req ? reg_http_header(event->req, "Host") : NULL;
        if (host && digest[0]) {
                cas_cleanup_free char *url = cas_xasprintf(
                        "%s://%.255s/v2/%s/%s/%s", reg_http_is_https(event->req) ? "https" : "http",
                        host, event->repo, about_blob(event->kind) ? "blobs" : "manifests", digest);
                set_text(t, "url", url);
        }
        if (event->kind == REG_EVENT_PUSH_MANIFEST && context->store) {
                json_t *list = references(context->store, event);
                if (list)
                        (void)json_object_set_new(t, "references", list);
        }
        return t;
}

static const char *method_text(enum reg_http_method method)
{
        static const char *const texts[] = {
                [REG_HTTP_GET] = "GET", [REG_HTTP_HEAD] = "HEAD",   [REG_HTTP_POST] = "POST",
                [REG_HTTP_PUT] = "PUT", [REG_HTTP_PATCH] = "PATCH", [REG_HTTP_DELETE] = "DELETE",
        };
        return method < CAS_COUNT(texts) ? texts[method] : "";
}

static json_t *request_json(const struct reg_event *event)
{
        json_t *r = json_object();
        set_text(r, "id", event->request_id);
        set_text(r, "addr", event->client);
        if (event->req) {
                const char *host = reg_http_header(event->req, "Host");
                const char *agent = reg_http_header(event->req, "User-Agent");
                set_text(r, "host", host ? host : "");
                set_text(r, "method", method_text(reg_http_method(event->req)));
                set_text(r, "useragent", agent ? agent : "");
        }
        return r;
}

void reg_webhook_event_json(const struct reg_webhook_event_context *context,
                            const struct reg_event *event, struct cas_buf *out)
{
        char text[64];
        time_t s = (time_t)(context->unix_ns / 1000000000);
        struct tm t;
        (void)gmtime_r(&s, &t);
        size_t len = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &t);
        (void)snprintf(text + len, sizeof(text) - len, ".%09uZ",
                       (unsigned)(context->unix_ns % 1000000000));
        json_t *doc = json_object();
        set_text(doc, "id", context->id);
        set_text(doc, "timestamp", text);
        set_text(doc, "action", action_text(event->kind));
        (void)json_object_set_new(doc, "target", target_json(context, event));
        (void)json_object_set_new(doc, "request", request_json(event));
        json_t *actor = json_object();
        set_text(actor, "name", event->user);
        (void)json_object_set_new(doc, "actor", actor);
        json_t *source = json_object();
        set_text(source, "addr", context->source);
        if (context->store)
                set_text(source, "instanceID", cas_store_id(context->store));
        (void)json_object_set_new(doc, "source", source);
        cas_json_append(doc, out);
        json_decref(doc);
}

void reg_webhook_sign(const char *secret, const void *body, size_t len,
                      char out[REG_WEBHOOK_SIGNATURE_BYTES])
{
        unsigned char mac[EVP_MAX_MD_SIZE];
        unsigned mac_len = 0;
        const unsigned char *done =
                HMAC(EVP_sha256(), secret, (int)strlen(secret), body, len, mac, &mac_len);
        cas_assert(done != NULL);
        cas_assert(mac_len == 32);
        int at = snprintf(out, REG_WEBHOOK_SIGNATURE_BYTES, "sha256=");
        for (unsigned i = 0; i < mac_len; i++)
                at += snprintf(out + at, REG_WEBHOOK_SIGNATURE_BYTES - (size_t)at, "%02x", mac[i]);
}
