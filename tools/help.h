/* SPDX-License-Identifier: Apache-2.0 */
/* Help texts and manual pages, both from the table of commands. */
#ifndef TOOLS_HELP_H
#define TOOLS_HELP_H

#include <stdio.h>

#include "tools/cli.h"

/* The list of commands. */
void cli_help_all(FILE *to);
void cli_help_command(const struct cli_command *c, FILE *to);
/* The manual page of a command, as mdoc(7). */
void cli_help_mdoc(const struct cli_command *c, FILE *to);

#endif
