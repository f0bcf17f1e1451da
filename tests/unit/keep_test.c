/* SPDX-License-Identifier: Apache-2.0 */
/* Items that hold keeps: their list, their messages, and what fs says to hold, whose part a thread
 * of the test plays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>

#include "fusefs/keep_int.h"
#include "fusefs/unixsock_int.h"

static struct ffs_keep_item item_of(const char *name, const char *text, int fd)
{
        struct ffs_keep_item item = {.text = cas_xstrdup(text)};
        (void)snprintf(item.name, sizeof(item.name), "%s", name);
        if (fd >= 0)
                item.fds[item.fd_count++] = fd;
        return item;
}

static int null_fd(void)
{
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        return fd;
}

static void items_are_replaced_and_dropped(void **state CAS_UNUSED)
{
        struct ffs_keep_items items = {0};
        int first = null_fd();
        for (int i = 0; i < 40; i++) {
                char name[16];
                (void)snprintf(name, sizeof(name), "n%d", i);
                struct ffs_keep_item item = item_of(name, "x", i == 7 ? first : -1);
                ffs_keep_items_put(&items, &item);
                assert_null(item.text); /* taken over */
        }
        assert_int_equal(items.count, 40);
        struct ffs_keep_item again = item_of("n7", "other", -1);
        ffs_keep_items_put(&items, &again);
        assert_int_equal(items.count, 40);
        assert_string_equal(ffs_keep_items_find(&items, "n7")->text, "other");
        assert_int_equal(fcntl(first, F_GETFD), -1);
        ffs_keep_items_drop(&items, "n7");
        ffs_keep_items_drop(&items, "n7");
        assert_int_equal(items.count, 39);
        assert_null(ffs_keep_items_find(&items, "n7"));
        assert_string_equal(items.list[7].name, "n8"); /* the order stays */
        ffs_keep_items_release(&items);
        assert_int_equal(items.count, 0);
}

static void wrong_messages_are_refused(void **state CAS_UNUSED)
{
        cas_cleanup_free char *long_text = cas_xcalloc(1, FFS_KEEP_TEXT_BYTES_MAX + 8);
        memset(long_text, 'x', FFS_KEEP_TEXT_BYTES_MAX + 4);
        memcpy(long_text, "n\n", 2);
        cas_cleanup_free char *long_name = cas_xasprintf("%0*d\n", FFS_KEEP_NAME_BYTES, 1);
        const char *const wrong[] = {"",        "name",    "\ntext", "a b\n",
                                     "n\x01\n", long_text, long_name};
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct ffs_keep_item item;
                int fd = null_fd();
                assert_int_equal(ffs_keep_item_parse(wrong[i], &fd, 1, &item, &err),
                                 -CAS_E_INVALID);
                assert_int_equal(fcntl(fd, F_GETFD), -1); /* closed */
        }
}

/* ---- a hold in a thread ---- */

struct fake_hold {
        int fd;
        struct ffs_keep_items items;
        int ready, left;
};

static void *fake_hold_main(void *arg)
{
        struct fake_hold *h = arg;
        static char text[FFS_KEEP_MESSAGE_BYTES_MAX + 1];
        for (;;) {
                struct cas_err err = CAS_ERR_INIT;
                int fds[FFS_KEEP_FDS_MAX], rc = 0;
                size_t len = 0, fd_count = FFS_KEEP_FDS_MAX;
                if (ffs_sock_receive(h->fd, text, FFS_KEEP_MESSAGE_BYTES_MAX, &len, fds, &fd_count,
                                     5000, &err) < 0 ||
                    len == 0)
                        return NULL;
                text[len] = '\0';
                if (strncmp(text, "get ", 4) == 0) {
                        size_t i = strtoul(text + 4, NULL, 10);
                        if (i < h->items.count) {
                                rc = ffs_keep_send(h->fd, "item", &h->items.list[i], &err);
                                assert_int_equal(rc, 0);
                                continue;
                        }
                } else if (strncmp(text, "put bad", 7) == 0) {
                        for (size_t i = 0; i < fd_count; i++)
                                (void)close(fds[i]);
                        rc = cas_fail(&err, CAS_E_LIMIT, "no more of these");
                } else if (strncmp(text, "put ", 4) == 0) {
                        struct ffs_keep_item item;
                        rc = ffs_keep_item_parse(text + 4, fds, fd_count, &item, &err);
                        if (rc == 0)
                                ffs_keep_items_put(&h->items, &item);
                } else if (strncmp(text, "drop ", 5) == 0) {
                        ffs_keep_items_drop(&h->items, text + 5);
                } else if (strcmp(text, "ready") == 0) {
                        h->ready++;
                } else if (strcmp(text, "leave") == 0) {
                        h->left++;
                }
                (void)ffs_process_answer_format(rc, &err, text, sizeof(text));
                rc = ffs_sock_send(h->fd, text, strlen(text), NULL, 0, &err);
                assert_int_equal(rc, 0);
        }
}

static void count_one(void *arg, const struct ffs_keep_item *item)
{
        assert_true(item->name[0] != '\0');
        ++*(int *)arg;
}

static void fs_gives_and_takes_back(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct fake_hold hold = {0};
        int pair[2];
        assert_int_equal(ffs_process_socketpair(pair, &err), 0);
        hold.fd = pair[0];
        struct ffs_keep_item old = item_of("old", "of a predecessor", null_fd());
        ffs_keep_items_put(&hold.items, &old);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, fake_hold_main, &hold), 0);
        static struct ffs_host host;
        struct ffs_serving serving = {0};
        struct ffs_keep *k;
        assert_int_equal(ffs_keep_open(&host, pair[1], &serving, &k, &err), 0);
        int fds[2], count = 0;
        assert_int_equal(ffs_keep_fds(k, "old", fds, 1, &err), 0);
        (void)close(fds[0]);
        assert_int_equal(ffs_keep_fds(k, "old", fds, 2, &err), -CAS_E_INVALID);
        assert_int_equal(ffs_keep_fds(k, "absent", fds, 1, &err), -CAS_E_NOTFOUND);
        /* Of the largest size, with as many descriptors as there may be. */
        cas_cleanup_free char *text = cas_xcalloc(1, FFS_KEEP_TEXT_BYTES_MAX + 2);
        memset(text, 't', FFS_KEEP_TEXT_BYTES_MAX);
        int four[FFS_KEEP_FDS_MAX];
        for (size_t i = 0; i < CAS_COUNT(four); i++)
                four[i] = null_fd();
        assert_int_equal(ffs_keep_put(k, "large/1", text, four, CAS_COUNT(four), &err), 0);
        assert_int_equal(fcntl(four[0], F_GETFD), FD_CLOEXEC); /* the caller's too */
        for (size_t i = 0; i < CAS_COUNT(four); i++)
                (void)close(four[i]);
        text[FFS_KEEP_TEXT_BYTES_MAX] = 't';
        assert_int_equal(ffs_keep_put(k, "larger", text, NULL, 0, &err), -CAS_E_LIMIT);
        assert_int_equal(ffs_keep_put(k, "bad", "", NULL, 0, &err), -CAS_E_LIMIT);
        assert_string_equal(err.msg, "no more of these");
        assert_int_equal(ffs_keep_put(k, "none", "", NULL, 0, &err), 0);
        assert_int_equal(ffs_keep_drop(k, "old", &err), 0);
        assert_int_equal(ffs_keep_drop(k, "old", &err), 0);
        assert_int_equal(ffs_keep_ready(k, &err), 0);
        assert_int_equal(ffs_keep_leave(k, &err), 0);
        ffs_keep_each(k, count_one, &count);
        assert_int_equal(count, 2);
        assert_int_equal(hold.items.count, 2);
        assert_int_equal(ffs_keep_items_find(&hold.items, "large/1")->fd_count, FFS_KEEP_FDS_MAX);
        assert_int_equal(hold.ready, 1);
        assert_int_equal(hold.left, 1);
        ffs_keep_close(k);
        assert_int_equal(pthread_join(thread, NULL), 0);
        ffs_keep_items_release(&hold.items);
        (void)close(hold.fd);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(items_are_replaced_and_dropped),
                cmocka_unit_test(wrong_messages_are_refused),
                cmocka_unit_test(fs_gives_and_takes_back),
        };
        return cmocka_run_group_tests_name("keep", tests, NULL, NULL);
}
