/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/events.h"

#define LISTENERS_MAX 8

struct reg_events {
        size_t count;
        struct {
                void (*fn)(void *arg, const struct reg_event *event);
                void *arg;
        } listeners[LISTENERS_MAX];
};

struct reg_events *reg_events_new(void)
{
        return cas_xcalloc(1, sizeof(struct reg_events));
}

void reg_events_free(struct reg_events *e)
{
        free(e);
}

void reg_events_listen(struct reg_events *e, void (*fn)(void *arg, const struct reg_event *event),
                       void *arg)
{
        cas_assert(e->count < LISTENERS_MAX);
        e->listeners[e->count].fn = fn;
        e->listeners[e->count].arg = arg;
        e->count++;
}

void reg_events_tell(struct reg_events *e, const struct reg_event *event)
{
        for (size_t i = 0; i < e->count; i++)
                e->listeners[i].fn(e->listeners[i].arg, event);
}
