/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/networks.h"

#include <arpa/inet.h>

#include "registry/range.h"

#define SEPARATORS " \t,"
#define MAPPED_BITS 96 /* what stands before an IPv4 address */

/* *bits: how many the address has of its own. */
static bool address_parse(const char *text, uint8_t out[16], unsigned *bits)
{
        static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
        *bits = 128;
        if (inet_pton(AF_INET6, text, out) == 1)
                return true;
        *bits = 32;
        memcpy(out, mapped, sizeof(mapped));
        return inet_pton(AF_INET, text, out + sizeof(mapped)) == 1;
}

static bool network_parse(const char *text, size_t len, struct reg_network *out)
{
        char word[INET6_ADDRSTRLEN + sizeof("/128")];
        unsigned own;
        if (len >= sizeof(word))
                return false;
        memcpy(word, text, len);
        word[len] = '\0';
        char *slash = strchr(word, '/');
        if (slash)
                *slash = '\0';
        if (!address_parse(word, out->address, &own))
                return false;
        uint64_t bits = own;
        if (slash && (!reg_count_parse(slash + 1, UINT64_MAX, &bits) || bits > own))
                return false;
        out->bits = (unsigned)bits + (own == 32 ? MAPPED_BITS : 0);
        return true;
}

int reg_networks_add(struct reg_networks *n, const char *text, struct cas_err *err)
{
        struct reg_networks out = {.count = n->count};
        out.list = cas_xcalloc(REG_NETWORKS_MAX, sizeof(*out.list));
        if (n->count > 0)
                memcpy(out.list, n->list, n->count * sizeof(*out.list));
        int rc = 0;
        for (const char *at = text + strspn(text, SEPARATORS); rc == 0 && *at;) {
                size_t len = strcspn(at, SEPARATORS);
                if (out.count == REG_NETWORKS_MAX)
                        rc = cas_fail(err, CAS_E_LIMIT, "more than %d networks", REG_NETWORKS_MAX);
                else if (!network_parse(at, len, &out.list[out.count++]))
                        rc = cas_fail(err, CAS_E_INVALID, "not a network such as 10.0.0.0/8: %.*s",
                                      (int)cas_min_u64(len, 64), at);
                at += len;
                at += strspn(at, SEPARATORS);
        }
        if (rc == 0 && out.count == n->count)
                rc = cas_fail(err, CAS_E_INVALID, "a network is missing");
        struct reg_networks old = rc == 0 ? *n : out;
        if (rc == 0)
                *n = out;
        reg_networks_release(&old);
        return rc;
}

static bool network_has(const struct reg_network *n, const uint8_t address[16])
{
        unsigned whole = n->bits / 8, rest = n->bits % 8;
        if (memcmp(n->address, address, whole) != 0)
                return false;
        return rest == 0 || (n->address[whole] ^ address[whole]) >> (8 - rest) == 0;
}

bool reg_networks_have(const struct reg_networks *n, const char *address)
{
        uint8_t bytes[16];
        unsigned own;
        if (n->count == 0 || !address_parse(address, bytes, &own))
                return false;
        for (size_t i = 0; i < n->count; i++) {
                if (network_has(&n->list[i], bytes))
                        return true;
        }
        return false;
}

void reg_networks_release(struct reg_networks *n)
{
        free(n->list);
        *n = (struct reg_networks){0};
}
