/* SPDX-License-Identifier: Apache-2.0 */
/* Any text as a reference: what is taken is within the grammar and prints to
 * what it was, but for the default tag. */
#include <stdio.h>

#include "cas/names.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        cas_cleanup_free char *text = cas_xstrndup((const char *)data, size);
        struct cas_err err = CAS_ERR_INIT;
        struct cas_ref ref;
        char digest[CAS_DIGEST_TEXT_BYTES], again[600];
        if (cas_ref_parse(text, &ref, &err) < 0)
                return 0;
        cas_assert(cas_repo_name_valid(ref.repo));
        cas_assert(!ref.tag[0] || cas_tag_valid(ref.tag));
        bool by_digest = ref.digest.alg != CAS_DIGEST_NONE;
        bool defaulted = !by_digest && !strchr(text, ':');
        cas_assert(ref.tag[0] || by_digest);
        (void)snprintf(again, sizeof(again), "%s%s%s%s%s", ref.repo,
                       ref.tag[0] && !defaulted ? ":" : "", defaulted ? "" : ref.tag,
                       by_digest ? "@" : "", by_digest ? cas_digest_text(&ref.digest, digest) : "");
        cas_assert(strcmp(again, text) == 0);
        return 0;
}
