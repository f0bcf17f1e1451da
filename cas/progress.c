/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/progress.h"

void cas_progress_sum_init(struct cas_progress_sum *sum, const struct cas_progress *to,
                           const char *what, uint64_t total_bytes)
{
        *sum = (struct cas_progress_sum){.to = to, .what = what, .total_bytes = total_bytes};
        cas_mutex_init(&sum->mutex, "progress");
}

void cas_progress_sum_release(struct cas_progress_sum *sum)
{
        cas_mutex_release(&sum->mutex);
}

/* What one part says counts up to what it was announced with, and never backwards. */
static void part_update(void *arg, const char *what CAS_UNUSED, uint64_t done,
                        uint64_t total CAS_UNUSED)
{
        struct cas_progress_part *part = arg;
        struct cas_progress_sum *sum = part->sum;
        uint64_t now = cas_min_u64(done, part->total_bytes);
        if (now <= part->done_bytes)
                return;
        cas_mutex_lock(&sum->mutex);
        sum->done_bytes += now - part->done_bytes;
        cas_progress_update(sum->to, sum->what, sum->done_bytes, sum->total_bytes);
        cas_mutex_unlock(&sum->mutex);
        part->done_bytes = now;
}

void cas_progress_part_init(struct cas_progress_part *part, struct cas_progress_sum *sum,
                            uint64_t total_bytes)
{
        *part = (struct cas_progress_part){.sum = sum, .total_bytes = total_bytes};
        part->progress = (struct cas_progress){.update = part_update, .arg = part};
}

void cas_progress_part_end(struct cas_progress_part *part)
{
        part_update(part, NULL, part->total_bytes, part->total_bytes);
}

void cas_progress_update(const struct cas_progress *p, const char *what, uint64_t done,
                         uint64_t total)
{
        if (p && p->update)
                p->update(p->arg, what, done, total);
}
