/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's side of the control API (spec/control.md) at STORE/control.sock. */
#ifndef TOOLS_CONTROL_SERVER_H
#define TOOLS_CONTROL_SERVER_H

#include <jansson.h>

#include "cas/store.h"

struct reg_registry;
struct remotes;
struct tier_mover;
struct control_server;
/* info is what GET /info answers; a reference is taken. Listens with mode 0600; peers of
 * another uid than ours or root get 403. The store outlives the server. */
int control_server_start(struct cas_store *s, struct reg_registry *registry,
                         struct remotes *remotes, struct tier_mover *mover, json_t *info,
                         struct control_server **out, struct cas_err *err) CAS_MUST_CHECK;
/* Ends; operations under way are waited for, and those that can go on later are told to stop.
 * Removes the socket. */
void control_server_stop(struct control_server *c);
/* When the last request ended (CLOCK_MONOTONIC, seconds), or now while one is under way. */
uint64_t control_server_used_s(const struct control_server *c);

#endif
