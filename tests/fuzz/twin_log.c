/* SPDX-License-Identifier: Apache-2.0 */
/* Property: whatever the log of a cache of blocks says, opening it ends well, and what it then
 * counts is within the capacity and no more than what its files hold. */
#include <fcntl.h>
#include <stdlib.h>

#include "cas/log.h"
#include "tiering/blocks.h"
#include "tiering/twinlog_int.h"

#define TWINS 2
#define TWIN_BYTES 65536
#define CAPACITY (16 * 4096)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char cache_path[] = "/dev/shm/lamina-fuzz-XXXXXX";

static void remove_cache(void)
{
        static const char *const names[] = {TIER_TWINLOG_NAME, TIER_TWINLOG_NAME ".new",
                                            "0000000000000001.blocks", "0000000000000002.blocks"};
        int fd = open(cache_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (size_t i = 0; fd >= 0 && i < CAS_COUNT(names); i++)
                (void)unlinkat(fd, names[i], 0);
        if (fd >= 0)
                (void)close(fd);
        (void)rmdir(cache_path);
}

static int cache_dir(void)
{
        static int fd = -1;
        if (fd < 0 && mkdtemp(cache_path)) {
                fd = open(cache_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                (void)atexit(remove_cache);
        }
        cas_assert(fd >= 0);
        return fd;
}

static void put_file(int dirfd, const char *name, const void *data, size_t size)
{
        int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        cas_assert(fd >= 0);
        cas_assert(pwrite(fd, data, size, 0) == (ssize_t)size);
        (void)close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const char twin[TWIN_BYTES] = {1};
        static const struct tier_blocks_ops ops = {0};
        struct tier_blocks *b;
        struct tier_blocks_counts counts;
        struct cas_err err = CAS_ERR_INIT;
        int dirfd = cache_dir();
        cas_log_set_level(CAS_LOG_ERROR);
        put_file(dirfd, TIER_TWINLOG_NAME, data, size);
        put_file(dirfd, "0000000000000001.blocks", twin, sizeof(twin));
        put_file(dirfd, "0000000000000002.blocks", twin, sizeof(twin));
        const struct tier_blocks_config config = {.dirfd = dirfd,
                                                  .capacity_bytes = CAPACITY,
                                                  .evictor = TIER_EVICT_LRU,
                                                  .threads = 1,
                                                  .ops = &ops};
        cas_assert(tier_blocks_open(&config, &b, &err) == 0);
        tier_blocks_counts(b, &counts);
        cas_assert(counts.cached_bytes <= CAPACITY);
        cas_assert(counts.cached_packs <= TWINS);
        tier_blocks_close(b);
        return 0;
}
