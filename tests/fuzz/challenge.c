/* SPDX-License-Identifier: Apache-2.0 */
/* WWW-Authenticate of a hostile registry: what is taken from it can go into a URL or a header
 * without ending a line. */
#include "registry/challenge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *text)
{
        for (; text && *text; text++)
                cas_assert(*text >= ' ' && *text <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        cas_cleanup_free char *text = cas_xstrndup((const char *)data, size);
        reg_cleanup_challenge struct reg_challenge c = {0};
        struct cas_err err = CAS_ERR_INIT;
        if (reg_challenge_parse(text, &c, &err) < 0) {
                cas_assert(!c.realm && !c.service && !c.scope && !c.error);
                return 0;
        }
        check(c.realm);
        check(c.service);
        check(c.scope);
        check(c.error);
        cas_assert(c.kind != REG_CHALLENGE_BEARER || c.realm);
        return 0;
}
