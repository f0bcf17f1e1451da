/* SPDX-License-Identifier: Apache-2.0 */
/* The recorder sees what it should (RocksDB's calls above all), and the model makes the states that
 * it should. Each case records in a child: recording is once a process. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "cas/index_int.h"
#include "tests/support/below/crashmodel.h"
#include "tests/support/scratch.h"

struct fixture {
        char *dir, *base, *work;
        struct recorder *r;
};

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        f->dir = scratch_new();
        f->base = cas_xasprintf("%s/base", f->dir);
        f->work = cas_xasprintf("%s/work", f->dir);
        f->r = recorder_new();
        *state = f;
        return mkdir(f->base, 0700);
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        recorder_free(f->r);
        scratch_free(f->dir);
        free(f->base);
        free(f->work);
        free(f);
        return 0;
}

/* Runs fn in a child that records. Its wait status. */
static int record(struct fixture *f, void (*fn)(int dirfd))
{
        int status;
        scratch_copy(f->base, f->work);
        pid_t pid = fork();
        if (pid == 0) {
                recorder_begin(f->r, f->work);
                int dirfd = open(f->work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                recorder_arm(true);
                fn(dirfd);
                _exit(0);
        }
        assert_int_equal(pid, waitpid(pid, &status, 0));
        return status;
}

static void put(int dirfd, const char *name, const char *text, bool sync)
{
        int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) ||
            (sync && fsync(fd) != 0) || close(fd) != 0)
                _exit(1);
}

/* ---- states as text: "name=content …", in the order of names ---- */

struct seen {
        struct fixture *f;
        struct cas_buf text;
        unsigned count;
};

static bool note_state(void *arg, const struct crash_state *state)
{
        static const char *const names[] = {"a", "b", "c", "d", "d/a"};
        struct seen *seen = arg;
        cas_cleanup_free char *dir = cas_xasprintf("%s/state", seen->f->dir);
        crash_state_write(state, dir);
        cas_buf_append(&seen->text, "|", 1);
        for (size_t i = 0; i < CAS_COUNT(names); i++) {
                char bytes[64];
                cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, names[i]);
                cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
                ssize_t n = fd < 0 ? -1 : read(fd, bytes, sizeof(bytes));
                for (ssize_t k = 0; k < n; k++)
                        bytes[k] = bytes[k] ? bytes[k] : '0';
                if (n >= 0)
                        cas_buf_printf(&seen->text, "%s=%.*s ", names[i], (int)n, bytes);
        }
        seen->count++;
        scratch_free(cas_xstrdup(dir));
        return true;
}

/* All states behind the last operation. */
static unsigned states_at_end(struct fixture *f, enum crash_rules rules, struct seen *out)
{
        struct crash_model *m = crash_model_new(f->r, f->base, rules);
        *out = (struct seen){.f = f, .text = CAS_BUF_INIT};
        while (crash_model_step(m)) {
        }
        crash_model_states(m, &(struct crash_bounds){.bound_bits = 8}, note_state, out);
        crash_model_free(m);
        cas_buf_append(&out->text, "|", 2);
        return out->count;
}

static void assert_state(const struct seen *seen, const char *state, bool there)
{
        cas_cleanup_free char *want = cas_xasprintf("|%s|", state);
        if ((strstr((const char *)seen->text.data, want) != NULL) != there)
                fail_msg("%s: %s", state, (const char *)seen->text.data);
}

static void do_unsynced(int dirfd)
{
        put(dirfd, "a", "12345678", false);
}

static void test_nothing_is_certain(void **state)
{
        struct fixture *f = *state;
        struct seen seen;
        assert_int_equal(0, record(f, do_unsynced));
        states_at_end(f, CRASH_POSIX, &seen);
        assert_state(&seen, "", true);
        assert_state(&seen, "a= ", true);
        assert_state(&seen, "a=12345678 ", true);
        assert_state(&seen, "a=1234 ", true);
        assert_state(&seen, "a=00005678 ", true);
        assert_state(&seen, "a=00000000 ", true);
        cas_buf_release(&seen.text);
        states_at_end(f, CRASH_ORDERED, &seen);
        assert_state(&seen, "a=1234 ", true);
        assert_state(&seen, "a=00000000 ", false);
        cas_buf_release(&seen.text);
}

static void do_synced(int dirfd)
{
        put(dirfd, "a", "1234", true);
        (void)fsync(dirfd);
        put(dirfd, "a", "56", false);
        put(dirfd, "b", "78", true);
}

static void test_syncs(void **state)
{
        struct fixture *f = *state;
        struct seen seen;
        assert_int_equal(0, record(f, do_synced));
        states_at_end(f, CRASH_POSIX, &seen);
        assert_state(&seen, "a=1234 ", true); /* the other file's name was not synced */
        assert_state(&seen, "a=123456 b=78 ", true);
        assert_state(&seen, "a=1234 b= ", false);
        assert_state(&seen, "", false);
        assert_state(&seen, "b=78 ", false);
        cas_buf_release(&seen.text);
        states_at_end(f, CRASH_ORDERED, &seen);
        assert_state(&seen, "a=1234 ", false); /* any sync brings names */
        assert_state(&seen, "a=1234 b=78 ", true);
        cas_buf_release(&seen.text);
}

static void do_rename(int dirfd)
{
        put(dirfd, "a", "old", true);
        put(dirfd, "b", "new", true);
        if (mkdirat(dirfd, "d", 0700) != 0 || fsync(dirfd) != 0)
                _exit(1);
        if (renameat(dirfd, "b", dirfd, "a") != 0 || renameat(dirfd, "a", dirfd, "d/a") != 0)
                _exit(1);
}

static void test_renames(void **state)
{
        struct fixture *f = *state;
        struct seen seen;
        assert_int_equal(0, record(f, do_rename));
        states_at_end(f, CRASH_POSIX, &seen);
        assert_state(&seen, "a=old b=new ", true);
        assert_state(&seen, "a=new ", true);
        assert_state(&seen, "d/a=new ", true);
        assert_state(&seen, "a=new d/a=new ", true); /* both names */
        assert_state(&seen, "a=old b=new d/a=new ", true);
        assert_state(&seen, "a=old ", false);
        cas_buf_release(&seen.text);
        states_at_end(f, CRASH_ORDERED, &seen);
        assert_state(&seen, "a=old b=new d/a=new ", false);
        cas_buf_release(&seen.text);
}

static void do_half_synced_rename(int dirfd)
{
        do_rename(dirfd);
        int fd = openat(dirfd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)fsync(fd);
}

static void test_half_synced_renames(void **state)
{
        struct fixture *f = *state;
        struct seen seen;
        assert_int_equal(0, record(f, do_half_synced_rename));
        states_at_end(f, CRASH_POSIX, &seen);
        assert_state(&seen, "a=new d/a=new ", true);
        assert_state(&seen, "d/a=new ", true);
        assert_state(&seen, "a=new ", false);
        assert_state(&seen, "a=old b=new ", false);
        cas_buf_release(&seen.text);
}

static void do_failed_sync(int dirfd)
{
        int fd = openat(dirfd, "a", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fsync(dirfd) != 0 || write(fd, "12", 2) != 2)
                _exit(1);
        if (fsync(fd) == 0 || errno != EIO) /* the second of them */
                _exit(2);
        if (pwrite(fd, "34", 2, 2) != 2 || fsync(fd) != 0)
                _exit(3);
}

static void test_failed_sync(void **state)
{
        struct fixture *f = *state;
        struct seen seen;
        recorder_fault_set(f->r, RECORDER_EIO, 4, false);
        assert_int_equal(0, record(f, do_failed_sync));
        assert_true(recorder_struck(f->r));
        assert_non_null(strstr(recorder_struck_call(f->r), "fsync"));
        states_at_end(f, CRASH_POSIX, &seen);
        assert_state(&seen, "a=0034 ", true);
        assert_state(&seen, "a=1234 ", true);
        assert_state(&seen, "a= ", false);
        cas_buf_release(&seen.text);
}

static void do_map(int dirfd)
{
        put(dirfd, "a", "12", false);
        int fd = openat(dirfd, "a", O_RDWR | O_CLOEXEC);
        (void)mmap(NULL, 2, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

static void test_shared_mapping_is_refused(void **state)
{
        int status = record(*state, do_map);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- RocksDB ---- */

static void do_index(int dirfd)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_index *ix;
        char path[300], link[64];
        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
        ssize_t n = readlink(link, path, 200);
        (void)snprintf(path + n, 20, "/index");
        if (cas_index_open(path, true, &ix, &err) < 0)
                _exit(1);
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        recorder_note(1);
        cas_batch_put(b, CAS_FAMILY_META, "key", 3, "a value to be found", 19);
        if (cas_index_write(ix, b, &err) < 0)
                _exit(2);
        recorder_note(2);
        if (cas_index_compact(ix, &err) < 0) /* writes tables */
                _exit(3);
        recorder_note(3);
        cas_index_close(ix);
}

static bool holds(const struct recorder_op *op, const char *text)
{
        return op->kind == RECORDER_WRITE && memmem(op->data, op->length, text, strlen(text));
}

/* The log gets the value in a write that is synced before the write of the index returns. */
static void test_rocksdb_is_seen(void **state)
{
        struct fixture *f = *state;
        unsigned phase = 0, tables = 0;
        uint32_t log = 0;
        bool synced = false;
        assert_int_equal(0, record(f, do_index));
        for (size_t i = 0; i < recorder_op_count(f->r); i++) {
                const struct recorder_op op = recorder_op(f->r, i);
                phase = op.kind == RECORDER_NOTE ? op.note : phase;
                if (phase == 1 && holds(&op, "a value to be found"))
                        log = op.file;
                if (phase == 1 && log && op.kind == RECORDER_SYNC && op.file == log)
                        synced = true;
                if (phase == 2 && op.kind == RECORDER_CREATE && strstr(op.name, ".sst"))
                        tables++;
        }
        assert_true(log != 0);
        assert_true(synced);
        assert_true(tables > 0);
}

/* What it made is the same when it is made from the trace. */
static bool compare_state(void *arg, const struct crash_state *state)
{
        struct fixture *f = arg;
        cas_cleanup_free char *made = cas_xasprintf("%s/state", f->dir);
        crash_state_write(state, made);
        cas_cleanup_free char *command =
                cas_xasprintf("exec diff -r -x 'LOG*' '%s' '%s'", made, f->work);
        pid_t pid = fork();
        if (pid == 0) {
                (void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
                _exit(1);
        }
        int status;
        assert_int_equal(pid, waitpid(pid, &status, 0));
        assert_int_equal(0, status);
        return false;
}

static void test_trace_is_complete(void **state)
{
        struct fixture *f = *state;
        assert_int_equal(0, record(f, do_index));
        struct crash_model *m = crash_model_new(f->r, f->base, CRASH_POSIX);
        while (crash_model_step(m)) {
        }
        crash_model_states(m, &(struct crash_bounds){0}, compare_state, f);
        crash_model_free(m);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_nothing_is_certain, setup, teardown),
                cmocka_unit_test_setup_teardown(test_syncs, setup, teardown),
                cmocka_unit_test_setup_teardown(test_renames, setup, teardown),
                cmocka_unit_test_setup_teardown(test_half_synced_renames, setup, teardown),
                cmocka_unit_test_setup_teardown(test_failed_sync, setup, teardown),
                cmocka_unit_test_setup_teardown(test_shared_mapping_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_rocksdb_is_seen, setup, teardown),
                cmocka_unit_test_setup_teardown(test_trace_is_complete, setup, teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
