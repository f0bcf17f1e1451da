/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines of the daemons: "time level event key=value …" on stderr. Library
 * code returns errors and does not log; a daemon logs once, where the error is
 * handled. Levels by frequency: ERROR and WARN need a person, INFO once per
 * operation of a person, DEBUG once per request. Thread-safe. */
#ifndef CAS_LOG_H
#define CAS_LOG_H

#include "cas/err.h"

enum cas_log_level { CAS_LOG_ERROR, CAS_LOG_WARN, CAS_LOG_INFO, CAS_LOG_DEBUG };

/* Default INFO; $LAMINA_LOG (error, warn, info, debug) changes it at start. */
void cas_log_set_level(enum cas_log_level level);
bool cas_log_enabled(enum cas_log_level level);
/* `event` is one word; fmt gives the key=value pairs. */
void cas_log(enum cas_log_level level, const char *event, const char *fmt, ...) CAS_PRINTF(3, 4);

#endif
