/* SPDX-License-Identifier: Apache-2.0 */
/* Property: any bytes are the index.json of a layout or an error; every image in it has names and
 * a digest, whose path stays in the layout. */
#include "cas/source_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_source src = {0};
        char path[CAS_LAYOUT_PATH_BYTES];
        int r = cas_layout_read_index(data, size, &src, &err);
        cas_assert(r == -(int)err.code);
        for (size_t i = 0; i < src.image_count; i++) {
                cas_assert(src.images[i].name != NULL);
                cas_assert(src.images[i].alias != NULL);
                cas_layout_blob_path(&src.images[i].top.digest, path);
                cas_assert(strncmp(path, "blobs/sha", 9) == 0);
                cas_assert(strstr(path, "..") == NULL);
        }
        cas_source_release(&src);
        return 0;
}
