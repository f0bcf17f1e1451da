/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that are slower than the machine's, for benchmarks: $LAMINA_SLOW_IO has a list of
 * DIRECTORY=CLASS with colons between (hdd, ssd, nvme). What the store and `lamina fs` read, write
 * and sync of files below such a directory takes as long as it would on that device, whatever the
 * page cache knows: a read waits for its turn in the device's queue, its latency (of a disk a seek,
 * unless it goes on where the last one ended) and its bytes. All processes of one user share a
 * device. Opening, naming and removing cost nothing. Without the variable this is cas_io_posix(),
 * and nothing else is done. */
#ifndef CAS_SLOWIO_H
#define CAS_SLOWIO_H

#include "cas/io.h"

struct cas_slow_class {
        const char *name;
        uint64_t bytes_per_s;
        uint64_t latency_ns;
        unsigned queue; /* operations at a time */
        bool seeks;     /* latency is a seek */
};

/* The table for files of stores; static storage. */
const struct cas_io *cas_io_device(void);

/* The same for a list that is given; freed by cas_slowio_free. Errors: INVALID. */
struct cas_slowio;
int cas_slowio_new(const char *list, struct cas_slowio **out, struct cas_err *err) CAS_MUST_CHECK;
void cas_slowio_free(struct cas_slowio *s);
const struct cas_io *cas_slowio_io(struct cas_slowio *s);

#endif
