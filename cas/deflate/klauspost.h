/* SPDX-License-Identifier: Apache-2.0 */
/* The classes of klauspost/compress by date, and of Go from 1.27. */
#ifndef CAS_KLAUSPOST_H
#define CAS_KLAUSPOST_H

#include "cas/deflate/encoder.h"

/* In order of date; the catalogue lists them one by one. */
#define CAS_KLAUSPOST_CLASS_COUNT 16U
extern const struct cas_deflate_class cas_klauspost_classes[CAS_KLAUSPOST_CLASS_COUNT];

/* As cas_deflate_class_first; NULL for a class that is not one of these. */
const struct cas_deflate_class *cas_klauspost_class_first(const struct cas_deflate_class *class,
                                                          int level);

#endif
