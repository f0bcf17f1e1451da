/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/erofs_xattr.h"

#include <sys/random.h>
#include <xxhash.h>

#include "cas/erofs.h"

static const struct cas_erofs_xattr_prefix prefixes[] = EROFS_XATTR_PREFIXES;

void cas_erofs_xattr_init(struct cas_erofs_xattr_table *t)
{
        *t = (struct cas_erofs_xattr_table){.mask = 1023};
        t->slots = cas_xcalloc(t->mask + 1, sizeof(t->slots[0]));
        cas_assert(getrandom(&t->secret, sizeof(t->secret), 0) == (ssize_t)sizeof(t->secret));
}

void cas_erofs_xattr_release(struct cas_erofs_xattr_table *t)
{
        cas_arena_release(&t->arena);
        free(t->items);
        free(t->slots);
        free(t->lists);
}

/* ---- distinct xattrs ---- */

static size_t stored_bytes(const struct cas_erofs_xattr *x)
{
        return x->redirect ? CAS_HASH_BYTES : x->value_bytes;
}

static uint32_t item_hash(const struct cas_erofs_xattr_table *t, const struct cas_erofs_xattr *x)
{
        uint64_t h = XXH3_64bits_withSeed(x->name, x->name_len, t->secret + x->index);
        h = XXH3_64bits_withSeed(x->value, stored_bytes(x), h);
        return (uint32_t)(h ^ (h >> 32));
}

static bool item_equal(const struct cas_erofs_xattr *a, const struct cas_erofs_xattr *b)
{
        return a->index == b->index && a->redirect == b->redirect && a->name_len == b->name_len &&
               a->value_bytes == b->value_bytes && memcmp(a->name, b->name, a->name_len) == 0 &&
               memcmp(a->value, b->value, stored_bytes(a)) == 0;
}

static int slots_grow(struct cas_erofs_xattr_table *t, struct cas_err *err)
{
        uint32_t mask = t->mask * 2 + 1;
        uint32_t *slots = calloc((size_t)mask + 1, sizeof(slots[0]));
        if (!slots)
                return cas_fail(err, CAS_E_NOMEM, "no memory for the tree's xattrs");
        for (uint32_t k = 0; k < t->count; k++) {
                uint32_t i = item_hash(t, &t->items[k]) & mask;
                while (slots[i] != 0)
                        i = (i + 1) & mask;
                slots[i] = k + 1;
        }
        free(t->slots);
        t->slots = slots;
        t->mask = mask;
        return 0;
}

static int item_intern(struct cas_erofs_xattr_table *t, const struct cas_erofs_xattr *x,
                       uint32_t *out, struct cas_err *err)
{
        uint32_t i = item_hash(t, x) & t->mask;
        for (; t->slots[i] != 0; i = (i + 1) & t->mask) {
                if (item_equal(&t->items[t->slots[i] - 1], x)) {
                        *out = t->slots[i] - 1;
                        t->items[*out].uses++;
                        return 0;
                }
        }
        if (t->count == t->alloc) {
                uint32_t alloc = t->alloc ? t->alloc * 2 : 256;
                void *items = realloc(t->items, (size_t)alloc * sizeof(t->items[0]));
                if (!items)
                        return cas_fail(err, CAS_E_NOMEM, "no memory for the tree's xattrs");
                t->items = items;
                t->alloc = alloc;
        }
        t->items[t->count] = *x;
        t->items[t->count].uses = 1;
        *out = t->count++;
        t->slots[i] = t->count;
        return t->count > t->mask / 4 * 3 ? slots_grow(t, err) : 0;
}

/* Adds an xattr to the inode being collected. */
static int list_add(struct cas_erofs_xattr_table *t, const struct cas_erofs_xattr *x,
                    struct cas_err *err)
{
        if (t->list_count == t->list_alloc) {
                size_t alloc = t->list_alloc ? t->list_alloc * 2 : 1024;
                void *lists = realloc(t->lists, alloc * sizeof(t->lists[0]));
                if (!lists)
                        return cas_fail(err, CAS_E_NOMEM, "no memory for the tree's xattrs");
                t->lists = lists;
                t->list_alloc = alloc;
        }
        uint32_t item = 0;
        if (item_intern(t, x, &item, err) < 0)
                return -(int)err->code;
        t->lists[t->list_count++] = item;
        return 0;
}

static int add_overlay(struct cas_erofs_xattr_table *t, const char *name, const void *value,
                       size_t len, struct cas_err *err)
{
        const struct cas_erofs_xattr x = {.name = name,
                                          .name_len = (uint8_t)strlen(name),
                                          .index = EROFS_XATTR_TRUSTED,
                                          .value = value,
                                          .value_bytes = (uint32_t)len};
        return list_add(t, &x, err);
}

/* ---- the xattrs of an inode ---- */

/* A name of the image that overlayfs would take for its own gets its prefix twice, as
 * overlayfs itself does it. */
static int escape_name(struct cas_erofs_xattr_table *t, struct cas_erofs_xattr *x,
                       struct cas_err *err)
{
        size_t prefix = strlen(OVERLAY_PREFIX);
        if (t->plain || x->index != EROFS_XATTR_TRUSTED || x->name_len < prefix ||
            memcmp(x->name, OVERLAY_PREFIX, prefix) != 0)
                return 0;
        char *name = cas_arena_alloc(&t->arena, prefix + x->name_len, 1);
        if (!name)
                return cas_fail(err, CAS_E_NOMEM, "no memory for the tree's xattrs");
        memcpy(name, OVERLAY_PREFIX, prefix);
        memcpy(name + prefix, x->name, x->name_len);
        x->name = name;
        x->name_len = (uint8_t)(x->name_len + prefix); /* at most 255 - 8 + 8 */
        return 0;
}

/* Names under prefixes that EROFS does not know are left out, as by any file system that
 * does not have them. */
static int add_image_xattr(struct cas_erofs_xattr_table *t, const struct cas_merge_xattr *from,
                           struct cas_err *err)
{
        for (size_t i = 0; i < CAS_COUNT(prefixes); i++) {
                const struct cas_erofs_xattr_prefix *p = &prefixes[i];
                bool whole =
                        p->index == EROFS_XATTR_ACL_ACCESS || p->index == EROFS_XATTR_ACL_DEFAULT;
                if (from->name_bytes < p->len || memcmp(from->name, p->text, p->len) != 0 ||
                    (from->name_bytes == p->len) != whole)
                        continue;
                struct cas_erofs_xattr x = {.name = from->name + p->len,
                                            .name_len = (uint8_t)(from->name_bytes - p->len),
                                            .index = p->index,
                                            .value = from->value,
                                            .value_bytes = from->value_bytes};
                t->has_acl = t->has_acl || whole;
                if (escape_name(t, &x, err) < 0)
                        return -(int)err->code;
                return list_add(t, &x, err);
        }
        return 0;
}

static int add_redirect(struct cas_erofs_xattr_table *t, const uint8_t *object, struct cas_err *err)
{
        const struct cas_erofs_xattr x = {.name = OVERLAY_REDIRECT,
                                          .name_len = sizeof(OVERLAY_REDIRECT) - 1,
                                          .index = EROFS_XATTR_TRUSTED,
                                          .value = object,
                                          .value_bytes = OVERLAY_REDIRECT_BYTES,
                                          .redirect = true};
        return list_add(t, &x, err);
}

static int add_overlays(struct cas_erofs_xattr_table *t, const struct cas_merge_inode *inode,
                        bool opaque, struct cas_err *err)
{
        if (inode->type == CAS_ENTRY_FILE && inode->size_bytes > CAS_INLINE_BYTES_MAX) {
                if (add_overlay(t, OVERLAY_METACOPY, "", 0, err) < 0 ||
                    add_redirect(t, inode->payload, err) < 0)
                        return -(int)err->code;
        }
        if (inode->type == CAS_ENTRY_CHARDEV && inode->dev.major == 0 && inode->dev.minor == 0 &&
            add_overlay(t, OVERLAY_DEVICE, "", 0, err) < 0)
                return -(int)err->code;
        return opaque ? add_overlay(t, OVERLAY_OPAQUE, "y", 1, err) : 0;
}

int cas_erofs_xattr_collect(struct cas_erofs_xattr_table *t, const struct cas_merge_inode *inode,
                            bool opaque, struct cas_err *err)
{
        if (!t->plain && add_overlays(t, inode, opaque, err) < 0)
                return -(int)err->code;
        if (!inode->xattrs)
                return 0;
        for (size_t i = 0; i < inode->xattrs->count; i++)
                if (add_image_xattr(t, &inode->xattrs->items[i], err) < 0)
                        return -(int)err->code;
        return 0;
}

/* ---- sizes and bytes ---- */

static bool is_shared(const struct cas_erofs_xattr *x)
{
        return x->uses > 1;
}

/* The number of items of an inode that its header refers to. */
static size_t shared_count(const struct cas_erofs_xattr_table *t, const uint32_t *list,
                           size_t count)
{
        size_t shared = 0;
        for (size_t i = 0; i < count && shared < EROFS_XATTR_SHARED_MAX; i++)
                shared += is_shared(&t->items[list[i]]);
        return shared;
}

uint64_t cas_erofs_xattr_body_bytes(const struct cas_erofs_xattr_table *t, const uint32_t *list,
                                    size_t count)
{
        if (count == 0)
                return 0;
        size_t by_reference = shared_count(t, list, count);
        uint64_t bytes = EROFS_XATTR_HEADER_BYTES + 4 * by_reference;
        for (size_t i = 0; i < count; i++) {
                const struct cas_erofs_xattr *x = &t->items[list[i]];
                if (is_shared(x) && by_reference > 0)
                        by_reference--;
                else
                        bytes += cas_erofs_xattr_entry_bytes(x->name_len, x->value_bytes);
        }
        return bytes;
}

uint64_t cas_erofs_xattr_place_shared(struct cas_erofs_xattr_table *t, uint32_t area_id)
{
        uint64_t at = 0;
        for (uint32_t i = 0; i < t->count; i++) {
                struct cas_erofs_xattr *x = &t->items[i];
                if (!is_shared(x))
                        continue;
                x->shared_id = area_id + (uint32_t)(at / 4);
                at += cas_erofs_xattr_entry_bytes(x->name_len, x->value_bytes);
        }
        return at;
}

/* Returns the byte behind the entry; padding is zero already. */
static uint8_t *write_entry(const struct cas_erofs_xattr *x, uint8_t *out)
{
        static const char digits[] = "0123456789abcdef";
        out[EROFS_XE_NAME_BYTES] = x->name_len;
        out[EROFS_XE_INDEX] = x->index;
        cas_put_le16(out + EROFS_XE_VALUE_BYTES, (uint16_t)x->value_bytes);
        memcpy(out + EROFS_XATTR_ENTRY_BYTES, x->name, x->name_len);
        uint8_t *value = out + EROFS_XATTR_ENTRY_BYTES + x->name_len;
        if (x->redirect) {
                *value++ = '/';
                for (size_t i = 0; i < CAS_HASH_BYTES; i++) {
                        *value++ = (uint8_t)digits[x->value[i] >> 4];
                        *value++ = (uint8_t)digits[x->value[i] & 15];
                        if (i == 0)
                                *value++ = '/';
                }
        } else if (x->value_bytes > 0) {
                memcpy(value, x->value, x->value_bytes);
        }
        return out + cas_erofs_xattr_entry_bytes(x->name_len, x->value_bytes);
}

static uint32_t filter_bit(const struct cas_erofs_xattr *x)
{
        return 1u << (XXH32(x->name, x->name_len, EROFS_XATTR_FILTER_SEED + x->index) & 31);
}

void cas_erofs_xattr_write_body(const struct cas_erofs_xattr_table *t, const uint32_t *list,
                                size_t count, uint8_t *out)
{
        size_t by_reference = shared_count(t, list, count);
        uint32_t filter = UINT32_MAX;
        uint8_t *id = out + EROFS_XATTR_HEADER_BYTES;
        uint8_t *entry = id + 4 * by_reference;
        out[EROFS_X_SHARED] = (uint8_t)by_reference;
        for (size_t i = 0; i < count; i++) {
                const struct cas_erofs_xattr *x = &t->items[list[i]];
                filter &= ~filter_bit(x);
                if (is_shared(x) && by_reference > 0) {
                        by_reference--;
                        cas_put_le32(id, x->shared_id);
                        id += 4;
                } else {
                        entry = write_entry(x, entry);
                }
        }
        cas_put_le32(out + EROFS_X_FILTER, filter);
}

void cas_erofs_xattr_write_shared(const struct cas_erofs_xattr_table *t, uint8_t *area_at)
{
        for (uint32_t i = 0; i < t->count; i++)
                if (is_shared(&t->items[i]))
                        (void)write_entry(&t->items[i],
                                          area_at + (size_t)t->items[i].shared_id * 4);
}
