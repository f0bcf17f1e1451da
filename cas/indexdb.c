/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/indexdb_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "cas/limits.h"

#define BLOCK_CACHE_BYTES (16 * CAS_MIB)
#define MEMTABLES_BYTES (24 * CAS_MIB) /* of all columns together */
#define OPEN_FILES_MAX 512
#define FILTER_BITS_PER_KEY 10
#define INFO_LOG_ERRORS 3 /* rocksdb::InfoLogLevel::ERROR_LEVEL */
/* After a failed attempt to open it anew, the next waits for so long. */
#define MEND_PAUSE_NS (250 * 1000 * 1000)
/* And who opens it anew waits so long for those that are inside. */
#define MEND_WAIT_S 2
#define PROBE_NAME "000000.dbtmp"  /* RocksDB removes what is called so when it opens */
#define PROBE_BYTES (32 * CAS_MIB) /* as much as all that is in memory may need */

static const char *const column_names[CAS_INDEXDB_COLUMNS] = {"default", "chunks", "objects"};
static const size_t memtable_bytes[CAS_INDEXDB_COLUMNS] = {4 * CAS_MIB, 8 * CAS_MIB, 4 * CAS_MIB};

struct cas_indexdb {
        /* fixed after opening */
        char *path;
        rocksdb_cache_t *cache;
        rocksdb_options_t *options[CAS_INDEXDB_COLUMNS];

        /* Readers first, unlike cas_rwlock: a thread that is inside may wait for a lock of another
         * that wants to come in. Guards the two below. */
        pthread_rwlock_t inside;
        rocksdb_t *db; /* NULL: could not be opened anew, not even for reading */
        rocksdb_column_family_handle_t *columns[CAS_INDEXDB_COLUMNS];

        _Atomic(uint64_t) logs_over; /* the newest log that was there before it was opened */

        _Atomic(bool) broken;                /* must be opened anew before the next write */
        _Atomic(int64_t) not_before;         /* CLOCK_MONOTONIC, ns: when that is tried again */
        _Atomic(uint64_t) background_errors; /* RocksDB's own that have been seen */
};

/* What this thread is inside of. */
static __thread struct {
        const struct cas_indexdb *d;
        unsigned depth;
} mine;

static enum cas_code code_of(const char *message)
{
        static const struct {
                const char *start;
                enum cas_code code;
        } kinds[] = {
                {"Corruption", CAS_E_CORRUPT},
                {"NotFound", CAS_E_NOTFOUND},
                {"IO error: No space left", CAS_E_NOSPACE},
                {"IO error: lock", CAS_E_BUSY},
        };
        if (strstr(message, "No space left on device"))
                return CAS_E_NOSPACE;
        for (size_t i = 0; i < CAS_COUNT(kinds); i++) {
                if (strncmp(message, kinds[i].start, strlen(kinds[i].start)) == 0)
                        return kinds[i].code;
        }
        return CAS_E_IO;
}

/* Takes RocksDB's message. */
static int fail_as(struct cas_err *err, enum cas_code code, char *message, const char *doing)
{
        int rc = cas_fail(err, code, "%s: %s", doing, message);
        rocksdb_free(message);
        return rc;
}

int cas_indexdb_fail(struct cas_err *err, char *message, const char *doing)
{
        return fail_as(err, code_of(message), message, doing);
}

/* Of opening: RocksDB calls a database that is not there, and is not to be made, an argument. */
static int fail_open(struct cas_err *err, char *message)
{
        bool absent = strncmp(message, "Invalid argument", strlen("Invalid argument")) == 0;
        return fail_as(err, absent ? CAS_E_NOTFOUND : code_of(message), message, "open index");
}

static rocksdb_options_t *column_options(unsigned column, rocksdb_cache_t *cache, bool create)
{
        rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
        rocksdb_block_based_options_set_block_cache(table, cache);
        rocksdb_block_based_options_set_format_version(table, 5);
        rocksdb_block_based_options_set_filter_policy(
                table, rocksdb_filterpolicy_create_ribbon_hybrid(FILTER_BITS_PER_KEY, 1));
        rocksdb_block_based_options_set_whole_key_filtering(table, 1);
        rocksdb_block_based_options_set_data_block_index_type(
                table, rocksdb_block_based_table_data_block_index_type_binary_search_and_hash);
        rocksdb_options_t *o = rocksdb_options_create();
        rocksdb_options_set_block_based_table_factory(o, table);
        rocksdb_block_based_options_destroy(table);
        rocksdb_options_set_create_if_missing(o, create);
        rocksdb_options_set_create_missing_column_families(o, create);
        rocksdb_options_set_paranoid_checks(o, 1);
        /* Digests do not compress, what stands beside them does: once, where entries come to rest.
         */
        rocksdb_options_set_compression(o, rocksdb_no_compression);
        rocksdb_options_set_bottommost_compression(o, rocksdb_zstd_compression);
        rocksdb_options_set_write_buffer_size(o, memtable_bytes[column]);
        rocksdb_options_set_db_write_buffer_size(o, MEMTABLES_BYTES);
        rocksdb_options_set_max_write_buffer_number(o, 2);
        rocksdb_options_set_max_total_wal_size(o, 2 * MEMTABLES_BYTES);
        rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
        rocksdb_options_set_max_open_files(o, OPEN_FILES_MAX);
        rocksdb_options_set_max_background_jobs(o, 2);
        rocksdb_options_set_max_file_opening_threads(o, 2);
        rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
        rocksdb_options_set_skip_checking_sst_file_sizes_on_db_open(o, 1);
        rocksdb_options_set_stats_dump_period_sec(o, 0);
        rocksdb_options_set_stats_persist_period_sec(o, 0);
        rocksdb_options_set_manifest_preallocation_size(o, 64 * CAS_KIB);
        rocksdb_options_set_info_log_level(o, INFO_LOG_ERRORS);
        rocksdb_options_set_keep_log_file_num(o, 2);
        return o;
}

/* ---- opening ---- */

static void close_db(struct cas_indexdb *d)
{
        for (unsigned i = 0; i < CAS_INDEXDB_COLUMNS; i++) {
                if (d->columns[i])
                        rocksdb_column_family_handle_destroy(d->columns[i]);
                d->columns[i] = NULL;
        }
        if (d->db)
                rocksdb_close(d->db);
        d->db = NULL;
}

/* The number in a log's name, 0 for other files. */
static uint64_t log_number(const char *name)
{
        char *end;
        unsigned long long number = strtoull(name, &end, 10);
        return strcmp(end, ".log") == 0 ? number : 0;
}

static void note_logs(struct cas_indexdb *d)
{
        DIR *dir = opendir(d->path);
        uint64_t last = 0;
        for (struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir))
                last = cas_max_u64(last, log_number(e->d_name));
        atomic_store(&d->logs_over, last);
        if (dir)
                (void)closedir(dir);
}

bool cas_indexdb_log_is_over(const struct cas_indexdb *d, const char *name)
{
        return log_number(name) <= atomic_load(&d->logs_over);
}

/* RocksDB's message, or NULL. */
static char *open_db(struct cas_indexdb *d)
{
        char *message = NULL;
        note_logs(d);
        d->db = rocksdb_open_column_families(
                d->options[0], d->path, CAS_INDEXDB_COLUMNS, column_names,
                (const rocksdb_options_t *const *)d->options, d->columns, &message);
        return message;
}

static char *open_db_to_read(struct cas_indexdb *d)
{
        char *message = NULL;
        d->db = rocksdb_open_for_read_only_column_families(
                d->options[0], d->path, CAS_INDEXDB_COLUMNS, column_names,
                (const rocksdb_options_t *const *)d->options, d->columns, 0, &message);
        return message;
}

int cas_indexdb_open(const char *path, bool create, struct cas_indexdb **out, struct cas_err *err)
{
        struct cas_indexdb *d = cas_xcalloc(1, sizeof(*d));
        int rc = pthread_rwlock_init(&d->inside, NULL);
        cas_assert(rc == 0);
        d->path = cas_xstrdup(path);
        d->cache = rocksdb_cache_create_lru(BLOCK_CACHE_BYTES);
        for (unsigned i = 0; i < CAS_INDEXDB_COLUMNS; i++)
                d->options[i] = column_options(i, d->cache, create);
        char *message = open_db(d);
        if (message) {
                cas_indexdb_close(d);
                return fail_open(err, message);
        }
        *out = d;
        return 0;
}

void cas_indexdb_close(struct cas_indexdb *d)
{
        if (!d)
                return;
        close_db(d);
        for (unsigned i = 0; i < CAS_INDEXDB_COLUMNS; i++)
                rocksdb_options_destroy(d->options[i]);
        rocksdb_cache_destroy(d->cache);
        (void)pthread_rwlock_destroy(&d->inside);
        free(d->path);
        free(d);
}

/* ---- being inside ---- */

int cas_indexdb_enter(struct cas_indexdb *d, struct cas_indexdb_open *out, struct cas_err *err)
{
        if (mine.d == d) {
                mine.depth++;
        } else {
                int rc = pthread_rwlock_rdlock(&d->inside);
                cas_assert(rc == 0);
                if (!mine.d) { /* inside of two databases, only the first is counted */
                        mine.d = d;
                        mine.depth = 1;
                }
        }
        *out = (struct cas_indexdb_open){.db = d->db, .columns = d->columns};
        if (d->db)
                return 0;
        cas_indexdb_leave(d);
        return cas_fail(err, CAS_E_IO, "the index could not be opened anew after an error");
}

void cas_indexdb_leave(struct cas_indexdb *d)
{
        if (mine.d == d && --mine.depth > 0)
                return;
        if (mine.d == d)
                mine.d = NULL;
        (void)pthread_rwlock_unlock(&d->inside);
}

/* ---- opening anew ---- */

static int64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int cas_indexdb_failed(struct cas_indexdb *d, struct cas_err *err, char *message, const char *doing)
{
        atomic_store(&d->broken, true);
        return cas_indexdb_fail(err, message, doing);
}

/* RocksDB's threads fail by themselves as well, and only the next write would tell. */
static bool is_broken(struct cas_indexdb *d)
{
        struct cas_indexdb_open in;
        struct cas_err none = CAS_ERR_INIT;
        uint64_t errors = 0;
        if (atomic_load(&d->broken) || cas_indexdb_enter(d, &in, &none) < 0)
                return true;
        bool known = rocksdb_property_int(in.db, "rocksdb.background-errors", &errors) == 0;
        bool broken = known && errors != atomic_load(&d->background_errors);
        cas_indexdb_leave(d);
        return broken;
}

int cas_indexdb_check(struct cas_indexdb *d, struct cas_err *err, const char *doing)
{
        if (!is_broken(d))
                return 0;
        atomic_store(&d->broken, true);
        return cas_fail(err, CAS_E_IO, "%s: an error of RocksDB's own threads", doing);
}

/* Whether files can be written there: what is open can be read, and is not given up for nothing.
 * RocksDB cannot open what it cannot write to, and some builds of it abort when they fail there. */
static int probe(const struct cas_indexdb *d, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/" PROBE_NAME, d->path);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        int sys_errno = fd < 0 ? errno : posix_fallocate(fd, 0, PROBE_BYTES);
        if (sys_errno == 0 && (write(fd, path, 1) != 1 || fsync(fd) != 0))
                sys_errno = errno;
        if (fd >= 0)
                (void)unlink(path);
        return sys_errno ? cas_fail_sys(err, sys_errno, "index: write %s", path) : 0;
}

/* Alone inside. The message of what keeps it from being written, or NULL. */
static char *open_anew(struct cas_indexdb *d)
{
        close_db(d);
        atomic_store(&d->background_errors, 0);
        char *message = open_db(d);
        if (!message)
                return NULL;
        char *more = open_db_to_read(d);
        if (more) {
                d->db = NULL;
                rocksdb_free(more);
        }
        return message;
}

int cas_indexdb_mend(struct cas_indexdb *d, struct cas_err *err)
{
        struct timespec until;
        if (!is_broken(d))
                return 0;
        atomic_store(&d->broken, true);
        if (now_ns() < atomic_load(&d->not_before))
                return cas_fail(err, CAS_E_IO, "the index cannot be written after an error");
        int rc = probe(d, err);
        if (rc < 0) {
                atomic_store(&d->not_before, now_ns() + MEND_PAUSE_NS);
                return rc;
        }
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += MEND_WAIT_S;
        if (mine.d == d || pthread_rwlock_clockwrlock(&d->inside, CLOCK_MONOTONIC, &until) != 0)
                return cas_fail(err, CAS_E_BUSY,
                                "the index must be opened anew after an error, and is in use");
        char *message = atomic_load(&d->broken) ? open_anew(d) : NULL;
        atomic_store(&d->broken, message != NULL);
        (void)pthread_rwlock_unlock(&d->inside);
        if (!message)
                return 0;
        atomic_store(&d->not_before, now_ns() + MEND_PAUSE_NS);
        return cas_indexdb_fail(err, message, "open index anew");
}
