/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

/* What a person can do about an error of this code, or NULL. */
static const char *hint_of(enum cas_code code)
{
        switch (code) {
        case CAS_E_NOTFOUND:
                return "`lamina images` lists the images of the store.";
        case CAS_E_CORRUPT:
                return "`lamina fsck` checks the whole store.";
        case CAS_E_NOSPACE:
                return "`lamina rm` and then `lamina gc` free space.";
        case CAS_E_DENIED:
                return "Run it as root, or with a store of your own (--store DIR).";
        case CAS_E_BUSY:
                return "Try again when the other one has finished.";
        case CAS_E_AWAY:
                return "Try again when the network is there.";
        case CAS_OK:
        case CAS_E_EXISTS:
        case CAS_E_IO:
        case CAS_E_LIMIT:
        case CAS_E_INVALID:
        case CAS_E_UNSUPPORTED:
        case CAS_E_NOMEM:
                return NULL;
        }
        return NULL;
}

int cli_report(const char *what, const struct cas_err *err)
{
        fflush(stdout);
        fprintf(stderr, "lamina: %s: %s\n", what, err->msg);
        const char *hint = hint_of(err->code);
        if (hint)
                fprintf(stderr, "%s\n", hint);
        return CLI_FAILED;
}

int cli_usage_error(const struct cli *cli, const char *fmt, ...)
{
        const char *name = cli->command ? cli->command->name : NULL;
        va_list ap;
        va_start(ap, fmt);
        fputs("lamina: ", stderr);
        if (name)
                fprintf(stderr, "%s: ", name);
        vfprintf(stderr, fmt, ap);
        va_end(ap);
        if (name)
                fprintf(stderr, "\nusage: lamina %s %s\n`lamina %s --help` tells more.\n", name,
                        cli->command->synopsis, name);
        else
                fputs("\n`lamina --help` lists the commands.\n", stderr);
        return CLI_USAGE;
}

int cli_print_json(const json_t *value)
{
        json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
        fputc('\n', stdout);
        return cli_finish();
}

int cli_finish(void)
{
        if (fflush(stdout) == 0 && !ferror(stdout))
                return CLI_OK;
        fprintf(stderr, "lamina: output: %s\n", strerror(errno));
        return CLI_FAILED;
}

char *cli_bytes_text(uint64_t bytes, char *out, size_t out_bytes)
{
        static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
        double v = (double)bytes;
        size_t unit = 0;
        while (v >= 1024 && unit + 1 < CAS_COUNT(units)) {
                v /= 1024;
                unit++;
        }
        snprintf(out, out_bytes, unit ? "%.1f %s" : "%.0f %s", v, units[unit]);
        return out;
}
