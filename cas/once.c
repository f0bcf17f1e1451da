/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/once.h"

struct cas_flight {
        struct cas_flight *next;
        const struct cas_store *store;
        struct cas_digest blob;
        unsigned user_count; /* the one who works, and those who wait */
        bool done;
        void *result; /* owned; filled when done and err.code is 0 */
        struct cas_err err;
};

/* The work on this blob that is under way, or new. */
static struct cas_flight *join_locked(struct cas_once *once, const struct cas_store *s,
                                      const struct cas_digest *blob, size_t result_bytes,
                                      bool *first)
{
        cas_assert_held(&once->mutex);
        struct cas_flight *f = once->flights;
        while (f && (f->store != s || !cas_digest_equal(&f->blob, blob)))
                f = f->next;
        *first = !f;
        if (!f) {
                f = cas_xcalloc(1, sizeof(*f));
                f->store = s;
                f->blob = *blob;
                f->result = cas_xcalloc(1, result_bytes);
                f->next = once->flights;
                once->flights = f;
        }
        f->user_count++;
        return f;
}

/* From now on nobody finds it: who comes later finds what was done. */
static void land_locked(struct cas_once *once, struct cas_flight *f)
{
        cas_assert_held(&once->mutex);
        struct cas_flight **at = &once->flights;
        while (*at != f)
                at = &(*at)->next;
        *at = f->next;
        f->done = true;
        (void)pthread_cond_broadcast(&once->change);
}

int cas_once(struct cas_once *once, const struct cas_store *s, const struct cas_digest *blob,
             int (*work)(void *arg, void *result, struct cas_err *err), void *arg, void *result,
             size_t result_bytes, struct cas_err *err)
{
        bool first;
        cas_mutex_lock(&once->mutex);
        struct cas_flight *f = join_locked(once, s, blob, result_bytes, &first);
        if (first) {
                cas_mutex_unlock(&once->mutex);
                int rc = work(arg, f->result, &f->err);
                cas_assert((rc < 0) == (f->err.code != CAS_OK));
                cas_mutex_lock(&once->mutex);
                land_locked(once, f);
        }
        while (!f->done)
                cas_mutex_wait(&once->mutex, &once->change);
        int rc = -(int)f->err.code;
        if (rc == 0)
                memcpy(result, f->result, result_bytes);
        else
                *err = f->err;
        if (--f->user_count == 0) {
                free(f->result);
                free(f);
        }
        cas_mutex_unlock(&once->mutex);
        return rc;
}
