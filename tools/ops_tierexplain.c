/* SPDX-License-Identifier: Apache-2.0 */
/* Where the pieces of something lie, why, and what would come next. */
#include <inttypes.h>
#include <stdio.h>

#include "cas/blob.h"
#include "cas/image.h"
#include "cas/names.h"
#include "tiering/heat.h"
#include "tools/ops_json.h"
#include "tools/ops_tier.h"

void op_packs_release(struct op_packs *p)
{
        free(p->list);
        *p = (struct op_packs){0};
}

/* ---- in which packs something lies ---- */

struct finding {
        struct op_packs *packs;
        size_t max;
};

static void found_add(struct finding *f, uint64_t pack_id, uint64_t stored_bytes)
{
        struct op_packs *p = f->packs;
        for (size_t i = 0; i < p->count; i++) {
                if (p->list[i].info.pack_id == pack_id) {
                        p->list[i].stored_bytes += stored_bytes;
                        return;
                }
        }
        if (p->count == f->max) {
                f->max = f->max ? f->max * 2 : 16;
                p->list = cas_xrealloc(p->list, f->max * sizeof(p->list[0]));
        }
        p->list[p->count++] =
                (struct op_pack){.info = {.pack_id = pack_id}, .stored_bytes = stored_bytes};
}

static bool pack_seen(void *arg, uint64_t pack_id, uint64_t stored_bytes)
{
        found_add(arg, pack_id, stored_bytes);
        return true;
}

/* What of a manifest is not here, or lies in no pack, adds nothing. */
static int manifest_add(struct cas_store *s, struct finding *f, const struct cas_digest *digest,
                        const char *media_type, unsigned depth, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_err miss = CAS_ERR_INIT;
        if (depth > CAS_INDEX_DEPTH_MAX ||
            cas_blob_read(s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, &miss) < 0)
                return 0;
        if (cas_manifest_parse(bytes.data, bytes.len_bytes, media_type, &m, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < m.child_count; i++) {
                const struct cas_descriptor *d = &m.children[i];
                char text[CAS_DIGEST_TEXT_BYTES];
                int rc;
                miss = (struct cas_err)CAS_ERR_INIT;
                if (m.kind != CAS_MANIFEST_IMAGE && cas_media_type_is_manifest(d->media_type))
                        rc = manifest_add(s, f, &d->digest, d->media_type, depth + 1, &miss);
                else
                        rc = cas_packs_of(s, cas_digest_text(&d->digest, text), pack_seen, f,
                                          &miss);
                if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                        *err = miss;
                        return rc;
                }
        }
        return 0;
}

static bool pack_id_parse(const char *what, uint64_t *out)
{
        if (strlen(what) != 16 || strspn(what, "0123456789abcdef") != 16)
                return false;
        *out = strtoull(what, NULL, 16);
        return true;
}

static bool is_digest(const char *what)
{
        return strchr(what, '/') == NULL &&
               ((strlen(what) == 64 && strspn(what, "0123456789abcdef") == 64) ||
                strncmp(what, "sha256:", 7) == 0 || strncmp(what, "sha512:", 7) == 0);
}

static int name_add(struct cas_store *s, struct finding *f, const char *what, struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_manifest_info info;
        if (cas_ref_parse(what, &ref, err) < 0 || cas_ref_resolve(s, &ref, &info, err) < 0)
                return -(int)err->code;
        return manifest_add(s, f, &info.digest, info.media_type, 0, err);
}

int op_packs_find(struct cas_store *s, const char *what, struct op_packs *out, struct cas_err *err)
{
        struct finding f = {.packs = out};
        uint64_t id;
        int rc = 0;
        if (pack_id_parse(what, &id))
                found_add(&f, id, 0);
        else
                rc = is_digest(what) ? cas_packs_of(s, what, pack_seen, &f, err)
                                     : name_add(s, &f, what, err);
        for (size_t i = 0; rc == 0 && i < out->count;) {
                struct cas_err miss = CAS_ERR_INIT;
                uint64_t pack_id = out->list[i].info.pack_id;
                rc = cas_pack_stat(s, pack_id, &out->list[i].info, &miss);
                if (rc == -CAS_E_NOTFOUND && !pack_id_parse(what, &id)) {
                        out->list[i] = out->list[--out->count]; /* moved meanwhile */
                        rc = 0;
                        continue;
                }
                if (rc < 0)
                        *err = miss;
                i++;
        }
        return rc;
}

/* ---- which images have a piece on a tier ---- */

struct walking {
        struct cas_store *s;
        uint32_t tier;
        const char *repo;
        char **repos; /* owned, with their texts */
        size_t repo_count;
        json_t *images;
};

static bool tag_seen(void *arg, const char *tag, const struct cas_digest *manifest)
{
        struct walking *w = arg;
        op_cleanup_packs struct op_packs packs = {0};
        struct finding f = {.packs = &packs};
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        if (cas_manifest_stat(w->s, w->repo, manifest, &info, &miss) < 0)
                return true;
        /* What its layers are made of is told by files in packs, too: where these cannot be read,
         * they are what is lost. */
        bool depends = manifest_add(w->s, &f, manifest, info.media_type, 0, &miss) < 0;
        for (size_t i = 0; !depends && i < packs.count; i++) {
                struct cas_pack_info *pack = &packs.list[i].info;
                depends = cas_pack_stat(w->s, pack->pack_id, pack, &miss) == 0 &&
                          pack->tier == w->tier;
        }
        if (depends) {
                cas_cleanup_free char *name = cas_xasprintf("%s:%s", w->repo, tag);
                json_array_append_new(w->images, json_string(name));
        }
        return true;
}

static bool repo_seen(void *arg, const char *repo)
{
        struct walking *w = arg;
        w->repos = cas_xrealloc(w->repos, (w->repo_count + 1) * sizeof(*w->repos));
        w->repos[w->repo_count++] = cas_xstrdup(repo);
        return true;
}

int op_tier_dependents(struct cas_store *s, uint32_t tier, json_t *images, struct cas_err *err)
{
        struct walking w = {.s = s, .tier = tier, .images = images};
        int rc = cas_repo_each(s, NULL, repo_seen, &w, err);
        for (size_t i = 0; i < w.repo_count; i++) {
                w.repo = w.repos[i];
                if (rc == 0)
                        rc = cas_tag_each(s, w.repo, NULL, tag_seen, &w, err);
                free(w.repos[i]);
        }
        free(w.repos);
        return rc;
}

/* ---- explain ---- */

struct named {
        uint32_t id;
        char name[TIER_NAME_BYTES];
        char state[16], where[256];
        uint64_t cool_after_s;
        unsigned high_percent;
};

static bool name_seen(void *arg, const struct tier_status *t)
{
        struct named *n = arg;
        if (t->config.id != n->id)
                return true;
        (void)snprintf(n->name, sizeof(n->name), "%s", t->config.name);
        (void)snprintf(n->state, sizeof(n->state), "%s", tier_state_name(t->state));
        (void)snprintf(n->where, sizeof(n->where), "%s", t->config.where ? t->config.where : "");
        n->cool_after_s = t->config.cool_after_s;
        n->high_percent = t->config.high_percent;
        return false;
}

static struct named tier_named(struct tier_set *set, uint32_t id)
{
        struct named n = {.id = id};
        (void)snprintf(n.name, sizeof(n.name), "%u (removed)", id);
        tier_set_each(set, name_seen, &n);
        return n;
}

/* Why it lies there now, and what would be next. */
static char *next_text(struct tier_set *set, const struct tier_candidate *c, const struct named *n)
{
        uint32_t below = tier_set_below(set, n->id, c->pack.size_bytes, false);
        if (c->reason != TIER_STAYS && c->to == CAS_TIER_ANY)
                return cas_xasprintf("%s, but no other tier can take it now",
                                     tier_reason_text(c->reason));
        if (c->reason == TIER_DENSER)
                return cas_xasprintf("%s: it is written anew there", tier_reason_text(c->reason));
        if (c->reason != TIER_STAYS) {
                struct named to = tier_named(set, c->to);
                return cas_xasprintf("%s: it moves to %s%s", tier_reason_text(c->reason), to.name,
                                     tier_set_is_paused(set) ? ", when the mover goes on" : "");
        }
        if (below == CAS_TIER_ANY)
                return cas_xasprintf("it stays: no slower tier has room for it");
        struct named to = tier_named(set, below);
        if (n->cool_after_s)
                return cas_xasprintf("it stays until its tier is above %u %%, or it was not read "
                                     "for %" PRIu64 " seconds; then it sinks to %s",
                                     n->high_percent, n->cool_after_s, to.name);
        return cas_xasprintf("it stays until its tier is above %u %% and it is among the coldest "
                             "there; then it sinks to %s",
                             n->high_percent, to.name);
}

static json_t *piece_json(struct tier_set *set, const struct tier_candidate *c,
                          uint64_t stored_bytes)
{
        struct named n = tier_named(set, c->pack.tier);
        cas_cleanup_free char *next = next_text(set, c, &n);
        char id[20];
        (void)snprintf(id, sizeof(id), "%016" PRIx64, c->pack.pack_id);
        json_t *o = json_pack(
                "{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:s, s:b, s:f, s:o, s:s, s:s}", "pack", id,
                "tier", n.name, "state", n.state, "where", op_text_json(n.where), "storedBytes",
                op_number(stored_bytes), "packBytes", op_number(c->pack.size_bytes), "deadBytes",
                op_number(c->pack.dead_bytes), "density", tier_density_name(c->pack.density),
                "open", c->pack.open, "heat", (double)c->heat / TIER_HEAT_READ, "used",
                op_number(c->used_unix_s), "reason", tier_reason_name(c->reason), "next", next);
        return o;
}

/* The bytes of a blob, where they are kept besides. */
static void blob_add(struct cas_store *s, const char *what, json_t *out)
{
        struct cas_digest digest;
        enum cas_blob_copy copy;
        struct cas_err miss = CAS_ERR_INIT;
        if (cas_digest_parse(what, &digest, &miss) < 0 ||
            cas_blob_copy(s, &digest, &copy, &miss) < 0)
                return;
        const char *const texts[] = {
                [CAS_BLOB_VERBATIM] = "its bytes are in the store's own directory",
                [CAS_BLOB_CACHED] = "a copy of its bytes is in the store's own directory, and may "
                                    "go at any time",
                [CAS_BLOB_CONDENSED] = "its bytes are made from a recipe when they are wanted"};
        json_object_set_new(out, "blob", json_string(texts[copy]));
}

int op_tier_explain(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                    json_t **result, struct cas_err *err)
{
        struct tier_set *set;
        const char *what;
        op_cleanup_packs struct op_packs packs = {0};
        tier_cleanup_plan struct tier_plan plan = {0};
        op_cleanup_json json_t *pieces = json_array();
        (void)ctx;
        if (op_tier_set_of(s, &set, err) < 0 || op_arg_string(args, "what", &what, err) < 0 ||
            op_packs_find(s, what, &packs, err) < 0 ||
            tier_plan_make(s, set, NULL, NULL, &plan, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < packs.count; i++) {
                for (size_t k = 0; k < plan.count; k++) {
                        if (plan.list[k].pack.pack_id == packs.list[i].info.pack_id)
                                json_array_append_new(
                                        pieces,
                                        piece_json(set, &plan.list[k], packs.list[i].stored_bytes));
                }
        }
        *result = json_pack("{s:O}", "pieces", pieces);
        blob_add(s, what, *result);
        return 0;
}
