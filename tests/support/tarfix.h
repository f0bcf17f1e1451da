/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the checksum of every block that has the magic of a header right, so that a fuzzer's
 * changes get past it. */
#ifndef TESTS_SUPPORT_TARFIX_H
#define TESTS_SUPPORT_TARFIX_H

#include "cas/base.h"

static inline void tarfix(uint8_t *data, size_t size)
{
        for (; size >= 512; data += 512, size -= 512) {
                unsigned sum = 0;
                if (memcmp(data + 257, "ustar", 5) != 0)
                        continue;
                memset(data + 148, ' ', 8);
                for (size_t i = 0; i < 512; i++)
                        sum += data[i];
                for (size_t i = 6; i-- > 0; sum >>= 3)
                        data[148 + i] = (uint8_t)('0' + (sum & 7));
        }
}

#endif
