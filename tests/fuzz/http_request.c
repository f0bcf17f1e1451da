/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a client writes on a connection: a real registry over a small store gets it through a
 * socket, survives it, and answers with HTTP that can be read, or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "cas/log.h"
#include "cas/publish.h"
#include "cas/removetree.h"
#include "registry/http_listen.h"
#include "registry/registry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_BYTES_MAX (64 * 1024)
#define WAIT_MS 10000 /* for the server to read */
#define QUIET_MS 4

static struct {
        char *dir, *socket;
        struct cas_store *store;
        struct reg_config config;
        struct reg_registry *registry;
} world;

static void must(int rc, const struct cas_err *err)
{
        if (rc < 0) {
                (void)fprintf(stderr, "http_request: %s\n", err->msg);
                abort();
        }
}

static void world_end(void)
{
        reg_stop(world.registry, 1000);
        cas_store_close(world.store);
        reg_config_release(&world.config);
        struct cas_err err = CAS_ERR_INIT;
        must(cas_remove_tree(world.dir, &err), &err);
        free(world.dir);
        free(world.socket);
}

/* A repository "a" with a blob and a manifest that is tagged "t". */
static void fill_store(void)
{
        static const char manifest[] =
                "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\","
                "\"manifests\":[]}";
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest blob, digest;
        cas_cleanup_publish struct cas_publish *p = NULL;
        must(cas_publish_begin(world.store, &p, &err), &err);
        must(cas_publish_blob(p, "hello", 5, NULL, &blob, &err), &err);
        must(cas_publish_blob_link(p, "a", &blob, &err), &err);
        must(cas_publish_blob(p, manifest, strlen(manifest), NULL, &digest, &err), &err);
        must(cas_publish_blob_link(p, "a", &digest, &err), &err);
        must(cas_publish_commit(p, &err), &err);
}

static void world_begin(void)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_log_set_level(CAS_LOG_ERROR);
        /* in memory where there is such a place: syncs cost nothing there */
        world.dir = cas_xstrdup(access("/dev/shm", W_OK) == 0 ? "/dev/shm/lamina-fuzz-XXXXXX"
                                                              : "/tmp/lamina-fuzz-XXXXXX");
        cas_assert(mkdtemp(world.dir) != NULL);
        world.socket = cas_xasprintf("%s/http", world.dir);
        cas_cleanup_free char *path = cas_xasprintf("%s/s", world.dir);
        const struct cas_store_config store = {.path = path};
        must(cas_store_open(&store, &world.store, &err), &err);
        fill_store();
        world.config.listen = cas_xstrdup(world.socket);
        must(reg_start(world.store, &world.config, &world.registry, &err), &err);
        (void)atexit(world_end);
}

/* Says all, and hears what comes until nothing has come for a moment: what is not a whole request
 * has no answer, and the connection would stay open. */
static void talk(int fd, const uint8_t *data, size_t size, struct cas_buf *out)
{
        size_t said = 0;
        for (;;) {
                struct pollfd polled = {.fd = fd,
                                        .events = said < size ? POLLIN | POLLOUT : POLLIN};
                if (poll(&polled, 1, said < size ? WAIT_MS : QUIET_MS) <= 0)
                        return;
                ssize_t n = said < size ? send(fd, data + said, size - said,
                                               MSG_DONTWAIT | MSG_NOSIGNAL)
                                        : 0;
                if (n > 0)
                        said += (size_t)n;
                cas_buf_reserve(out, 65536);
                n = recv(fd, out->data + out->len_bytes, 65536, MSG_DONTWAIT);
                if (n > 0)
                        out->len_bytes += (size_t)n;
                else if (n == 0 || (errno != EAGAIN && errno != EINTR))
                        return;
        }
}

/* What is sent is a status line of ours, and none of a failure of the server itself. */
static void check_answer(const struct cas_buf *out)
{
        static const char version[] = "HTTP/1.";
        if (out->len_bytes < strlen("HTTP/1.1 200"))
                return;
        cas_assert(memcmp(out->data, version, strlen(version)) == 0);
        cas_assert(out->data[9] >= '1' && out->data[9] <= '5');
        cas_assert(memcmp(out->data + 9, "500", 3) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        cas_cleanup_fd int fd = -1;
        if (size > INPUT_BYTES_MAX)
                return 0;
        if (!world.dir)
                world_begin();
        must(reg_connect_unix(world.socket, &fd, &err), &err);
        talk(fd, data, size, &out);
        check_answer(&out);
        return 0;
}
