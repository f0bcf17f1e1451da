/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/peer_parts.h"

#include "registry/peer_frame.h"

void reg_peer_parts_release(struct reg_peer_parts *p)
{
        free(p->parts);
        free(p->by_id);
        free(p->group_first);
        *p = (struct reg_peer_parts){0};
}

/* Parts by digest, then by their place in the listing. */
static int compare_parts(const void *a, const void *b, void *arg)
{
        const struct reg_peer_part *parts = arg;
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
        int order = memcmp(parts[x].id.bytes, parts[y].id.bytes, CAS_HASH_BYTES);
        if (order != 0)
                return order;
        return x < y ? -1 : x > y;
}

static void sort_by_id(struct reg_peer_parts *p)
{
        for (size_t i = 0; i < p->count; i++)
                p->by_id[i] = (uint32_t)i;
        if (p->count > 1)
                qsort_r(p->by_id, p->count, sizeof(p->by_id[0]), compare_parts, p->parts);
}

static void collect(const struct cas_listing *listing, struct reg_peer_parts *p)
{
        for (size_t i = 0; i < listing->count; i++) {
                const struct cas_entry *e = &listing->entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        p->parts[p->count++] = (struct reg_peer_part){.id = e->object,
                                                                      .size_bytes = e->size_bytes};
        }
}

/* Only the first of parts with one digest stays. */
static void drop_repeated(struct reg_peer_parts *p)
{
        size_t kept = 0;
        sort_by_id(p);
        for (size_t i = 1; i < p->count; i++) {
                struct reg_peer_part *part = &p->parts[p->by_id[i]];
                if (cas_hash_equal(&part->id, &p->parts[p->by_id[i - 1]].id))
                        part->group = REG_PEER_NO_GROUP; /* the sort does not look at it */
        }
        for (size_t i = 0; i < p->count; i++) {
                if (p->parts[i].group != REG_PEER_NO_GROUP)
                        p->parts[kept++] = p->parts[i];
        }
        p->count = kept;
        sort_by_id(p);
}

static void form_groups(struct reg_peer_parts *p)
{
        uint64_t bytes = REG_PEER_GROUP_BYTES; /* of the last group: as if there were a full one */
        uint32_t objects = 0;
        for (size_t i = 0; i < p->count; i++) {
                struct reg_peer_part *part = &p->parts[i];
                if (part->size_bytes > REG_PEER_SMALL_BYTES_MAX) {
                        part->group = REG_PEER_NO_GROUP;
                        continue;
                }
                if (bytes >= REG_PEER_GROUP_BYTES || objects == REG_PEER_GROUP_OBJECTS_MAX) {
                        p->group_first[p->group_count++] = (uint32_t)i;
                        bytes = objects = 0;
                }
                part->group = p->group_count - 1;
                bytes += part->size_bytes;
                objects++;
        }
        p->group_first[p->group_count] = (uint32_t)p->count;
}

void reg_peer_parts_make(const struct cas_listing *listing, struct reg_peer_parts *out)
{
        struct reg_peer_parts p = {0};
        cas_assert(listing->count < REG_PEER_NO_GROUP);
        p.parts = cas_xcalloc(listing->count + 1, sizeof(p.parts[0]));
        p.by_id = cas_xcalloc(listing->count + 1, sizeof(p.by_id[0]));
        collect(listing, &p);
        drop_repeated(&p);
        p.group_first = cas_xcalloc(p.count + 1, sizeof(p.group_first[0]));
        form_groups(&p);
        p.parts = cas_xrealloc(p.parts, (p.count + 1) * sizeof(p.parts[0]));
        p.by_id = cas_xrealloc(p.by_id, (p.count + 1) * sizeof(p.by_id[0]));
        *out = p;
}

const struct reg_peer_part *reg_peer_parts_find(const struct reg_peer_parts *p,
                                                const struct cas_hash *id)
{
        size_t low = 0, high = p->count;
        while (low < high) {
                size_t middle = low + (high - low) / 2;
                const struct reg_peer_part *part = &p->parts[p->by_id[middle]];
                int order = memcmp(id->bytes, part->id.bytes, CAS_HASH_BYTES);
                if (order == 0)
                        return part;
                if (order < 0)
                        high = middle;
                else
                        low = middle + 1;
        }
        return NULL;
}

uint64_t reg_peer_parts_group_bytes(const struct reg_peer_parts *p, uint32_t group)
{
        uint64_t bytes = 0;
        cas_assert(group < p->group_count);
        for (uint32_t i = p->group_first[group]; i < p->group_first[group + 1]; i++) {
                if (p->parts[i].group == group)
                        bytes += p->parts[i].size_bytes;
        }
        return bytes;
}

size_t reg_peer_parts_memory(const struct reg_peer_parts *p)
{
        return p->count * (sizeof(p->parts[0]) + 2 * sizeof(uint32_t));
}
