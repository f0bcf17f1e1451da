/* SPDX-License-Identifier: Apache-2.0 */
/* The operation that makes a disk of an image. */
#include <errno.h>
#include <sys/stat.h>

#include "cas/transfer.h"
#include "tools/ext4.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

/* size_bytes 0: as the files need it. */
static int write_disk(struct cas_store *s, const struct cas_image *image, const char *format,
                      const char *file, json_int_t size_bytes, const struct cas_progress *progress,
                      struct cas_err *err)
{
        if (strcmp(format, "erofs") == 0 && size_bytes == 0)
                return cas_export_erofs(s, image, file, progress, err);
        if (strcmp(format, "ext4") == 0 && size_bytes >= 0)
                return ext4_export(s, image, file, (uint64_t)size_bytes, progress, err);
        if (strcmp(format, "erofs") == 0)
                return cas_fail(err, CAS_E_INVALID, "an erofs disk has the size of its files");
        return cas_fail(err, CAS_E_INVALID, "--format %.40s: erofs or ext4", format);
}

int op_export_disk(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                   json_t **result, struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_platform platform;
        bool has_platform;
        const char *format;
        cas_cleanup_free char *file = NULL;
        struct stat st;
        if (op_arg_ref(args, "name", &ref, err) < 0 ||
            op_arg_string(args, "format", &format, err) < 0 ||
            op_arg_path(args, "file", &file, err) < 0 ||
            op_arg_platform(args, &platform, &has_platform, err) < 0)
                return -(int)err->code;
        cas_cleanup_image struct cas_image image = {0};
        if (cas_image_open(s, &ref, has_platform ? &platform : NULL, ctx->progress, &image, err) <
                    0 ||
            write_disk(s, &image, format, file, json_integer_value(json_object_get(args, "size")),
                       ctx->progress, err) < 0)
                return -(int)err->code;
        if (stat(file, &st) < 0)
                return cas_fail_sys(err, errno, "%s", file);
        *result = json_pack("{s:I}", "size", (json_int_t)st.st_size);
        return 0;
}
