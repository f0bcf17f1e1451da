/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/go.h"
#include "cas/deflate/klauspost.h"
#include "cas/deflate/zlibclass.h"

const struct cas_deflate_class *const cas_deflate_classes[] = {
        &cas_deflate_go,
        &cas_klauspost_classes[15],
        &cas_klauspost_classes[0],
        &cas_klauspost_classes[1],
        &cas_klauspost_classes[2],
        &cas_klauspost_classes[3],
        &cas_klauspost_classes[4],
        &cas_klauspost_classes[5],
        &cas_klauspost_classes[6],
        &cas_klauspost_classes[7],
        &cas_klauspost_classes[8],
        &cas_klauspost_classes[9],
        &cas_klauspost_classes[10],
        &cas_klauspost_classes[11],
        &cas_klauspost_classes[12],
        &cas_klauspost_classes[13],
        &cas_klauspost_classes[14],
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

const struct cas_deflate_class *cas_deflate_class_first(const struct cas_deflate_class *class,
                                                        int level)
{
        const struct cas_deflate_class *first = cas_klauspost_class_first(class, level);
        return first ? first : class;
}

void cas_deflate_encoder_free(struct cas_deflate_encoder *e)
{
        if (e)
                e->ops->free(e);
}
