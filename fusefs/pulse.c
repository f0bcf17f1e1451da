/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/pulse_int.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/socket.h>

struct pulse {
        int mine; /* kept by the thread */
        int error;
        sem_t ready;
};

/* Has a table of descriptors of its own, with the one in it: nothing else keeps that open, and
 * nothing else can hold this thread up. */
static void *pulse_thread(void *arg)
{
        struct pulse *p = arg;
        unsigned fd = (unsigned)p->mine;
        bool alone = unshare(CLONE_FILES) == 0 && (fd == 0 || close_range(0, fd - 1, 0) == 0) &&
                     close_range(fd + 1, ~0u, 0) == 0;
        p->error = alone ? 0 : errno;
        (void)sem_post(&p->ready);
        while (alone)
                (void)pause();
        return NULL;
}

int ffs_pulse_start(int *out_fd, struct cas_err *err)
{
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return cas_fail_sys(err, errno, "socketpair");
        cas_cleanup_fd int theirs = pair[0];
        cas_cleanup_fd int mine = pair[1]; /* the copy in the common table: closed here */
        struct pulse p = {.mine = mine};
        (void)sem_init(&p.ready, 0, 0);
        pthread_t thread;
        int rc = pthread_create(&thread, NULL, pulse_thread, &p);
        if (rc)
                return cas_fail_sys(err, rc, "thread");
        (void)pthread_detach(thread);
        while (sem_wait(&p.ready) < 0)
                ;
        if (p.error)
                return cas_fail_sys(err, p.error, "a table of descriptors of its own");
        *out_fd = cas_steal_fd(&theirs);
        return 0;
}
