/* SPDX-License-Identifier: Apache-2.0 */
/* Users and groups by an image's own files, which are not trusted. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "cas/buf.h"
#include "tools/run_spec.h"

#define ACCOUNT_BYTES_MAX (4 * 1024 * 1024)
#define ACCOUNT_GROUPS_MAX 1024

void run_user_release(struct run_user *u)
{
        free(u->groups);
        free(u->home);
        *u = (struct run_user){0};
}

int run_image_read(const char *root, const char *path, struct cas_buf *out, struct cas_err *err)
{
        cas_cleanup_fd int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                               .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
        cas_cleanup_fd int fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
        if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
                return 0;
        struct stat st;
        if (fd < 0 || fstat(fd, &st) != 0)
                return cas_fail_sys(err, errno, "%s of the image", path);
        if (!S_ISREG(st.st_mode) || st.st_size > ACCOUNT_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "%s of the image: not a file, or too large",
                                path);
        size_t size = (size_t)st.st_size;
        cas_buf_reserve(out, size);
        while (out->len_bytes < size) {
                ssize_t n = read(fd, out->data + out->len_bytes, size - out->len_bytes);
                if (n < 0)
                        return cas_fail_sys(err, errno, "%s of the image", path);
                if (n == 0)
                        break;
                out->len_bytes += (size_t)n;
        }
        if (out->data)
                out->data[out->len_bytes] = '\0';
        return 0;
}

static bool number_parse(const char *text, uint32_t *out)
{
        char *end;
        errno = 0;
        unsigned long v = strtoul(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || errno || v >= UINT32_MAX)
                return false;
        *out = (uint32_t)v;
        return true;
}

/* Splits the next line into fields at ":". False at the end. Changes the text. */
#define ACCOUNT_FIELDS_MAX 7
static bool line_next(char **at, char *fields[ACCOUNT_FIELDS_MAX])
{
        char *line = strsep(at, "\n");
        if (!line)
                return false;
        static char empty[1];
        for (size_t i = 0; i < ACCOUNT_FIELDS_MAX; i++) {
                char *field = strsep(&line, ":");
                fields[i] = field ? field : empty;
        }
        return true;
}

/* passwd: name, password, uid, gid, comment, home, shell */
static bool passwd_find(struct cas_buf *passwd, const char *who, struct run_user *out, char **name)
{
        char *at = passwd->len_bytes ? (char *)passwd->data : NULL;
        char *f[ACCOUNT_FIELDS_MAX];
        uint32_t wanted;
        bool by_number = number_parse(who, &wanted);
        while (at && line_next(&at, f)) {
                uint32_t uid, gid;
                if (!number_parse(f[2], &uid) || !number_parse(f[3], &gid))
                        continue;
                if (strcmp(f[0], who) != 0 && !(by_number && uid == wanted))
                        continue;
                out->uid = uid;
                out->gid = gid;
                free(out->home);
                out->home = cas_xstrdup(f[5][0] == '/' ? f[5] : "/");
                *name = cas_xstrdup(f[0]);
                return true;
        }
        if (by_number)
                out->uid = wanted;
        return by_number;
}

static bool member_of(char *list, const char *name)
{
        for (char *one; (one = strsep(&list, ","));) {
                if (strcmp(one, name) == 0)
                        return true;
        }
        return false;
}

static void group_add(struct run_user *u, uint32_t gid)
{
        for (size_t i = 0; i < u->group_count; i++) {
                if (u->groups[i] == gid)
                        return;
        }
        if (u->group_count == ACCOUNT_GROUPS_MAX)
                return;
        u->groups = cas_xrealloc(u->groups, (u->group_count + 1) * sizeof(*u->groups));
        u->groups[u->group_count++] = gid;
}

/* group: name, password, gid, members. `wanted` is a group by name or number, or NULL: all that
 * have `name` as a member are added. */
static bool group_find(struct cas_buf *group, const char *wanted, const char *name,
                       struct run_user *out)
{
        char *at = group->len_bytes ? (char *)group->data : NULL;
        char *f[ACCOUNT_FIELDS_MAX];
        while (at && line_next(&at, f)) {
                uint32_t gid;
                if (!number_parse(f[2], &gid))
                        continue;
                if (wanted && strcmp(f[0], wanted) == 0) {
                        out->gid = gid;
                        return true;
                }
                if (!wanted && member_of(f[3], name))
                        group_add(out, gid);
        }
        return wanted && number_parse(wanted, &out->gid);
}

int run_user_find(const char *root, const char *text, struct run_user *out, struct cas_err *err)
{
        *out = (struct run_user){.home = cas_xstrdup("/")};
        cas_cleanup_free char *user = cas_xstrdup(text[0] ? text : "0");
        char *wanted_group = strchr(user, ':');
        if (wanted_group)
                *wanted_group++ = '\0';
        cas_cleanup_buf struct cas_buf passwd = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf group = CAS_BUF_INIT;
        cas_cleanup_free char *name = NULL;
        int rc = run_image_read(root, "etc/passwd", &passwd, err);
        if (rc == 0)
                rc = run_image_read(root, "etc/group", &group, err);
        if (rc == 0 && !passwd_find(&passwd, user, out, &name))
                rc = cas_fail(err, CAS_E_INVALID, "user %s is not in the image's /etc/passwd",
                              user);
        if (rc == 0 && wanted_group && wanted_group[0] &&
            !group_find(&group, wanted_group, NULL, out))
                rc = cas_fail(err, CAS_E_INVALID, "group %s is not in the image's /etc/group",
                              wanted_group);
        if (rc == 0)
                group_add(out, out->gid);
        if (rc == 0 && name && !(wanted_group && wanted_group[0]))
                (void)group_find(&group, NULL, name, out);
        if (rc < 0)
                run_user_release(out);
        return rc;
}
