/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CAS_VERSION_H
#define CAS_VERSION_H

#define CAS_VERSION "0.1"

#endif
