/* SPDX-License-Identifier: Apache-2.0 */
/* What is in the directory of twins when it is opened: the log tells which blocks are there, the
 * files which bytes are. Files and pages that the log does not tell of go, and blocks whose bytes
 * are not all there; so what is counted is what is on the disk. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cas/log.h"
#include "tiering/blocks_int.h"

static void take_record(void *arg, const struct tier_twinlog_record *r)
{
        struct tier_blocks *b = arg;
        bool first;
        if (r->bytes > TIER_BLOCK_BYTES_MAX)
                return;
        uint64_t *value = cas_map_put(b->twins, &r->pack_id, sizeof(r->pack_id), &first);
        if (first)
                *value = (uint64_t)(uintptr_t)tier_twin_new(r->pack_id);
        struct tier_twin *t = (struct tier_twin *)(uintptr_t)*value; // NOLINT: kept as a number
        if (r->kind == TIER_TWINLOG_CAME) {
                if (tier_twin_is_free(t, r->offset, r->bytes))
                        (void)tier_twin_insert(t, r->offset, r->bytes);
        } else {
                struct tier_block *block = tier_twin_at(t, r->offset);
                if (block)
                        (void)tier_twin_remove(t, block);
        }
}

/* ---- files ---- */

/* Whether all bytes of the range are data. */
static bool is_data(int fd, const struct tier_block *block)
{
        off_t hole = lseek(fd, (off_t)block->offset, SEEK_HOLE);
        return hole >= 0 && (uint64_t)hole >= block->offset + block->bytes;
}

static int punch(int fd, uint64_t from, uint64_t to)
{
        const uint64_t mask = TIER_PAGE_BYTES - 1;
        from = (from + mask) & ~mask;
        to &= ~mask;
        if (from >= to)
                return 0;
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                         (off_t)(to - from));
}

/* Frees the pages on which no block stands. */
static int punch_between(int fd, const struct tier_twin *t)
{
        const uint64_t mask = TIER_PAGE_BYTES - 1;
        struct stat st;
        uint64_t at = 0;
        if (fstat(fd, &st) != 0)
                return -1;
        for (size_t i = 0; i < t->count; i++) {
                if (punch(fd, at, t->blocks[i].offset) != 0)
                        return -1;
                at = t->blocks[i].offset + t->blocks[i].bytes;
        }
        /* Behind the last: whole pages, however the file ends. */
        uint64_t size = ((uint64_t)st.st_size + mask) & ~mask;
        return punch(fd, at, size);
}

/* Lets the blocks of a twin stay that are there; false: none are, and the file may go. */
static bool take_file(struct tier_blocks *b, struct tier_twin *t)
{
        char name[TIER_TWIN_NAME_BYTES];
        cas_cleanup_fd int fd =
                openat(b->dirfd, tier_twin_name(t->pack_id, name), O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) {
                while (t->count > 0)
                        (void)tier_twin_remove(t, &t->blocks[t->count - 1]);
                return false;
        }
        for (size_t i = t->count; i-- > 0;) {
                if (!is_data(fd, &t->blocks[i]))
                        (void)tier_twin_remove(t, &t->blocks[i]);
        }
        if (t->count > 0 && punch_between(fd, t) != 0) {
                cas_log(CAS_LOG_WARN, "blocks.open", "twin=%s errno=%d", name, errno);
                while (t->count > 0)
                        (void)tier_twin_remove(t, &t->blocks[t->count - 1]);
        }
        return t->count > 0;
}

static void drop_files(struct tier_blocks *b, DIR *dir)
{
        for (struct dirent *e; (e = readdir(dir));) {
                uint64_t pack_id;
                if (tier_twin_name_parse(e->d_name, &pack_id) &&
                    !cas_map_get(b->twins, &pack_id, sizeof(pack_id)))
                        (void)unlinkat(b->dirfd, e->d_name, 0);
        }
}

/* ---- all of them ---- */

struct gather {
        struct tier_blocks *b;
        struct tier_twin **twins; /* owned */
        size_t count;
        size_t twin, block; /* of the record that comes next */
};

static void gather_twin(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                        uint64_t value)
{
        struct gather *g = arg;
        g->twins[g->count++] = (struct tier_twin *)(uintptr_t)value; // NOLINT: kept as a number
}

/* A list of all twins; free g->twins. */
static void gather(struct tier_blocks *b, struct gather *g)
{
        *g = (struct gather){.b = b};
        g->twins = cas_xcalloc(cas_map_count(b->twins) + 1, sizeof(struct tier_twin *));
        cas_map_each(b->twins, gather_twin, g);
}

/* Takes room for the blocks of a twin, and makes them known to the evictor. */
static void take_room_locked(struct tier_blocks *b, struct tier_twin *t)
{
        b->page_count += t->page_count;
        b->block_count += t->count;
        bool room =
                !b->ops->room_take || b->ops->room_take(b->arg, t->page_count * TIER_PAGE_BYTES);
        if (!room) { /* all of it goes; given back as it does */
                b->page_count -= t->page_count;
                b->block_count -= t->count;
                while (t->count > 0)
                        (void)tier_twin_remove(t, &t->blocks[t->count - 1]);
        }
        for (size_t i = 0; i < t->count; i++) {
                struct tier_block *block = &t->blocks[i];
                struct tier_key key = tier_blocks_key(t->pack_id, block->offset);
                uint64_t from = block->offset / TIER_PAGE_BYTES;
                uint64_t to =
                        (block->offset + block->bytes + TIER_PAGE_BYTES - 1) / TIER_PAGE_BYTES;
                if (!tier_evictor_admit(b->evictor, &key, (to - from) * TIER_PAGE_BYTES, true,
                                        tier_blocks_evicted_locked, b))
                        tier_blocks_doom_locked(b, t, block);
        }
}

static bool next_record(void *arg, struct tier_twinlog_record *out)
{
        struct gather *g = arg;
        for (; g->twin < g->count; g->twin++, g->block = 0) {
                const struct tier_twin *t = g->twins[g->twin];
                while (g->block < t->count) {
                        const struct tier_block *block = &t->blocks[g->block++];
                        if (block->doomed || block->filling)
                                continue;
                        *out = (struct tier_twinlog_record){.kind = TIER_TWINLOG_CAME,
                                                            .pack_id = t->pack_id,
                                                            .offset = block->offset,
                                                            .bytes = block->bytes};
                        return true;
                }
        }
        return false;
}

static int renew_locked(struct tier_blocks *b, struct cas_err *err)
{
        struct gather g;
        gather(b, &g);
        int rc = tier_twinlog_renew(b->log, next_record, &g, err);
        free(g.twins);
        return rc;
}

void tier_blocks_log_locked(struct tier_blocks *b, enum tier_twinlog_kind kind, uint64_t pack_id,
                            uint64_t offset, uint32_t bytes)
{
        const struct tier_twinlog_record r = {
                .kind = kind, .pack_id = pack_id, .offset = offset, .bytes = bytes};
        struct cas_err err = CAS_ERR_INIT;
        if (!b->log)
                return;
        tier_twinlog_append(b->log, &r);
        if (tier_twinlog_is_long(b->log, b->block_count) && renew_locked(b, &err) < 0)
                cas_log(CAS_LOG_WARN, "blocks.log", "error=\"%s\"", err.msg);
}

/* Nothing can be evicted where no holes can be punched. */
static int check_punching(struct tier_blocks *b, struct cas_err *err)
{
        cas_cleanup_fd int fd =
                openat(b->dirfd, TIER_TWINLOG_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "cache of blocks");
        if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, INT64_C(1) << 40,
                      TIER_PAGE_BYTES) != 0)
                return cas_fail_sys(err, errno, "cache of blocks: punch a hole");
        return 0;
}

static int recover_locked(struct tier_blocks *b, DIR *dir, struct cas_err *err)
{
        struct gather g;
        if (tier_twinlog_open(b->io, b->dirfd, take_record, b, &b->log, err) < 0)
                return -(int)err->code;
        if (check_punching(b, err) < 0)
                return -(int)err->code;
        gather(b, &g);
        for (size_t i = 0; i < g.count; i++) {
                struct tier_twin *t = g.twins[i];
                if (take_file(b, t))
                        take_room_locked(b, t);
                if (t->count == 0) {
                        (void)cas_map_remove(b->twins, &t->pack_id, sizeof(t->pack_id));
                        tier_twin_free(t);
                }
        }
        free(g.twins);
        drop_files(b, dir);
        int rc = renew_locked(b, err);
        tier_blocks_drain_locked(b);
        return rc;
}

static DIR *open_dir(int dirfd)
{
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        if (!dir && fd >= 0) {
                int failed = errno;
                (void)close(fd);
                errno = failed;
        }
        return dir;
}

int tier_blocks_remove(int dirfd, struct cas_err *err)
{
        DIR *dir = open_dir(dirfd);
        int rc = 0;
        if (!dir)
                return cas_fail_sys(err, errno, "read the cache of blocks");
        for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
                uint64_t pack_id;
                if (tier_twin_name_parse(e->d_name, &pack_id) ||
                    strcmp(e->d_name, TIER_TWINLOG_NAME) == 0 ||
                    strcmp(e->d_name, TIER_TWINLOG_NEW_NAME) == 0)
                        rc = cas_io_unlink(cas_io_posix(), dirfd, e->d_name, err);
        }
        (void)closedir(dir);
        return rc;
}

int tier_blocks_recover(struct tier_blocks *b, struct cas_err *err)
{
        DIR *dir = open_dir(b->dirfd);
        if (!dir)
                return cas_fail_sys(err, errno, "read the cache of blocks");
        cas_mutex_lock(&b->mutex);
        int rc = recover_locked(b, dir, err);
        cas_mutex_unlock(&b->mutex);
        (void)closedir(dir);
        return rc;
}
