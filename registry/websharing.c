/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/websharing.h"

#include <stdio.h>

#include "cas/blob.h"
#include "cas/hashset.h"
#include "cas/image.h"
#include "cas/map.h"
#include "cas/mutex.h"

#define LAYERS_MAX 100000
#define MANIFESTS_MAX 20000
#define KEY_BYTES 16 /* of a digest: enough to tell layers apart for a picture */

struct sharing {
        struct cas_map *layers; /* owned; beginning of a digest -> number of images */
        uint64_t images, bytes;
        bool whole; /* nothing was left out */
};

struct reg_websharing {
        struct cas_mutex mutex; /* guards the rest */
        struct sharing now;     /* layers NULL: not known */
};

struct reg_websharing *reg_websharing_new(void)
{
        struct reg_websharing *w = cas_xcalloc(1, sizeof(*w));
        cas_mutex_init(&w->mutex, "web sharing");
        return w;
}

void reg_websharing_free(struct reg_websharing *w)
{
        if (!w)
                return;
        cas_map_free(w->now.layers);
        cas_mutex_release(&w->mutex);
        free(w);
}

struct look {
        struct cas_store *store;
        struct sharing *out;
        struct cas_hashset seen; /* manifests: one in two repositories is one image */
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        size_t count;
        struct cas_manifest_info *manifests; /* of the repository; owned */
};

static bool take_manifest(void *arg, const struct cas_manifest_info *info)
{
        struct look *l = arg;
        if (l->seen.count + l->count >= MANIFESTS_MAX) {
                l->out->whole = false;
                return false;
        }
        if ((l->count & (l->count + 1)) == 0)
                l->manifests =
                        cas_xrealloc(l->manifests, (2 * l->count + 1) * sizeof(*l->manifests));
        l->manifests[l->count++] = *info;
        return true;
}

/* One that cannot be read is left out: this is for a picture. */
static void look_at(struct look *l, const struct cas_manifest_info *info)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_err err = CAS_ERR_INIT;
        if (!cas_hashset_add(&l->seen, info->digest.bytes) ||
            cas_blob_read(l->store, &info->digest, CAS_MANIFEST_BYTES_MAX, &bytes, &err) < 0 ||
            cas_manifest_parse(bytes.data, bytes.len_bytes, info->media_type, &m, &err) < 0 ||
            m.kind != CAS_MANIFEST_IMAGE)
                return;
        l->out->images++;
        l->out->bytes += m.config.size_bytes;
        for (size_t i = 0; i < m.child_count; i++) {
                const struct cas_descriptor *d = &m.children[i];
                uint64_t *count = cas_map_get(l->out->layers, d->digest.bytes, KEY_BYTES);
                l->out->bytes += d->size_bytes;
                if (!count && cas_map_count(l->out->layers) < LAYERS_MAX)
                        count = cas_map_put(l->out->layers, d->digest.bytes, KEY_BYTES, NULL);
                if (count)
                        ++*count;
                else
                        l->out->whole = false;
        }
}

static bool first_repo(void *arg, const char *repo)
{
        struct look *l = arg;
        (void)snprintf(l->repo, sizeof(l->repo), "%s", repo);
        return false;
}

int reg_websharing_refresh(struct reg_websharing *w, struct cas_store *s,
                           bool (*is_public)(void *arg, const char *repo), void *arg,
                           struct cas_err *err)
{
        struct sharing found = {.layers = cas_map_new(), .whole = true};
        struct look l = {.store = s, .out = &found};
        char last[CAS_REPO_NAME_BYTES_MAX + 1] = "";
        int rc = 0;
        while (rc == 0 && found.whole) {
                l.repo[0] = '\0';
                rc = cas_repo_each(s, last, first_repo, &l, err);
                if (rc < 0 || !l.repo[0])
                        break;
                memcpy(last, l.repo, sizeof(last));
                if (!is_public(arg, l.repo))
                        continue;
                l.count = 0;
                rc = cas_manifest_each(s, l.repo, take_manifest, &l, err);
                for (size_t i = 0; rc == 0 && i < l.count; i++)
                        look_at(&l, &l.manifests[i]);
                free(cas_steal(&l.manifests));
        }
        cas_hashset_release(&l.seen);
        cas_mutex_lock(&w->mutex);
        struct sharing former = w->now;
        if (rc == 0)
                w->now = found;
        else
                former = found;
        cas_mutex_unlock(&w->mutex);
        cas_map_free(former.layers);
        return rc;
}

bool reg_websharing_count(struct reg_websharing *w, const struct cas_digest *layer,
                          uint64_t *images)
{
        cas_mutex_lock(&w->mutex);
        bool known = w->now.layers && w->now.whole;
        const uint64_t *count = known ? cas_map_get(w->now.layers, layer->bytes, KEY_BYTES) : NULL;
        *images = count ? *count : 0;
        cas_mutex_unlock(&w->mutex);
        return known;
}

bool reg_websharing_bytes(struct reg_websharing *w, uint64_t *images, uint64_t *bytes)
{
        cas_mutex_lock(&w->mutex);
        bool known = w->now.layers && w->now.whole;
        *images = w->now.images;
        *bytes = w->now.bytes;
        cas_mutex_unlock(&w->mutex);
        return known;
}
