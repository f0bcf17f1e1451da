/* SPDX-License-Identifier: Apache-2.0 */
/* A worker serves the file system (fusefs/als.h) and asks the owner; a keeper
 * holds its descriptor and starts another worker when one dies. Both live until
 * it is unmounted. RUN_DIR/als has `served`, a link to where it is mounted, and
 * for each layer that was looked at a directory on which it is mounted. */
#include "tools/layerstore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "cas/log.h"
#include "cas/mutex.h"
#include "fusefs/als.h"
#include "tools/access.h"
#include "tools/ops_json.h"

#define RESTART_MS_MIN 50
#define RESTART_MS_MAX 5000
#define BLOB_DIR "/var/tmp" /* blobs are as large as layers: not for a tmpfs */
#define KEY_BYTES 33
#define READY_BYTES 640

struct layerstore {
        const struct mounting *m;  /* borrowed */
        char *dir;                 /* owned: RUN_DIR/als */
        struct cas_mutex mounting; /* one mount at a time */
        int ready_fd;              /* -1 when it was told */
};

/* ---- what the file system asks ---- */

/* An owner that idled away comes back. */
static int call(const struct layerstore *l, const char *op, json_t *args, json_t **result,
                struct cas_err *err)
{
        op_cleanup_json json_t *info = NULL;
        if (access_owner(l->m->store, &info, err) < 0)
                return -(int)err->code;
        return access_call(l->m->store, op, args, NULL, result, err);
}

static int name_args(const struct ffs_als_name *name, json_t *args, struct cas_err *err)
{
        char layer[CAS_DIGEST_TEXT_BYTES];
        if (access_arg(args, "ref", name->ref, err) < 0)
                return -(int)err->code;
        return access_arg(args, "layer", cas_digest_text(&name->layer, layer), err);
}

static int find(void *arg, const struct ffs_als_name *name, struct ffs_als_layer *out,
                struct cas_err *err)
{
        struct layerstore *l = arg;
        op_cleanup_json json_t *args = json_object();
        op_cleanup_json json_t *result = NULL;
        if (name_args(name, args, err) < 0 || call(l, "als-find", args, &result, err) < 0)
                return -(int)err->code;
        char *text = json_dumps(json_object_get(result, "info"), JSON_COMPACT);
        if (!text)
                return cas_fail(err, CAS_E_IO, "the owner's answer is not understood");
        *out = (struct ffs_als_layer){
                .info = text,
                .blob_bytes = (uint64_t)json_integer_value(json_object_get(result, "size"))};
        return 0;
}

static void key_of(const struct ffs_als_name *name, char out[static KEY_BYTES])
{
        char layer[CAS_DIGEST_TEXT_BYTES], hex[CAS_HASH_HEX_BYTES];
        struct cas_hash hash;
        cas_cleanup_free char *text =
                cas_xasprintf("%s %s", cas_digest_text(&name->layer, layer), name->ref);
        cas_sha256(text, strlen(text), &hash);
        (void)snprintf(out, KEY_BYTES, "%.32s", cas_hash_hex(&hash, hex));
}

/* Something is mounted there, and answers. */
static bool is_mounted(const struct layerstore *l, const char *path)
{
        struct stat above, st;
        return stat(l->dir, &above) == 0 && stat(path, &st) == 0 && above.st_dev != st.st_dev;
}

static int mount_layer(const struct layerstore *l, const struct ffs_als_name *name,
                       const char *path, struct cas_err *err)
{
        op_cleanup_json json_t *args = json_object();
        op_cleanup_json json_t *prepared = NULL;
        op_cleanup_json json_t *info = NULL;
        struct cas_err ignored = CAS_ERR_INIT;
        cas_cleanup_free struct ffs_image *image = cas_xcalloc(1, sizeof(*image));
        cas_cleanup_free struct ffs_mount_info *mounted = cas_xcalloc(1, sizeof(*mounted));
        /* Kernels without what this driver needs do not know whiteouts of layers on overlayfs. */
        const struct ffs_mount_options options = {.dir = path, .driver = FFS_DRIVER_OVERLAY};
        /* What is left there is of a boot that is over, or on a connection that is gone. */
        (void)!mounting_umount(l->m, path, mounted, &ignored);
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", path);
        if (access_owner(l->m->store, &info, err) < 0 || name_args(name, args, err) < 0 ||
            mounting_prepare_by(l->m, "als-prepare", args, image, &prepared, err) < 0)
                return -(int)err->code;
        return mounting_mount(l->m, image, prepared, &options, mounted, err);
}

static int mount_one(void *arg, const struct ffs_als_name *name, char *out, struct cas_err *err)
{
        struct layerstore *l = arg;
        char key[KEY_BYTES];
        key_of(name, key);
        (void)snprintf(out, FFS_ALS_PATH_BYTES, "%s/%s", l->dir, key);
        if (is_mounted(l, out))
                return 0;
        cas_mutex_lock(&l->mounting);
        int rc = is_mounted(l, out) ? 0 : mount_layer(l, name, out, err);
        cas_mutex_unlock(&l->mounting);
        return rc;
}

/* Nothing stands on it any more: its owner has removed the layer. */
static void umount_one(struct layerstore *l, const struct ffs_als_name *name)
{
        char key[KEY_BYTES];
        struct cas_err ignored = CAS_ERR_INIT;
        cas_cleanup_free struct ffs_mount_info *gone = cas_xcalloc(1, sizeof(*gone));
        key_of(name, key);
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", l->dir, key);
        cas_mutex_lock(&l->mounting);
        if (mounting_umount(l->m, path, gone, &ignored) == 0)
                (void)rmdir(path);
        cas_mutex_unlock(&l->mounting);
}

static int use(void *arg, const struct ffs_als_name *name, bool begins, struct cas_err *err)
{
        struct layerstore *l = arg;
        op_cleanup_json json_t *args = json_pack("{s:b}", "begins", begins);
        op_cleanup_json json_t *result = NULL;
        if (name_args(name, args, err) < 0 || call(l, "als-use", args, &result, err) < 0)
                return -(int)err->code;
        if (json_integer_value(json_object_get(result, "count")) == 0)
                umount_one(l, name);
        return 0;
}

/* A file without a name. */
static int blob(void *arg, const struct ffs_als_name *name, int *out_fd, struct cas_err *err)
{
        struct layerstore *l = arg;
        char path[] = BLOB_DIR "/lamina-blob-XXXXXX", digest[CAS_DIGEST_TEXT_BYTES];
        op_cleanup_json json_t *result = NULL;
        cas_cleanup_fd int fd = mkostemp(path, O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "create %s", path);
        op_cleanup_json json_t *args = json_pack(
                "{s:s, s:s}", "digest", cas_digest_text(&name->layer, digest), "file", path);
        int rc = call(l, "blob-write", args, &result, err);
        (void)unlink(path);
        if (rc == 0)
                *out_fd = cas_steal_fd(&fd);
        return rc;
}

static const struct ffs_als_ops operations = {
        .find = find, .mount = mount_one, .use = use, .blob = blob};

/* ---- processes ---- */

static void tell(int fd, int rc, const struct cas_err *err)
{
        char text[READY_BYTES] = "ok";
        if (rc < 0)
                (void)snprintf(text, sizeof(text), "%s %s", cas_code_name(err->code), err->msg);
        (void)!write(fd, text, strlen(text));
        (void)close(fd);
}

static void started(void *arg)
{
        struct layerstore *l = arg;
        if (l->ready_fd >= 0)
                tell(l->ready_fd, 0, NULL);
        l->ready_fd = -1;
}

/* Returns the exit status. */
static int worker_main(struct layerstore *l, int fuse_fd, void *state)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = ffs_als_serve(fuse_fd, state, &operations, l, started, &err);
        if (rc < 0) {
                cas_log(CAS_LOG_ERROR, "als.serve", "error=\"%s\"", err.msg);
                if (l->ready_fd >= 0)
                        tell(l->ready_fd, rc, &err);
        }
        return rc < 0 ? CLI_FAILED : CLI_OK;
}

static void sleep_ms(unsigned ms)
{
        struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
        (void)nanosleep(&t, NULL);
}

/* Starts workers until one ends because the file system was unmounted. */
static void keeper_main(struct layerstore *l, int fuse_fd)
{
        void *state = mmap(NULL, FFS_ALS_STATE_BYTES, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cas_assert(state != MAP_FAILED);
        for (unsigned wait_ms = RESTART_MS_MIN;;
             wait_ms = wait_ms * 2 < RESTART_MS_MAX ? wait_ms * 2 : RESTART_MS_MAX) {
                time_t begun = time(NULL);
                int status = 0;
                pid_t pid = fork();
                if (pid == 0)
                        _exit(worker_main(l, fuse_fd, state));
                if (l->ready_fd >= 0) /* only the first tells */
                        (void)close(l->ready_fd);
                l->ready_fd = -1;
                while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
                        ;
                if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == CLI_OK)
                        return;
                if (time(NULL) - begun > 60)
                        wait_ms = RESTART_MS_MIN;
                cas_log(CAS_LOG_WARN, "als.restart", "status=%d", status);
                sleep_ms(wait_ms);
        }
}

static void background(const struct layerstore *l)
{
        cas_cleanup_free char *log = cas_xasprintf("%s/als.log", l->m->host.run_dir);
        (void)setsid();
        int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        int log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(log_fd < 0 ? null_fd : log_fd, 1) < 0 ||
            dup2(1, 2) < 0 || chdir("/") < 0)
                _exit(CLI_FAILED);
}

/* "ok", or the name of an error code, a blank and its message. */
static int read_ready(int fd, struct cas_err *err)
{
        char text[READY_BYTES + 1], code[16] = "";
        size_t len = 0;
        for (ssize_t n; len < READY_BYTES; len += (size_t)n) {
                n = read(fd, text + len, READY_BYTES - len);
                if (n < 0 && errno == EINTR)
                        n = 0;
                else if (n <= 0)
                        break;
        }
        text[len] = '\0';
        if (strcmp(text, "ok") == 0)
                return 0;
        int skip = 0;
        (void)sscanf(text, "%15s %n", code, &skip);
        enum cas_code known = cas_code_by_name(code);
        return cas_fail(err, known == CAS_OK ? CAS_E_IO : known, "%s",
                        known == CAS_OK ? "the background process ended while it started"
                                        : text + skip);
}

static int spawn_keeper(struct layerstore *l, int fuse_fd, struct cas_err *err)
{
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        cas_cleanup_fd int from = ends[0];
        pid_t child = fork();
        if (child == 0) {
                if (fork() != 0)
                        _exit(0);
                background(l);
                l->ready_fd = ends[1];
                keeper_main(l, fuse_fd);
                _exit(CLI_OK);
        }
        (void)close(ends[1]);
        if (child < 0)
                return cas_fail_sys(err, errno, "fork");
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
                ;
        return read_ready(from, err);
}

/* ---- for commands ---- */

static char *served_path(const struct mounting *m)
{
        return cas_xasprintf("%s/als/served", m->host.run_dir);
}

/* Where it is served, or "". */
static void served_dir(const struct mounting *m, char out[static FFS_ALS_PATH_BYTES])
{
        cas_cleanup_free char *link = served_path(m);
        ssize_t n = readlink(link, out, FFS_ALS_PATH_BYTES - 1);
        out[n < 0 ? 0 : n] = '\0';
}

static int note_served(const struct mounting *m, const char *dir, struct cas_err *err)
{
        char old[FFS_ALS_PATH_BYTES];
        cas_cleanup_free char *link = served_path(m);
        served_dir(m, old);
        if (old[0] && ffs_als_is_mounted(old))
                return cas_fail(err, CAS_E_BUSY, "%s has it already", old);
        (void)unlink(link);
        if (symlink(dir, link) < 0)
                return cas_fail_sys(err, errno, "make %s", link);
        return 0;
}

int layerstore_start(const struct mounting *m, const char *dir, struct cas_err *err)
{
        if (geteuid() != 0)
                return cas_fail(err, CAS_E_DENIED, "an additional layer store needs root");
        cas_cleanup_free char *layers = cas_xasprintf("%s/als", m->host.run_dir);
        cas_cleanup_fd int fuse_fd = -1;
        struct layerstore l = {.m = m, .dir = layers, .ready_fd = -1};
        cas_mutex_init(&l.mounting, "layerstore");
        if (mkdir(layers, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", layers);
        if (note_served(m, dir, err) < 0 || ffs_als_mount(dir, &fuse_fd, err) < 0)
                return -(int)err->code;
        if (spawn_keeper(&l, fuse_fd, err) < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!ffs_als_umount(dir, &ignored);
                return -(int)err->code;
        }
        return 0;
}

int layerstore_end(const struct mounting *m, const char *dir, struct cas_err *err)
{
        char served[FFS_ALS_PATH_BYTES];
        cas_cleanup_free char *link = served_path(m);
        served_dir(m, served);
        if (strcmp(served, dir) != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "%s is no additional layer store", dir);
        int rc = ffs_als_umount(dir, err);
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                (void)unlink(link);
        return rc;
}

int layerstore_end_any(const struct mounting *m, struct cas_err *err)
{
        char served[FFS_ALS_PATH_BYTES];
        served_dir(m, served);
        if (!served[0] || !ffs_als_is_mounted(served))
                return 0;
        return layerstore_end(m, served, err);
}
