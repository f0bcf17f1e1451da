/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <time.h>

#include "cas/slowio.h"
#include "tests/support/scratch.h"

static double now(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct world {
        char *dir;
        struct cas_slowio *slow;
        const struct cas_io *io;
        int fd;
};

static void world_open(struct world *w, const char *class)
{
        struct cas_err err = CAS_ERR_INIT;
        w->dir = scratch_new();
        cas_cleanup_free char *list = cas_xasprintf("/nowhere=nvme:%s/=%s", w->dir, class);
        cas_cleanup_free char *path = cas_xasprintf("%s/file", w->dir);
        assert_int_equal(cas_slowio_new(list, &w->slow, &err), 0);
        w->io = cas_slowio_io(w->slow);
        w->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(ftruncate(w->fd, 64 << 20), 0);
}

static void world_close(struct world *w)
{
        (void)close(w->fd);
        cas_slowio_free(w->slow);
        scratch_free(w->dir);
}

static double time_of_reads(struct world *w, unsigned count, size_t bytes, off_t step)
{
        cas_cleanup_free uint8_t *buf = cas_xmalloc(bytes);
        double began = now();
        for (unsigned i = 0; i < count; i++)
                assert_int_equal(w->io->ops->pread(w->io->ctx, w->fd, buf, bytes, (off_t)i * step),
                                 bytes);
        return now() - began;
}

static void test_disk(void **state CAS_UNUSED)
{
        struct world w;
        world_open(&w, "hdd");
        double seeks = time_of_reads(&w, 10, 4096, 4 << 20);
        assert_true(seeks > 0.079 && seeks < 0.4);
        double along = time_of_reads(&w, 15, 1 << 20, 1 << 20);
        assert_true(along > 0.1 && along < 0.5);
        world_close(&w);
}

static void *read_some(void *arg)
{
        (void)time_of_reads(arg, 5, 4096, 4 << 20);
        return NULL;
}

/* A disk does one thing after the other; flash does many at once. */
static void test_queue(void **state CAS_UNUSED)
{
        struct world w;
        pthread_t threads[4];
        for (int flash = 0; flash < 2; flash++) {
                world_open(&w, flash ? "ssd" : "hdd");
                double began = now();
                for (size_t i = 0; i < 4; i++)
                        assert_int_equal(pthread_create(&threads[i], NULL, read_some, &w), 0);
                for (size_t i = 0; i < 4; i++)
                        assert_int_equal(pthread_join(threads[i], NULL), 0);
                double took = now() - began;
                assert_true(flash ? took < 0.1 : took > 0.15);
                world_close(&w);
        }
}

static void test_elsewhere_costs_nothing(void **state CAS_UNUSED)
{
        struct world w;
        world_open(&w, "hdd");
        int other = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        char byte;
        double began = now();
        for (unsigned i = 0; i < 100; i++)
                assert_int_equal(w.io->ops->pread(w.io->ctx, other, &byte, 1, i * 1000), 1);
        assert_true(now() - began < 0.2);
        (void)close(other);
        world_close(&w);
}

static void test_lists(void **state CAS_UNUSED)
{
        static const char *const bad[] = {"/a", "a=hdd", "/a=tape", "/a=hdd:/b"};
        struct cas_slowio *s;
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                assert_int_equal(cas_slowio_new(bad[i], &s, &err), -CAS_E_INVALID);
        }
        assert_ptr_equal(cas_io_device(), cas_io_posix());
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_disk),
                cmocka_unit_test(test_queue),
                cmocka_unit_test(test_elsewhere_costs_nothing),
                cmocka_unit_test(test_lists),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
