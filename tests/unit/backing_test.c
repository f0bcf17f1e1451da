/* SPDX-License-Identifier: Apache-2.0 */
/* Backing ids of a real connection: counted by request, kept while idle within bounds, found by a
 * successor, none left behind by a kill at any instant that the table can show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "fusefs/backing_int.h"
#include "fusefs/connection_int.h"

struct mounted {
        char dir[64];
        int fuse_fd, state_fd;
        uint8_t init[FFS_INIT_BYTES_MAX];
        size_t init_len;
        struct ffs_connection *connection;
        struct ffs_backings *b;
};

static void op_init(void *userdata CAS_UNUSED, struct fuse_conn_info *conn)
{
        (void)fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH);
        fuse_unset_feature_flag(conn, FUSE_CAP_WRITEBACK_CACHE);
        conn->max_backing_stack_depth = FUSE_BACKING_STACKED_UNDER;
}

static const struct fuse_lowlevel_ops operations = {.init = op_init};

static const void *init_load(void *userdata, size_t *len)
{
        const struct mounted *m = userdata;
        *len = m->init_len;
        return m->init;
}

static void init_save(void *userdata, const void *request, size_t len)
{
        struct mounted *m = userdata;
        memcpy(m->init, request, len);
        m->init_len = len;
}

static int setup(void **state)
{
        static struct mounted m;
        struct cas_err err = CAS_ERR_INIT;
        char options[96];
        m = (struct mounted){.dir = "/tmp/lamina-backing-XXXXXX"};
        if (!mkdtemp(m.dir))
                return -1;
        m.fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        (void)snprintf(options, sizeof(options), "fd=%d,rootmode=40555,user_id=0,group_id=0",
                       m.fuse_fd);
        if (mount("test", m.dir, "fuse.lamina", 0, options) < 0)
                return -1;
        struct ffs_connection_config config = {.fuse_fd = m.fuse_fd,
                                               .ops = &operations,
                                               .userdata = &m,
                                               .threads = 1,
                                               .name = "test",
                                               .init_load = init_load,
                                               .init_save = init_save};
        if (ffs_connection_start(&config, &m.connection, &err) < 0 ||
            ffs_backings_state_create(&m.state_fd, &err) < 0 ||
            ffs_backings_open(m.state_fd, m.fuse_fd, &m.b, &err) < 0)
                return -1;
        *state = &m;
        return 0;
}

static int teardown(void **state)
{
        struct mounted *m = *state;
        ffs_backings_close(m->b);
        (void)umount2(m->dir, MNT_DETACH);
        ffs_connection_free(m->connection);
        (void)close(m->fuse_fd);
        (void)close(m->state_fd);
        (void)rmdir(m->dir);
        return 0;
}

static void succeed(struct mounted *m)
{
        struct cas_err err = CAS_ERR_INIT;
        ffs_backings_close(m->b);
        m->b = NULL;
        if (ffs_backings_open(m->state_fd, m->fuse_fd, &m->b, &err) < 0)
                fail_msg("%s", err.msg);
}

static int make_file(void *arg, int *out_fd)
{
        ++*(unsigned *)arg;
        *out_fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);
        return *out_fd < 0 ? -errno : 0;
}

static int make_nothing(void *arg CAS_UNUSED, int *out_fd CAS_UNUSED)
{
        return -EAGAIN;
}

static struct cas_hash key_of(uint64_t number)
{
        struct cas_hash key = {0};
        cas_put_le64(key.bytes, number);
        return key;
}

static int32_t get(struct mounted *m, uint64_t number, uint64_t unique)
{
        unsigned made = 0;
        int32_t id = 0;
        struct cas_hash key = key_of(number);
        assert_int_equal(ffs_backings_get(m->b, &key, unique, make_file, &made, &id), 0);
        assert_true(id > 0);
        return id;
}

static void put(struct mounted *m, uint64_t number, uint64_t unique, bool keep)
{
        struct cas_hash key = key_of(number);
        ffs_backings_put(m->b, &key, unique, keep);
}

static void expect_counts(struct mounted *m, uint64_t ids, uint64_t open_files)
{
        uint64_t got_ids, got_files;
        ffs_backings_count(m->b, &got_ids, &got_files);
        assert_int_equal(got_ids, ids);
        assert_int_equal(got_files, open_files);
}

/* Whether the kernel knows the id; it does not afterwards. */
static bool kernel_had(const struct mounted *m, int32_t id)
{
        uint32_t number = (uint32_t)id;
        return ioctl(m->fuse_fd, _IOW(229, 2, uint32_t), &number) == 0;
}

static void counts_by_request(void **state)
{
        struct mounted *m = *state;
        int32_t id = get(m, 1, 100);
        assert_int_equal(get(m, 1, 102), id);
        assert_int_equal(get(m, 1, 102 | FFS_UNIQUE_RESENT), id); /* counted before */
        expect_counts(m, 1, 2);
        assert_int_equal(get(m, 1, 104 | FFS_UNIQUE_RESENT), id); /* was not */
        expect_counts(m, 1, 3);
        put(m, 1, 106, true);
        put(m, 1, 106 | FFS_UNIQUE_RESENT, true);
        expect_counts(m, 1, 2);
        put(m, 1, 108, true);
        put(m, 1, 110, true);
        put(m, 1, 112, true); /* of none */
        expect_counts(m, 1, 0);
        assert_int_equal(get(m, 1, 114), id); /* kept */
        put(m, 1, 116, false);
        expect_counts(m, 0, 0);
        assert_false(kernel_had(m, id));
        struct cas_hash key = key_of(2);
        assert_int_equal(ffs_backings_get(m->b, &key, 118, make_nothing, NULL, &id), -EAGAIN);
        expect_counts(m, 0, 0);
}

static void idle_ids_are_bounded(void **state)
{
        struct mounted *m = *state;
        int32_t first = 0;
        for (uint64_t i = 0; i < FFS_BACKINGS_IDLE_MAX + 10; i++) {
                int32_t id = get(m, i, 2 * i);
                first = i == 0 ? id : first;
                put(m, i, 2 * i + 1, true);
        }
        expect_counts(m, FFS_BACKINGS_IDLE_MAX, 0);
        assert_false(kernel_had(m, first)); /* the oldest went */
}

static void a_successor_finds_the_ids(void **state)
{
        struct mounted *m = *state;
        int32_t one = get(m, 1, 2), two = get(m, 2, 4);
        put(m, 2, 6, true);
        succeed(m);
        expect_counts(m, 2, 1);
        assert_int_equal(get(m, 1, 2 | FFS_UNIQUE_RESENT), one);
        assert_int_equal(get(m, 2, 8), two);
        expect_counts(m, 2, 2);
}

/* Killed between the kernel's answer and the table: the successor closes what nobody knows. */
static void an_unknown_id_is_closed(void **state)
{
        struct mounted *m = *state;
        struct {
                int32_t fd;
                uint32_t flags;
                uint64_t padding;
        } map = {.fd = open("/proc/self/exe", O_PATH | O_CLOEXEC)};
        int32_t known = get(m, 1, 2);
        int leaked = ioctl(m->fuse_fd, _IOW(229, 1, map), &map);
        (void)close(map.fd);
        assert_true(leaked > known);
        succeed(m);
        assert_false(kernel_had(m, leaked));
        expect_counts(m, 1, 1);
        assert_int_equal(get(m, 1, 4), known);
}

int main(void)
{
        if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0 || unshare(CLONE_NEWNS) < 0 ||
            mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
                (void)printf("needs root and /dev/fuse\n");
                return 77;
        }
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(counts_by_request, setup, teardown),
                cmocka_unit_test_setup_teardown(idle_ids_are_bounded, setup, teardown),
                cmocka_unit_test_setup_teardown(a_successor_finds_the_ids, setup, teardown),
                cmocka_unit_test_setup_teardown(an_unknown_id_is_closed, setup, teardown),
        };
        return cmocka_run_group_tests_name("backing", tests, NULL, NULL);
}
