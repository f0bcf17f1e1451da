/* SPDX-License-Identifier: Apache-2.0 */
/* Progress on the terminal, drawn over itself on stderr: a line, or where work is
 * told in items (cas/store.h) and the terminal is wide enough, a line for each and
 * one for all. Nothing at all when stderr is no terminal. Any thread may update. */
#ifndef TOOLS_PROGRESSLINE_H
#define TOOLS_PROGRESSLINE_H

#include "cas/store.h"

struct cli_progress;
/* Never NULL; silent where nobody looks on. */
struct cli_progress *cli_progress_new(void);
/* Wipes what is drawn. */
void cli_progress_free(struct cli_progress *p);
CAS_DEFINE_CLEANUP(cli_cleanup_progress_, struct cli_progress *, cli_progress_free);
#define cli_cleanup_progress __attribute__((cleanup(cli_cleanup_progress_)))
/* What operations are given; borrowed until cli_progress_free. */
const struct cas_progress *cli_progress_sink(struct cli_progress *p);

#endif
