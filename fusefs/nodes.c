/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/nodes_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "cas/mutex.h"

/* The layout of the memfd. It never leaves the machine nor outlives a mount, but a successor may
 * be a newer program: the version says whether it understands it. */
#define TABLE_MAGIC UINT64_C(0x316e6f64616e696d)
#define TABLE_VERSION 1
#define TABLE_HEAD_BYTES 4096
#define TABLE_INTENTS_BYTES (FFS_NODES_INTENTS * FFS_NODES_INTENT_BYTES)
#define TABLE_GROW_SLOTS 256
#define SLOT_NONE UINT32_MAX
#define NAME_INLINE_BYTES 64
#define MORE_BYTES 116
#define GENERATION_MASK ((UINT32_C(1) << 30) - 1)
#define FLAG_USED (UINT32_C(1) << 31)

/* What an update rewrites, all at once. */
struct slot_body {
        uint32_t parent, successor, more; /* slots */
        uint16_t type;                    /* S_IFMT */
        uint8_t name_len;
        uint8_t reserved;
        uint64_t vid, upper_ino, ino;
        char name[NAME_INLINE_BYTES];
};
struct slot {
        _Atomic uint32_t flags; /* FLAG_USED only while all else is valid */
        uint32_t generation;    /* of the node id in use, or of the last one */
        union {
                struct {
                        _Atomic uint64_t lookups;
                        _Atomic uint32_t opens;
                        uint32_t volume;
                        struct slot_body body;
                };
                /* The rest of a long name, or what an orphan keeps; flags is 0 then, and the slot
                 * is taken because a record leads to it. */
                struct {
                        uint32_t next;
                        uint8_t bytes[MORE_BYTES];
                } more;
        };
};
_Static_assert(sizeof(struct slot_body) == 104, "layout of the table");
_Static_assert(sizeof(struct slot) == 128, "layout of the table");

struct kept_attr {
        uint64_t ino, rdev, size, blocks;
        int64_t atime_s, mtime_s, ctime_s;
        uint32_t atime_ns, mtime_ns, ctime_ns;
        uint32_t mode, uid, gid, blksize, nlink;
};
_Static_assert(sizeof(struct kept_attr) <= MORE_BYTES, "an orphan's attributes fit one slot");

struct table_head {
        uint64_t magic;
        uint32_t version;
        uint32_t slot_bytes;
        _Atomic uint32_t slot_count; /* that the file has room for */
        /* The update under way: written, then marked, then done, then unmarked. */
        _Atomic uint32_t redo;
        uint32_t redo_slot;
        uint32_t redo_flags;
        struct slot_body redo_body;
};
_Static_assert(sizeof(struct table_head) <= TABLE_HEAD_BYTES, "the head has a page");

enum index_kind { INDEX_DIR, INDEX_UPPER, INDEX_VID, INDEX_COUNT };

struct ffs_nodes {
        struct cas_mutex mutex; /* guards all below, and writing to slots; leaf */
        int fd;                 /* owned */
        struct table_head *head;
        struct slot *slots;
        uint32_t *heads[INDEX_COUNT]; /* slot + 1 where a chain begins, 0 none */
        uint32_t *next[INDEX_COUNT];  /* by slot: slot + 1 */
        uint32_t index_mask;
        uint32_t *refs;      /* by slot: records that name it */
        uint32_t *free_list; /* numbers of free slots */
        uint32_t free_count;
        uint64_t used_count;
        _Atomic uint64_t intents_claimed; /* bits */
};
_Static_assert(FFS_NODES_INTENTS <= 64, "a bit each");

static const size_t map_bytes =
        TABLE_HEAD_BYTES + TABLE_INTENTS_BYTES + (size_t)FFS_NODES_MAX * sizeof(struct slot);

int ffs_nodes_state_create(int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = memfd_create("lamina-nodes", MFD_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "memfd for the node table");
        struct table_head head = {
                .magic = TABLE_MAGIC, .version = TABLE_VERSION, .slot_bytes = sizeof(struct slot)};
        if (ftruncate(fd, TABLE_HEAD_BYTES + TABLE_INTENTS_BYTES) < 0 ||
            pwrite(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
                return cas_fail_sys(err, errno, "node table");
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

/* ---- names ---- */

static void name_read(const struct ffs_nodes *n, const struct slot_body *b, char *out)
{
        size_t len = b->name_len, have = cas_min_u64(len, NAME_INLINE_BYTES);
        uint32_t count = atomic_load(&n->head->slot_count);
        memcpy(out, b->name, have);
        for (uint32_t at = b->more; have < len && at < count; at = n->slots[at].more.next) {
                size_t piece = cas_min_u64(len - have, MORE_BYTES);
                memcpy(out + have, n->slots[at].more.bytes, piece);
                have += piece;
        }
        out[have] = '\0';
}

static uint32_t hash_bytes(uint32_t seed, const char *bytes, size_t len)
{
        uint64_t h = seed ^ UINT64_C(0xcbf29ce484222325);
        for (size_t i = 0; i < len; i++)
                h = (h ^ (uint8_t)bytes[i]) * UINT64_C(0x100000001b3);
        return (uint32_t)(h ^ h >> 32);
}

static uint32_t hash_number(uint32_t volume, uint64_t number)
{
        uint64_t h =
                (number + volume * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xc2b2ae3d27d4eb4f);
        return (uint32_t)(h >> 32);
}

/* ---- indexes ---- */

/* The index a record is in, and its chain; INDEX_COUNT: none. */
static enum index_kind index_of(const struct ffs_nodes *n, uint32_t number, uint32_t *chain)
{
        const struct slot *s = &n->slots[number];
        const struct slot_body *b = &s->body;
        uint32_t flags = atomic_load(&s->flags);
        char name[256];
        if (flags & FFS_NODE_ORPHAN)
                return INDEX_COUNT;
        if (S_ISDIR(b->type)) {
                if (b->parent == SLOT_NONE)
                        return INDEX_COUNT;
                name_read(n, b, name);
                *chain = hash_bytes(b->parent, name, b->name_len) & n->index_mask;
                return INDEX_DIR;
        }
        if (flags & (FFS_NODE_SUPERSEDED | FFS_NODE_UNLINKED))
                return INDEX_COUNT;
        if (flags & FFS_NODE_HAS_UPPER) {
                *chain = hash_number(s->volume, b->upper_ino) & n->index_mask;
                return INDEX_UPPER;
        }
        *chain = hash_number(s->volume, b->vid) & n->index_mask;
        return INDEX_VID;
}

static void index_add(struct ffs_nodes *n, uint32_t number)
{
        uint32_t chain = 0;
        enum index_kind kind = index_of(n, number, &chain);
        if (kind == INDEX_COUNT)
                return;
        n->next[kind][number] = n->heads[kind][chain];
        n->heads[kind][chain] = number + 1;
}

static void index_remove(struct ffs_nodes *n, uint32_t number)
{
        uint32_t chain = 0;
        enum index_kind kind = index_of(n, number, &chain);
        if (kind == INDEX_COUNT)
                return;
        uint32_t *at = &n->heads[kind][chain];
        while (*at && *at != number + 1)
                at = &n->next[kind][*at - 1];
        if (*at)
                *at = n->next[kind][number];
}

static uint32_t find_dir(const struct ffs_nodes *n, uint32_t parent, const char *name)
{
        char other[256];
        size_t len = strlen(name);
        uint32_t at = n->heads[INDEX_DIR][hash_bytes(parent, name, len) & n->index_mask];
        for (; at; at = n->next[INDEX_DIR][at - 1]) {
                const struct slot_body *b = &n->slots[at - 1].body;
                if (b->parent != parent || b->name_len != len)
                        continue;
                name_read(n, b, other);
                if (memcmp(name, other, len) == 0)
                        return at - 1;
        }
        return SLOT_NONE;
}

static uint32_t find_number(const struct ffs_nodes *n, enum index_kind kind, uint32_t volume,
                            uint64_t number)
{
        uint32_t at = n->heads[kind][hash_number(volume, number) & n->index_mask];
        for (; at; at = n->next[kind][at - 1]) {
                const struct slot *s = &n->slots[at - 1];
                if (s->volume == volume &&
                    (kind == INDEX_UPPER ? s->body.upper_ino : s->body.vid) == number)
                        return at - 1;
        }
        return SLOT_NONE;
}

/* ---- opening ---- */

/* Further slots that belong to a record. */
static uint32_t more_pieces(const struct slot *s)
{
        if (atomic_load(&s->flags) & FFS_NODE_ORPHAN)
                return 1;
        uint32_t len = s->body.name_len;
        return len > NAME_INLINE_BYTES ? (len - NAME_INLINE_BYTES + MORE_BYTES - 1) / MORE_BYTES
                                       : 0;
}

/* Marks them; false where the chain is damaged. */
static bool mark_more(const struct ffs_nodes *n, uint32_t number, uint8_t *taken, uint32_t count)
{
        uint32_t pieces = more_pieces(&n->slots[number]), at = n->slots[number].body.more;
        for (uint32_t i = 0; i < pieces; i++) {
                if (at >= count || taken[at])
                        return false;
                taken[at] = 1;
                at = n->slots[at].more.next;
        }
        return true;
}

static bool links_are_valid(const struct ffs_nodes *n, uint32_t number, uint32_t count)
{
        const struct slot_body *b = &n->slots[number].body;
        const uint32_t other[] = {b->parent, b->successor};
        for (size_t i = 0; i < CAS_COUNT(other); i++)
                if (other[i] != SLOT_NONE &&
                    (other[i] >= count || !(atomic_load(&n->slots[other[i]].flags) & FLAG_USED)))
                        return false;
        return true;
}

static void allocate_indexes(struct ffs_nodes *n, uint32_t count)
{
        uint32_t size = 64;
        while (size < count)
                size *= 2;
        for (int i = 0; i < INDEX_COUNT; i++) {
                free(n->heads[i]);
                n->heads[i] = cas_xcalloc(size, sizeof(uint32_t));
                n->next[i] = cas_xrealloc(n->next[i], ((size_t)count + 1) * sizeof(uint32_t));
        }
        n->index_mask = size - 1;
        n->refs = cas_xrealloc(n->refs, ((size_t)count + 1) * sizeof(uint32_t));
        n->free_list = cas_xrealloc(n->free_list, ((size_t)count + 1) * sizeof(uint32_t));
}

static void refer(struct ffs_nodes *n, const struct slot_body *b)
{
        if (b->parent != SLOT_NONE)
                n->refs[b->parent]++;
        if (b->successor != SLOT_NONE)
                n->refs[b->successor]++;
}

/* A process that died may have been about to drop records that name each other. */
static void drop_unlinked(const struct ffs_nodes *n, uint32_t count)
{
        for (bool again = true; again;) {
                again = false;
                for (uint32_t i = 0; i < count; i++) {
                        struct slot *s = &n->slots[i];
                        if (atomic_load(&s->flags) & FLAG_USED && !links_are_valid(n, i, count)) {
                                atomic_store(&s->flags, 0);
                                again = true;
                        }
                }
        }
}

/* Everything that is not in the memfd, from it. */
static int rebuild(struct ffs_nodes *n, struct cas_err *err)
{
        uint32_t count = atomic_load(&n->head->slot_count);
        allocate_indexes(n, count);
        cas_cleanup_free uint8_t *taken = cas_xcalloc((size_t)count + 1, 1);
        memset(n->refs, 0, count * sizeof(uint32_t));
        n->used_count = n->free_count = 0;
        for (uint32_t i = 0; i < count; i++) {
                if (!(atomic_load(&n->slots[i].flags) & FLAG_USED))
                        continue;
                if (taken[i] || !mark_more(n, i, taken, count))
                        return cas_fail(err, CAS_E_CORRUPT, "node table: record %u", i);
                taken[i] = 1;
                n->used_count++;
                refer(n, &n->slots[i].body);
                index_add(n, i);
        }
        for (uint32_t i = count; i-- > 0;)
                if (!taken[i])
                        n->free_list[n->free_count++] = i;
        return 0;
}

static void redo_finish(struct ffs_nodes *n)
{
        struct table_head *h = n->head;
        struct slot *s = &n->slots[h->redo_slot];
        memcpy(&s->body, &h->redo_body, sizeof(s->body));
        atomic_store(&s->flags, h->redo_flags);
        atomic_store(&h->redo, 0);
}

static int check_head(struct ffs_nodes *n, uint64_t file_bytes, struct cas_err *err)
{
        const struct table_head *h = n->head;
        if (h->magic != TABLE_MAGIC)
                return cas_fail(err, CAS_E_CORRUPT, "node table: bad magic");
        if (h->version != TABLE_VERSION || h->slot_bytes != sizeof(struct slot))
                return cas_fail(err, CAS_E_UNSUPPORTED, "node table of version %u", h->version);
        uint32_t count = atomic_load(&h->slot_count);
        if (count > FFS_NODES_MAX || file_bytes < TABLE_HEAD_BYTES + TABLE_INTENTS_BYTES +
                                                          (uint64_t)count * sizeof(struct slot))
                return cas_fail(err, CAS_E_CORRUPT, "node table: %u slots", count);
        if (atomic_load(&h->redo) && h->redo_slot >= count)
                return cas_fail(err, CAS_E_CORRUPT, "node table: update of slot %u", h->redo_slot);
        if (atomic_load(&h->redo))
                redo_finish(n);
        return 0;
}

void ffs_nodes_close(struct ffs_nodes *n)
{
        if (!n)
                return;
        (void)munmap(n->head, map_bytes);
        (void)close(n->fd);
        cas_mutex_release(&n->mutex);
        for (int i = 0; i < INDEX_COUNT; i++) {
                free(n->heads[i]);
                free(n->next[i]);
        }
        free(n->refs);
        free(n->free_list);
        free(n);
}

void *ffs_nodes_intent(struct ffs_nodes *n, unsigned index)
{
        cas_assert(index < FFS_NODES_INTENTS);
        return (uint8_t *)n->head + TABLE_HEAD_BYTES + (size_t)index * FFS_NODES_INTENT_BYTES;
}

bool ffs_nodes_intent_claim(struct ffs_nodes *n, unsigned index)
{
        uint64_t bit = UINT64_C(1) << index;
        return !(atomic_fetch_or(&n->intents_claimed, bit) & bit);
}

void ffs_nodes_intent_release(struct ffs_nodes *n, unsigned index)
{
        atomic_fetch_and(&n->intents_claimed, ~(UINT64_C(1) << index));
}

/* ---- slots ---- */

static uint64_t id_of(const struct ffs_nodes *n, uint32_t number)
{
        return UINT64_C(3) << 62 | (uint64_t)n->slots[number].generation << 32 | number;
}

/* The slot of a node that is in use, or SLOT_NONE. */
static uint32_t slot_of(const struct ffs_nodes *n, uint64_t id)
{
        uint32_t number = (uint32_t)id;
        if (ffs_node_kind(id) != FFS_NODE_RW || number >= atomic_load(&n->head->slot_count))
                return SLOT_NONE;
        const struct slot *s = &n->slots[number];
        return s->generation == (id >> 32 & GENERATION_MASK) && atomic_load(&s->flags) & FLAG_USED
                       ? number
                       : SLOT_NONE;
}

static int grow_locked(struct ffs_nodes *n)
{
        uint32_t count = atomic_load(&n->head->slot_count);
        if (count >= FFS_NODES_MAX)
                return -ENFILE;
        uint32_t more = count / 4 > TABLE_GROW_SLOTS ? count / 4 : TABLE_GROW_SLOTS;
        more = (uint32_t)cas_min_u64(more, FFS_NODES_MAX - count);
        /* Allocated, not only sized: a page that cannot be had must fail here, not by SIGBUS. */
        int rc = posix_fallocate(n->fd, 0,
                                 TABLE_HEAD_BYTES + TABLE_INTENTS_BYTES +
                                         ((off_t)count + more) * (off_t)sizeof(struct slot));
        if (rc)
                return -ENOMEM;
        atomic_store(&n->head->slot_count, count + more);
        struct cas_err err = CAS_ERR_INIT;
        return rebuild(n, &err) < 0 ? -EIO : 0; /* only what we wrote ourselves is read */
}

/* Room for one record and what its name needs beside it. First of all, as growing makes the indexes
 * anew from what records lead to. */
static int reserve_locked(struct ffs_nodes *n)
{
        return n->free_count < 4 ? grow_locked(n) : 0;
}

static uint32_t take_locked(struct ffs_nodes *n)
{
        cas_assert(n->free_count > 0);
        return n->free_list[--n->free_count];
}

static void free_more_locked(struct ffs_nodes *n, uint32_t first, uint32_t pieces)
{
        for (uint32_t i = 0; i < pieces; i++) {
                uint32_t next = n->slots[first].more.next;
                n->free_list[n->free_count++] = first;
                first = next;
        }
}

/* Slots for the bytes that the record itself has no room for. */
static uint32_t fill_more_locked(struct ffs_nodes *n, const void *bytes, size_t len)
{
        uint32_t first = SLOT_NONE;
        for (size_t end = len; end > 0;) {
                size_t begin = (end - 1) / MORE_BYTES * MORE_BYTES;
                uint32_t number = take_locked(n);
                struct slot *s = &n->slots[number];
                memcpy(s->more.bytes, (const uint8_t *)bytes + begin, end - begin);
                s->more.next = first;
                first = number;
                end = begin;
        }
        return first;
}

static void keep_attr(const struct stat *st, struct kept_attr *out)
{
        *out = (struct kept_attr){.ino = st->st_ino,
                                  .rdev = st->st_rdev,
                                  .size = (uint64_t)st->st_size,
                                  .blocks = (uint64_t)st->st_blocks,
                                  .atime_s = st->st_atim.tv_sec,
                                  .mtime_s = st->st_mtim.tv_sec,
                                  .ctime_s = st->st_ctim.tv_sec,
                                  .atime_ns = (uint32_t)st->st_atim.tv_nsec,
                                  .mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
                                  .ctime_ns = (uint32_t)st->st_ctim.tv_nsec,
                                  .mode = st->st_mode,
                                  .uid = st->st_uid,
                                  .gid = st->st_gid,
                                  .blksize = (uint32_t)st->st_blksize,
                                  .nlink = (uint32_t)st->st_nlink};
}

static void make_body_locked(struct ffs_nodes *n, const struct ffs_node *node,
                             const struct stat *attr, struct slot_body *out)
{
        bool orphan = node->flags & FFS_NODE_ORPHAN;
        size_t len = orphan ? 0 : strlen(node->name);
        cas_assert(len < sizeof(node->name));
        *out = (struct slot_body){.parent = slot_of(n, node->parent),
                                  .successor = slot_of(n, node->successor),
                                  .more = SLOT_NONE,
                                  .type = (uint16_t)(node->type & S_IFMT),
                                  .name_len = (uint8_t)len,
                                  .vid = node->vid,
                                  .upper_ino = node->upper_ino,
                                  .ino = node->ino};
        memcpy(out->name, node->name, cas_min_u64(len, NAME_INLINE_BYTES));
        if (orphan) {
                struct kept_attr kept;
                cas_assert(attr != NULL);
                keep_attr(attr, &kept);
                out->more = fill_more_locked(n, &kept, sizeof(kept));
        } else if (len > NAME_INLINE_BYTES) {
                out->more = fill_more_locked(n, node->name + NAME_INLINE_BYTES,
                                             len - NAME_INLINE_BYTES);
        }
}

static void read_locked(const struct ffs_nodes *n, uint32_t number, struct ffs_node *out)
{
        const struct slot *s = &n->slots[number];
        const struct slot_body *b = &s->body;
        uint32_t flags = atomic_load(&s->flags);
        *out = (struct ffs_node){.id = id_of(n, number),
                                 .volume = s->volume,
                                 .flags = flags & ~FLAG_USED,
                                 .parent = b->parent == SLOT_NONE ? 0 : id_of(n, b->parent),
                                 .successor =
                                         b->successor == SLOT_NONE ? 0 : id_of(n, b->successor),
                                 .vid = b->vid,
                                 .upper_ino = b->upper_ino,
                                 .ino = b->ino,
                                 .type = b->type};
        if (!(flags & FFS_NODE_ORPHAN))
                name_read(n, b, out->name);
}

/* ---- records ---- */

static uint32_t find_same_locked(const struct ffs_nodes *n, const struct ffs_node *what)
{
        if (S_ISDIR(what->type))
                return find_dir(n, slot_of(n, what->parent), what->name);
        if (what->flags & (FFS_NODE_UNLINKED | FFS_NODE_ORPHAN))
                return SLOT_NONE;
        if (what->flags & FFS_NODE_HAS_UPPER)
                return find_number(n, INDEX_UPPER, what->volume, what->upper_ino);
        return find_number(n, INDEX_VID, what->volume, what->vid);
}

static int add_locked(struct ffs_nodes *n, const struct ffs_node *what, uint64_t lookups,
                      uint32_t *out)
{
        cas_assert(!(what->flags & FFS_NODE_ORPHAN));
        int rc = reserve_locked(n);
        if (rc < 0)
                return rc;
        struct slot_body body;
        make_body_locked(n, what, NULL, &body);
        uint32_t number = take_locked(n);
        struct slot *s = &n->slots[number];
        s->generation = (s->generation + 1) & GENERATION_MASK;
        s->volume = what->volume;
        s->body = body;
        atomic_store(&s->opens, 0);
        atomic_store(&s->lookups, lookups);
        atomic_store_explicit(&s->flags, what->flags | FLAG_USED, memory_order_release);
        n->refs[number] = 0;
        n->used_count++;
        refer(n, &body);
        index_add(n, number);
        *out = number;
        return 0;
}

int ffs_nodes_intern(struct ffs_nodes *n, const struct ffs_node *what, uint64_t lookups,
                     struct ffs_node *out)
{
        cas_mutex_lock(&n->mutex);
        uint32_t number = find_same_locked(n, what);
        int rc = 0;
        if (number != SLOT_NONE)
                atomic_fetch_add(&n->slots[number].lookups, lookups);
        else
                rc = add_locked(n, what, lookups, &number);
        if (rc == 0)
                read_locked(n, number, out);
        cas_mutex_unlock(&n->mutex);
        return rc;
}

static bool get_locked(const struct ffs_nodes *n, uint32_t number, struct ffs_node *out)
{
        if (number != SLOT_NONE)
                read_locked(n, number, out);
        return number != SLOT_NONE;
}

bool ffs_nodes_get(struct ffs_nodes *n, uint64_t id, struct ffs_node *out)
{
        cas_mutex_lock(&n->mutex);
        bool found = get_locked(n, slot_of(n, id), out);
        cas_mutex_unlock(&n->mutex);
        return found;
}

bool ffs_nodes_find_dir(struct ffs_nodes *n, uint64_t parent, const char *name,
                        struct ffs_node *out)
{
        cas_mutex_lock(&n->mutex);
        uint32_t slot = slot_of(n, parent);
        bool found = slot != SLOT_NONE && get_locked(n, find_dir(n, slot, name), out);
        cas_mutex_unlock(&n->mutex);
        return found;
}

bool ffs_nodes_find_upper(struct ffs_nodes *n, uint32_t volume, uint64_t upper_ino,
                          struct ffs_node *out)
{
        cas_mutex_lock(&n->mutex);
        bool found = get_locked(n, find_number(n, INDEX_UPPER, volume, upper_ino), out);
        cas_mutex_unlock(&n->mutex);
        return found;
}

bool ffs_nodes_find_vid(struct ffs_nodes *n, uint32_t volume, uint64_t vid, struct ffs_node *out)
{
        cas_mutex_lock(&n->mutex);
        bool found = get_locked(n, find_number(n, INDEX_VID, volume, vid), out);
        cas_mutex_unlock(&n->mutex);
        return found;
}

/* Records that nothing names go, and then perhaps those that they named. What went is listed in
 * *list (owned by the caller), where it is asked for. */
static void sweep_locked(struct ffs_nodes *n, uint32_t number, struct ffs_node **list,
                         size_t *list_count)
{
        uint32_t todo[2] = {number, SLOT_NONE};
        while (todo[0] != SLOT_NONE || todo[1] != SLOT_NONE) {
                uint32_t i = todo[0] != SLOT_NONE ? 0 : 1, at = todo[i];
                struct slot *s = &n->slots[at];
                todo[i] = SLOT_NONE;
                uint32_t flags = atomic_load(&s->flags);
                if (!(flags & FLAG_USED) || flags & FFS_NODE_IS_ROOT || n->refs[at] ||
                    atomic_load(&s->lookups))
                        continue;
                if (list) {
                        *list = cas_xrealloc(*list, (*list_count + 1) * sizeof(**list));
                        read_locked(n, at, &(*list)[(*list_count)++]);
                }
                index_remove(n, at);
                uint32_t pieces = more_pieces(s);
                atomic_store(&s->flags, 0);
                free_more_locked(n, s->body.more, pieces);
                n->free_list[n->free_count++] = at;
                n->used_count--;
                if (s->body.parent != SLOT_NONE && --n->refs[s->body.parent] == 0)
                        todo[i] = s->body.parent;
                if (s->body.successor != SLOT_NONE && --n->refs[s->body.successor] == 0)
                        todo[1 - i] = s->body.successor;
        }
}

int ffs_nodes_open(int state_fd, struct ffs_nodes **out, struct cas_err *err)
{
        struct stat st;
        if (fstat(state_fd, &st) < 0)
                return cas_fail_sys(err, errno, "node table");
        if (st.st_size < TABLE_HEAD_BYTES + TABLE_INTENTS_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "node table: too short");
        int fd = fcntl(state_fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return cas_fail_sys(err, errno, "node table");
        /* The whole range is reserved once, so that growing never moves a slot. */
        uint8_t *map =
                mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (map == MAP_FAILED) {
                (void)close(fd);
                return cas_fail_sys(err, errno, "map the node table");
        }
        struct ffs_nodes *n = cas_xcalloc(1, sizeof(*n));
        cas_mutex_init(&n->mutex, "nodes");
        n->fd = fd;
        n->head = (struct table_head *)(void *)map;
        n->slots = (struct slot *)(void *)(map + TABLE_HEAD_BYTES + TABLE_INTENTS_BYTES);
        int rc = check_head(n, (uint64_t)st.st_size, err);
        if (rc == 0) {
                drop_unlinked(n, atomic_load(&n->head->slot_count));
                rc = rebuild(n, err);
        }
        if (rc < 0) {
                ffs_nodes_close(n);
                return rc;
        }
        for (uint32_t i = 0; i < atomic_load(&n->head->slot_count); i++)
                sweep_locked(n, i, NULL, NULL);
        *out = n;
        return 0;
}

static void update_locked(struct ffs_nodes *n, uint32_t number, const struct ffs_node *node,
                          const struct stat *attr)
{
        struct slot *s = &n->slots[number];
        struct table_head *h = n->head;
        struct slot_body old = s->body;
        uint32_t old_pieces = more_pieces(s);
        index_remove(n, number);
        make_body_locked(n, node, attr, &h->redo_body);
        h->redo_body.type = old.type;
        h->redo_slot = number;
        h->redo_flags = node->flags | FLAG_USED;
        atomic_store(&h->redo, 1);
        redo_finish(n);
        free_more_locked(n, old.more, old_pieces);
        refer(n, &s->body);
        index_add(n, number);
        if (old.parent != SLOT_NONE && --n->refs[old.parent] == 0)
                sweep_locked(n, old.parent, NULL, NULL);
        if (old.successor != SLOT_NONE && --n->refs[old.successor] == 0)
                sweep_locked(n, old.successor, NULL, NULL);
}

int ffs_nodes_update(struct ffs_nodes *n, const struct ffs_node *node, const struct stat *attr)
{
        cas_mutex_lock(&n->mutex);
        uint32_t number = slot_of(n, node->id);
        int rc = number == SLOT_NONE ? -ESTALE : reserve_locked(n);
        if (rc == 0)
                update_locked(n, number, node, attr);
        cas_mutex_unlock(&n->mutex);
        return rc;
}

int ffs_nodes_supersede(struct ffs_nodes *n, uint64_t id, const struct ffs_node *what,
                        struct ffs_node *out)
{
        uint32_t made;
        cas_mutex_lock(&n->mutex);
        uint32_t number = slot_of(n, id);
        cas_assert(number != SLOT_NONE);
        int rc = add_locked(n, what, 0, &made);
        if (rc == 0)
                rc = reserve_locked(n);
        if (rc == 0) {
                struct ffs_node old;
                read_locked(n, number, &old);
                old.flags = (old.flags | FFS_NODE_SUPERSEDED) & ~(uint32_t)FFS_NODE_HIDDEN;
                old.successor = id_of(n, made);
                old.parent = 0;
                old.name[0] = '\0';
                update_locked(n, number, &old, NULL);
                read_locked(n, made, out);
        }
        cas_mutex_unlock(&n->mutex);
        return rc;
}

bool ffs_nodes_attr(struct ffs_nodes *n, uint64_t id, struct stat *out)
{
        cas_mutex_lock(&n->mutex);
        uint32_t number = slot_of(n, id);
        bool found = number != SLOT_NONE && atomic_load(&n->slots[number].flags) & FFS_NODE_ORPHAN;
        if (found) {
                struct kept_attr k;
                memcpy(&k, n->slots[n->slots[number].body.more].more.bytes, sizeof(k));
                *out = (struct stat){.st_ino = k.ino,
                                     .st_rdev = k.rdev,
                                     .st_size = (off_t)k.size,
                                     .st_blocks = (blkcnt_t)k.blocks,
                                     .st_atim = {k.atime_s, k.atime_ns},
                                     .st_mtim = {k.mtime_s, k.mtime_ns},
                                     .st_ctim = {k.ctime_s, k.ctime_ns},
                                     .st_mode = k.mode,
                                     .st_uid = k.uid,
                                     .st_gid = k.gid,
                                     .st_blksize = k.blksize,
                                     .st_nlink = k.nlink};
        }
        cas_mutex_unlock(&n->mutex);
        return found;
}

uint64_t ffs_nodes_lookups(struct ffs_nodes *n, uint64_t id)
{
        cas_mutex_lock(&n->mutex);
        uint32_t number = slot_of(n, id);
        uint64_t lookups = number == SLOT_NONE ? 0 : atomic_load(&n->slots[number].lookups);
        cas_mutex_unlock(&n->mutex);
        return lookups;
}

uint32_t ffs_nodes_opens(struct ffs_nodes *n, uint64_t id, int delta)
{
        uint32_t opens = 0;
        cas_mutex_lock(&n->mutex);
        uint32_t number = slot_of(n, id);
        if (number != SLOT_NONE) {
                opens = atomic_load(&n->slots[number].opens);
                opens = delta < 0 && opens < (uint32_t)-delta ? 0 : opens + (uint32_t)delta;
                atomic_store(&n->slots[number].opens, opens);
        }
        cas_mutex_unlock(&n->mutex);
        return opens;
}

void ffs_nodes_ref(struct ffs_nodes *n, uint64_t id)
{
        cas_mutex_lock(&n->mutex);
        uint32_t number = slot_of(n, id);
        if (number != SLOT_NONE)
                atomic_fetch_add(&n->slots[number].lookups, 1);
        cas_mutex_unlock(&n->mutex);
}

void ffs_nodes_forget(struct ffs_nodes *n, uint64_t id, uint64_t count,
                      void (*gone)(void *arg, const struct ffs_node *node), void *arg)
{
        cas_cleanup_free struct ffs_node *list = NULL;
        size_t list_count = 0;
        cas_mutex_lock(&n->mutex);
        uint32_t number = slot_of(n, id);
        if (number != SLOT_NONE) {
                struct slot *s = &n->slots[number];
                uint64_t lookups = atomic_load(&s->lookups);
                atomic_store(&s->lookups, lookups > count ? lookups - count : 0);
                sweep_locked(n, number, &list, &list_count);
        }
        cas_mutex_unlock(&n->mutex);
        for (size_t i = 0; i < list_count; i++)
                gone(arg, &list[i]);
}

void ffs_nodes_each(struct ffs_nodes *n, uint32_t volume,
                    bool (*fn)(void *arg, const struct ffs_node *node, uint64_t lookups), void *arg)
{
        bool more = true;
        cas_mutex_lock(&n->mutex);
        uint32_t count = atomic_load(&n->head->slot_count);
        for (uint32_t i = 0; i < count && more; i++) {
                struct ffs_node node;
                if (!(atomic_load(&n->slots[i].flags) & FLAG_USED) || n->slots[i].volume != volume)
                        continue;
                read_locked(n, i, &node);
                more = fn(arg, &node, atomic_load(&n->slots[i].lookups));
        }
        cas_mutex_unlock(&n->mutex);
}

bool ffs_nodes_any_known(struct ffs_nodes *n, uint32_t volume, uint32_t *at)
{
        bool known = false;
        cas_mutex_lock(&n->mutex);
        uint32_t count = atomic_load(&n->head->slot_count);
        for (uint32_t i = 0, next = *at; i < count && !known; i++, next++) {
                if (next >= count)
                        next = 0;
                const struct slot *s = &n->slots[next];
                uint32_t flags = atomic_load(&s->flags);
                known = (flags & FLAG_USED) && !(flags & FFS_NODE_IS_ROOT) && s->volume == volume &&
                        atomic_load(&s->lookups) > 0;
                if (known)
                        *at = next;
        }
        cas_mutex_unlock(&n->mutex);
        return known;
}

/* Without those that it names or is named by: links to other records never leave a volume. */
static void drop_locked(struct ffs_nodes *n, uint32_t number)
{
        struct slot *s = &n->slots[number];
        index_remove(n, number);
        uint32_t pieces = more_pieces(s);
        atomic_store(&s->flags, 0);
        free_more_locked(n, s->body.more, pieces);
        n->free_list[n->free_count++] = number;
        n->used_count--;
}

static bool is_used(const struct ffs_nodes *n, uint32_t number)
{
        return atomic_load(&n->slots[number].flags) & FLAG_USED;
}

void ffs_nodes_drop_volume(struct ffs_nodes *n, uint32_t volume)
{
        cas_mutex_lock(&n->mutex);
        uint32_t count = atomic_load(&n->head->slot_count);
        for (uint32_t i = 0; i < count; i++)
                if (is_used(n, i) && n->slots[i].volume == volume)
                        drop_locked(n, i);
        cas_mutex_unlock(&n->mutex);
}

void ffs_nodes_drop_others(struct ffs_nodes *n, const uint32_t *volumes, size_t count)
{
        uint32_t last = 0; /* no volume has this number */
        bool keep = false;
        cas_mutex_lock(&n->mutex);
        uint32_t slots = atomic_load(&n->head->slot_count);
        for (uint32_t i = 0; i < slots; i++) {
                if (!is_used(n, i))
                        continue;
                if (n->slots[i].volume != last) {
                        last = n->slots[i].volume;
                        keep = false;
                        for (size_t k = 0; k < count && !keep; k++)
                                keep = volumes[k] == last;
                }
                if (!keep)
                        drop_locked(n, i);
        }
        cas_mutex_unlock(&n->mutex);
}

uint64_t ffs_nodes_count(struct ffs_nodes *n)
{
        cas_mutex_lock(&n->mutex);
        uint64_t count = n->used_count;
        cas_mutex_unlock(&n->mutex);
        return count;
}

bool ffs_nodes_volume(struct ffs_nodes *n, uint64_t node, uint32_t *number)
{
        cas_mutex_lock(&n->mutex);
        uint32_t slot = slot_of(n, node);
        if (slot != SLOT_NONE)
                *number = n->slots[slot].volume;
        cas_mutex_unlock(&n->mutex);
        return slot != SLOT_NONE;
}
