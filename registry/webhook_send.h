/* SPDX-License-Identifier: Apache-2.0 */
/* Sends what a webhook has to say by HTTP, over one kept connection. */
#ifndef REG_WEBHOOK_SEND_H
#define REG_WEBHOOK_SEND_H

#include "registry/webhook.h"

struct reg_webhook_http;
/* *sender borrows the rest; hook is borrowed. */
int reg_webhook_http_new(const struct reg_webhook_config *hook, struct reg_webhook_http **out,
                         struct reg_webhook_sender *sender, struct cas_err *err) CAS_MUST_CHECK;
/* A request that is under way fails, as do all from now on; does not wait. NULL is nothing. */
void reg_webhook_http_break(struct reg_webhook_http *h);
void reg_webhook_http_free(struct reg_webhook_http *h); /* NULL is nothing */

#endif
