/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests into and out of repositories. Each call is one publication, which
 * keeps what it checks before it does: what a check has seen is still there at
 * the commit. */
#include "cas/blob.h"
#include "cas/chain_int.h"
#include "cas/commit_int.h"
#include "cas/elsewhere.h"
#include "cas/image.h"
#include "cas/shared.h"

struct manifest_put {
        struct cas_store *s;
        bool shared; /* what counts is what the nodes share (cas/shared.h) */
        const struct cas_manifest_put_options *options;
        struct cas_publish *p; /* borrowed */
};

static int stat_elsewhere(struct cas_store *s, const struct cas_digest *digest,
                          uint64_t *size_bytes, struct cas_err *err)
{
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        int r = cas_elsewhere_stat(s, digest, rec, err);
        if (r == 0)
                *size_bytes = rec->blob_bytes;
        return r;
}

/* Whether the manifest may name it. Errors: NOTFOUND. */
static int stat_blob(struct manifest_put *put, const struct cas_digest *digest,
                     uint64_t *size_bytes, struct cas_err *err)
{
        bool here = true;
        if (put->shared && put->options->linked_only)
                return cas_shared_hold_blob(put->s, put->options->repo, digest, size_bytes, err);
        if (put->options->linked_only &&
            cas_blob_linked(put->s, put->options->repo, digest, &here, err) < 0)
                return -(int)err->code;
        if (!here)
                return cas_fail(err, CAS_E_NOTFOUND, "not linked");
        return cas_blob_stat(put->s, digest, size_bytes, err);
}

/* A blob that the manifest names: there, of the right size, and linked from now on. */
static int put_blob(struct manifest_put *put, const struct cas_descriptor *d, struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&d->digest, text);
        cas_publish_keep_blob(put->p, &d->digest);
        uint64_t size_bytes = 0;
        struct cas_err miss = CAS_ERR_INIT;
        int r = stat_blob(put, &d->digest, &size_bytes, &miss);
        if (r == -CAS_E_NOTFOUND && put->options->allow_elsewhere)
                r = stat_elsewhere(put->s, &d->digest, &size_bytes, &miss);
        if (r == -CAS_E_NOTFOUND) {
                if (d->foreign || put->options->allow_absent)
                        return 0;
                return cas_fail(err, CAS_E_NOTFOUND, "blob %s is not in %s", text,
                                put->options->linked_only ? put->options->repo : "the store");
        }
        if (r < 0) {
                *err = miss;
                return r;
        }
        if (size_bytes != d->size_bytes)
                return cas_fail(err, CAS_E_INVALID,
                                "blob %s has %llu bytes, the manifest says %llu", text,
                                (unsigned long long)size_bytes, (unsigned long long)d->size_bytes);
        return cas_publish_blob_link(put->p, put->options->repo, &d->digest, err);
}

static int put_child(struct manifest_put *put, const struct cas_descriptor *d, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        if (!cas_media_type_is_manifest(d->media_type)) {
                int r = put_blob(put, d, &miss);
                if (r == -CAS_E_NOTFOUND && put->options->allow_sparse)
                        return 0;
                if (r < 0)
                        *err = miss;
                return r;
        }
        struct cas_manifest_info info;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&d->digest, text);
        cas_publish_keep_blob(put->p, &d->digest);
        int r = put->shared ? cas_shared_learn_manifest(put->s, put->options->repo, text, &miss)
                            : 0;
        if (r == 0)
                r = cas_manifest_stat(put->s, put->options->repo, &d->digest, &info, &miss);
        if (r == -CAS_E_NOTFOUND && put->options->allow_sparse)
                return 0;
        if (r == -CAS_E_NOTFOUND)
                return cas_fail(err, CAS_E_NOTFOUND, "manifest %s is not in %s", text,
                                put->options->repo);
        if (r < 0) {
                *err = miss;
                return r;
        }
        if (info.size_bytes != d->size_bytes)
                return cas_fail(
                        err, CAS_E_INVALID, "manifest %s has %llu bytes, the index says %llu", text,
                        (unsigned long long)info.size_bytes, (unsigned long long)d->size_bytes);
        return 0;
}

static int put_references(struct manifest_put *put, const struct cas_manifest *m,
                          struct cas_err *err)
{
        int r = 0;
        if (m->kind == CAS_MANIFEST_IMAGE)
                r = put_blob(put, &m->config, err);
        for (size_t i = 0; r == 0 && i < m->child_count; i++)
                r = m->kind == CAS_MANIFEST_IMAGE ? put_blob(put, &m->children[i], err)
                                                  : put_child(put, &m->children[i], err);
        return r;
}

/* Notes the chain of an image, so that images which share its beginning can share trees. A config
 * that is not an image's has none: artifacts have configs of any kind. */
static int put_chain(struct manifest_put *put, const struct cas_manifest *m,
                     const struct cas_digest *manifest, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_image_config struct cas_image_config config = {0};
        struct cas_err ignored = CAS_ERR_INIT;
        if (m->kind != CAS_MANIFEST_IMAGE ||
            (strcmp(m->config.media_type, CAS_MT_OCI_CONFIG) != 0 &&
             strcmp(m->config.media_type, CAS_MT_DOCKER_CONFIG) != 0) ||
            m->config.size_bytes > CAS_CONFIG_BYTES_MAX)
                return 0;
        int r = cas_blob_read(put->s, &m->config.digest, CAS_CONFIG_BYTES_MAX, &bytes, &ignored);
        if (r == -CAS_E_NOTFOUND && (put->options->allow_absent || put->shared))
                return 0;
        if (r < 0) {
                *err = ignored;
                return r;
        }
        if (cas_image_config_parse(bytes.data, bytes.len_bytes, &config, &ignored) < 0 ||
            config.diff_id_count != m->child_count)
                return 0;
        return cas_chain_note(put->s, cas_publish_batch(put->p), config.diff_ids,
                              config.diff_id_count, manifest, err);
}

int cas_manifest_put(struct cas_store *s, const struct cas_manifest_put_options *options,
                     const void *data, size_t len, struct cas_manifest_info *out,
                     struct cas_err *err)
{
        cas_cleanup_manifest struct cas_manifest m = {0};
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_manifest_info info = {.size_bytes = len};
        int r = cas_manifest_parse(data, len, options->media_type, &m, err);
        if (r < 0)
                return r;
        memcpy(info.media_type, m.media_type, sizeof(info.media_type));
        r = cas_publish_begin(s, &p, err);
        if (r < 0)
                return r;
        struct manifest_put put = {.s = s,
                                   .shared = cas_store_shared(s) && !options->learned,
                                   .options = options,
                                   .p = p};
        if (options->learned)
                cas_publish_learned(p);
        r = put_references(&put, &m, err);
        if (r == 0)
                r = cas_publish_blob(p, data, len, options->expected, &info.digest, err);
        if (r == 0)
                r = cas_publish_manifest_link(p, options->repo, &info.digest, info.media_type, len,
                                              err);
        if (r == 0 && m.has_subject)
                r = cas_publish_referrer(p, options->repo, &m.subject.digest, &info.digest, err);
        if (r == 0)
                r = put_chain(&put, &m, &info.digest, err);
        if (r == 0 && options->tag && options->tag[0])
                r = cas_publish_tag(p, options->repo, options->tag, &info.digest, err);
        for (size_t i = 0; r == 0 && i < options->tag_count; i++)
                r = cas_publish_tag(p, options->repo, options->tags[i], &info.digest, err);
        cas_publish_guard_tags(p, options->guard, options->guard_arg);
        if (r == 0)
                r = cas_publish_commit(p, err);
        if (r == 0 && out)
                *out = info;
        return r;
}

int cas_manifest_delete(struct cas_store *s, const char *repo, const char *tag,
                        const struct cas_digest *digest, cas_tag_guard_fn guard, void *guard_arg,
                        struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        int r = cas_publish_begin(s, &p, err);
        if (r < 0)
                return r;
        cas_publish_guard_tags(p, guard, guard_arg);
        if (tag) {
                struct cas_digest now;
                r = cas_tag_get(s, repo, tag, &now, err);
                if (r == 0)
                        r = cas_publish_untag(p, repo, tag, err);
        } else {
                struct cas_manifest_info info;
                r = cas_manifest_stat(s, repo, digest, &info, err);
                if (r == 0) /* its tags go with it */
                        r = cas_publish_manifest_unlink(p, repo, digest, err);
        }
        if (r == 0)
                r = cas_publish_commit(p, err);
        return r;
}
