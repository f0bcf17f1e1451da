/* SPDX-License-Identifier: Apache-2.0 */
/* Property: any bytes are an image config or an error; what is taken is within its limits and its
 * lists end. */
#include "cas/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(char **strings)
{
        size_t count = 0;
        while (strings[count])
                count++;
        cas_assert(count <= CAS_CONFIG_STRINGS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_image_config struct cas_image_config c = {0};
        int r = cas_image_config_parse(data, size, &c, &err);
        cas_assert(r == -(int)err.code);
        if (r < 0)
                return 0;
        cas_assert(c.diff_id_count <= CAS_LAYERS_MAX);
        cas_assert(c.user != NULL);
        cas_assert(c.working_dir != NULL);
        walk(c.env);
        walk(c.entrypoint);
        walk(c.cmd);
        return 0;
}
