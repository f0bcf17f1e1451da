/* SPDX-License-Identifier: Apache-2.0 */
/* From the merged tree to the ordered lists of inodes and names that an image
 * holds. The order is part of the format's determinism (spec/tree.md): a
 * directory's children stand together, sorted by name; then each of its
 * subdirectories follows with its own, in the same way. */
#include "cas/merge_int.h"

/* The names of every directory, by its inode: kids[first[d]] to kids[first[d + 1]]. */
struct kids {
        uint32_t *first; /* owned */
        uint32_t *nodes; /* owned */
};

static void kids_release(struct kids *k)
{
        free(k->first);
        free(k->nodes);
}

static uint32_t base_inode_of(const struct cas_merge *m, uint32_t node)
{
        return m->base_inode_of && node < m->base_node_count ? m->base_inode_of[node]
                                                             : CAS_MERGE_NONE;
}

/* A counting sort of the nodes by directory. with_absent: also names that only the base has. */
static int kids_make(const struct cas_merge *m, bool with_absent, struct kids *out,
                     struct cas_err *err)
{
        uint32_t inodes = m->inodes.count, nodes = m->nodes.count;
        out->first = calloc((size_t)inodes + 2, sizeof(out->first[0]));
        out->nodes = calloc((size_t)nodes + 1, sizeof(out->nodes[0]));
        if (!out->first || !out->nodes)
                return cas_fail(err, CAS_E_NOMEM, "no memory to list the tree");
        for (int pass = 0; pass < 2; pass++) {
                for (uint32_t i = 0; i < nodes; i++) {
                        const struct cas_merge_node *n = cas_merge_node(m, i);
                        if (n->inode == CAS_MERGE_NONE &&
                            !(with_absent && base_inode_of(m, i) != CAS_MERGE_NONE))
                                continue;
                        if (pass == 0)
                                out->first[n->parent + 2]++;
                        else
                                out->nodes[out->first[n->parent + 1]++] = i;
                }
                if (pass == 0)
                        for (uint32_t d = 0; d < inodes; d++)
                                out->first[d + 2] += out->first[d + 1];
        }
        return 0;
}

static bool is_dir(const struct cas_merge *m, uint32_t inode)
{
        return inode != CAS_MERGE_NONE && cas_merge_inode(m, inode)->type == CAS_ENTRY_DIR;
}

/* ---- links ---- */

/* Every directory in reach, parents before their children. */
struct dir_list {
        uint32_t *dirs; /* owned */
        uint32_t count;
};

static void dir_list_release(struct dir_list *l)
{
        free(l->dirs);
}

static int dirs_in_reach(const struct cas_merge *m, const struct kids *k, struct dir_list *out,
                         struct cas_err *err)
{
        uint32_t alloc = 1;
        for (uint32_t i = 0; i < m->inodes.count; i++)
                alloc += is_dir(m, i);
        out->dirs = malloc((size_t)alloc * sizeof(out->dirs[0]));
        if (!out->dirs)
                return cas_fail(err, CAS_E_NOMEM, "no memory to list the tree");
        out->dirs[0] = CAS_MERGE_ROOT;
        out->count = 1;
        for (uint32_t at = 0; at < out->count; at++) {
                uint32_t d = out->dirs[at];
                for (uint32_t i = k->first[d]; i < k->first[d + 1]; i++) {
                        uint32_t child = cas_merge_node(m, k->nodes[i])->inode;
                        if (is_dir(m, child))
                                out->dirs[out->count++] = child;
                }
        }
        return 0;
}

static void count_links(const struct cas_merge *m, const struct kids *k,
                        const struct dir_list *dirs, uint32_t *nlink)
{
        for (uint32_t at = 0; at < dirs->count; at++) {
                uint32_t d = dirs->dirs[at];
                nlink[d] += 2;
                for (uint32_t i = k->first[d]; i < k->first[d + 1]; i++) {
                        uint32_t child = cas_merge_node(m, k->nodes[i])->inode;
                        if (is_dir(m, child))
                                nlink[d]++;
                        else if (child != CAS_MERGE_NONE)
                                nlink[child]++;
                }
        }
}

int cas_plan_count_links(const struct cas_merge *m, uint32_t *out, struct cas_err *err)
{
        __attribute__((cleanup(kids_release))) struct kids k = {0};
        __attribute__((cleanup(dir_list_release))) struct dir_list dirs = {0};
        if (kids_make(m, false, &k, err) < 0 || dirs_in_reach(m, &k, &dirs, err) < 0)
                return -(int)err->code;
        count_links(m, &k, &dirs, out);
        return 0;
}

size_t cas_merge_entry_count(const struct cas_merge *m)
{
        struct cas_err err = CAS_ERR_INIT;
        __attribute__((cleanup(kids_release))) struct kids k = {0};
        __attribute__((cleanup(dir_list_release))) struct dir_list dirs = {0};
        if (kids_make(m, false, &k, &err) < 0 || dirs_in_reach(m, &k, &dirs, &err) < 0)
                return 0;
        size_t count = 1; /* the root */
        for (uint32_t at = 0; at < dirs.count; at++)
                count += k.first[dirs.dirs[at] + 1] - k.first[dirs.dirs[at]];
        return count;
}

/* ---- what differs from the base ---- */

/* A directory of the base that still is what it was there: names of the base show through it. */
static bool is_continued(const struct cas_merge *m, uint32_t dir)
{
        return dir < m->base_inode_count;
}

/* Marks the inodes that a stacked image holds: wanted[i] is 1. Hard-link groups whose names
 * changed are wanted whole, so that they are one inode with the right count. */
static void mark_wanted(const struct cas_merge *m, const struct kids *k,
                        const struct dir_list *dirs, const uint32_t *nlink, uint8_t *wanted)
{
        for (uint32_t i = 1; i < m->inodes.count; i++)
                wanted[i] =
                        i >= m->base_inode_count || (is_dir(m, i) ? cas_merge_inode(m, i)->touched
                                                                  : nlink[i] != m->base_nlink[i]);
        for (uint32_t at = 0; at < dirs->count; at++) {
                uint32_t d = dirs->dirs[at];
                for (uint32_t i = k->first[d]; i < k->first[d + 1]; i++) {
                        uint32_t child = cas_merge_node(m, k->nodes[i])->inode;
                        if (child != base_inode_of(m, k->nodes[i]) && child != CAS_MERGE_NONE)
                                wanted[child] = 1;
                }
        }
        wanted[CAS_MERGE_ROOT] = 1;
        for (uint32_t at = dirs->count; at-- > 0;) { /* children before their parents */
                uint32_t d = dirs->dirs[at];
                for (uint32_t i = k->first[d]; i < k->first[d + 1] && !wanted[d]; i++) {
                        uint32_t child = cas_merge_node(m, k->nodes[i])->inode;
                        wanted[d] = child == CAS_MERGE_NONE ? is_continued(m, d) : wanted[child];
                }
        }
}

/* A redirect "/ab/cd…" is looked up in the base before it is in the data layer. */
static int check_base_root(const struct cas_merge *m, struct cas_err *err)
{
        static const char hex[] = "0123456789abcdef";
        for (uint32_t i = 0; i < m->base_node_count; i++) {
                const struct cas_merge_node *n = cas_merge_node(m, i);
                if (n->parent == CAS_MERGE_ROOT && n->name_len == 2 &&
                    memchr(hex, n->name[0], 16) && memchr(hex, n->name[1], 16) &&
                    is_dir(m, m->base_inode_of[i]))
                        return cas_fail(err, CAS_E_UNSUPPORTED,
                                        "directory /%.2s of the base could be taken for objects",
                                        n->name);
        }
        return 0;
}

/* ---- the plan ---- */

struct planner {
        const struct cas_merge *m;
        const struct kids *kids;
        const uint32_t *nlink;
        const uint8_t *wanted; /* NULL: everything */
        uint32_t *place;       /* by inode: its index in the plan + 1, or 0 */
        uint32_t whiteout;     /* index in the plan + 1, or 0 */
        struct cas_plan *plan;
        struct name_key *keys; /* owned: scratch for sorting */
        uint32_t key_alloc;
};

static void planner_release(struct planner *p)
{
        free(p->place);
        free(p->keys);
}

/* The first eight bytes decide most comparisons. */
struct name_key {
        uint64_t head; /* big-endian, zero-padded */
        const struct cas_merge_node *node;
        uint32_t index;
};

static struct name_key key_of(const struct cas_merge *m, uint32_t node)
{
        const struct cas_merge_node *n = cas_merge_node(m, node);
        uint8_t head[8] = {0};
        memcpy(head, n->name, n->name_len < 8 ? n->name_len : 8);
        return (struct name_key){.head = cas_get_be64(head), .node = n, .index = node};
}

static int key_compare(const void *left, const void *right)
{
        const struct name_key *a = left, *b = right;
        if (a->head != b->head)
                return a->head < b->head ? -1 : 1;
        size_t a_len = a->node->name_len, b_len = b->node->name_len;
        int order = memcmp(a->node->name, b->node->name, a_len < b_len ? a_len : b_len);
        if (order != 0)
                return order;
        return a_len < b_len ? -1 : a_len > b_len;
}

/* Fills p->keys with the names of a directory that the image holds, sorted; gives their count. */
static int sorted_kids(struct planner *p, uint32_t dir, uint32_t *out_count, struct cas_err *err)
{
        uint32_t first = p->kids->first[dir], end = p->kids->first[dir + 1], count = 0;
        if (end - first > p->key_alloc) {
                struct name_key *keys = realloc(p->keys, (size_t)(end - first) * sizeof(keys[0]));
                if (!keys)
                        return cas_fail(err, CAS_E_NOMEM, "no memory to sort a directory");
                p->keys = keys;
                p->key_alloc = end - first;
        }
        bool sorted = true;
        for (uint32_t i = first; i < end; i++) {
                uint32_t child = cas_merge_node(p->m, p->kids->nodes[i])->inode;
                bool holds = child == CAS_MERGE_NONE ? is_continued(p->m, dir)
                                                     : !p->wanted || p->wanted[child];
                if (!holds)
                        continue;
                p->keys[count] = key_of(p->m, p->kids->nodes[i]);
                if (count > 0 && sorted)
                        sorted = key_compare(&p->keys[count - 1], &p->keys[count]) < 0;
                count++;
        }
        if (!sorted)
                qsort(p->keys, count, sizeof(p->keys[0]), key_compare);
        *out_count = count;
        return 0;
}

static uint32_t place_inode(struct planner *p, uint32_t inode, uint32_t parent, bool opaque)
{
        uint32_t *slot = inode == CAS_MERGE_NONE ? &p->whiteout : &p->place[inode];
        if (*slot == 0) {
                struct cas_plan_inode *out = &p->plan->inodes[p->plan->inode_count++];
                *out = (struct cas_plan_inode){.inode = inode,
                                               .nlink = p->nlink[inode],
                                               .parent = parent,
                                               .opaque = opaque};
                *slot = p->plan->inode_count;
        }
        if (inode == CAS_MERGE_NONE)
                p->plan->inodes[*slot - 1].nlink++; /* all whiteouts are one inode */
        return *slot - 1;
}

/* Lists one directory of the plan; its children get their places. */
static int plan_dir(struct planner *p, uint32_t at, struct cas_err *err)
{
        uint32_t dir = p->plan->inodes[at].inode, count = 0;
        if (sorted_kids(p, dir, &count, err) < 0)
                return -(int)err->code;
        p->plan->inodes[at].first_entry = p->plan->entry_count;
        p->plan->inodes[at].entry_count = count;
        for (uint32_t i = 0; i < count; i++) {
                const struct cas_merge_node *n = p->keys[i].node;
                uint32_t base = p->wanted ? base_inode_of(p->m, p->keys[i].index) : 0;
                bool opaque = is_dir(p->m, n->inode) && base != CAS_MERGE_NONE && n->inode != base;
                struct cas_plan_entry *e = &p->plan->entries[p->plan->entry_count++];
                e->name = n->name;
                e->name_len = n->name_len;
                e->inode = place_inode(p, n->inode, at, opaque);
        }
        return 0;
}

static int plan_all(struct planner *p, uint32_t dir_count, struct cas_err *err)
{
        cas_cleanup_free uint32_t *stack = malloc((size_t)dir_count * sizeof(stack[0]));
        if (!stack)
                return cas_fail(err, CAS_E_NOMEM, "no memory to list the tree");
        uint32_t depth = 0;
        stack[depth++] = place_inode(p, CAS_MERGE_ROOT, 0, false);
        while (depth > 0) {
                uint32_t at = stack[--depth];
                if (plan_dir(p, at, err) < 0)
                        return -(int)err->code;
                const struct cas_plan_inode *d = &p->plan->inodes[at];
                for (uint32_t i = d->entry_count; i-- > 0;) {
                        uint32_t child = p->plan->entries[d->first_entry + i].inode;
                        if (is_dir(p->m, p->plan->inodes[child].inode))
                                stack[depth++] = child;
                }
        }
        return 0;
}

void cas_plan_release(struct cas_plan *p)
{
        free(p->inodes);
        free(p->entries);
        *p = (struct cas_plan){0};
}

int cas_plan_make(const struct cas_merge *m, bool stacked, struct cas_plan *out,
                  struct cas_err *err)
{
        stacked = stacked && m->base_inode_of; /* without a base everything differs from it */
        if (stacked && check_base_root(m, err) < 0)
                return -(int)err->code;
        __attribute__((cleanup(kids_release))) struct kids k = {0};
        __attribute__((cleanup(dir_list_release))) struct dir_list dirs = {0};
        if (kids_make(m, stacked, &k, err) < 0 || dirs_in_reach(m, &k, &dirs, err) < 0)
                return -(int)err->code;
        uint32_t inodes = m->inodes.count;
        cas_cleanup_free uint32_t *nlink = calloc(inodes, sizeof(nlink[0]));
        cas_cleanup_free uint8_t *wanted = calloc(inodes, 1);
        cas_cleanup_plan struct cas_plan plan = {0};
        __attribute__((cleanup(planner_release))) struct planner p = {
                .m = m, .kids = &k, .nlink = nlink, .plan = &plan};
        p.place = calloc(inodes, sizeof(p.place[0]));
        plan.inodes = malloc(((size_t)inodes + 1) * sizeof(plan.inodes[0]));
        plan.entries = malloc(((size_t)m->nodes.count + 1) * sizeof(plan.entries[0]));
        if (!nlink || !wanted || !p.place || !plan.inodes || !plan.entries)
                return cas_fail(err, CAS_E_NOMEM, "no memory to list the tree");
        count_links(m, &k, &dirs, nlink);
        if (stacked) {
                mark_wanted(m, &k, &dirs, nlink, wanted);
                p.wanted = wanted;
        }
        if (plan_all(&p, dirs.count, err) < 0)
                return -(int)err->code;
        *out = plan;
        plan = (struct cas_plan){0};
        return 0;
}
