/* SPDX-License-Identifier: Apache-2.0 */
/* The classes of the zlib family, for the catalogue. */
#ifndef CAS_ZLIBCLASS_H
#define CAS_ZLIBCLASS_H

#include "cas/deflate/encoder.h"

extern const struct cas_deflate_class cas_deflate_zlib, cas_deflate_zlib_mem9, cas_deflate_gzip;

#endif
