/* SPDX-License-Identifier: Apache-2.0 */
/* The way of layers by their parts, for pulls (registry/fetch.h). */
#ifndef REG_PEER_PULL_H
#define REG_PEER_PULL_H

#include "registry/fetch.h"

/* A reg_fetch.other without an argument. Whatever a peer cannot give, or gives wrongly, is left to
 * the usual way. */
int reg_peer_pull(void *unused, const struct reg_fetch *f, const struct reg_plan_blob *b,
                  struct reg_board_part *part, bool *brought, struct cas_err *err) CAS_MUST_CHECK;

#endif
