/* SPDX-License-Identifier: Apache-2.0 */
/* Property: any bytes are a manifest or an error; what is taken has a kind, a media type of
 * manifests, children within the limit, and is the same when it is parsed by that type. */
#include "cas/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0}, again = {0};
        int r = cas_manifest_parse(data, size, NULL, &m, &err);
        cas_assert(r == -(int)err.code);
        if (r < 0)
                return 0;
        cas_assert(cas_media_type_is_manifest(m.media_type));
        cas_assert(m.child_count <= CAS_INDEX_CHILDREN_MAX);
        r = cas_manifest_parse(data, size, m.media_type, &again, &err);
        cas_assert(r == 0);
        cas_assert(again.kind == m.kind);
        cas_assert(again.child_count == m.child_count);
        for (size_t i = 0; i < m.child_count; i++)
                cas_assert(cas_digest_equal(&m.children[i].digest, &again.children[i].digest));
        return 0;
}
