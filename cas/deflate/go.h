/* SPDX-License-Identifier: Apache-2.0 */
/* Go's compress/flate as it was up to Go 1.26. Levels -2, 0 to 9; create's level is never -1 (it
 * is 6 that is meant). */
#ifndef CAS_GO_H
#define CAS_GO_H

#include "cas/deflate/encoder.h"

extern const struct cas_deflate_class cas_deflate_go;

#endif
