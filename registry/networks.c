/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/networks.h"

#include <arpa/inet.h>

#include "registry/range.h"

#define SEPARATORS " \t,"
#define MAPPED_BITS 96 /* what stands before an IPv4 address */

struct in6_addr reg_ip_mapped(const struct in_addr *address)
{
        struct in6_addr mapped = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
        memcpy(mapped.s6_addr + MAPPED_BITS / 8, address, sizeof(*address));
        return mapped;
}

bool reg_ip_parse(const char *text, struct in6_addr *out, unsigned *own_bits)
{
        struct in_addr ipv4;
        *own_bits = 128;
        if (inet_pton(AF_INET6, text, out) == 1)
                return true;
        *own_bits = 32;
        if (inet_pton(AF_INET, text, &ipv4) != 1)
                return false;
        *out = reg_ip_mapped(&ipv4);
        return true;
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
        if (!reg_ip_parse(word, &out->address, &own))
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

static bool network_has(const struct reg_network *n, const struct in6_addr *address)
{
        unsigned whole = n->bits / 8, rest = n->bits % 8;
        if (memcmp(n->address.s6_addr, address->s6_addr, whole) != 0)
                return false;
        return rest == 0 ||
               (n->address.s6_addr[whole] ^ address->s6_addr[whole]) >> (8 - rest) == 0;
}

bool reg_networks_have(const struct reg_networks *n, const struct in6_addr *address)
{
        for (size_t i = 0; i < n->count; i++) {
                if (network_has(&n->list[i], address))
                        return true;
        }
        return false;
}

bool reg_networks_have_text(const struct reg_networks *n, const char *address)
{
        struct in6_addr ip;
        unsigned own;
        return n->count > 0 && reg_ip_parse(address, &ip, &own) && reg_networks_have(n, &ip);
}

void reg_networks_release(struct reg_networks *n)
{
        free(n->list);
        *n = (struct reg_networks){0};
}
