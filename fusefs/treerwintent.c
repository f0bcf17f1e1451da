/* SPDX-License-Identifier: Apache-2.0 */
/* What was about to be changed when a process died. Each change of the disk is
 * one step, and is written down before: a successor sees from the disk whether it
 * happened, completes the node table, and answers the request, which the kernel
 * delivers again, accordingly.
 *
 * States of a piece: free; begun; done, but perhaps not answered; left by a dead
 * process for a request that will come again, its result known. Those that are left
 * give way when room is needed: their requests have come by then. */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

#include "cas/buf.h"
#include "cas/log.h"
#include "fusefs/connection_int.h"
#include "fusefs/treerwcore_int.h"

enum { INTENT_FREE, INTENT_BEGUN, INTENT_DONE, INTENT_LEFT };

static __thread uint64_t current_unique;
static __thread bool has_own_umask;

/* Modes are what the sandbox's own umask left of them; this process's is for files of its own. */
static void drop_umask(void)
{
        if (!has_own_umask && unshare(CLONE_FS) == 0)
                (void)umask(0);
        has_own_umask = true;
}

void ffs_rw_request_seen(uint64_t unique)
{
        current_unique = unique;
        drop_umask();
}

uint64_t ffs_rw_request_unique(void)
{
        return current_unique;
}

static struct ffs_rw_intent *piece(struct ffs_rw *rw, unsigned i)
{
        return ffs_nodes_intent(rw->nodes, i);
}

bool ffs_rw_intent_resent(struct ffs_rw *rw, enum ffs_rw_intent_kind kind, int *result)
{
        if (!(current_unique & FFS_UNIQUE_RESENT))
                return false;
        for (unsigned i = 0; i < FFS_NODES_INTENTS; i++) {
                struct ffs_rw_intent *in = piece(rw, i);
                if (atomic_load(&in->state) == INTENT_LEFT && in->kind == kind &&
                    in->volume == rw->volume->number &&
                    in->unique == (current_unique & ~FFS_UNIQUE_RESENT)) {
                        *result = in->result;
                        return true;
                }
        }
        return false;
}

static struct ffs_rw_intent *take(struct ffs_rw *rw)
{
        static const uint32_t wanted[] = {INTENT_FREE, INTENT_LEFT};
        for (size_t pass = 0; pass < CAS_COUNT(wanted); pass++)
                for (unsigned i = 0; i < FFS_NODES_INTENTS; i++)
                        if (atomic_load(&piece(rw, i)->state) == wanted[pass] &&
                            ffs_nodes_intent_claim(rw->nodes, i))
                                return piece(rw, i);
        return NULL; /* more threads than pieces: a kill in this instant may repeat a change */
}

struct ffs_rw_intent *ffs_rw_intent_begin(struct ffs_rw *rw, const struct ffs_rw_intent *what)
{
        struct ffs_rw_intent *in = take(rw);
        if (!in)
                return NULL;
        atomic_store(&in->state, INTENT_FREE);
        in->unique = current_unique & ~FFS_UNIQUE_RESENT;
        in->kind = what->kind;
        in->volume = rw->volume->number;
        in->node = what->node;
        in->target = what->target;
        in->parent = what->parent;
        in->to_parent = what->to_parent;
        in->upper_ino = what->upper_ino;
        in->vid = what->vid;
        memcpy(in->name, what->name, sizeof(in->name));
        memcpy(in->to_name, what->to_name, sizeof(in->to_name));
        atomic_store(&in->state, INTENT_BEGUN);
        return in;
}

void ffs_rw_intent_done(struct ffs_rw_intent *in, int result)
{
        if (!in)
                return;
        in->result = result;
        atomic_store(&in->state, INTENT_DONE);
}

void ffs_rw_intent_end(struct ffs_rw *rw, struct ffs_rw_intent *in)
{
        if (!in)
                return;
        atomic_store(&in->state, INTENT_FREE);
        ffs_nodes_intent_release(rw->nodes, (unsigned)(((uint8_t *)in - (uint8_t *)piece(rw, 0)) /
                                                       FFS_NODES_INTENT_BYTES));
}

/* ---- after a kill ---- */

/* What the upper has of a name now; absent where there is no such directory. */
static int look(struct ffs_rw *rw, uint64_t parent, const char *name, struct ffs_rw_found *f)
{
        struct ffs_node dir;
        cas_cleanup_fd int dir_fd = -1;
        *f = (struct ffs_rw_found){0};
        int rc = ffs_rw_dir(rw, parent, &dir);
        if (rc == 0)
                rc = ffs_rw_dir_fd(rw, &dir, &dir_fd);
        if (rc == 0)
                rc = ffs_rw_find(rw, &dir, dir_fd, name, f);
        return rc == -ESTALE || rc == -ENOENT ? 0 : rc;
}

static bool is_moved(const struct ffs_rw_intent *in, const struct ffs_rw_found *f)
{
        return f->upper.kind == FFS_UPPER_PRESENT && f->upper.st.st_ino == in->upper_ino;
}

/* Whether it happened; a negative errno where the disk cannot say. */
static int happened(struct ffs_rw *rw, struct ffs_rw_intent *in)
{
        ffs_rw_cleanup_found struct ffs_rw_found f = {0};
        bool rename = in->kind == FFS_RW_INTENT_RENAME;
        int rc = look(rw, rename ? in->to_parent : in->parent, rename ? in->to_name : in->name, &f);
        if (rc < 0)
                return rc;
        switch ((enum ffs_rw_intent_kind)in->kind) {
        case FFS_RW_INTENT_MAKE:
                return f.upper.kind == FFS_UPPER_PRESENT;
        case FFS_RW_INTENT_REMOVE:
                return !f.exists;
        case FFS_RW_INTENT_RENAME:
                return is_moved(in, &f) && (rc = ffs_rw_rename_finish(rw, in)) < 0
                               ? rc
                               : is_moved(in, &f);
        case FFS_RW_INTENT_COPY:
                rc = ffs_rw_copy_recover(rw, in);
                return rc < 0 ? rc : 0; /* what needed the copy is done from the beginning */
        case FFS_RW_INTENT_XATTR:
                return 1; /* may be: who repeats it takes that into account */
        }
        return -EUCLEAN;
}

static bool check_hidden(void *arg, const struct ffs_node *node, uint64_t lookups CAS_UNUSED)
{
        struct cas_buf *list = arg;
        if (node->flags & FFS_NODE_HIDDEN)
                cas_buf_append_le64(list, node->id);
        return true;
}

/* A node whose hidden name was never made has nothing left. */
static int recover_hidden(struct ffs_rw *rw)
{
        cas_cleanup_buf struct cas_buf list = CAS_BUF_INIT;
        ffs_nodes_each(rw->nodes, rw->volume->number, check_hidden, &list);
        for (size_t i = 0; i < list.len_bytes; i += sizeof(uint64_t)) {
                struct ffs_node node;
                cas_cleanup_fd int fd = -1;
                struct stat st = {.st_mode = 0};
                if (!ffs_nodes_get(rw->nodes, cas_get_le64(list.data + i), &node) ||
                    ffs_rw_open_upper(rw, &node, O_PATH, &fd) == 0)
                        continue;
                st.st_mode = node.type;
                st.st_ino = node.ino;
                node.flags = FFS_NODE_ORPHAN;
                int rc = ffs_nodes_update(rw->nodes, &node, &st);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* Whether a record has this name. What the process that died had let go of, or not yet had one of,
 * has none. */
static bool is_used(void *arg, const char *hidden)
{
        const struct ffs_rw *rw = arg;
        struct ffs_node node;
        return ffs_nodes_find_upper(rw->nodes, rw->volume->number, strtoull(hidden, NULL, 16),
                                    &node) &&
               node.flags & FFS_NODE_HIDDEN;
}

int ffs_rw_intent_recover(struct ffs_rw *rw)
{
        for (unsigned i = 0; i < FFS_NODES_INTENTS; i++) {
                struct ffs_rw_intent *in = piece(rw, i);
                uint32_t state = atomic_load(&in->state);
                if (in->volume != rw->volume->number ||
                    (state != INTENT_BEGUN && state != INTENT_DONE))
                        continue;
                int rc = state == INTENT_DONE ? 1 : happened(rw, in);
                if (rc < 0)
                        cas_log(CAS_LOG_WARN, "treerw.recover", "volume=%s kind=%u errno=%d",
                                rw->volume->spec.id, in->kind, -rc);
                if (state == INTENT_BEGUN)
                        in->result = in->kind == FFS_RW_INTENT_XATTR ? FFS_RW_PERHAPS : 0;
                atomic_store(&in->state, rc > 0 ? INTENT_LEFT : INTENT_FREE);
        }
        int rc = recover_hidden(rw);
        return rc < 0 ? rc : ffs_upper_sweep_hidden(rw->upper, is_used, rw);
}
