/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/idmap_int.h"

#include <stdio.h>

#define OVERFLOW_ID UINT32_C(65534)
#define ID_NONE UINT32_MAX /* what chown(2) takes for "as it is"; no id */

/* ---- translation ---- */

static bool find(const struct ffs_id_range *ranges, size_t count, bool by_host, uint32_t id,
                 uint32_t *out)
{
        if (count == 0) {
                *out = id;
                return true;
        }
        for (size_t i = 0; i < count; i++) {
                uint32_t from = by_host ? ranges[i].host : ranges[i].image;
                uint32_t to = by_host ? ranges[i].image : ranges[i].host;
                if (id >= from && id - from < ranges[i].count) {
                        *out = to + (id - from);
                        return true;
                }
        }
        return false;
}

static uint32_t to_host(const struct ffs_id_range *ranges, size_t count, bool squash, uint32_t id)
{
        uint32_t host;
        if (find(ranges, count, false, id, &host) ||
            (squash && find(ranges, count, false, 0, &host)))
                return host;
        return OVERFLOW_ID;
}

uint32_t ffs_idmap_uid_to_host(const struct ffs_idmap *m, uint32_t image_uid)
{
        return to_host(m->uids, m->uid_count, m->squash, image_uid);
}

uint32_t ffs_idmap_gid_to_host(const struct ffs_idmap *m, uint32_t image_gid)
{
        return to_host(m->gids, m->gid_count, m->squash, image_gid);
}

bool ffs_idmap_uid_to_image(const struct ffs_idmap *m, uint32_t host_uid, uint32_t *out)
{
        return find(m->uids, m->uid_count, true, host_uid, out);
}

bool ffs_idmap_gid_to_image(const struct ffs_idmap *m, uint32_t host_gid, uint32_t *out)
{
        return find(m->gids, m->gid_count, true, host_gid, out);
}

/* ---- text ---- */

/* A number without sign, space or leading zeros; false where none stands. */
static bool take_number(const char **p, uint32_t *out)
{
        uint64_t n = 0;
        const char *s = *p;
        if (*s < '0' || *s > '9' || (*s == '0' && s[1] >= '0' && s[1] <= '9'))
                return false;
        for (; *s >= '0' && *s <= '9'; s++) {
                n = n * 10 + (uint64_t)(*s - '0');
                if (n > UINT32_MAX)
                        return false;
        }
        *p = s;
        *out = (uint32_t)n;
        return true;
}

static bool take_char(const char **p, char c)
{
        if (**p != c)
                return false;
        (*p)++;
        return true;
}

static bool overlap(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count)
{
        return a < b ? b - a < a_count : a - b < b_count;
}

/* Appended where it is a range of ids that meets none before it. */
static bool add(struct ffs_id_range *ranges, size_t *count, struct ffs_id_range r)
{
        if (*count == FFS_IDMAP_RANGES_MAX || r.count == 0 || r.count > ID_NONE - r.image ||
            r.count > ID_NONE - r.host)
                return false;
        for (size_t i = 0; i < *count; i++) {
                if (overlap(ranges[i].image, ranges[i].count, r.image, r.count) ||
                    overlap(ranges[i].host, ranges[i].count, r.host, r.count))
                        return false;
        }
        ranges[(*count)++] = r;
        return true;
}

static bool take_ranges(const char **p, struct ffs_id_range *ranges, size_t *count)
{
        if (**p == '\0' || **p == ';')
                return true;
        do {
                struct ffs_id_range r;
                if (!take_number(p, &r.image) || !take_char(p, ':') || !take_number(p, &r.host) ||
                    !take_char(p, ':') || !take_number(p, &r.count) || !add(ranges, count, r))
                        return false;
        } while (take_char(p, ','));
        return true;
}

int ffs_idmap_parse(const char *text, struct ffs_idmap *out, struct cas_err *err)
{
        struct ffs_idmap m = {0};
        const char *p = text;
        bool ok = take_ranges(&p, m.uids, &m.uid_count);
        if (ok && take_char(&p, ';'))
                ok = take_ranges(&p, m.gids, &m.gid_count);
        if (ok && take_char(&p, ';')) {
                ok = strcmp(p, "squash") == 0;
                m.squash = ok;
                p += ok ? strlen(p) : 0;
        }
        if (!ok || *p != '\0')
                return cas_fail(err, CAS_E_INVALID,
                                "bad map of ids \"%.100s\": IMAGE:HOST:COUNT[,…][;groups][;squash]",
                                text);
        *out = m;
        return 0;
}

static size_t put_ranges(const struct ffs_id_range *ranges, size_t count, char *out,
                         size_t out_bytes)
{
        size_t used = 0;
        for (size_t i = 0; i < count; i++) {
                int n = snprintf(out + used, out_bytes - used, "%s%u:%u:%u", i ? "," : "",
                                 ranges[i].image, ranges[i].host, ranges[i].count);
                cas_assert(n > 0);
                used += (size_t)n;
                cas_assert(used < out_bytes);
        }
        return used;
}

void ffs_idmap_format(const struct ffs_idmap *m, char *out, size_t out_bytes)
{
        cas_assert(out_bytes > 0);
        out[0] = '\0';
        size_t used = put_ranges(m->uids, m->uid_count, out, out_bytes);
        if (m->gid_count == 0 && !m->squash)
                return;
        cas_assert(used + 1 < out_bytes);
        out[used++] = ';';
        out[used] = '\0';
        used += put_ranges(m->gids, m->gid_count, out + used, out_bytes - used);
        if (m->squash) {
                cas_assert(used + sizeof(";squash") <= out_bytes);
                memcpy(out + used, ";squash", sizeof(";squash"));
        }
}

/* ---- ACLs ---- */

/* u32 version, then u16 tag, u16 permissions and u32 id of each entry. */
enum { ACL_VERSION = 2, ACL_HEAD_BYTES = 4, ACL_ENTRY_BYTES = 8, ACL_USER = 2, ACL_GROUP = 8 };

static size_t acl_end(const uint8_t *acl, size_t len)
{
        return len >= ACL_HEAD_BYTES && cas_get_le32(acl) == ACL_VERSION
                       ? len - (len - ACL_HEAD_BYTES) % ACL_ENTRY_BYTES
                       : 0;
}

void ffs_idmap_acl_to_host(const struct ffs_idmap *m, void *acl, size_t len)
{
        uint8_t *bytes = acl;
        for (size_t at = ACL_HEAD_BYTES, end = acl_end(acl, len); at < end; at += ACL_ENTRY_BYTES) {
                uint32_t id = cas_get_le32(bytes + at + 4);
                uint16_t tag = cas_get_le16(bytes + at);
                if (tag == ACL_USER)
                        cas_put_le32(bytes + at + 4, ffs_idmap_uid_to_host(m, id));
                else if (tag == ACL_GROUP)
                        cas_put_le32(bytes + at + 4, ffs_idmap_gid_to_host(m, id));
        }
}

bool ffs_idmap_acl_to_image(const struct ffs_idmap *m, void *acl, size_t len)
{
        uint8_t *bytes = acl;
        for (size_t at = ACL_HEAD_BYTES, end = acl_end(acl, len); at < end; at += ACL_ENTRY_BYTES) {
                uint32_t id = cas_get_le32(bytes + at + 4);
                uint16_t tag = cas_get_le16(bytes + at);
                if ((tag == ACL_USER && !ffs_idmap_uid_to_image(m, id, &id)) ||
                    (tag == ACL_GROUP && !ffs_idmap_gid_to_image(m, id, &id)))
                        return false;
                if (tag == ACL_USER || tag == ACL_GROUP)
                        cas_put_le32(bytes + at + 4, id);
        }
        return true;
}

/* ---- capabilities ---- */

/* u32 revision and flags, two pairs of u32, and in revision 3 the id that must be root where the
 * file is executed. Revision 2 means id 0. */
#define CAPS_REVISION_MASK UINT32_C(0xff000000)
#define CAPS_REVISION_2 UINT32_C(0x02000000)
#define CAPS_REVISION_3 UINT32_C(0x03000000)
#define CAPS_ROOT_AT 20

/* Whose root it is for; false where it is no such value. */
static bool caps_root(const uint8_t *caps, size_t len, uint32_t *root)
{
        uint32_t revision = len >= CAPS_ROOT_AT ? cas_get_le32(caps) & CAPS_REVISION_MASK : 0;
        if (revision == CAPS_REVISION_2 && len == CAPS_ROOT_AT)
                *root = 0;
        else if (revision == CAPS_REVISION_3 && len == CAPS_ROOT_AT + 4)
                *root = cas_get_le32(caps + CAPS_ROOT_AT);
        else
                return false;
        return true;
}

static size_t caps_set_root(uint8_t *caps, uint32_t root)
{
        uint32_t rest = cas_get_le32(caps) & ~CAPS_REVISION_MASK;
        cas_put_le32(caps, rest | (root ? CAPS_REVISION_3 : CAPS_REVISION_2));
        if (root)
                cas_put_le32(caps + CAPS_ROOT_AT, root);
        return root ? CAPS_ROOT_AT + 4 : CAPS_ROOT_AT;
}

/* ---- extended attributes ---- */

static bool name_is_acl(const char *name)
{
        return strcmp(name, "system.posix_acl_access") == 0 ||
               strcmp(name, "system.posix_acl_default") == 0;
}

size_t ffs_idmap_xattr_to_host(const struct ffs_idmap *m, const char *name, void *value, size_t len)
{
        uint32_t root;
        if (name_is_acl(name)) {
                ffs_idmap_acl_to_host(m, value, len);
        } else if (m->uid_count && strcmp(name, "security.capability") == 0 &&
                   caps_root(value, len, &root)) {
                /* Squashing gives files away, but no rights. */
                if (!find(m->uids, m->uid_count, false, root, &root))
                        root = OVERFLOW_ID;
                len = caps_set_root(value, root);
        }
        return len;
}

bool ffs_idmap_xattr_to_image(const struct ffs_idmap *m, const char *name, void *value, size_t *len)
{
        uint32_t root;
        if (name_is_acl(name))
                return ffs_idmap_acl_to_image(m, value, *len);
        if (!m->uid_count || strcmp(name, "security.capability") != 0 ||
            !caps_root(value, *len, &root))
                return true;
        if (!ffs_idmap_uid_to_image(m, root, &root))
                return false;
        *len = caps_set_root(value, root);
        return true;
}
