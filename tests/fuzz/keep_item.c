/* SPDX-License-Identifier: Apache-2.0 */
/* Properties: an item, or a connection's line, that parses is written to the same text again. */
#include <stdio.h>

#include "fusefs/treeset_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_keep_item item;
        struct ffs_tree_spec spec, again;
        cas_cleanup_free char *text = cas_xstrndup((const char *)data, size);
        if (ffs_keep_item_parse(text, NULL, 0, &item, &err) == 0) {
                cas_cleanup_free char *same = cas_xasprintf("%s\n%s", item.name, item.text);
                cas_assert(strcmp(same, text) == 0);
                ffs_keep_item_release(&item);
        }
        if (ffs_tree_spec_parse(text, &spec, &err) == 0) {
                char line[FFS_TREE_TEXT_BYTES];
                ffs_tree_spec_format(&spec, line);
                cas_assert(ffs_tree_spec_parse(line, &again, &err) == 0);
                cas_assert(strcmp(spec.name, again.name) == 0 && spec.pages == again.pages &&
                           spec.shared == again.shared && spec.dev_minor == again.dev_minor);
        }
        return 0;
}
