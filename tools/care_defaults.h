/* SPDX-License-Identifier: Apache-2.0 */
/* What maintenance does where nothing else is said: commands and the background agree. */
#ifndef TOOLS_CARE_DEFAULTS_H
#define TOOLS_CARE_DEFAULTS_H

/* A push may take that long from the first blob to the manifest. */
#define GC_GRACE_DEFAULT_S (24 * 3600)
#define GC_LIVE_PERCENT_DEFAULT 50
#define GC_EVERY_DEFAULT_S 600
#define GC_SHARE_DEFAULT 25
#define SCRUB_EVERY_DEFAULT_S (7 * 24 * 3600)
#define SCRUB_RATE_DEFAULT (32 * CAS_MIB)
#define SCRUB_SHARE_DEFAULT 25

#endif
