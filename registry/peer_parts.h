/* SPDX-License-Identifier: Apache-2.0 */
/* What a layer is made of, as two laminas count it: the distinct objects of its
 * listing, and the groups in which small ones travel. A pure function of the
 * listing, so that a group's address always means the same bytes (spec/peer.md). */
#ifndef REG_PEER_PARTS_H
#define REG_PEER_PARTS_H

#include "cas/layer.h"

#define REG_PEER_NO_GROUP UINT32_MAX
#define REG_PEER_GROUP_OBJECTS_MAX 4096

struct reg_peer_part {
        struct cas_hash id;
        uint64_t size_bytes;
        uint32_t group; /* REG_PEER_NO_GROUP: too large for one */
};
/* Immutable once made: any number of threads may read it. */
struct reg_peer_parts {
        struct reg_peer_part *parts; /* owned; each object where the listing has it first */
        size_t count;
        uint32_t *by_id;       /* owned; numbers of parts, by digest */
        uint32_t *group_first; /* owned; group_count + 1 of them: the first part of each group;
                                * those of no group may stand between */
        uint32_t group_count;
};
void reg_peer_parts_release(struct reg_peer_parts *p);
#define reg_cleanup_peer_parts __attribute__((cleanup(reg_peer_parts_release)))
void reg_peer_parts_make(const struct cas_listing *listing, struct reg_peer_parts *out);
/* NULL: not of this layer. Borrowed. */
const struct reg_peer_part *reg_peer_parts_find(const struct reg_peer_parts *p,
                                                const struct cas_hash *id);
/* Bytes of the objects of a group. */
uint64_t reg_peer_parts_group_bytes(const struct reg_peer_parts *p, uint32_t group);
/* Memory that it takes. */
size_t reg_peer_parts_memory(const struct reg_peer_parts *p);

#endif
