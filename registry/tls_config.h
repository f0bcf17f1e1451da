/* SPDX-License-Identifier: Apache-2.0 */
/* Section [tls] of the configuration file. */
#ifndef REG_TLS_CONFIG_H
#define REG_TLS_CONFIG_H

#include "registry/http.h"
#include "registry/reg_config.h"

/* Its settings are a struct reg_http_tls that owns its paths. */
extern const struct reg_config_area reg_tls_area;

#endif
