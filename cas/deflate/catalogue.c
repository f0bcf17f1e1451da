/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/go.h"
#include "cas/deflate/zlibclass.h"

const struct cas_deflate_class *const cas_deflate_classes[] = {
        &cas_deflate_go,
        &cas_deflate_zlib,
        &cas_deflate_gzip,
        &cas_deflate_zlib_mem9,
        NULL,
};

const struct cas_deflate_class *cas_deflate_class_by_id(unsigned id)
{
        for (size_t i = 0; cas_deflate_classes[i]; i++)
                if (cas_deflate_classes[i]->id == id)
                        return cas_deflate_classes[i];
        return NULL;
}

const struct cas_deflate_class *cas_deflate_class_by_name(const char *name)
{
        for (size_t i = 0; cas_deflate_classes[i]; i++)
                if (strcmp(cas_deflate_classes[i]->name, name) == 0)
                        return cas_deflate_classes[i];
        return NULL;
}

void cas_deflate_encoder_free(struct cas_deflate_encoder *e)
{
        if (e)
                e->ops->free(e);
}
