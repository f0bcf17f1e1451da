/* SPDX-License-Identifier: Apache-2.0 */
/* Where clients get tokens of our own (spec/registry-access.md). */
#ifndef REG_TOKEN_ENDPOINT_H
#define REG_TOKEN_ENDPOINT_H

#include "registry/reg_access.h"

#define REG_TOKEN_PATH "/v2/token" /* proxies that pass on /v2/ only pass it on */

#endif
