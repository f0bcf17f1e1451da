/* SPDX-License-Identifier: Apache-2.0 */
/* Files of subordinate ids, ranges on the command line and fuse.conf: whatever they hold, ranges
 * are whole, follow each other without a gap inside, and never reach the last id of all. */
#include "fusefs/fusermount_int.h"
#include "tools/mount_choice.h"
#include "tools/rootless.h"
#include "tools/uid_pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ranges(const char *text, size_t len)
{
        struct rootless_range r[ROOTLESS_RANGES_MAX] = {{.outside = 1000, .count = 1}};
        size_t count = 1;
        rootless_ranges_add(text, len, "me", 1000, r, &count);
        cas_assert(count >= 1 && count <= ROOTLESS_RANGES_MAX);
        for (size_t i = 1; i < count; i++) {
                cas_assert(r[i].inside == r[i - 1].inside + r[i - 1].count);
                cas_assert(r[i].count > 0);
                cas_assert((uint64_t)r[i].inside + r[i].count <= UINT32_MAX);
                cas_assert((uint64_t)r[i].outside + r[i].count <= UINT32_MAX);
        }
}

/* The text is both files. */
static void check_pool(const char *text)
{
        uint32_t from = 1, first;
        for (int i = 0; i < 64 && uid_pool_next(text, text, from, &first); i++) {
                cas_assert(first >= from);
                cas_assert((uint64_t)first + UID_POOL_COUNT <= UINT32_MAX);
                from = first + 1;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        cas_cleanup_free char *text = cas_xstrndup((const char *)data, size);
        struct cas_err err = CAS_ERR_INIT;
        uint32_t first, count;
        check_ranges((const char *)data, size);
        check_pool(text);
        (void)ffs_fusermount_conf_allows((const char *)data, size);
        if (mount_choice_range(text, &first, &count, &err) == 0)
                cas_assert(first > 0 && count > 0 && (uint64_t)first + count <= UINT32_MAX);
        return 0;
}
