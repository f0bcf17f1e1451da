/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/crash/parts/check.h"

#include <dirent.h>
#include <xxhash.h>

#include "cas/blob.h"
#include "cas/maintain.h"

#define UPLOADS_EXPIRE_S 3600
#define UPLOADS "/" CAS_DIR_UPLOADS "/" /* sessions: they end, or expire */
#define AGAIN_TRIES 10
#define COLLECTIONS_MAX 5
#define AGAIN_PAUSE_US 100000

struct cas_store *open_store(const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        const struct cas_store_config config = {
                .path = path, .threads = 1, .backend_open = crash_backend_open};
        if (cas_store_open(&config, &s, &err) < 0) {
                (void)fprintf(stderr, "open: %s\n", err.msg);
                _exit(1);
        }
        return s;
}

/* ---- fsck ---- */

static void tell(void *arg, enum cas_fsck_severity severity, const char *id, const char *subject,
                 const char *message)
{
        const enum cas_fsck_severity *least = arg;
        if (severity <= *least)
                (void)fprintf(stderr, "fsck: %s %s: %s\n", id, subject, message);
}

/* Warnings are of garbage. */
static void check_fsck(struct cas_store *s, bool clean)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        enum cas_fsck_severity least = clean ? CAS_FSCK_WARNING : CAS_FSCK_ERROR;
        if (cas_fsck(s, NULL, NULL, tell, &least, &r, &err) < 0)
                (void)fprintf(stderr, "fsck: %s\n", err.msg);
        must(err.code == CAS_OK);
        must(r.errors == 0);
        must(!clean || r.warnings == 0);
}

/* ---- what is there ---- */

/* Of packs, how many there are and what is where depends on when they were begun. */
static bool is_comparable(enum cas_family family)
{
        return family != CAS_FAMILY_META && family != CAS_FAMILY_PACKS &&
               family != CAS_FAMILY_PACK_DEAD && family != CAS_FAMILY_TAG_TIMES;
}

struct sum {
        uint64_t *count, *hash;
};

static int add_key(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                   size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        const struct sum *sum = arg;
        ++*sum->count;
        *sum->hash += XXH3_64bits(key, key_len);
        return 0;
}

static void add_files(struct print *p, const char *path, size_t root_len)
{
        DIR *dir = opendir(path);
        must(dir != NULL);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                cas_cleanup_free char *below = cas_xasprintf("%s/%s", path, e->d_name);
                if (strcmp(below + root_len, "/" CAS_DIR_QUARANTINE) == 0)
                        continue; /* for people: how much of a damaged pack it has depends */
                if (strncmp(below + root_len, UPLOADS, strlen(UPLOADS)) == 0 &&
                    strncmp(e->d_name, CAS_TEMPORARY_PREFIX, strlen(CAS_TEMPORARY_PREFIX)) != 0)
                        continue;
                p->count[PRINT_FILES]++;
                p->hash[PRINT_FILES] += XXH3_64bits(below + root_len, strlen(below + root_len));
                bool varies = strcmp(below + root_len, "/index") == 0 ||
                              strcmp(below + root_len, "/packs") == 0;
                if (e->d_type == DT_DIR && !varies)
                        add_files(p, below, root_len);
        }
        (void)closedir(dir);
}

static void take_print(struct cas_store *s, struct print *p)
{
        struct cas_err err = CAS_ERR_INIT;
        memset(p, 0, sizeof(*p));
        for (enum cas_family f = 0; f < CAS_FAMILY_COUNT; f++) {
                struct sum sum = {&p->count[f], &p->hash[f]};
                must(!is_comparable(f) || cas_index_scan(s->index, &(struct cas_scan){.family = f},
                                                         add_key, &sum, &err) == 0);
        }
        add_files(p, cas_store_path(s), strlen(cas_store_path(s)));
}

static void compare_prints(const struct print *want, const struct print *got)
{
        bool same = true;
        for (size_t i = 0; i <= PRINT_FILES; i++) {
                if (want->count[i] == got->count[i] && want->hash[i] == got->hash[i])
                        continue;
                (void)fprintf(stderr, "left over or lost: %s: %llu, not %llu\n",
                              i == PRINT_FILES ? "files" : cas_family_name((enum cas_family)i),
                              (unsigned long long)got->count[i],
                              (unsigned long long)want->count[i]);
                same = false;
        }
        must(same);
}

/* ---- the whole ---- */

/* What failed for a while may be refused for a moment more. */
static int run_again(const struct operation *op, struct cas_store *s, struct cas_err *err)
{
        int rc = -1;
        for (unsigned tries = 0; rc < 0 && tries < AGAIN_TRIES; tries++) {
                if (tries > 0)
                        (void)usleep(AGAIN_PAUSE_US);
                rc = op->run(s, err);
        }
        return rc;
}

/* Whether a call failed in this process: while an error of before is not mended, index and
 * journal may differ. */
void check_whole(const struct operation *op, struct cas_store *s, bool acknowledged, bool failed)
{
        struct cas_err err = CAS_ERR_INIT;
        if (!failed && !op->damaged)
                check_fsck(s, false);
        enum outcome now = op->look(s);
        must(now != BROKEN);
        must(now == AFTER || !acknowledged);
        if (op->run && run_again(op, s, &err) < 0) {
                (void)fprintf(stderr, "again: %s\n", err.msg);
                _exit(1);
        }
        must(!op->run || op->look(s) == AFTER);
        if (failed || op->damaged)
                check_fsck(s, false);
}

/* A pack that others are written to meanwhile is left for the next run. */
static void collect(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        uint64_t expired;
        int rc = cas_upload_expire(s, UPLOADS_EXPIRE_S, &expired, &err);
        for (unsigned runs = 0; rc == 0 && (runs == 0 || r.packs_rewritten > 0); runs++) {
                must(runs < COLLECTIONS_MAX);
                rc = cas_gc(s, &(struct cas_gc_options){.full = runs == 0, .live_percent_min = 100},
                            NULL, &r, &err);
        }
        if (rc < 0)
                (void)fprintf(stderr, "collection: %s\n", err.msg);
        must(rc == 0);
}

static void again_closed(const struct operation *op, const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_store_config config = {
                .path = path, .threads = 1, .backend_open = crash_backend_open};
        if (op->run_closed(&config, &err) < 0) {
                (void)fprintf(stderr, "again: %s\n", err.msg);
                _exit(1);
        }
}

void check_closed(const struct operation *op, const char *path, bool acknowledged,
                  const struct print *want, struct print *out)
{
        struct print print;
        if (op->run_closed && !acknowledged)
                again_closed(op, path);
        struct cas_store *s = open_store(path);
        check_whole(op, s, acknowledged || op->run_closed, false);
        collect(s);
        check_fsck(s, true);
        if (op->settled)
                op->settled(s);
        take_print(s, &print);
        cas_store_close(s);
        if (want)
                compare_prints(want, &print);
        if (out)
                *out = print;
}
