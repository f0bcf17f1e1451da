/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/peer_pull.h"

#include "cas/log.h"
#include "registry/peer.h"

/* Progress of the parts, in bytes of the blob: bringing counts as one half, making as the other. */
struct watch {
        struct reg_board_part *part;
        struct reg_peer_meter meter;
        uint64_t blob_bytes;
        uint64_t told_bytes; /* of those that moved */
};

static void note_parts(void *arg, const char *what, uint64_t done, uint64_t total)
{
        struct watch *w = arg;
        bool makes = strcmp(what, "layer") == 0;
        uint64_t moved = w->meter.moved_bytes;
        double share = total > 0 ? (double)cas_min_u64(done, total) / (double)total : 0;
        uint64_t half = w->blob_bytes / 2;
        reg_board_move(w->part, (uint64_t)(share * (double)half) + (makes ? half : 0),
                       moved - w->told_bytes);
        w->told_bytes = moved;
}

int reg_peer_pull(void *unused CAS_UNUSED, const struct reg_fetch *f, const struct reg_plan_blob *b,
                  struct reg_board_part *part, bool *brought, struct cas_err *err)
{
        struct watch w = {.part = part, .meter = {.stop = f->stop}, .blob_bytes = b->size_bytes};
        const struct cas_progress progress = {.update = note_parts, .arg = &w};
        struct cas_err why = CAS_ERR_INIT;
        struct cas_layer_record rec;
        int rc = reg_peer_bring(f->remote, f->repo, &b->digest, b->size_bytes, f->store, &progress,
                                &w.meter, &rec, &why);
        reg_board_move(part, rc == 0 ? b->size_bytes : 0, w.meter.moved_bytes - w.told_bytes);
        *brought = rc == 0;
        if (rc == 0 || rc == -CAS_E_UNSUPPORTED || rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc == -CAS_E_NOSPACE || (f->stop && *f->stop)) {
                *err = why;
                return rc;
        }
        cas_log(CAS_LOG_WARN, "peer", "parts=refused error=\"%s\"", why.msg);
        return 0;
}
