/* SPDX-License-Identifier: Apache-2.0 */
/* Which parameters predict a stream best: the usual encoders are tried on the beginning of a
 * segment, and the best of them varied. No part of the format: a bad guess costs space only. */
#ifndef CAS_DIFFGUESS_H
#define CAS_DIFFGUESS_H

#include "cas/deflate/diffsegment.h"

/* Returns what it seems to be, for people; static storage. Blocks on the CPU for a second or so. */
const char *cas_diffguess(struct cas_diffsegment *s, struct cas_difference *d,
                          struct cas_difference_params *out);

#endif
