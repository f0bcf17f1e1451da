/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/run_place.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/wait.h>

#include "cas/removetree.h"
#include "tools/bundle.h"
#include "tools/paths.h"
#include "tools/run_cgroup.h"
#include "tools/uid_pool.h"

int run_place_make(struct run_place *p, const char *upper, struct cas_err *err)
{
        uint8_t random[16];
        cas_assert(getrandom(random, sizeof(random), 0) == (ssize_t)sizeof(random));
        for (size_t i = 0; i < sizeof(random); i++)
                snprintf(p->id + 2 * i, 3, "%02x", random[i]);
        cas_cleanup_free char *run_dir = NULL;
        if (path_real(p->m.host.run_dir, &run_dir, err) < 0 ||
            (upper && path_real(upper, &p->upper, err) < 0))
                return -(int)err->code;
        p->dir = cas_xasprintf("%s/run/%s", run_dir, p->id);
        p->root = cas_xasprintf("%s/root", p->dir);
        p->state = cas_xasprintf("%s/crun", p->dir);
        p->upper_is_ours = upper == NULL;
        if (!upper)
                p->upper = cas_xasprintf("%s/sandboxes/run-%s", p->m.host.store_path, p->id);
        p->volumes = cas_xasprintf("%s/volumes", p->upper);
        if (path_make_dirs(p->root, 0700, err) < 0 || path_make_dirs(p->upper, 0700, err) < 0)
                return -(int)err->code;
        return 0;
}

int run_place_undo(struct run_place *p, struct cas_err *err)
{
        int rc = 0;
        if (!p->dir) {
                if (p->pool_first)
                        uid_pool_give_back(p->m.host.run_dir, p->pool_first);
                return 0;
        }
        if (access(p->state, F_OK) == 0)
                bundle_delete(p->state, p->id);
        if (p->has_cgroup)
                run_cgroup_remove(p->id);
        struct cas_err one = CAS_ERR_INIT;
        struct ffs_mount_info gone;
        int umounted = mounting_umount(&p->m, p->root, &gone, &one);
        if (umounted < 0 && umounted != -CAS_E_NOTFOUND) {
                *err = one;
                return umounted; /* nothing below a live mount is removed */
        }
        if (p->pool_first)
                uid_pool_give_back(p->m.host.run_dir, p->pool_first);
        if (p->upper_is_ours && !p->keep) {
                /* What the kernel's overlay made is the namespace's. */
                if (p->brokered)
                        rc = rootless_remove_tree(&p->ids, p->upper, err);
                else if (p->rootless) /* where anything may be its subordinates', or closed */
                        rc = rootless_remove_tree(&p->ids, p->volumes, err);
                if (rc == 0)
                        rc = cas_remove_tree(p->upper, err);
        }
        one = (struct cas_err)CAS_ERR_INIT;
        if (cas_remove_tree(p->dir, &one) < 0 && rc == 0) {
                *err = one;
                rc = -(int)one.code;
        }
        return rc;
}

/* ---- the watcher ---- */

static CAS_NORETURN void watcher_main(struct run_place *p, int from)
{
        (void)setsid();
        sigset_t all;
        sigfillset(&all);
        (void)sigprocmask(SIG_SETMASK, &all, NULL);
        char done;
        ssize_t n;
        do
                n = read(from, &done, 1);
        while (n < 0 && errno == EINTR);
        if (n == 0) {
                struct cas_err err = CAS_ERR_INIT;
                if (run_place_undo(p, &err) < 0)
                        _exit(CLI_FAILED);
        }
        _exit(CLI_OK);
}

int run_place_watch(struct run_place *p, struct cas_err *err)
{
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        p->watcher = fork();
        if (p->watcher < 0) {
                (void)close(ends[0]);
                (void)close(ends[1]);
                return cas_fail_sys(err, errno, "fork");
        }
        if (p->watcher == 0) {
                (void)close(ends[1]);
                /* Nobody waits for the output of a watcher. */
                int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
                for (int fd = 0; fd <= 2; fd++)
                        (void)dup2(null_fd, fd);
                watcher_main(p, ends[0]);
        }
        (void)close(ends[0]);
        p->watcher_fd = ends[1];
        return 0;
}

static void watcher_dismiss(struct run_place *p)
{
        if (p->watcher <= 0)
                return;
        (void)!write(p->watcher_fd, "", 1);
        (void)close(p->watcher_fd);
        (void)waitpid(p->watcher, NULL, 0);
}

void run_place_release(struct run_place *p)
{
        watcher_dismiss(p);
        mounting_close(&p->m);
        free(p->dir);
        free(p->root);
        free(p->state);
        free(p->upper);
        free(p->volumes);
        free(p->id_map);
        if (p->userns_fd >= 0)
                (void)close(p->userns_fd);
        if (p->cgroup_fd >= 0)
                (void)close(p->cgroup_fd);
}
