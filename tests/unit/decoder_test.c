/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding by a confined process: that layers come out as they do without, and that a process that
 * was taken over (tests/evil) gets nowhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "cas/decodeframe.h"
#include "cas/layer.h"
#include "tests/support/memsink.h"
#include "tests/support/memsource.h"
#include "tests/support/scratch.h"
#include "tests/support/tarmake.h"

#include "tools/decoder.h"
#include "tools/decoder/decoder_limits.h"

/* build/CONFIG/evil_decoder, beside build/CONFIG/tests/unit/this. */
static int evil_open(void)
{
        char path[4096];
        ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 32);
        assert_true(n > 0);
        path[n] = '\0';
        for (int up = 0; up < 3; up++)
                *strrchr(path, '/') = '\0';
        (void)strncat(path, "/evil_decoder", 32);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                fail_msg("%s", path);
        return fd;
}

/* Gives the evil process a layer whose bytes are a word. */
static int whisper(const char *word, size_t word_bytes, struct cas_err *err)
{
        cas_cleanup_fd int evil = evil_open();
        cas_cleanup_decode_result struct cas_decode_result result = {0};
        struct memsource s = {.data = (const uint8_t *)word, .len = word_bytes, .step = SIZE_MAX};
        struct memsink m;
        struct cas_decode_sink sink;
        uint32_t confined;
        memsink_init(&m, &sink);
        int rc = decoder_run(evil, memsource_read, &s, &sink, &result, &confined, err);
        memsink_release(&m);
        assert_true(confined & CAS_CONFINED_SECCOMP);
        return rc;
}

static void whisper_refused(const char *word, int code, const char *why)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = whisper(word, strlen(word), &err);
        if (rc != -code || !strstr(err.msg, why))
                fail_msg("%s: %d \"%s\"", word, rc, err.msg);
}

static void nothing_is_let(void **state)
{
        (void)state;
        static const char *const words[] = {
                "openat",
                "open",
                "creat",
                "readlink",
                "stat",
                "unlink",
                "socket",
                "unix",
                "netlink",
                "connect",
                "fork",
                "vfork",
                "clone",
                "clone3",
                "execve",
                "execveat",
                "ptrace",
                "kill-1",
                "process_vm_readv",
                "kill-parent",
                "write-0",
                "write-3",
                "writev-2",
                "read-1",
                "dup",
                "setuid",
                "unshare",
                "mount",
                "chroot",
                "prctl",
                "seccomp",
                "setrlimit",
                "mmap-exec",
                "mmap-file",
                "mprotect",
                "bpf",
                "io_uring",
                "userfaultfd",
                "memfd",
                "shmget",
                "perf",
                "keyctl",
                "sleep",
        };
        for (size_t i = 0; i < CAS_COUNT(words); i++)
                whisper_refused(words[i], CAS_E_CORRUPT, "a system call");
        /* The test would see it. */
        whisper_refused("no such word", CAS_E_UNSUPPORTED, "it was let");
}

static void limits_end_it(void **state)
{
        (void)state;
        struct timespec start, end;
        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
        whisper_refused("spin", CAS_E_LIMIT, "CPU time");
        whisper_refused("eat", CAS_E_LIMIT, "4096 MiB of memory");
        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
        assert_true(end.tv_sec - start.tv_sec <= 2); /* who waits does not spin */
}

static void ends_are_told_apart(void **state)
{
        (void)state;
        whisper_refused("fault", CAS_E_CORRUPT, "Illegal instruction");
        whisper_refused("leave", CAS_E_IO, "status 7");
        whisper_refused("nonsense", CAS_E_CORRUPT, "nonsense");
        /* It says that it is done, and goes on: its layer was not given whole. */
        cas_cleanup_free char *word = cas_xcalloc(8, CAS_MIB);
        struct cas_err err = CAS_ERR_INIT;
        memcpy(word, "early", 5);
        assert_int_equal(whisper(word, 8 * CAS_MIB, &err), -CAS_E_CORRUPT);
        assert_non_null(strstr(err.msg, "before its layer"));
}

static int failing_source(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        (void)arg;
        (void)buf;
        (void)len;
        *out_len = 0;
        return cas_fail(err, CAS_E_NOSPACE, "the source is out of order");
}

static int run_real(cas_source_fn source, void *arg, struct memsink *m,
                    struct cas_decode_result *result, struct cas_err *err)
{
        const struct cas_decoder *d = decoder_of(DECODER_REQUIRE);
        struct cas_decode_sink sink;
        assert_non_null(d);
        memsink_init(m, &sink);
        return d->run(d->ctx, source, arg, &sink, result, err);
}

static void errors_come_through(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct memsink m;
        cas_cleanup_decode_result struct cas_decode_result result = {0};
        assert_int_equal(run_real(failing_source, NULL, &m, &result, &err), -CAS_E_NOSPACE);
        assert_string_equal(err.msg, "the source is out of order");
        memsink_release(&m);
        struct memsource s = {.data = (const uint8_t *)"no tar", .len = 6, .step = 2};
        assert_int_equal(run_real(memsource_read, &s, &m, &result, &err), -CAS_E_CORRUPT);
        assert_string_equal(err.msg, "the tar is cut off at byte 6");
        memsink_release(&m);
}

/* The same store with and without. */
static void layers_come_out_the_same(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf big = CAS_BUF_INIT;
        for (unsigned i = 0; i < 2000000; i++)
                cas_buf_append_byte(&big, (uint8_t)(i * 7 ^ i >> 9));
        struct tarmake h = {.name = "dir/big", .size = big.len_bytes, .mode = 0644};
        tarmake_header(&tar, &h);
        tarmake_data(&tar, big.data, big.len_bytes);
        tarmake_file(&tar, "dir/small", "tiny");
        tarmake_end(&tar);
        struct cas_layer_record recs[2];
        for (int confined = 0; confined < 2; confined++) {
                struct cas_err err = CAS_ERR_INIT;
                char *path = scratch_new();
                struct cas_store_config config = {
                        .path = path, .decoder = confined ? decoder_of(DECODER_REQUIRE) : NULL};
                struct cas_store *s = NULL;
                assert_int_equal(cas_store_open(&config, &s, &err), 0);
                struct memsource source = {.data = tar.data, .len = tar.len_bytes, .step = 100000};
                if (cas_layer_import(s, memsource_read, &source, NULL, NULL, &recs[confined],
                                     &err) < 0)
                        fail_msg("%s", err.msg);
                cas_store_close(s);
                scratch_free(path);
        }
        assert_true(cas_digest_equal(&recs[0].blob, &recs[1].blob));
        assert_true(cas_digest_equal(&recs[0].diff_id, &recs[1].diff_id));
        assert_true(cas_hash_equal(&recs[0].listing, &recs[1].listing));
        assert_int_equal(recs[0].tar_bytes, recs[1].tar_bytes);
        assert_int_equal(recs[0].content_bytes, recs[1].content_bytes);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(layers_come_out_the_same),
                cmocka_unit_test(errors_come_through),
                cmocka_unit_test(nothing_is_let),
                cmocka_unit_test(ends_are_told_apart),
                cmocka_unit_test(limits_end_it),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
