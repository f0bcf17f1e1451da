/* SPDX-License-Identifier: Apache-2.0 */
/* Traces from files, and as keys of one granularity. */
#include "bench/tiersim.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "cas/base.h"

uint64_t sim_random(uint64_t *state)
{
        uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        return z ^ z >> 31;
}

uint64_t sim_mix(uint64_t a, uint64_t b)
{
        uint64_t state = a * UINT64_C(0xd6e8feb86659fd93) ^ b;
        return sim_random(&state);
}

void sim_trace_add(struct sim_trace *t, const struct sim_read *read)
{
        if (t->count == t->max) {
                t->max = t->max ? t->max * 2 : 4096;
                t->reads = cas_xrealloc(t->reads, t->max * sizeof(t->reads[0]));
        }
        t->reads[t->count++] = *read;
}

void sim_trace_get(struct sim_trace *t, const char *name)
{
        *t = (struct sim_trace){0};
        if (strchr(name, ':') && access(name, F_OK) != 0) {
                sim_trace_make(t, name);
                return;
        }
        cas_cleanup_fd int fd = open(name, O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0) {
                perror(name);
                exit(2);
        }
        size_t count = (size_t)st.st_size / sizeof(struct sim_read);
        t->reads = cas_xmalloc((count + 1) * sizeof(t->reads[0]));
        t->count = t->max = count;
        for (size_t done = 0, all = count * sizeof(t->reads[0]); done < all;) {
                ssize_t n = read(fd, (uint8_t *)t->reads + done, all - done);
                if (n <= 0) {
                        perror(name);
                        exit(2);
                }
                done += (size_t)n;
        }
}

struct slot {
        uint64_t a, b;
        uint32_t number; /* of the key, and one */
};

static uint32_t number_of(struct slot **slots, size_t *capacity, uint32_t count, uint64_t a,
                          uint64_t b)
{
        if ((size_t)count * 2 >= *capacity) {
                size_t old_capacity = *capacity;
                struct slot *old = *slots;
                *capacity = old_capacity ? old_capacity * 2 : 1024;
                *slots = cas_xcalloc(*capacity, sizeof(**slots));
                for (size_t i = 0; i < old_capacity; i++) {
                        size_t at = sim_mix(old[i].a, old[i].b) & (*capacity - 1);
                        while (old[i].number && (*slots)[at].number)
                                at = (at + 1) & (*capacity - 1);
                        if (old[i].number)
                                (*slots)[at] = old[i];
                }
                free(old);
        }
        size_t at = sim_mix(a, b) & (*capacity - 1);
        while ((*slots)[at].number && ((*slots)[at].a != a || (*slots)[at].b != b))
                at = (at + 1) & (*capacity - 1);
        if (!(*slots)[at].number)
                (*slots)[at] = (struct slot){a, b, count + 1};
        return (*slots)[at].number - 1;
}

void sim_keys_make(struct sim_keys *k, const struct sim_trace *t, enum sim_unit unit)
{
        *k = (struct sim_keys){0};
        k->reads = cas_xmalloc((t->count + 1) * sizeof(k->reads[0]));
        k->scan = cas_xmalloc((t->count + 1) * sizeof(k->scan[0]));
        k->bytes = cas_xmalloc((t->count + 1) * sizeof(k->bytes[0]));
        cas_cleanup_free struct slot *slots = NULL;
        size_t capacity = 0;
        uint32_t last = UINT32_MAX;
        for (size_t i = 0; i < t->count; i++) {
                const struct sim_read *r = &t->reads[i];
                uint64_t a = unit == SIM_OBJECT ? r->object : r->pack;
                uint64_t b = unit == SIM_BLOCK ? r->offset : 0;
                uint64_t bytes = unit == SIM_OBJECT  ? r->object_bytes
                                 : unit == SIM_BLOCK ? r->bytes
                                                     : r->offset + r->bytes;
                uint32_t n = number_of(&slots, &capacity, k->distinct, a, b);
                if (n == k->distinct)
                        k->bytes[k->distinct++] = 0;
                k->bytes[n] = cas_max_u64(k->bytes[n], cas_max_u64(bytes, 1));
                if (n == last)
                        continue;
                last = n;
                k->scan[k->count] = r->event == SIM_EVENT_SCAN;
                k->reads[k->count++] = n;
        }
        for (uint32_t n = 0; n < k->distinct; n++)
                k->total_bytes += k->bytes[n];
}

void sim_keys_release(struct sim_keys *k)
{
        free(k->reads);
        free(k->scan);
        free(k->bytes);
}
