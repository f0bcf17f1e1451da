/* SPDX-License-Identifier: Apache-2.0 */
/* Between the calls and the trace. All but recorder_is_on with the lock held. */
#ifndef TESTS_BELOW_RECORDER_INT_H
#define TESTS_BELOW_RECORDER_INT_H

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>

#include "cas/base.h"
#include "tests/support/below/recorder.h"

extern bool recorder_is_on; /* never again off; set before there are threads */
void recorder_lock(void);
void recorder_unlock(void);
CAS_NORETURN void recorder_refuse(const char *what, const char *name);

/* The system call, unseen. */
int recorder_raw_stat(int dirfd, const char *path, struct stat *st, int flags);

void recorder_add(const struct recorder_op *op);
/* False: not one of the recorded directory. */
bool recorder_number(const struct stat *st, uint32_t *out);
uint32_t recorder_new_number(const struct stat *st);

/* What a call is like, for faults. */
#define RECORDER_TAKES_SPACE 1u
#define RECORDER_OPENS 2u
#define RECORDER_HAS_PATH 4u
#define RECORDER_MAY_BE_SHORT 8u
/* The errno that it fails with; 0: it does not; -1: it does half of its bytes. path NULL: fd. */
int recorder_strike(const char *call, const char *path, int fd, unsigned traits);

#endif
