/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of directories: files that no record tells of. Each is looked at again while nobody can be
 * between making or removing a file and telling the index. */
#include <fcntl.h>
#include <stdio.h>

#include "cas/blobcache_int.h"
#include "cas/dirwalk_int.h"
#include "cas/map.h"
#include "cas/pack_int.h"
#include "cas/packfile_int.h"
#include "cas/scrub_int.h"
#include "cas/tree_int.h"

/* Trees that are known at a time, of the part of all whose digests begin alike. */
#define TREES_MAX 500000

struct file_look {
        struct cas_scrub_run *run;
        const char *path; /* borrowed */
        struct cas_digest digest;
        int dirfd; /* of packs */
        uint32_t tier;
        uint64_t pack_id;
};

static bool is_there(struct cas_scrub_run *run, int dirfd, const char *path)
{
        struct stat st;
        return run->s->io->ops->fstatat(run->s->io->ctx, dirfd, path, &st, AT_SYMLINK_NOFOLLOW) ==
               0;
}

static void stop_here(struct cas_scrub_run *run, const struct cas_err *err)
{
        if (err->code == CAS_E_NOMEM)
                cas_scrub_fail(run, err);
}

/* Files that collection removes go some time after the index has forgotten them: what is under way,
 * or was since so many began or ended, may be about to remove it. The next pass tells. */
static bool may_go(struct cas_store *s, uint64_t collections)
{
        return collections % 2 == 1 || atomic_load(&s->collections) != collections;
}

/* ---- blobs ---- */

static void check_blob_file(struct cas_look *look, void *arg)
{
        const struct file_look *f = arg;
        struct cas_store *s = f->run->s;
        struct cas_blob_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        const uint64_t collections = atomic_load(&s->collections);
        bool again = !cas_look_is_first(look), there = true;
        cas_look_pin_blob(look, &f->digest);
        if (again)
                cas_blob_files_lock(s, true);
        int rc = cas_blob_record_get(s, &f->digest, &rec, &miss);
        if (again) {
                there = is_there(f->run, s->dirfd, f->path) && !may_go(s, collections);
                cas_blob_files_unlock(s);
        }
        if (there && rc == -CAS_E_NOTFOUND)
                cas_look_found(look, CAS_FSCK_BLOB_UNKNOWN, NULL, f->path, "%s", "");
        else if (there && rc == 0 && rec.copy == CAS_BLOB_CONDENSED)
                cas_look_found(look, CAS_FSCK_COPY_UNKNOWN, NULL, f->path, "%s", "");
}

static int take_blob_file(void *arg, const char *path, const struct cas_digest *digest,
                          struct cas_err *err CAS_UNUSED)
{
        struct cas_scrub_run *run = arg;
        cas_scrub_look(run, check_blob_file,
                       &(struct file_look){.run = run, .path = path, .digest = *digest});
        return 0;
}

static int take_stray(void *arg, const char *path, const char *name CAS_UNUSED,
                      struct cas_err *err CAS_UNUSED)
{
        cas_scrub_say(arg, CAS_FSCK_BLOB_STRAY, path, "%s", "");
        return 0;
}

/* ---- packs ---- */

static void check_pack_file(struct cas_look *look, void *arg)
{
        const struct file_look *f = arg;
        struct cas_packset *ps = f->run->s->packset;
        struct cas_pack_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        /* Who makes a pack has it open until the index tells of it; who removes or moves one has it
         * claimed until the file has gone. */
        bool open = cas_packset_is_open(ps, f->pack_id);
        int rc = cas_index_get_pack(ps->index, f->pack_id, &rec, &miss);
        open = open || cas_packset_is_open(ps, f->pack_id);
        bool unknown = rc == -CAS_E_NOTFOUND || (rc == 0 && rec.tier != f->tier);
        if (unknown && !open && is_there(f->run, f->dirfd, f->path))
                cas_look_found(look, CAS_FSCK_PACK_UNKNOWN, NULL, f->path, "%s", "");
}

struct pack_dir {
        struct cas_scrub_run *run;
        uint32_t tier;
        int dirfd;
};

static int take_pack_file(void *arg, const char *path CAS_UNUSED, const char *name,
                          struct cas_err *err CAS_UNUSED)
{
        const struct pack_dir *d = arg;
        uint64_t pack_id;
        if (strlen(name) == CAS_PACK_NAME_BYTES - 3 && cas_pack_name_parse(name, &pack_id))
                cas_scrub_look(d->run, check_pack_file,
                               &(struct file_look){.run = d->run,
                                                   .path = name,
                                                   .dirfd = d->dirfd,
                                                   .tier = d->tier,
                                                   .pack_id = pack_id});
        else if (strncmp(name, "lost+found", 10) != 0 &&
                 !(cas_pack_moving_name_parse(name, &pack_id) &&
                   cas_packset_is_open(d->run->s->packset, pack_id)))
                cas_scrub_say(d->run, CAS_FSCK_PACK_UNKNOWN, name, "%s", "");
        return 0;
}

static int take_tier(void *arg, const struct cas_tier_info *tier, int dirfd, struct cas_err *err)
{
        if (dirfd < 0)
                return 0;
        struct cas_scrub_run *run = arg;
        struct pack_dir d = {.run = run, .tier = tier->tier, .dirfd = dirfd};
        return cas_dir_each_at(dirfd, take_pack_file, &d, err);
}

/* ---- trees ---- */

/* Trees of one part. */
struct trees {
        struct cas_scrub_run *run;
        unsigned part, parts; /* parts: a power of two, at most 256 */
        bool full;
        struct cas_map *known; /* digests, 32 bytes */
};

static bool is_of_part(const struct trees *trees, const uint8_t *digest)
{
        return digest[0] % trees->parts == trees->part;
}

static void note_tree(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                      const void *value, size_t value_len)
{
        struct trees *trees = arg;
        struct cas_tree_record rec;
        struct cas_err malformed = CAS_ERR_INIT;
        if (trees->full || cas_tree_record_decode(value, value_len, &rec, &malformed) < 0)
                return;
        free(rec.layers);
        if (!is_of_part(trees, rec.tree.bytes))
                return;
        trees->full = cas_map_count(trees->known) == TREES_MAX && trees->parts < 256;
        if (!trees->full)
                (void)cas_map_put(trees->known, rec.tree.bytes, CAS_HASH_BYTES, NULL);
}

struct tree_search {
        const uint8_t *digest;
        bool found;
};

static int find_tree(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                     const void *value, size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct tree_search *search = arg;
        struct cas_tree_record rec;
        struct cas_err malformed = CAS_ERR_INIT;
        if (cas_tree_record_decode(value, value_len, &rec, &malformed) < 0)
                return 0;
        free(rec.layers);
        search->found = memcmp(rec.tree.bytes, search->digest, CAS_HASH_BYTES) == 0;
        return search->found ? 1 : 0;
}

/* Whoever makes a tree has its file before its record, and whoever removes one its record before
 * its file: both under this lock. */
static void check_tree_file(struct cas_look *look, void *arg)
{
        const struct file_look *f = arg;
        struct cas_store *s = f->run->s;
        struct tree_search search = {.digest = f->digest.bytes};
        struct cas_err err = CAS_ERR_INIT;
        const uint64_t collections = atomic_load(&s->collections);
        bool there = true;
        int rc = 0;
        if (!cas_look_is_first(look)) {
                cas_trees_naming_lock(s->trees, true);
                rc = cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_TREES},
                                    find_tree, &search, &err);
                there = is_there(f->run, s->dirfd, f->path) && !may_go(s, collections);
                cas_trees_naming_unlock(s->trees);
        }
        if (rc == 0 && there && !search.found)
                cas_look_found(look, CAS_FSCK_TREE_UNKNOWN, NULL, f->path, "%s", "");
}

static int take_tree_file(void *arg, const char *path, const char *name,
                          struct cas_err *err CAS_UNUSED)
{
        struct trees *trees = arg;
        struct cas_hash hash;
        if (strlen(name) < 64 || !cas_hash_from_hex(name, 64, &hash) ||
            strcmp(name + 64, ".erofs") != 0) {
                if (trees->part == 0)
                        cas_scrub_say(trees->run, CAS_FSCK_TREE_UNKNOWN, path, "%s", "");
                return 0;
        }
        if (!is_of_part(trees, hash.bytes) || cas_map_get(trees->known, hash.bytes, CAS_HASH_BYTES))
                return 0;
        struct file_look f = {
                .run = trees->run, .path = path, .digest = {.alg = CAS_DIGEST_SHA256}};
        memcpy(f.digest.bytes, hash.bytes, CAS_HASH_BYTES);
        cas_scrub_look(trees->run, check_tree_file, &f);
        return 0;
}

/* False: the step ends. */
static bool check_tree_part(struct trees *trees)
{
        struct cas_err err = CAS_ERR_INIT;
        trees->known = cas_map_new();
        trees->full = false;
        bool good = cas_scrub_scan(trees->run, &(struct cas_scan){.family = CAS_FAMILY_TREES},
                                   note_tree, trees);
        if (good && !trees->full &&
            cas_dir_each(trees->run->s, CAS_DIR_TREES, take_tree_file, trees, &err) < 0)
                stop_here(trees->run, &err);
        cas_map_free(trees->known);
        return good;
}

static void check_trees(struct cas_scrub_run *run)
{
        struct trees trees = {.run = run, .parts = 1};
        while (trees.part < trees.parts && check_tree_part(&trees)) {
                if (trees.full) {
                        trees.parts *= 2;
                        trees.part = 0;
                } else {
                        trees.part++;
                }
        }
}

/* ---- all ---- */

/* The place: one byte for what was listed last; of blobs the number of their directory. */
void cas_scrub_directories(struct cas_scrub_run *run)
{
        struct cas_record_key *place = &run->place.key;
        struct cas_err err = CAS_ERR_INIT;
        if (place->len == 0) {
                if (run->s->backend->ops->tier_each(run->s->backend, take_tier, run, &err) < 0)
                        stop_here(run, &err);
                check_trees(run);
                place->bytes[0] = 0;
                place->bytes[1] = 0;
                place->len = 2;
        }
        while (cas_scrub_goes_on(run)) {
                unsigned next = (unsigned)place->bytes[0] << 8 | place->bytes[1];
                if (next >= CAS_BLOB_DIRECTORIES)
                        return;
                if (cas_blob_directory_each(run->s, next, take_blob_file, take_stray, run, &err) <
                    0)
                        stop_here(run, &err);
                place->bytes[0] = (uint8_t)((next + 1) >> 8);
                place->bytes[1] = (uint8_t)(next + 1);
        }
}
