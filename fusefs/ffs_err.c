/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/ffs_err.h"

#include <errno.h>

/* Damage is EIO, not EUCLEAN or EBADMSG: programs in a sandbox know EIO. */
int ffs_errno_of(enum cas_code code)
{
        switch (code) {
        case CAS_OK:
                return 0;
        case CAS_E_NOTFOUND:
                return ENOENT;
        case CAS_E_EXISTS:
                return EEXIST;
        case CAS_E_NOSPACE:
                return ENOSPC;
        case CAS_E_DENIED:
                return EACCES;
        case CAS_E_BUSY:
                return EBUSY;
        case CAS_E_INVALID:
                return EINVAL;
        case CAS_E_UNSUPPORTED:
                return EOPNOTSUPP;
        case CAS_E_NOMEM:
                return ENOMEM;
        case CAS_E_CORRUPT:
        case CAS_E_IO:
        case CAS_E_LIMIT:
        case CAS_E_AWAY:
                return EIO;
        }
        return EIO;
}
