/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/help.h"

#include <ctype.h>

#include "cas/buf.h"

#define HELP_WIDTH 80
#define HELP_INDENT 4
#define HELP_OPTION_COLUMN 24

/* Prints words, broken at HELP_WIDTH, with `indent` blanks before every line but the first,
 * whose cursor stands at `column`. An empty line in the text stays one. */
static void print_wrapped(const char *text, size_t indent, size_t column, FILE *to)
{
        bool first = true;
        while (*text) {
                if (text[0] == '\n' && text[1] == '\n') {
                        fputs("\n\n", to);
                        fprintf(to, "%*s", (int)indent, "");
                        column = indent;
                        first = true;
                        text += 2;
                        continue;
                }
                if (isspace((unsigned char)*text)) {
                        text++;
                        continue;
                }
                size_t len = strcspn(text, " \n");
                if (!first && column + 1 + len > HELP_WIDTH) {
                        fprintf(to, "\n%*s", (int)indent, "");
                        column = indent;
                        first = true;
                }
                if (!first) {
                        fputc(' ', to);
                        column++;
                }
                fwrite(text, 1, len, to);
                column += len;
                first = false;
                text += len;
        }
        fputc('\n', to);
}

static void print_option(const struct cli_option *o, FILE *to)
{
        struct cas_buf head = CAS_BUF_INIT;
        if (o->letter)
                cas_buf_printf(&head, "  -%c, ", o->letter);
        else
                cas_buf_append_str(&head, "  ");
        cas_buf_printf(&head, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        fputs(cas_buf_str(&head), to);
        size_t column = head.len_bytes;
        if (column + 2 > HELP_OPTION_COLUMN) {
                fputc('\n', to);
                column = 0;
        }
        fprintf(to, "%*s", (int)(HELP_OPTION_COLUMN - column), "");
        print_wrapped(o->help, HELP_OPTION_COLUMN, HELP_OPTION_COLUMN, to);
        cas_buf_release(&head);
}

static void print_options(const struct cli_option *o, FILE *to)
{
        for (; o && o->name; o++)
                print_option(o, to);
}

/* Calls for each line of `text`. */
static void print_lines(const char *text, const char *before, FILE *to)
{
        while (*text) {
                size_t len = strcspn(text, "\n");
                fprintf(to, "%s%.*s\n", before, (int)len, text);
                text += len + (text[len] == '\n');
        }
}

void cli_help_all(FILE *to)
{
        fputs("usage: lamina [--store DIR] COMMAND …\n\n", to);
        for (size_t i = 0; cli_commands[i]; i++) {
                const struct cli_command *c = cli_commands[i];
                if (!c->hidden)
                        fprintf(to, "  %-9s %s\n", c->name, c->summary);
        }
        fputs("\noptions of all commands:\n", to);
        print_options(cli_global_options, to);
        fputs("\n`lamina COMMAND --help` tells more of one; `man lamina` tells all.\n", to);
}

void cli_help_command(const struct cli_command *c, FILE *to)
{
        fprintf(to, "usage: lamina %s%s%s\n\n%*s", c->name, c->synopsis[0] ? " " : "", c->synopsis,
                HELP_INDENT, "");
        print_wrapped(c->description, HELP_INDENT, HELP_INDENT, to);
        fputs("\noptions:\n", to);
        print_options(c->options, to);
        print_options(cli_global_options, to);
        if (c->examples) {
                fputs("\nexamples:\n", to);
                print_lines(c->examples, "  ", to);
        }
}

/* Text for mdoc: a backslash is \e; a line must not begin with a dot or a quote; a sentence
 * begins on a line of its own. */
static void mdoc_text(const char *text, FILE *to)
{
        bool line_start = true;
        for (; *text; text++) {
                if (text[0] == '\n' && text[1] == '\n') {
                        fputs("\n.Pp\n", to);
                        text++;
                        line_start = true;
                        continue;
                }
                if (line_start && (*text == '.' || *text == '\''))
                        fputs("\\&", to);
                if (text[0] == '.' && text[1] == ' ') {
                        fputs(".\n", to);
                        text++;
                } else if (*text == '\\') {
                        fputs("\\e", to);
                } else {
                        fputc(*text, to);
                }
                line_start = *text == '\n' || *text == ' ';
        }
        fputc('\n', to);
}

static void mdoc_options(const struct cli_option *o, FILE *to)
{
        for (; o && o->name; o++) {
                fputs(".It ", to);
                if (o->letter)
                        fprintf(to, "Fl %c , ", o->letter);
                fprintf(to, "Fl -%s", o->name);
                if (o->value)
                        fprintf(to, " Ar %s", o->value);
                fputc('\n', to);
                mdoc_text(o->help, to);
        }
}

void cli_help_mdoc(const struct cli_command *c, FILE *to)
{
        fputs(".Dd $Mdocdate$\n.Dt LAMINA-", to);
        for (const char *p = c->name; *p; p++)
                fputc(toupper((unsigned char)*p), to);
        fprintf(to, " 1\n.Os lamina %s\n.Sh NAME\n.Nm lamina-%s\n.Nd ", LAMINA_VERSION, c->name);
        mdoc_text(c->summary, to);
        fprintf(to, ".Sh SYNOPSIS\n.Nm lamina %s\n", c->name);
        if (c->synopsis[0])
                mdoc_text(c->synopsis, to);
        fputs(".Sh DESCRIPTION\n", to);
        mdoc_text(c->description, to);
        fputs(".Bl -tag -width Ds\n", to);
        mdoc_options(c->options, to);
        mdoc_options(cli_global_options, to);
        fputs(".El\n.Sh EXIT STATUS\n", to);
        fputs(strcmp(c->name, "run") == 0
                      ? "That of the program that was run; 1 when it could not be run.\n"
                      : "0, 1 when it failed, 2 when the arguments are wrong.\n",
              to);
        if (c->examples) {
                fputs(".Sh EXAMPLES\n.Bd -literal -offset indent\n", to);
                mdoc_text(c->examples, to);
                fputs(".Ed\n", to);
        }
        fputs(".Sh SEE ALSO\n.Xr lamina 1\n", to);
}
