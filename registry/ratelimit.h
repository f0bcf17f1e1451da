/* SPDX-License-Identifier: Apache-2.0 */
/* How often each of many keys may do something: so many times a period, with a
 * burst. A key is remembered as the time up to which it has used what it may,
 * so that a full bucket needs no memory at all.
 *
 * Any number of threads, without locks and without a counter that all share.
 * Memory is fixed: when more keys are over their rate at once than there is room
 * for, the one that is nearest to a full bucket is forgotten. */
#ifndef REG_RATELIMIT_H
#define REG_RATELIMIT_H

#include "cas/base.h"

struct reg_limiter;
struct reg_limiter *reg_limiter_new(uint64_t count, uint64_t period_s, uint64_t burst);
void reg_limiter_free(struct reg_limiter *l);
/* Takes one. False: there is none; *wait_ns says when there will be. now_ns is a time that never
 * goes back. */
bool reg_limiter_take(struct reg_limiter *l, const char *key, uint64_t now_ns, uint64_t *wait_ns);
/* The same without taking: 0 when there is one. */
uint64_t reg_limiter_wait_ns(const struct reg_limiter *l, const char *key, uint64_t now_ns);

/* The key of a client's address: all of an IPv6 /64 have one. out has REG_CLIENT_KEY_BYTES. */
#define REG_CLIENT_KEY_BYTES 48
void reg_client_key(const char *address, char *out);

#endif
