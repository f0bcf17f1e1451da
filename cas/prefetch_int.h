/* SPDX-License-Identifier: Apache-2.0 */
/* Private to cas. */
#ifndef CAS_PREFETCH_INT_H
#define CAS_PREFETCH_INT_H

#include "cas/prefetch.h"

struct cas_prefetcher;
struct cas_prefetcher *cas_prefetcher_new(void);
/* Breaks off and waits. */
void cas_prefetcher_free(struct cas_prefetcher *p);

#endif
