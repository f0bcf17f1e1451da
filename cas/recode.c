/* SPDX-License-Identifier: Apache-2.0 */
/* Recoding of all packs of a store: threads at low priority that take pack by
 * pack, the oldest first, each with a recoder of its own (cas/packrecode.c). */
#include <sys/resource.h>
#include <unistd.h>

#include "cas/condense.h"
#include "cas/log.h"
#include "cas/packfile_int.h"
#include "cas/store_int.h"

#define THREADS_MAX 64
#define NICE 10

struct source {
        uint64_t pack_id, bytes;
        uint32_t tier;
        enum cas_pack_density density; /* that is wanted */
};

struct recoding {
        struct cas_store *s;
        enum cas_condense_codec codec;
        const _Atomic(bool) *stop;
        const struct cas_progress *progress;
        struct source *sources; /* owned; by tier, then oldest first */
        size_t count, max;
        size_t end; /* of those that are taken now: of one tier */
        uint64_t total_bytes;

        struct cas_mutex mutex; /* a leaf; guards all below */
        size_t next;
        uint64_t done_bytes;
        struct cas_recode_result result;
        struct cas_err err; /* the first failure */
};

/* ---- what recoders ask ---- */

static bool goes_on(const struct recoding *rc)
{
        return !rc->stop || !atomic_load(rc->stop);
}

static bool yield(void *arg)
{
        return goes_on(arg);
}

/* ---- threads ---- */

static bool take_source(struct recoding *rc, struct source *out)
{
        cas_mutex_lock(&rc->mutex);
        bool found = rc->next < rc->end && rc->err.code == CAS_OK && goes_on(rc);
        if (found)
                *out = rc->sources[rc->next++];
        cas_mutex_unlock(&rc->mutex);
        return found;
}

static void note_done(struct recoding *rc, const struct source *source)
{
        cas_mutex_lock(&rc->mutex);
        rc->done_bytes += source->bytes;
        cas_progress_update(rc->progress, "packs", rc->done_bytes, rc->total_bytes);
        cas_mutex_unlock(&rc->mutex);
}

static void note_result(struct recoding *rc, const struct cas_recode_result *part,
                        const struct cas_err *err)
{
        cas_mutex_lock(&rc->mutex);
        rc->result.packs += part->packs;
        rc->result.empty += part->empty;
        rc->result.bytes_before += part->bytes_before;
        rc->result.bytes_after += part->bytes_after;
        rc->result.damaged += part->damaged;
        if (rc->err.code == CAS_OK)
                rc->err = *err;
        cas_mutex_unlock(&rc->mutex);
}

/* Damage stays where it is; what else goes wrong ends the work. */
static int take_pack(struct recoding *rc, struct cas_recoder *recoder, const struct source *source,
                     uint64_t *damaged, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int r = cas_recoder_pack(recoder, source->pack_id, &why);
        if (r == -CAS_E_CORRUPT || r == -CAS_E_UNSUPPORTED) {
                cas_log(CAS_LOG_ERROR, "condense", "damaged=\"%s\"", why.msg);
                (*damaged)++;
                r = 0;
        }
        if (r < 0 && !(r == -CAS_E_BUSY && !goes_on(rc))) {
                *err = why;
                return r;
        }
        note_done(rc, source);
        return 0;
}

static void *work(void *arg)
{
        struct recoding *rc = arg;
        struct cas_recode_result part = {0};
        struct cas_err err = CAS_ERR_INIT;
        struct source source;
        const struct cas_recode_hooks hooks = {.yield = yield, .arg = rc};
        struct cas_recoder *recoder = NULL;
        uint64_t damaged = 0;
        int r = 0;
        (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
        while (r == 0 && take_source(rc, &source)) {
                if (!recoder)
                        recoder = cas_recoder_new(rc->s->packset, source.density, source.tier,
                                                  &hooks);
                r = take_pack(rc, recoder, &source, &damaged, &err);
        }
        if (r == 0 && recoder)
                r = cas_recoder_finish(recoder, &part, &err);
        cas_recoder_free(recoder);
        part.damaged = damaged;
        note_result(rc, &part, &err);
        return NULL;
}

static unsigned thread_count(const struct recoding *rc)
{
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        uint64_t most = cpus > 0 ? (uint64_t)cpus : 1;
        return (unsigned)cas_min_u64(cas_min_u64(most, THREADS_MAX), rc->end - rc->next);
}

static int run_threads(struct recoding *rc, struct cas_err *err)
{
        pthread_t threads[THREADS_MAX];
        unsigned wanted = thread_count(rc), started = 0;
        int r = 0;
        while (started < wanted && (r = pthread_create(&threads[started], NULL, work, rc)) == 0)
                started++;
        for (unsigned i = 0; i < started; i++)
                (void)pthread_join(threads[i], NULL);
        if (started == 0 && wanted > 0)
                return cas_fail_sys(err, r, "start a thread");
        return 0;
}

/* Packs of a tier have one density, and stay there. */
static int run_tiers(struct recoding *rc, struct cas_err *err)
{
        int r = 0;
        for (size_t i = 0; r == 0 && i < rc->count && rc->err.code == CAS_OK; i = rc->end) {
                rc->next = rc->end = i;
                while (rc->end < rc->count && rc->sources[rc->end].tier == rc->sources[i].tier)
                        rc->end++;
                r = run_threads(rc, err);
        }
        return r;
}

/* ---- all ---- */

/* What home copies of the tier are to be written with; false: nobody can tell now. */
static bool wanted_density(struct recoding *rc, uint32_t tier, enum cas_pack_density *out)
{
        struct cas_tier_info info;
        struct cas_err ignored = CAS_ERR_INIT;
        if (rc->s->backend->ops->tier_info(rc->s->backend, tier, &info, &ignored) < 0 ||
            !info.reachable)
                return false;
        *out = rc->codec == CAS_CONDENSE_COLD ? CAS_PACK_COLD : (enum cas_pack_density)info.density;
        return true;
}

static int by_tier(const void *a, const void *b)
{
        const struct source *x = a, *y = b;
        if (x->tier != y->tier)
                return x->tier < y->tier ? -1 : 1;
        return x->pack_id < y->pack_id ? -1 : x->pack_id > y->pack_id;
}

static bool note_source(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        struct recoding *rc = arg;
        enum cas_pack_density density;
        if (!wanted_density(rc, rec->tier, &density) || rec->density >= (uint8_t)density)
                return true;
        if (rc->count == rc->max) {
                rc->max = rc->max ? 2 * rc->max : 64;
                rc->sources = cas_xrealloc(rc->sources, rc->max * sizeof(rc->sources[0]));
        }
        rc->sources[rc->count++] = (struct source){.pack_id = pack_id,
                                                   .bytes = rec->size_bytes,
                                                   .tier = rec->tier,
                                                   .density = density};
        rc->total_bytes += rec->size_bytes;
        return true;
}

int cas_condense_packs(struct cas_store *s, enum cas_condense_codec codec,
                       const _Atomic(bool) *stop, const struct cas_progress *progress,
                       struct cas_recode_result *out, struct cas_err *err)
{
        struct recoding rc = {
                .s = s,
                .codec = codec,
                .stop = stop,
                .progress = progress,
        };
        *out = (struct cas_recode_result){0};
        if (atomic_exchange(&s->recoding, true))
                return cas_fail(err, CAS_E_BUSY, "packs are being recoded already");
        cas_mutex_init(&rc.mutex, "recode");
        int r = cas_index_each_pack(s->index, note_source, &rc, err);
        if (r == 0 && rc.count > 0) {
                qsort(rc.sources, rc.count, sizeof(rc.sources[0]), by_tier);
                r = run_tiers(&rc, err);
        }
        if (r == 0 && rc.err.code != CAS_OK) {
                *err = rc.err;
                r = -(int)rc.err.code;
        }
        *out = rc.result;
        atomic_store(&s->recoding, false);
        cas_mutex_release(&rc.mutex);
        free(rc.sources);
        return r;
}
