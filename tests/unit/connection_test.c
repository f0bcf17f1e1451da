/* SPDX-License-Identifier: Apache-2.0 */
/* How a connection begins for a successor of a process that was killed early, and that it serves
 * while threads of it wait. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "fusefs/als.h"
#include "fusefs/connection_int.h"
#include "tests/support/fusebox.h"

#define SECONDS_MAX 30

static struct saved {
        uint8_t bytes[FFS_INIT_BYTES_MAX];
        size_t len;
} saved;

static const void *load(void *userdata, size_t *len)
{
        const struct saved *s = userdata;
        *len = s->len;
        return s->bytes;
}

static void save(void *userdata, const void *request, size_t len)
{
        struct saved *s = userdata;
        memcpy(s->bytes, request, len);
        s->len = len;
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi CAS_UNUSED)
{
        const struct stat st = {.st_ino = node, .st_mode = S_IFDIR | 0755, .st_nlink = 7};
        (void)fuse_reply_attr(req, &st, 0);
}

/* The first process has read INIT, and was killed before it had saved it. */
static void init_that_was_read_comes_again(void **state)
{
        static const struct fuse_lowlevel_ops ops = {.getattr = op_getattr};
        static uint8_t request[FFS_REQUEST_BYTES_MAX + 65536];
        struct fusebox *box = *state;
        struct ffs_connection *connection;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int fd = -1;
        struct stat st;
        if (!box)
                skip();
        cas_cleanup_free char *dir = cas_xasprintf("%s/mount", box->dir);
        assert_int_equal(mkdir(dir, 0755), 0);
        assert_int_equal(ffs_als_mount(dir, &fd, &err), 0);
        assert_true(read(fd, request, sizeof(request)) > 0);
        const struct ffs_connection_config config = {.fuse_fd = fd,
                                                     .ops = &ops,
                                                     .userdata = &saved,
                                                     .threads = 1,
                                                     .name = "test",
                                                     .init_load = load,
                                                     .init_save = save};
        assert_int_equal(ffs_connection_start(&config, &connection, &err), 0);
        assert_true(saved.len > 0);
        assert_int_equal(stat(dir, &st), 0);
        assert_int_equal(st.st_nlink, 7);
        assert_int_equal(umount2(dir, 0), 0);
        struct pollfd ended = {.fd = ffs_connection_ended_fd(connection), .events = POLLIN};
        assert_int_equal(poll(&ended, 1, -1), 1);
        ffs_connection_free(connection);
}

/* ---- threads that wait ---- */

static struct waiting {
        struct saved saved;
        struct ffs_connection *connection;
        sem_t waits, go_on;
        unsigned ended; /* threads */
        char path[300];
} waiting;

static void wait_for_go(void)
{
        ffs_connection_blocks(waiting.connection);
        (void)sem_post(&waiting.waits);
        while (sem_wait(&waiting.go_on) < 0)
                ;
        ffs_connection_goes_on(waiting.connection);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent CAS_UNUSED, const char *name CAS_UNUSED)
{
        wait_for_go();
        (void)fuse_reply_err(req, ENOENT);
}

static void thread_ended(void *userdata)
{
        struct waiting *w = userdata;
        (void)__atomic_add_fetch(&w->ended, 1, __ATOMIC_SEQ_CST);
}

static void *look(void *arg CAS_UNUSED)
{
        struct stat st;
        return stat(waiting.path, &st) < 0 && errno == ENOENT ? &waiting : NULL;
}

/* The only thread waits: there is another. */
static void others_serve_while_one_waits(void **state)
{
        static const struct fuse_lowlevel_ops ops = {.getattr = op_getattr, .lookup = op_lookup};
        struct fusebox *box = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int fd = -1;
        pthread_t looker;
        void *found;
        struct stat st;
        if (!box)
                skip();
        cas_cleanup_free char *dir = cas_xasprintf("%s/waiting", box->dir);
        assert_int_equal(mkdir(dir, 0755), 0);
        assert_int_equal(ffs_als_mount(dir, &fd, &err), 0);
        assert_int_equal(sem_init(&waiting.waits, 0, 0), 0);
        assert_int_equal(sem_init(&waiting.go_on, 0, 0), 0);
        const struct ffs_connection_config config = {.fuse_fd = fd,
                                                     .ops = &ops,
                                                     .userdata = &waiting,
                                                     .threads = 1,
                                                     .name = "test",
                                                     .init_load = load,
                                                     .init_save = save,
                                                     .thread_ends = thread_ended};
        assert_int_equal(ffs_connection_start(&config, &waiting.connection, &err), 0);
        (void)snprintf(waiting.path, sizeof(waiting.path), "%s/name", dir);
        assert_int_equal(pthread_create(&looker, NULL, look, NULL), 0);
        while (sem_wait(&waiting.waits) < 0)
                ;
        assert_int_equal(stat(dir, &st), 0);
        (void)sem_post(&waiting.go_on);
        assert_int_equal(pthread_join(looker, &found), 0);
        assert_non_null(found);
        assert_int_equal(umount2(dir, 0), 0);
        struct pollfd ended = {.fd = ffs_connection_ended_fd(waiting.connection), .events = POLLIN};
        assert_int_equal(poll(&ended, 1, -1), 1);
        ffs_connection_free(waiting.connection);
        assert_int_equal(waiting.ended, 2);
}

int main(int argc, char **argv)
{
        static struct fusebox box;
        int status;
        if (fusebox_is_process(argc, argv, &status))
                return status;
        bool possible = fusebox_possible();
        if (possible)
                fusebox_open(&box, SECONDS_MAX);
        const struct CMUnitTest tests[] = {
                {.name = "init_that_was_read_comes_again",
                 .test_func = init_that_was_read_comes_again,
                 .initial_state = possible ? &box : NULL},
                {.name = "others_serve_while_one_waits",
                 .test_func = others_serve_while_one_waits,
                 .initial_state = possible ? &box : NULL},
        };
        status = cmocka_run_group_tests(tests, NULL, NULL);
        if (possible)
                fusebox_close(&box);
        return status;
}
