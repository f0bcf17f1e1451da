/* SPDX-License-Identifier: Apache-2.0 */
/* Images made from listings (listing_text.h), with their trees and contents in a fusebox. */
#ifndef TESTS_BOXIMAGE_H
#define TESTS_BOXIMAGE_H

#include "tests/support/fusebox.h"

/* One flat tree of the layers, the lowest first. */
void boximage_make(struct fusebox *box, const char *name, const char *const *layers, size_t count,
                   struct ffs_image *out);
/* The content of a file that was made with `size`. */
void boximage_content(const char *path, size_t size, uint8_t *out);

#endif
