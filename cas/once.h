/* SPDX-License-Identifier: Apache-2.0 */
/* Work on a blob that is done once, however many threads of this process ask for it meanwhile: the
 * first does it, the others wait and get what it got. */
#ifndef CAS_ONCE_H
#define CAS_ONCE_H

#include "cas/mutex.h"
#include "cas/store.h"

struct cas_flight;
/* One kind of work. Static storage. */
struct cas_once {
        struct cas_mutex mutex; /* guards the list; a leaf */
        pthread_cond_t change;
        struct cas_flight *flights;
};
#define CAS_ONCE_INIT(NAME)                                                                        \
        {                                                                                          \
                .mutex = CAS_MUTEX_INIT(NAME), .change = PTHREAD_COND_INITIALIZER                  \
        }

/* work fills `result` (result_bytes) and returns 0 or -code. What it does with its own arguments,
 * the progress that it tells, are the first caller's; who comes once it has ended does it again. */
int cas_once(struct cas_once *once, const struct cas_store *s, const struct cas_digest *blob,
             int (*work)(void *arg, void *result, struct cas_err *err), void *arg, void *result,
             size_t result_bytes, struct cas_err *err) CAS_MUST_CHECK;

#endif
