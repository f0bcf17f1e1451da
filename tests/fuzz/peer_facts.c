/* SPDX-License-Identifier: Apache-2.0 */
/* Property: any bytes are facts of the layer that was asked for, within all limits, or an error. */
#include "registry/peer_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_peer_layer facts;
        struct cas_digest layer;
        cas_digest_of(CAS_DIGEST_SHA256, "", 0, &layer);
        int r = reg_peer_facts_parse(data, size, &layer, &facts, &err);
        cas_assert(r == -(int)err.code);
        if (r < 0)
                return 0;
        cas_assert(cas_digest_equal(&facts.record.blob, &layer));
        cas_assert(facts.blob_bytes <= CAS_UPLOAD_BYTES_MAX);
        cas_assert(facts.listing_bytes <= CAS_LISTING_BYTES_MAX);
        cas_assert(facts.record.tar_bytes <= CAS_TAR_BYTES_MAX);
        cas_assert(!cas_hash_is_zero(&facts.record.listing));
        cas_assert(!facts.has_recipe || !cas_hash_is_zero(&facts.recipe));
        return 0;
}
