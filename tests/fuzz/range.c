/* SPDX-License-Identifier: Apache-2.0 */
/* Header values that name bytes, entity tags and numbers: whatever they hold, what comes out lies
 * in the content, and a single range says the same on both ways. */
#include "registry/parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ranges(const char *text, uint64_t content)
{
        cas_cleanup_free struct reg_range *list = NULL;
        struct reg_range one = {0};
        size_t count;
        enum reg_range_kind kind = reg_ranges_parse(text, content, &list, &count);
        enum reg_range_kind alone = reg_range_parse(text, content, &one);
        uint64_t total = 0;
        cas_assert(count <= REG_RANGES_MAX);
        for (size_t i = 0; i < count && kind != REG_RANGE_WHOLE; i++) {
                cas_assert(list[i].bytes > 0 && list[i].bytes <= content);
                cas_assert(list[i].first <= content - list[i].bytes);
                total += list[i].bytes;
        }
        if (kind == REG_RANGE_PARTS) {
                cas_assert(count > 0 && total / 2 <= content && strchr(text, ','));
                struct reg_range window = reg_parts_window(list, count);
                cas_assert(window.first + window.bytes <= content);
        }
        if (kind == REG_RANGE_PART)
                cas_assert(alone == kind && count == 1 && list[0].first == one.first &&
                           list[0].bytes == one.bytes);
        else if (!strchr(text, ','))
                cas_assert(alone == kind);
}

/* The first byte is the content's length, in steps that make both ends come up. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size == 0)
                return 0;
        cas_cleanup_free char *text = cas_xstrndup((const char *)data + 1, size - 1);
        uint64_t first, last, n;
        check_ranges(text, data[0] < 250 ? data[0] : UINT64_MAX / (data[0] - 249U));
        if (reg_content_range_parse(text, &first, &last))
                cas_assert(first <= last && last < UINT64_MAX);
        if (reg_count_parse(text, 1000, &n))
                cas_assert(n <= 1000);
        bool listed = reg_etag_listed(text, "sha256:00");
        if (reg_if_range_allows(text, "sha256:00"))
                cas_assert(listed);
        return 0;
}
