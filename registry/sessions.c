/* SPDX-License-Identifier: Apache-2.0 */
/* Upload sessions are begun, and found again by who began them: a client that
 * lost the Location (its process ended, the machine was started anew) goes on
 * where it was. Sessions are found by user; of those that nobody logged in for,
 * by address. Who knows a Location and may push needs none of this. */
#include <stdio.h>

#include "cas/json.h"
#include "registry/uploads_int.h"

#define SESSIONS_LISTED_MAX 1000

bool reg_session_describe(struct reg_call *call, struct cas_upload_info *out)
{
        const struct reg_uri *uri = reg_http_uri(call->req);
        const char *algorithm = reg_uri_param(uri, "digest-algorithm");
        const char *user = call->identity->user;
        *out = (struct cas_upload_info){0};
        (void)snprintf(out->owner, sizeof(out->owner), "%s:%s", user[0] ? "user" : "address",
                       user[0] ? user : reg_http_client(call->req));
        if (algorithm) {
                out->alg = cas_digest_alg_find(algorithm);
                if (out->alg == CAS_DIGEST_NONE) {
                        reg_reply_code(call->req, REG_E_DIGEST_INVALID,
                                       "only sha256 and sha512 are known");
                        return false;
                }
        }
        return !reg_uri_param(uri, "resume") || reg_query_digest(call, "resume", &out->digest);
}

static void begin_described(struct reg_call *call, const struct cas_upload_info *info)
{
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        if (cas_upload_begin(call->store, call->route.repo, info, id, &err) < 0)
                reg_reply_err(call->req, REG_ABOUT_UPLOAD, &err);
        else
                reg_session_reply(call, 202, id, 0);
}

void reg_session_begin(struct reg_call *call)
{
        struct cas_upload_info info;
        if (reg_session_describe(call, &info))
                begin_described(call, &info);
}

/* The longest of the caller's sessions that is for the digest. */
struct search {
        const struct cas_upload_info *wanted;
        struct cas_upload_info found; /* id "": none */
};

static bool search_session(void *arg, const struct cas_upload_info *info)
{
        struct search *s = arg;
        bool fits = strcmp(info->owner, s->wanted->owner) == 0 &&
                    cas_digest_equal(&info->digest, &s->wanted->digest);
        if (fits && (!s->found.id[0] || info->size_bytes > s->found.size_bytes))
                s->found = *info;
        return true;
}

/* What it has is synced before it is told. One that has a writer is as long as it was seen to be,
 * or longer: then the next piece is told where to go on. */
static int sync_found(const struct reg_call *call, struct cas_upload_info *found,
                      struct cas_err *err)
{
        struct cas_upload *session;
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_upload_open(call->store, call->route.repo, found->id, &session, &why);
        if (rc == 0) {
                found->size_bytes = cas_upload_bytes(session);
                rc = cas_upload_sync(session, &why);
                cas_upload_close(session);
        }
        if (rc == -CAS_E_NOTFOUND) /* it has ended meanwhile */
                found->id[0] = '\0';
        if (rc == 0 || rc == -CAS_E_BUSY || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = why;
        return rc;
}

void reg_session_resume(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_upload_info info;
        if (!reg_session_describe(call, &info))
                return;
        cas_cleanup_free struct search *search = cas_xcalloc(1, sizeof(*search));
        search->wanted = &info;
        int rc = cas_upload_each(call->store, call->route.repo, search_session, search, &err);
        if (rc == 0 && search->found.id[0])
                rc = sync_found(call, &search->found, &err);
        if (rc < 0)
                reg_reply_err(call->req, REG_ABOUT_UPLOAD, &err);
        else if (search->found.id[0])
                reg_session_reply(call, 202, search->found.id, search->found.size_bytes);
        else
                begin_described(call, &info);
}

struct sessions {
        const struct reg_call *call;
        const struct cas_upload_info *caller;
        json_t *list;
};

static bool list_session(void *arg, const struct cas_upload_info *info)
{
        const struct sessions *s = arg;
        char text[CAS_DIGEST_TEXT_BYTES];
        if (strcmp(info->owner, s->caller->owner) != 0)
                return true;
        cas_cleanup_free char *location =
                cas_xasprintf("/v2/%s/blobs/uploads/%s", s->call->route.repo, info->id);
        json_t *entry = json_pack("{s:s,s:s,s:I,s:I}", "id", info->id, "location", location,
                                  "offset", (json_int_t)info->size_bytes, "touched",
                                  (json_int_t)info->touched_unix_s);
        cas_assert(entry != NULL);
        int failed = 0;
        if (info->digest.alg != CAS_DIGEST_NONE)
                failed = json_object_set_new(entry, "digest",
                                             json_string(cas_digest_text(&info->digest, text)));
        failed |= json_array_append_new(s->list, entry);
        cas_assert(failed == 0);
        return json_array_size(s->list) < SESSIONS_LISTED_MAX;
}

static void list_work(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_upload_info caller;
        cas_cleanup_json json_t *list = json_array();
        struct sessions sessions = {.call = call, .caller = &caller, .list = list};
        if (!reg_session_describe(call, &caller))
                return;
        if (cas_upload_each(call->store, call->route.repo, list_session, &sessions, &err) < 0) {
                reg_reply_err(call->req, REG_ABOUT_UPLOAD, &err);
                return;
        }
        cas_cleanup_json json_t *doc = json_pack("{s:O}", "uploads", list);
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_json_append(doc, &body);
        reg_http_reply_header(call->req, "Content-Type", "application/json");
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_buf(call->req, 200, &body);
}

void reg_upload_list(struct reg_call *call)
{
        reg_call_work(call, list_work);
}
