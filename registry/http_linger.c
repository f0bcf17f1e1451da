/* SPDX-License-Identifier: Apache-2.0 */
/* One thread reads and throws away what clients still send after an early
 * answer, until they close, or time or bytes run out. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "registry/http_int.h"

#define LINGER_SOCKETS_MAX 256
#define LINGER_MS 10000
#define LINGER_BYTES_MAX (256 * 1024 * 1024)

struct linger_socket {
        int fd;
        uint64_t left_bytes;
        uint64_t deadline_ms;
};

struct reg_linger {
        pthread_t thread;
        int wake_fd;
        struct cas_mutex mutex; /* guards all below */
        bool stopping;
        unsigned count;
        struct linger_socket sockets[LINGER_SOCKETS_MAX];
};

static uint64_t now_ms(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void drop_locked(struct reg_linger *l, unsigned index)
{
        cas_assert_held(&l->mutex);
        (void)close(l->sockets[index].fd);
        l->sockets[index] = l->sockets[--l->count];
}

/* False when the socket is done with. */
static bool drain(struct linger_socket *s)
{
        char waste[16384];
        for (;;) {
                ssize_t n = recv(s->fd, waste, sizeof(waste), MSG_DONTWAIT);
                if (n < 0)
                        return errno == EAGAIN || errno == EINTR;
                if (n == 0 || (uint64_t)n > s->left_bytes)
                        return false;
                s->left_bytes -= (uint64_t)n;
        }
}

/* Drains what can be read; returns how long to wait at most, or -1. */
static int tend_locked(struct reg_linger *l)
{
        cas_assert_held(&l->mutex);
        uint64_t now = now_ms(), next = UINT64_MAX;
        for (unsigned i = l->count; i-- > 0;) {
                if (now >= l->sockets[i].deadline_ms || !drain(&l->sockets[i]))
                        drop_locked(l, i);
                else
                        next = cas_min_u64(next, l->sockets[i].deadline_ms - now);
        }
        return next == UINT64_MAX ? -1 : (int)next;
}

static void *linger_main(void *arg)
{
        struct reg_linger *l = arg;
        struct pollfd polled[LINGER_SOCKETS_MAX + 1];
        for (;;) {
                cas_mutex_lock(&l->mutex);
                int wait_ms = tend_locked(l);
                nfds_t count = 0;
                for (unsigned i = 0; i < l->count; i++)
                        polled[count++] = (struct pollfd){.fd = l->sockets[i].fd, .events = POLLIN};
                bool stopping = l->stopping;
                cas_mutex_unlock(&l->mutex);
                if (stopping)
                        return NULL;
                polled[count++] = (struct pollfd){.fd = l->wake_fd, .events = POLLIN};
                /* sockets are closed by this thread alone, so what is polled stays open */
                (void)poll(polled, count, wait_ms);
                uint64_t wakes;
                (void)!read(l->wake_fd, &wakes, sizeof(wakes));
        }
}

static void wake(struct reg_linger *l)
{
        uint64_t one = 1;
        (void)!write(l->wake_fd, &one, sizeof(one));
}

struct reg_linger *reg_linger_new(void)
{
        struct reg_linger *l = cas_xcalloc(1, sizeof(*l));
        cas_mutex_init(&l->mutex, "http linger");
        l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        cas_assert(l->wake_fd >= 0);
        int rc = pthread_create(&l->thread, NULL, linger_main, l);
        cas_assert(rc == 0);
        return l;
}

void reg_linger_add(struct reg_linger *l, int fd)
{
        cas_mutex_lock(&l->mutex);
        if (l->stopping || l->count == LINGER_SOCKETS_MAX) {
                (void)close(fd);
        } else {
                l->sockets[l->count++] = (struct linger_socket){
                        .fd = fd,
                        .left_bytes = LINGER_BYTES_MAX,
                        .deadline_ms = now_ms() + LINGER_MS,
                };
                wake(l);
        }
        cas_mutex_unlock(&l->mutex);
}

void reg_linger_free(struct reg_linger *l)
{
        if (!l)
                return;
        cas_mutex_lock(&l->mutex);
        l->stopping = true;
        wake(l);
        cas_mutex_unlock(&l->mutex);
        (void)pthread_join(l->thread, NULL);
        cas_mutex_lock(&l->mutex);
        while (l->count > 0)
                drop_locked(l, 0);
        cas_mutex_unlock(&l->mutex);
        (void)close(l->wake_fd);
        cas_mutex_release(&l->mutex);
        free(l);
}
