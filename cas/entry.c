/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/entry.h"

static void xattr_release(struct cas_xattr *x)
{
        free(x->name);
        free(x->value);
}

void cas_entry_release(struct cas_entry *e)
{
        for (size_t i = 0; i < e->xattr_count; i++)
                xattr_release(&e->xattrs[i]);
        free(e->xattrs);
        free(e->path);
        free(e->target);
        *e = (struct cas_entry){0};
}

int cas_entry_set_xattr(struct cas_entry *e, const char *name, const void *value, size_t len,
                        struct cas_err *err)
{
        size_t name_len = strlen(name);
        if (name_len == 0 || name_len > CAS_XATTR_NAME_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "an xattr name of %zu bytes", name_len);
        if (len > CAS_XATTR_VALUE_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "xattr %s: a value of %zu bytes", name, len);
        size_t at = 0, total = name_len + len;
        bool replace = false;
        for (size_t i = 0; i < e->xattr_count; i++) {
                int order = strcmp(e->xattrs[i].name, name);
                if (order < 0)
                        at = i + 1;
                if (order == 0)
                        replace = true;
                else
                        total += strlen(e->xattrs[i].name) + e->xattrs[i].value_bytes;
        }
        if (total > CAS_XATTRS_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "xattrs of %zu bytes: the limit is %d", total,
                                CAS_XATTRS_BYTES_MAX);
        if (!replace && e->xattr_count == CAS_XATTRS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d xattrs", CAS_XATTRS_MAX);
        if (replace) {
                xattr_release(&e->xattrs[at]);
        } else {
                e->xattrs = cas_xrealloc(e->xattrs, (e->xattr_count + 1) * sizeof(*e->xattrs));
                memmove(&e->xattrs[at + 1], &e->xattrs[at],
                        (e->xattr_count - at) * sizeof(*e->xattrs));
                e->xattr_count++;
        }
        uint8_t *copy = cas_xmalloc(len + 1);
        if (len > 0)
                memcpy(copy, value, len);
        e->xattrs[at] =
                (struct cas_xattr){.name = cas_xstrdup(name), .value = copy, .value_bytes = len};
        return 0;
}

void cas_entry_remove_xattr(struct cas_entry *e, const char *name)
{
        for (size_t i = 0; i < e->xattr_count; i++) {
                if (strcmp(e->xattrs[i].name, name) != 0)
                        continue;
                xattr_release(&e->xattrs[i]);
                e->xattr_count--;
                memmove(&e->xattrs[i], &e->xattrs[i + 1],
                        (e->xattr_count - i) * sizeof(*e->xattrs));
                return;
        }
}
