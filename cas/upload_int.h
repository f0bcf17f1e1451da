/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CAS_UPLOAD_INT_H
#define CAS_UPLOAD_INT_H

#include "cas/blob.h"

/* Frees what the store remembers of its sessions. No writer may be open. */
void cas_uploads_free(struct cas_store *s);

#endif
