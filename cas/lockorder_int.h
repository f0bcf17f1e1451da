/* SPDX-License-Identifier: Apache-2.0 */
/* The order of locks, checked as they are taken, before the thread waits: the ranks of cas/mutex.h,
 * and what was ever taken inside of what in this process. A lock that could close a circle ends the
 * process, with the locks that this thread holds and those that were held when it went the other
 * way: so an order that is wrong is found though no two threads met. Classes of locks are their
 * names. Only in builds with CAS_LOCK_ORDER; else nothing is left of it. Private to cas. */
#ifndef CAS_LOCKORDER_INT_H
#define CAS_LOCKORDER_INT_H

#include "cas/base.h"

#ifdef CAS_LOCK_ORDER
void cas_lock_order_take(const void *lock, const char *name);
/* Any of those that the thread has taken. */
void cas_lock_order_drop(const void *lock);
#else
static inline void cas_lock_order_take(const void *lock CAS_UNUSED, const char *name CAS_UNUSED)
{
}
static inline void cas_lock_order_drop(const void *lock CAS_UNUSED)
{
}
#endif

#endif
