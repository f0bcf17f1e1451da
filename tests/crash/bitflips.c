/* SPDX-License-Identifier: Apache-2.0 */
/* One bit of a store flips, anywhere in a pack, a blob, a tree or a table of the index, again and
 * again from the same store: the flip is found by one pass of scrub, always; bytes of packs that
 * are read before it are the right ones or none; afterwards all is whole again where a second copy
 * exists, and where none does, what was lost is absent, its images are named, and pushing these
 * heals everything. A table is put right by a rebuild.
 *
 *   bitflips [--flips N] [--seed N] [--processes N] [-v]
 *
 * This process never opens a store itself: children do (RocksDB's threads do not survive a fork).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cas/condense.h"
#include "cas/log.h"
#include "cas/mend_int.h"
#include "cas/packset_int.h"
#include "cas/scrub.h"
#include "cas/store_int.h"
#include "cas/tree.h"
#include "tests/support/packs.h"
#include "tests/support/pushedimage.h"
#include "tests/support/scratch.h"

#define FLIPS_SHORT 80
#define FILES_MAX 512

#define must(cond)                                                                                 \
        do {                                                                                       \
                if (!(cond)) {                                                                     \
                        (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);           \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)
#define done(call)                                                                                 \
        do {                                                                                       \
                struct cas_err done_err = CAS_ERR_INIT, *err = &done_err;                          \
                if ((call) < 0) {                                                                  \
                        (void)fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,        \
                                      err->msg);                                                   \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)

/* ---- the store ---- */

/* What the store has of each: the blob's file, a recipe for it, another copy of its chunks. */
static const struct {
        const char *tag;
        unsigned seed, files;
        enum pushed_kind kind;
        bool condensed, copy;
} plan[] = {
        {"verbatim", 0, 4, PUSHED_GZIP, false, false},
        {"plain", 10, 4, PUSHED_TAR, false, false},
        {"cached", 20, 5, PUSHED_GZIP, true, true}, /* one of 700 KiB */
        {"frames", 25, 4, PUSHED_ZSTD_FRAMES, true, true},
        {"alone", 30, 4, PUSHED_GZIP, true, false}, /* of which there is no second copy */
};
#define IMAGES CAS_COUNT(plan)
#define ALONE 4

static struct pushedimage images[IMAGES];

static int open_store(const char *path, struct cas_store **out, struct cas_err *err)
{
        const struct cas_store_config config = {
                .path = path, .threads = 2, .blob_cache_bytes = 64 * CAS_MIB};
        return cas_store_open(&config, out, err);
}

static void condense_image(struct cas_store *s, unsigned i)
{
        const struct cas_condense_options options = {.threads = 1, .keep_verbatim = plan[i].copy};
        struct cas_recipe_record rec;
        if (!plan[i].condensed)
                return;
        done(cas_condense_blob(s, &images[i].layer, &options, NULL, &rec, err));
        must(rec.is_proved);
}

/* As a client pushes, and as it is used then. */
static void put_image(struct cas_store *s, unsigned i)
{
        struct cas_layer_record layer;
        struct cas_tree_ref tree;
        done(pushedimage_push(s, &images[i], err));
        done(pushedimage_decode(s, &images[i], &layer, err));
        done(cas_tree_ensure(s, &layer, 1, &tree, err));
        condense_image(s, i);
}

static void make_store(const char *path)
{
        struct cas_store *s;
        done(open_store(path, &s, err));
        for (unsigned i = 0; i < IMAGES; i++) {
                put_image(s, i);
                if (i == 1) /* a pack that is sealed, too */
                        done(cas_packset_seal(s->packset, err));
        }
        done(cas_store_compact(s, err)); /* so that there are tables */
        cas_store_close(s);
}

/* ---- one flip ---- */

enum kind { PACK, BLOB, TREE, TABLE, KINDS };
static const char *const kind_names[KINDS] = {"packs", "blobs", "trees", "tables"};

struct file {
        enum kind kind;
        char path[160]; /* in the store */
        uint64_t bytes;
};
struct files {
        struct file list[FILES_MAX];
        size_t count;
};

static void list_files(const char *root, const char *dir, enum kind kind, const char *end,
                       struct files *out)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", root, dir);
        DIR *d = opendir(path);
        must(d != NULL);
        for (struct dirent *e = readdir(d); e; e = readdir(d)) {
                struct stat st;
                struct file f = {.kind = kind};
                size_t len = strlen(e->d_name), end_len = strlen(end);
                if (e->d_name[0] == '.')
                        continue;
                must(snprintf(f.path, sizeof(f.path), "%s/%s", dir, e->d_name) <
                     (int)sizeof(f.path));
                cas_cleanup_free char *full = cas_xasprintf("%s/%s", root, f.path);
                must(stat(full, &st) == 0);
                if (S_ISDIR(st.st_mode)) {
                        list_files(root, f.path, kind, end, out);
                        continue;
                }
                if (len < end_len || strcmp(e->d_name + len - end_len, end) != 0 || st.st_size == 0)
                        continue;
                must(out->count < FILES_MAX);
                f.bytes = (uint64_t)st.st_size;
                out->list[out->count++] = f;
        }
        (void)closedir(d);
}

static void flip(const char *root, const struct file *f, uint64_t bit)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", root, f->path);
        uint8_t byte;
        must(chmod(path, 0600) == 0);
        cas_cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
        must(fd >= 0 && pread(fd, &byte, 1, (off_t)(bit / 8)) == 1);
        byte ^= (uint8_t)(1 << (bit % 8));
        must(pwrite(fd, &byte, 1, (off_t)(bit / 8)) == 1);
}

/* What one child found. */
struct outcome {
        bool detected, repaired, quarantined, rebuilt;
        char failed[700]; /* "" when all is as it should be */
};

static void fail(struct outcome *o, const char *why, const char *detail)
{
        if (!o->failed[0])
                (void)snprintf(o->failed, sizeof(o->failed), "%.100s: %.511s", why, detail);
}

struct told {
        bool images[IMAGES];
        char first[300]; /* error */
        unsigned findings;
};

static void note(void *arg, enum cas_fsck_severity severity, const char *id, const char *subject,
                 const char *message)
{
        struct told *t = arg;
        for (unsigned i = 0; i < IMAGES && strcmp(id, "image-damaged") == 0; i++) {
                cas_cleanup_free char *name = cas_xasprintf("app:%s", plan[i].tag);
                t->images[i] = t->images[i] || strcmp(name, subject) == 0;
        }
        /* What frames that are kept take the place of. */
        if (strcmp(id, "pack-garbage") == 0 || strcmp(id, "chunk-unused") == 0)
                return;
        t->findings += severity != CAS_FSCK_NOTE;
        if (severity == CAS_FSCK_ERROR && !t->first[0])
                (void)snprintf(t->first, sizeof(t->first), "%s %s: %s", id, subject, message);
}

static void scrub(struct cas_store *s, bool repair, struct told *told, struct cas_fsck_result *r)
{
        const struct cas_fsck_options options = {.repair = repair};
        *told = (struct told){.first = ""};
        done(cas_fsck(s, &options, NULL, note, told, r, err));
}

static void expect_whole(struct cas_store *s, struct outcome *o, const char *when)
{
        struct cas_fsck_result r;
        struct told told;
        struct cas_err err = CAS_ERR_INIT;
        scrub(s, false, &told, &r);
        if (r.errors > 0)
                fail(o, when, told.first);
        for (unsigned i = 0; i < IMAGES; i++)
                if (pushedimage_check(s, &images[i], &err) != 0)
                        fail(o, when, err.msg);
}

static void read_before(struct cas_store *s, enum kind kind, struct outcome *o)
{
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned i = 0; i < IMAGES; i++) {
                int got = pushedimage_check(s, &images[i], &err);
                /* Files of blobs are given as they are until a scrub has seen them. */
                if (got < 0 && kind != BLOB)
                        fail(o, "other bytes were given", err.msg);
        }
}

/* What was lost: it is named, and comes again with its images. */
static void heal(struct cas_store *s, const struct told *told, struct outcome *o)
{
        bool named = false;
        for (unsigned i = 0; i < IMAGES; i++) {
                named = named || told->images[i];
                if (told->images[i])
                        put_image(s, i);
        }
        if (!named)
                fail(o, "put aside, and no image is named", told->first);
        expect_whole(s, o, "after the images were pushed again");
}

static void rebuild(const char *path, struct outcome *o)
{
        const struct cas_store_config config = {.path = path, .threads = 2};
        struct cas_store *s;
        struct cas_err err = CAS_ERR_INIT;
        if (cas_rebuild(&config, NULL, &err) < 0 || open_store(path, &s, &err) < 0) {
                fail(o, "rebuild", err.msg);
                return;
        }
        for (unsigned i = 0; i < IMAGES; i++) {
                struct cas_layer_record layer;
                if (pushedimage_decode(s, &images[i], &layer, &err) < 0)
                        fail(o, "after the rebuild", err.msg);
        }
        expect_whole(s, o, "after the rebuild");
        cas_store_close(s);
        o->rebuilt = true;
}

/* Whether losing it was to be: blobs that are not condensed have one copy, and what was made into
 * a recipe without keeping the blob. */
static void expect_losses(enum kind kind, const struct told *told, struct outcome *o)
{
        for (unsigned i = 0; i < IMAGES; i++) {
                bool may = kind == BLOB || i == ALONE;
                if (told->images[i] && !may)
                        fail(o, "lost, though there is a second copy", plan[i].tag);
        }
}

static void check_table(const char *path, struct outcome *o)
{
        struct cas_store *s;
        struct cas_fsck_result r;
        struct told told;
        struct cas_err err = CAS_ERR_INIT;
        int rc = open_store(path, &s, &err);
        o->detected = rc < 0;
        if (rc == 0) {
                read_before(s, TABLE, o);
                scrub(s, false, &told, &r);
                o->detected = r.errors > 0;
                cas_store_close(s);
        }
        if (o->detected)
                rebuild(path, o);
}

static void check_other(const char *path, enum kind kind, struct outcome *o)
{
        struct cas_store *s;
        struct cas_fsck_result r;
        struct told told;
        done(open_store(path, &s, err));
        read_before(s, kind, o);
        scrub(s, true, &told, &r);
        o->detected = told.findings > 0;
        if (!o->detected) {
                cas_store_close(s);
                return;
        }
        o->quarantined = r.quarantined > 0;
        o->repaired = !o->quarantined;
        /* What is absent now is missed by others, which are told of as well. */
        if (!o->quarantined && r.errors > r.repaired)
                fail(o, "neither repaired nor put aside", told.first);
        cas_store_close(s);
        done(open_store(path, &s, err));
        if (o->quarantined) {
                expect_losses(kind, &told, o);
                heal(s, &told, o);
        } else {
                expect_whole(s, o, "after the repair");
        }
        cas_store_close(s);
}

/* A bit anywhere, or of any file, so that small ones are hit as well. */
static const struct file *choose(const struct files *files, enum kind kind, bool by_file,
                                 struct test_random *random, uint64_t *bit)
{
        uint64_t all = 0;
        for (size_t i = 0; i < files->count; i++)
                if (files->list[i].kind == kind)
                        all += by_file ? 1 : files->list[i].bytes;
        must(all > 0);
        uint64_t at = test_random_next(random) % all;
        for (size_t i = 0; i < files->count; i++) {
                const struct file *f = &files->list[i];
                uint64_t weight = by_file ? 1 : f->bytes;
                if (f->kind != kind)
                        continue;
                if (at < weight) {
                        *bit = test_random_next(random) % (f->bytes * 8);
                        return f;
                }
                at -= weight;
        }
        must(!"a file");
        return NULL;
}

/* ---- many ---- */

struct figures {
        unsigned flips[KINDS], detected[KINDS], repaired[KINDS], quarantined[KINDS], rebuilt[KINDS],
                failures;
};

/* One flip of the store, in a process of its own: 0 or 1 (failed). */
static int run_flip(const char *base, const struct files *files, uint64_t seed, unsigned number,
                    bool verbose, struct figures *sum)
{
        struct test_random random = {.state = seed + number * UINT64_C(0x9e3779b97f4a7c15)};
        (void)test_random_next(&random);
        enum kind kind = (enum kind)(number % KINDS);
        uint64_t bit = 0;
        const struct file *f = choose(files, kind, number / KINDS % 2 != 0, &random, &bit);
        struct outcome o = {.failed = "no answer: the process ended"};
        char *dir = scratch_new();
        cas_cleanup_free char *path = cas_xasprintf("%s/store", dir);
        int pipes[2], status = 0;
        scratch_copy(base, path);
        flip(path, f, bit);
        must(pipe2(pipes, O_CLOEXEC) == 0);
        pid_t child = fork();
        must(child >= 0);
        if (child == 0) {
                (void)close(pipes[0]);
                o = (struct outcome){.detected = false};
                if (kind == TABLE)
                        check_table(path, &o);
                else
                        check_other(path, kind, &o);
                must(write(pipes[1], &o, sizeof(o)) == sizeof(o));
                _exit(0);
        }
        (void)close(pipes[1]);
        ssize_t n = read(pipes[0], &o, sizeof(o));
        (void)close(pipes[0]);
        must(waitpid(child, &status, 0) == child);
        if (n != sizeof(o))
                o = (struct outcome){.failed = "no answer: the process ended"};
        else if (!o.detected)
                fail(&o, "not found", "");
        scratch_free(dir);
        sum->flips[kind]++;
        sum->detected[kind] += o.detected;
        sum->repaired[kind] += o.repaired;
        sum->quarantined[kind] += o.quarantined;
        sum->rebuilt[kind] += o.rebuilt;
        if (o.failed[0])
                (void)fprintf(stderr, "flip %u (--seed %llu), %s bit %llu: %s\n", number,
                              (unsigned long long)seed, f->path, (unsigned long long)bit, o.failed);
        else if (verbose)
                (void)printf("flip %u, %s bit %llu: %s\n", number, f->path, (unsigned long long)bit,
                             o.repaired  ? "repaired"
                             : o.rebuilt ? "rebuilt"
                                         : "put aside");
        sum->failures += o.failed[0] != '\0';
        return o.failed[0] != '\0';
}

static void run_part(const char *base, const struct files *files, uint64_t seed, unsigned first,
                     unsigned step, unsigned end, bool verbose, struct figures *sum)
{
        for (unsigned i = first; i < end && sum->failures < 20; i += step)
                (void)run_flip(base, files, seed, i, verbose, sum);
}

/* Processes side by side, each with every so many'th flip. */
static void run_all(const char *base, const struct files *files, uint64_t seed, unsigned count,
                    unsigned processes, bool verbose, struct figures *sum)
{
        int pipes[2];
        must(pipe2(pipes, O_CLOEXEC) == 0);
        for (unsigned p = 0; p < processes; p++) {
                pid_t child = fork();
                must(child >= 0);
                if (child > 0)
                        continue;
                struct figures part = {.failures = 0};
                run_part(base, files, seed, p, processes, count, verbose, &part);
                must(write(pipes[1], &part, sizeof(part)) == sizeof(part));
                exit(0);
        }
        for (unsigned p = 0; p < processes; p++) {
                struct figures part;
                must(read(pipes[0], &part, sizeof(part)) == sizeof(part));
                for (unsigned k = 0; k < KINDS; k++) {
                        sum->flips[k] += part.flips[k];
                        sum->detected[k] += part.detected[k];
                        sum->repaired[k] += part.repaired[k];
                        sum->quarantined[k] += part.quarantined[k];
                        sum->rebuilt[k] += part.rebuilt[k];
                }
                sum->failures += part.failures;
                (void)wait(NULL);
        }
        (void)close(pipes[0]);
        (void)close(pipes[1]);
}

static void prepare(const char *base)
{
        int status = 0;
        pid_t child = fork();
        must(child >= 0);
        if (child == 0) {
                make_store(base);
                _exit(0);
        }
        must(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void print_figures(const struct figures *sum)
{
        unsigned all = 0;
        (void)printf("%-8s %8s %8s %8s %8s %8s\n", "", "flips", "found", "repaired", "aside",
                     "rebuilt");
        for (unsigned k = 0; k < KINDS; k++) {
                (void)printf("%-8s %8u %8u %8u %8u %8u\n", kind_names[k], sum->flips[k],
                             sum->detected[k], sum->repaired[k], sum->quarantined[k],
                             sum->rebuilt[k]);
                all += sum->flips[k];
        }
        (void)printf("%u flips, %u failures\n", all, sum->failures);
}

int main(int argc, char **argv)
{
        unsigned count = FLIPS_SHORT, processes = 2;
        uint64_t seed = 1;
        bool verbose = false;
        for (int i = 1; i < argc; i++) {
                char *end = NULL;
                const char *value = i + 1 < argc ? argv[i + 1] : "";
                if (strcmp(argv[i], "-v") == 0) {
                        verbose = true;
                        continue;
                }
                uint64_t number = strtoull(value, &end, 10);
                must(end != value && *end == '\0');
                if (strcmp(argv[i], "--flips") == 0)
                        count = (unsigned)number;
                else if (strcmp(argv[i], "--seed") == 0)
                        seed = number;
                else if (strcmp(argv[i], "--processes") == 0)
                        processes = (unsigned)cas_max_u64(number, 1);
                else
                        must(!"an option");
                i++;
        }
        if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0)
                must(setenv("TMPDIR", "/dev/shm", 1) == 0);
        cas_log_set_level(CAS_LOG_ERROR);
        for (unsigned i = 0; i < IMAGES; i++)
                pushedimage_make(&images[i], "app", plan[i].tag, plan[i].seed, plan[i].files,
                                 plan[i].kind);
        char *dir = scratch_new();
        cas_cleanup_free char *base = cas_xasprintf("%s/base", dir);
        struct files files = {.count = 0};
        struct figures sum = {.failures = 0};
        prepare(base);
        list_files(base, "packs", PACK, ".pack", &files);
        list_files(base, "blobs", BLOB, "", &files);
        list_files(base, "trees", TREE, ".erofs", &files);
        list_files(base, "index", TABLE, ".sst", &files);
        run_all(base, &files, seed, count, processes, verbose, &sum);
        print_figures(&sum);
        scratch_free(dir);
        for (unsigned i = 0; i < IMAGES; i++)
                pushedimage_release(&images[i]);
        return sum.failures > 0;
}
