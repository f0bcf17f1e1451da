/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of an S3 store, of whatever bytes: none crashes, and what is taken is sound. */
#include "tiering/s3xml_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_page(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        s3_cleanup_page struct s3_page page = {0};
        if (s3_xml_page(data, size, &page, &err) < 0) {
                cas_assert(page.count == 0);
                return;
        }
        cas_assert(page.count <= S3_LISTED_MAX);
        for (size_t i = 0; i < page.count; i++) {
                cas_assert(page.items[i].key != NULL);
                cas_assert(i == 0 || strcmp(page.items[i - 1].key, page.items[i].key) <= 0);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct s3_problem p;
        cas_cleanup_free char *id = NULL;
        s3_cleanup_uploads struct s3_uploads uploads = {0};
        check_page(data, size);
        s3_xml_problem(data, size, &p);
        cas_assert(strlen(p.code) < sizeof(p.code) && strlen(p.message) < sizeof(p.message));
        if (s3_xml_uploads(data, size, &uploads, &err) == 0) {
                for (size_t i = 0; i < uploads.count; i++)
                        cas_assert(uploads.items[i].key && uploads.items[i].id);
        }
        if (s3_xml_upload_id(data, size, &id, &err) == 0)
                cas_assert(*id);
        (void)!s3_xml_completed(data, size, &err);
        return 0;
}
