/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/fusebox.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "cas/publish.h"

static void must(int rc, const struct cas_err *err)
{
        if (rc < 0) {
                fprintf(stderr, "fusebox: %s: %s\n", cas_code_name(err->code), err->msg);
                abort();
        }
}

/* A thread of fs that reads a file which fs serves, as no thread of it should. */
static void *self_reader(void *arg)
{
        const char *path = arg;
        for (;;) {
                int fd = open(path, O_RDONLY | O_CLOEXEC);
                if (fd >= 0)
                        (void)close(fd);
                (void)usleep(1000);
        }
        return NULL;
}

static void read_itself(int argc, char **argv)
{
        static char path[1024];
        for (int i = 1; i + 1 < argc; i++) {
                if (strcmp(argv[i], "--run-dir") != 0)
                        continue;
                cas_cleanup_free char *name = cas_xasprintf("%s/" FUSEBOX_SELF_READER, argv[i + 1]);
                cas_cleanup_fd int fd = open(name, O_RDONLY | O_CLOEXEC);
                pthread_t thread;
                if (fd >= 0 && read(fd, path, sizeof(path) - 1) > 0 &&
                    pthread_create(&thread, NULL, self_reader, path) == 0)
                        (void)pthread_detach(thread);
        }
}

bool fusebox_is_process(int argc, char **argv, int *status)
{
        const char *role = argc > 1 ? argv[1] : "";
        if (strcmp(role, "serve") == 0) {
                *status = 0;
                return true;
        }
        if (strcmp(role, "hold") != 0 && strcmp(role, "fs") != 0 && strcmp(role, "opener") != 0)
                return false;
        if (strcmp(role, "fs") == 0)
                read_itself(argc, argv);
        *status = ffs_process_main(argc - 1, argv + 1);
        return true;
}

bool fusebox_possible(void)
{
        return geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0 &&
               unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* A process of its own, so that it acts even when the test waits in the kernel, and after a test
 * that aborted: with the connection gone, fs and hold end by themselves. */
static void watchdog_main(unsigned seconds, const char *dir, int test_pidfd)
{
        char control[300], path[400];
        (void)snprintf(control, sizeof(control), "%s/fusectl", dir);
        struct pollfd test = {.fd = test_pidfd, .events = POLLIN};
        (void)poll(&test, 1, (int)seconds * 1000);
        (void)mkdir(control, 0700);
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("fusectl", control, "fusectl", 0, NULL) < 0)
                _exit(1);
        struct ffs_serving serving;
        struct cas_err err = CAS_ERR_INIT;
        char run_dir[300];
        (void)snprintf(run_dir, sizeof(run_dir), "%s/run", dir);
        if (ffs_hold_ask(run_dir, "status", &serving, &err) < 0)
                _exit(1);
        (void)snprintf(path, sizeof(path), "%s/%u/abort", control, serving.dev_minor);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        fprintf(stderr, "fusebox: watchdog aborts the FUSE connection\n");
        (void)!write(fd, "1", 1);
        _exit(1);
}

void fusebox_open(struct fusebox *box, unsigned seconds)
{
        *box = (struct fusebox){0};
        (void)snprintf(box->dir, sizeof(box->dir), "%s/lamina-test-XXXXXX",
                       getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
        if (!mkdtemp(box->dir))
                abort();
        (void)snprintf(box->store_path, sizeof(box->store_path), "%s/store", box->dir);
        (void)snprintf(box->run_dir, sizeof(box->run_dir), "%s/run", box->dir);
        (void)snprintf(box->resolve_path, sizeof(box->resolve_path), "%s/resolve.sock", box->dir);
        if (mkdir(box->run_dir, 0700) < 0)
                abort();
        box->host = (struct ffs_host){.run_dir = box->run_dir,
                                      .store_path = box->store_path,
                                      .resolve_path = box->resolve_path,
                                      .program = "/proc/self/exe"};
        int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
        if (pidfd < 0)
                abort();
        box->watchdog = fork();
        if (box->watchdog == 0)
                watchdog_main(seconds, box->dir, pidfd);
        (void)close(pidfd);
        fusebox_owner_start(box);
}

void fusebox_owner_start(struct fusebox *box)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_config config = {.path = box->store_path, .lock_wait_ms = 5000};
        must(cas_store_open(&config, &box->store, &err), &err);
        must(ffs_resolver_start(box->store, box->resolve_path, &box->resolver, &err), &err);
}

void fusebox_owner_stop(struct fusebox *box)
{
        ffs_resolver_stop(box->resolver);
        cas_store_close(box->store);
        box->resolver = NULL;
        box->store = NULL;
}

static int remove_one(const char *path, const struct stat *st CAS_UNUSED, int type CAS_UNUSED,
                      struct FTW *at CAS_UNUSED)
{
        return remove(path);
}

void fusebox_close(struct fusebox *box)
{
        struct cas_err err = CAS_ERR_INIT;
        /* A test may have stopped it before: then nobody is there to ask. */
        if (ffs_hold_ask(box->run_dir, "stop", &box->serving, &err) < 0 &&
            err.code != CAS_E_NOTFOUND && err.code != CAS_E_BUSY)
                fprintf(stderr, "fusebox: stop: %s\n", err.msg);
        if (box->store)
                fusebox_owner_stop(box);
        (void)kill(box->watchdog, SIGKILL);
        (void)waitpid(box->watchdog, NULL, 0);
        if (!getenv("LAMINA_TEST_KEEP"))
                (void)nftw(box->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* Pairs of an 8-byte random number and its repetition: compresses by half, differs everywhere. */
void fusebox_content(uint32_t seed, size_t bytes, uint8_t *out)
{
        uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
        for (size_t at = 0; at < bytes; at += 8) {
                if (at % 16 == 0) {
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                }
                memcpy(out + at, &x, bytes - at < 8 ? bytes - at : 8);
        }
}

void fusebox_add_many(struct fusebox *box, uint32_t first_seed, uint32_t count, size_t bytes,
                      struct cas_hash *ids)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        must(cas_publish_begin(box->store, &p, &err), &err);
        cas_cleanup_free uint8_t *data = cas_xmalloc(bytes);
        for (uint32_t i = 0; i < count; i++) {
                fusebox_content(first_seed + i, bytes, data);
                must(cas_publish_object(p, data, bytes, &ids[i], &err), &err);
        }
        must(cas_publish_commit(p, &err), &err);
}

void fusebox_add(struct fusebox *box, uint32_t seed, size_t bytes, struct cas_hash *id)
{
        fusebox_add_many(box, seed, 1, bytes, id);
}

void fusebox_object_path(const struct fusebox *box, const struct cas_hash *id, char *out,
                         size_t out_bytes)
{
        char hex[CAS_HASH_HEX_BYTES];
        (void)cas_hash_hex(id, hex);
        (void)snprintf(out, out_bytes, "%s/objects/%.2s/%s", box->run_dir, hex, hex + 2);
}
