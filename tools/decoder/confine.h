/* SPDX-License-Identifier: Apache-2.0 */
/* Takes away from this process, for good, all that decoding does not need (spec/security.md). */
#ifndef TOOLS_DECODER_CONFINE_H
#define TOOLS_DECODER_CONFINE_H

#include <stdint.h>

/* From here on the process can read from descriptor 0, write to descriptor 1, get memory and end:
 * any other system call ends it. Of one thread, before anything that is not trusted is read.
 * *out gets enum cas_decode_confined: what could be done of what kernels may refuse; without
 * CAS_CONFINED_SECCOMP it is not confined. memory_bytes, cpu_s: limits; 0: as they are. */
void confine(uint64_t memory_bytes, uint64_t cpu_s, uint32_t *out);

#endif
