/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/blobwork.h"

#include <stdio.h>

#include "cas/mutex.h"
#include "cas/pool.h"

struct run {
        const struct reg_blobwork *work;
        struct cas_mutex mutex; /* guards what follows */
        struct cas_err first;   /* what failed first */
        struct reg_transfer_result *result;
};
struct task {
        struct run *run;
        const struct reg_plan_blob *blob;
};

static void count(struct run *run, int rc, enum reg_blobwork_end end, const struct cas_err *err)
{
        struct reg_transfer_result *result = run->result;
        cas_mutex_lock(&run->mutex);
        if (rc < 0 && run->first.code == CAS_OK)
                run->first = *err;
        result->reused += rc == 0 && end == REG_BLOBWORK_REUSED;
        result->moved += rc == 0 && end == REG_BLOBWORK_MOVED;
        result->mounted += rc == 0 && end == REG_BLOBWORK_MOUNTED;
        result->left_out += rc == 0 && end == REG_BLOBWORK_LEFT_OUT;
        cas_mutex_unlock(&run->mutex);
        if (rc < 0)
                atomic_store(run->work->stop, true);
}

static void do_one(void *arg)
{
        struct task *task = arg;
        const struct reg_blobwork *w = task->run->work;
        struct cas_err err = CAS_ERR_INIT;
        enum reg_blobwork_end end = REG_BLOBWORK_REUSED;
        struct reg_board_part part;
        char hex[CAS_DIGEST_TEXT_BYTES], name[REG_BOARD_NAME_BYTES];
        if (atomic_load(w->stop))
                return;
        (void)snprintf(name, sizeof(name), "%.12s", cas_digest_hex(&task->blob->digest, hex));
        reg_board_begin(w->board, &part, name, task->blob->size_bytes);
        int rc = w->one(w->arg, task->blob, &part, &end, &err);
        reg_board_end(&part);
        count(task->run, rc, end, &err);
}

int reg_blobwork_run(const struct reg_blobwork *w, struct reg_transfer_result *result,
                     struct cas_err *err)
{
        size_t n = w->plan->blob_count;
        struct run run = {.work = w, .result = result};
        cas_cleanup_free struct task *tasks = cas_xcalloc(n + 1, sizeof(*tasks));
        struct cas_pool *pool = cas_pool_new(w->jobs, w->jobs);
        struct cas_pool_group group = {0};
        cas_mutex_init(&run.mutex, "blob work");
        for (size_t i = 0; i < n; i++)
                reg_board_expect(w->board, w->plan->blobs[i].size_bytes);
        for (size_t i = 0; i < n; i++) {
                tasks[i] = (struct task){.run = &run, .blob = &w->plan->blobs[i]};
                cas_pool_submit(pool, &group, do_one, &tasks[i]);
        }
        cas_pool_wait(pool, &group);
        cas_pool_free(pool);
        cas_mutex_release(&run.mutex);
        if (run.first.code == CAS_OK)
                return 0;
        *err = run.first;
        return -(int)err->code;
}
