/* SPDX-License-Identifier: Apache-2.0 */
/* lamina dump: a tree as text, an entry a line, for people and for diff(1). */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "cas/tree.h"
#include "tools/cli.h"

#define DUMP_DEPTH_MAX 2048

struct dump {
        const struct cas_tree *tree;
        struct cas_buf path;
        unsigned depth;
        int rc;
        struct cas_err *err;
};

static void print_escaped(const void *data, size_t len)
{
        const unsigned char *p = data;
        for (size_t i = 0; i < len; i++) {
                if (isgraph(p[i]) && p[i] != '\\' && p[i] != '=')
                        putchar(p[i]);
                else
                        printf("\\x%02x", p[i]);
        }
}

static bool xattr_seen(void *arg, const char *name, const void *value, size_t len)
{
        (void)arg;
        putchar(' ');
        print_escaped(name, strlen(name));
        putchar('=');
        print_escaped(value, len);
        return true;
}

static int print_entry(struct dump *d, uint64_t nid, const struct cas_inode *inode)
{
        print_escaped(d->path.len_bytes ? cas_buf_str(&d->path) : "/",
                      d->path.len_bytes ? d->path.len_bytes : 1);
        printf(" %o %u:%u nlink=%u size=%llu mtime=%lld.%09u ino=%llu", inode->mode, inode->uid,
               inode->gid, inode->nlink, (unsigned long long)inode->size_bytes,
               (long long)inode->mtime_s, inode->mtime_ns, (unsigned long long)nid);
        if (S_ISCHR(inode->mode) || S_ISBLK(inode->mode))
                printf(" rdev=%u:%u", major(inode->rdev), minor(inode->rdev));
        if (inode->has_object) {
                char hex[CAS_HASH_HEX_BYTES];
                printf(" object=%s", cas_hash_hex(&inode->object, hex));
        }
        if (inode->opaque)
                fputs(" opaque", stdout);
        if (inode->whiteout)
                fputs(" whiteout", stdout);
        if (S_ISLNK(inode->mode)) {
                const void *text;
                size_t len;
                if (cas_tree_inline(d->tree, nid, &text, &len, d->err) < 0)
                        return -(int)d->err->code;
                fputs(" -> ", stdout);
                print_escaped(text, len);
        }
        int rc = cas_tree_xattrs(d->tree, nid, xattr_seen, NULL, d->err);
        putchar('\n');
        return rc;
}

static int dump_nid(struct dump *d, uint64_t nid);

static bool entry_seen(void *arg, const char *name, size_t name_len, uint64_t nid, uint8_t type,
                       uint64_t next)
{
        (void)type;
        (void)next;
        struct dump *d = arg;
        size_t len = d->path.len_bytes;
        cas_buf_append_byte(&d->path, '/');
        cas_buf_append(&d->path, name, name_len);
        d->rc = dump_nid(d, nid);
        d->path.len_bytes = len;
        d->path.data[len] = '\0';
        return d->rc == 0;
}

static int dump_nid(struct dump *d, uint64_t nid)
{
        struct cas_inode inode;
        if (cas_tree_inode(d->tree, nid, &inode, d->err) < 0 || print_entry(d, nid, &inode) < 0)
                return -(int)d->err->code;
        if (!S_ISDIR(inode.mode))
                return 0;
        if (++d->depth > DUMP_DEPTH_MAX)
                return cas_fail(d->err, CAS_E_LIMIT, "directories nested deeper than %d",
                                DUMP_DEPTH_MAX);
        uint64_t cookie = 0;
        int rc = cas_tree_readdir(d->tree, nid, &cookie, entry_seen, d, d->err);
        d->depth--;
        return rc < 0 ? rc : d->rc;
}

static int run(const struct cli *cli, void *args)
{
        (void)args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_tree struct cas_tree *tree = NULL;
        cas_cleanup_fd int fd = open(cli->operands[0], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                (void)cas_fail_sys(&err, errno, "%s", cli->operands[0]);
        if (fd < 0 || cas_tree_open_fd(fd, &tree, &err) < 0)
                return cli_report(cli->command->name, &err);
        struct dump d = {.tree = tree, .err = &err};
        int rc = dump_nid(&d, cas_tree_root(tree));
        cas_buf_release(&d.path);
        return rc < 0 ? cli_report(cli->command->name, &err) : cli_finish();
}

const struct cli_command cmd_dump = {
        .name = "dump",
        .synopsis = "STORE/trees/HEX.erofs",
        .summary = "print a tree of the store as text",
        .description =
                "Prints an entry a line: path, mode, owner, links, size, time, and the name of "
                "the file object that holds the content. Bytes that are not plain are escaped "
                "as \\xNN.",
        .operands_min = 1,
        .operands_max = 1,
        .run = run,
};
