/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/control.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cas/buf.h"

CAS_DEFINE_CLEANUP(control_cleanup_curl_, CURL *, curl_easy_cleanup);
#define CONTROL_ITEMS_MAX 64
#define control_cleanup_curl __attribute__((cleanup(control_cleanup_curl_)))

/* An answer in the making: JSON lines, each acted on when it is whole. */
struct answer {
        struct cas_buf line;
        const struct cas_progress *progress;
        json_t *last; /* owned: the newest line that is not progress */
        bool broken;  /* not JSON, or too long */
};

static void answer_release(struct answer *a)
{
        cas_buf_release(&a->line);
        json_decref(a->last);
}

/* What is under way side by side, when it was told. */
static void answer_items(const struct answer *a, const json_t *list)
{
        struct cas_progress_item items[CONTROL_ITEMS_MAX];
        size_t count = 0;
        for (; count < json_array_size(list) && count < CONTROL_ITEMS_MAX; count++) {
                const char *name = "";
                json_int_t done = 0, total = 0;
                (void)json_unpack(json_array_get(list, count), "{s?s, s?I, s?I}", "name", &name,
                                  "done", &done, "total", &total);
                items[count] = (struct cas_progress_item){
                        .name = name, .done = (uint64_t)done, .total = (uint64_t)total};
        }
        if (list && a->progress && a->progress->items)
                a->progress->items(a->progress->arg, items, count);
}

static void answer_line(struct answer *a)
{
        if (a->line.len_bytes == 0)
                return;
        json_t *v = json_loadb((const char *)a->line.data, a->line.len_bytes, 0, NULL);
        cas_buf_clear(&a->line);
        if (!json_is_object(v)) {
                a->broken = true;
                json_decref(v);
                return;
        }
        const char *what = NULL;
        json_int_t done = 0, total = 0;
        if (json_unpack(v, "{s:{s:s, s:I, s:I}}", "progress", "what", &what, "done", &done, "total",
                        &total) == 0) {
                answer_items(a, json_object_get(json_object_get(v, "progress"), "items"));
                cas_progress_update(a->progress, what, (uint64_t)done, (uint64_t)total);
                json_decref(v);
                return;
        }
        json_decref(a->last);
        a->last = v;
}

static size_t answer_take(char *data, size_t one, size_t len, void *arg)
{
        (void)one;
        struct answer *a = arg;
        for (size_t at = 0; at < len && !a->broken;) {
                const char *end = memchr(data + at, '\n', len - at);
                size_t piece = end ? (size_t)(end - data) - at : len - at;
                if (a->line.len_bytes + piece > CONTROL_LINE_BYTES_MAX)
                        a->broken = true;
                else
                        cas_buf_append(&a->line, data + at, piece);
                if (end && !a->broken)
                        answer_line(a);
                at += piece + (end != NULL);
        }
        return a->broken ? 0 : len;
}

/* The path of the socket, by a descriptor of its directory where it is too long for an address. */
static char *socket_path(const char *store_path, int *dir_fd)
{
        char *path = cas_xasprintf("%s/" CONTROL_SOCKET_NAME, store_path);
        if (strlen(path) < sizeof(((struct sockaddr_un *)0)->sun_path))
                return path;
        free(path);
        *dir_fd = open(store_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return cas_xasprintf("/proc/self/fd/%d/" CONTROL_SOCKET_NAME, *dir_fd);
}

static CURL *request_new(const char *socket, const char *path, struct answer *a)
{
        cas_cleanup_free char *url = cas_xasprintf("http://lamina%s", path);
        CURL *c = curl_easy_init();
        cas_assert(c != NULL);
        curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, socket);
        curl_easy_setopt(c, CURLOPT_URL, url);
        curl_easy_setopt(c, CURLOPT_PROXY, "");
        curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 10L);
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, answer_take);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, a);
        return c;
}

/* The error that the owner reported. */
static int fail_remote(const json_t *error, struct cas_err *err)
{
        const char *name = "", *message = "no reason given";
        int sys_errno = 0;
        (void)json_unpack((json_t *)(uintptr_t)error, "{s?s, s?s, s?i}", "code", &name, "message",
                          &message, "errno", &sys_errno);
        enum cas_code code = cas_code_by_name(name);
        int rc = cas_fail(err, code == CAS_OK ? CAS_E_IO : code, "%s", message);
        err->sys_errno = sys_errno;
        return rc;
}

/* Performs, and leaves the last line in a->last. */
static int request_perform(CURL *c, const char *store_path, struct answer *a, bool *no_owner,
                           struct cas_err *err)
{
        *no_owner = false;
        CURLcode rc = curl_easy_perform(c);
        if (rc == CURLE_COULDNT_CONNECT) {
                long os_errno = 0;
                curl_easy_getinfo(c, CURLINFO_OS_ERRNO, &os_errno);
                if (os_errno == EACCES || os_errno == EPERM)
                        return cas_fail(err, CAS_E_DENIED,
                                        "the store %s belongs to another user's process",
                                        store_path);
                *no_owner = true;
                return cas_fail(err, CAS_E_NOTFOUND, "no process owns the store %s", store_path);
        }
        if (!a->broken)
                answer_line(a);
        if (a->broken)
                return cas_fail(err, CAS_E_IO, "the owner of %s answers in another language",
                                store_path);
        const json_t *error = json_object_get(a->last, "error");
        if (error)
                return fail_remote(error, err);
        if (rc != CURLE_OK || !a->last)
                return cas_fail(err, CAS_E_IO, "the owner of %s ended before it had answered%s%s",
                                store_path, rc == CURLE_OK ? "" : ": ",
                                rc == CURLE_OK ? "" : curl_easy_strerror(rc));
        return 0;
}

int control_info(const char *store_path, json_t **out, struct cas_err *err)
{
        cas_cleanup_fd int dir_fd = -1;
        cas_cleanup_free char *socket = socket_path(store_path, &dir_fd);
        struct answer a = {0};
        control_cleanup_curl CURL *c = request_new(socket, "/info", &a);
        bool no_owner;
        int rc = request_perform(c, store_path, &a, &no_owner, err);
        if (rc == 0) {
                json_int_t api = json_integer_value(json_object_get(a.last, "api"));
                if (api == CONTROL_API_VERSION)
                        *out = json_incref(a.last);
                else
                        rc = cas_fail(err, CAS_E_UNSUPPORTED,
                                      "the owner of %s is another version of lamina (control API "
                                      "%lld, not %d): restart it",
                                      store_path, (long long)api, CONTROL_API_VERSION);
        }
        answer_release(&a);
        return rc;
}

static int post(const char *store_path, const char *path, struct cas_err *err)
{
        cas_cleanup_fd int dir_fd = -1;
        cas_cleanup_free char *socket = socket_path(store_path, &dir_fd);
        struct answer a = {0};
        control_cleanup_curl CURL *c = request_new(socket, path, &a);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, "");
        bool no_owner;
        int rc = request_perform(c, store_path, &a, &no_owner, err);
        answer_release(&a);
        return rc;
}

int control_end(const char *store_path, struct cas_err *err)
{
        return post(store_path, "/end", err);
}

int control_make_way(const char *store_path, struct cas_err *err)
{
        return post(store_path, "/make-way", err);
}

int control_call(const char *store_path, const char *op, const json_t *args,
                 const struct cas_progress *progress, json_t **result, bool *no_owner,
                 struct cas_err *err)
{
        cas_cleanup_fd int dir_fd = -1;
        cas_cleanup_free char *socket = socket_path(store_path, &dir_fd);
        cas_cleanup_free char *path = cas_xasprintf("/op/%s", op);
        cas_cleanup_free char *body = json_dumps(args, JSON_COMPACT);
        cas_assert(body != NULL);
        struct answer a = {.progress = progress};
        control_cleanup_curl CURL *c = request_new(socket, path, &a);
        struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
        headers = curl_slist_append(headers, "Expect:");
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
        int rc = request_perform(c, store_path, &a, no_owner, err);
        curl_slist_free_all(headers);
        if (rc == 0) {
                json_t *value = json_object_get(a.last, "result");
                if (value)
                        *result = json_incref(value);
                else
                        rc = cas_fail(err, CAS_E_IO, "the owner of %s gave no result", store_path);
        }
        answer_release(&a);
        return rc;
}
