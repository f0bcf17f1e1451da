/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a command from a table: getopt_long(3) over it, and its text for
 * --help and the manual pages. No state of its own but getopt's: one thread. */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include "cas/err.h"

enum cli_option_kind {
        CLI_FLAG,   /* bool */
        CLI_STRING, /* const char *, borrowed from argv */
        CLI_LIST,   /* struct cli_list: may be given again and again */
        CLI_NUMBER, /* uint64_t, decimal */
};

struct cli_list {
        const char **items; /* owned; the strings are borrowed from argv */
        size_t count;
};
void cli_list_release(struct cli_list *l);

struct cli_option {
        const char *name; /* without the dashes; NULL ends a table */
        char letter;      /* or 0 */
        enum cli_option_kind kind;
        size_t offset;     /* of the field in the struct that is filled */
        const char *value; /* how the value is called in help; NULL for flags */
        const char *help;
};

/* A table with the struct that it fills; `options` may be NULL. */
struct cli_option_set {
        const struct cli_option *options;
        void *into; /* borrowed */
};

#define CLI_OPTION_SETS_MAX 3
#define CLI_OPTIONS_MAX 48

/* Parses argv[1…] until "--" (not passed here) or, with stop_at_operand, the first operand.
 * Operands are moved to the end; *first_operand is the index of the first.
 * Errors: INVALID (unknown option, missing or bad value). */
int cli_options_parse(const struct cli_option_set *sets, size_t set_count, int argc, char **argv,
                      bool stop_at_operand, int *first_operand, struct cas_err *err) CAS_MUST_CHECK;

/* "4096", "64K"; M, G and T too. False when it is nothing of this, or too much. */
bool cli_bytes_parse(const char *text, uint64_t *out);

#endif
