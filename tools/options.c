/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#include "cas/buf.h"

void cli_list_release(struct cli_list *l)
{
        free(l->items);
        *l = (struct cli_list){0};
}

/* The tables in the form that getopt_long wants. Long options are told apart by `val`:
 * their place in `all`, above the range of letters. */
struct parser {
        struct option longs[CLI_OPTIONS_MAX + 1];
        const struct cli_option *all[CLI_OPTIONS_MAX];
        void *into[CLI_OPTIONS_MAX];
        int count;
        struct cas_buf letters;
};
#define LONG_BASE 256

static void parser_add(struct parser *p, const struct cli_option *o, void *into)
{
        cas_assert(p->count < CLI_OPTIONS_MAX);
        int has_arg = o->kind == CLI_FLAG ? no_argument : required_argument;
        p->all[p->count] = o;
        p->into[p->count] = into;
        p->longs[p->count] =
                (struct option){.name = o->name, .has_arg = has_arg, .val = LONG_BASE + p->count};
        if (o->letter)
                cas_buf_printf(&p->letters, "%c%s", o->letter, has_arg ? ":" : "");
        p->count++;
}

static int parser_find(const struct parser *p, int code)
{
        if (code >= LONG_BASE)
                return code - LONG_BASE;
        for (int i = 0; i < p->count; i++) {
                if (p->all[i]->letter == code)
                        return i;
        }
        return -1;
}

static int number_parse(const char *text, const char *name, uint64_t *out, struct cas_err *err)
{
        char *end;
        errno = 0;
        unsigned long long v = strtoull(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || errno)
                return cas_fail(err, CAS_E_INVALID, "--%s: not a number: %s", name, text);
        *out = v;
        return 0;
}

static int option_set(const struct cli_option *o, void *into, const char *value,
                      struct cas_err *err)
{
        void *field = (char *)into + o->offset;
        switch (o->kind) {
        case CLI_FLAG:
                *(bool *)field = true;
                return 0;
        case CLI_STRING:
                *(const char **)field = value;
                return 0;
        case CLI_LIST: {
                struct cli_list *list = field;
                list->items = cas_xrealloc(list->items, (list->count + 1) * sizeof(char *));
                list->items[list->count++] = value;
                return 0;
        }
        case CLI_NUMBER:
                return number_parse(value, o->name, field, err);
        }
        return cas_fail(err, CAS_E_INVALID, "--%s: of no known kind", o->name);
}

/* getopt has seen something it does not know at `arg`. */
static int fail_option(const char *arg, int code, struct cas_err *err)
{
        if (code == ':')
                return cas_fail(err, CAS_E_INVALID, "option %s needs a value", arg);
        return cas_fail(err, CAS_E_INVALID, "option %s is not known here, or takes no value", arg);
}

int cli_options_parse(const struct cli_option_set *sets, size_t set_count, int argc, char **argv,
                      bool stop_at_operand, int *first_operand, struct cas_err *err)
{
        struct parser p = {.letters = CAS_BUF_INIT};
        cas_buf_append_str(&p.letters, stop_at_operand ? "+:" : ":");
        for (size_t i = 0; i < set_count; i++) {
                for (const struct cli_option *o = sets[i].options; o && o->name; o++)
                        parser_add(&p, o, sets[i].into);
        }
        int rc = 0;
        optind = 0; /* glibc: start afresh */
        for (;;) {
                int before = optind ? optind : 1;
                int code = getopt_long(argc, argv, cas_buf_str(&p.letters), p.longs, NULL);
                if (code == -1)
                        break;
                if (code == '?' || code == ':') {
                        int at = optind > before ? optind - 1 : before;
                        rc = fail_option(argv[at < argc ? at : argc - 1], code, err);
                        break;
                }
                int i = parser_find(&p, code);
                cas_assert(i >= 0);
                rc = option_set(p.all[i], p.into[i], optarg, err);
                if (rc < 0)
                        break;
        }
        *first_operand = optind;
        cas_buf_release(&p.letters);
        return rc;
}

bool cli_bytes_parse(const char *text, uint64_t *out)
{
        static const char units[] = "KMGT";
        char *end;
        errno = 0;
        unsigned long long v = strtoull(text, &end, 10);
        const char *unit = *end ? strchr(units, *end) : NULL;
        unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
        if (text[0] < '0' || text[0] > '9' || errno != 0 || (*end && (!unit || end[1])) ||
            v > UINT64_MAX >> shift)
                return false;
        *out = (uint64_t)v << shift;
        return true;
}
