/* SPDX-License-Identifier: Apache-2.0 */
/* Networks as the configuration lists them ("10.0.0.0/8, ::1/128, 192.0.2.7"),
 * and whether an address is in one. Pure functions. */
#ifndef REG_NETWORKS_H
#define REG_NETWORKS_H

#include <netinet/in.h>

#include "cas/err.h"

#define REG_NETWORKS_MAX 256
struct reg_network {
        struct in6_addr address; /* IPv4 as ::ffff:a.b.c.d */
        unsigned bits;           /* of those 128 that count */
};
/* Zeroed, it is empty and holds no address. */
struct reg_networks {
        size_t count;
        struct reg_network *list; /* owned */
};
/* Adds what `text` lists, separated by spaces, tabs or commas. Errors: INVALID, LIMIT; nothing is
 * added then. */
int reg_networks_add(struct reg_networks *n, const char *text, struct cas_err *err) CAS_MUST_CHECK;
bool reg_networks_have(const struct reg_networks *n, const struct in6_addr *address);
/* The same for a text. False also for what is no address ("unix"). */
bool reg_networks_have_text(const struct reg_networks *n, const char *address);
void reg_networks_release(struct reg_networks *n);

/* An address as text, IPv4 mapped as above. *own_bits: 32 or 128. False when it is none. */
bool reg_ip_parse(const char *text, struct in6_addr *out, unsigned *own_bits);
struct in6_addr reg_ip_mapped(const struct in_addr *address);

#endif
