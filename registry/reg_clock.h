/* SPDX-License-Identifier: Apache-2.0 */
/* Time that never goes back, for what lasts a while, and time of day, for what
 * others have dated. */
#ifndef REG_CLOCK_H
#define REG_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t reg_clock_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
static inline uint64_t reg_clock_s(void)
{
        return reg_clock_ns() / 1000000000;
}
static inline int64_t reg_clock_unix_s(void)
{
        return (int64_t)time(NULL);
}

#endif
