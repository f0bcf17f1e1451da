/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/format_int.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

#define FIRST_LINE "lamina store"
#define FORMAT_BYTES_MAX 4096

static bool parse_number(const char *text, uint64_t *out)
{
        char *end;
        if (*text < '0' || *text > '9')
                return false;
        errno = 0;
        unsigned long long v = strtoull(text, &end, 0);
        *out = v;
        return errno == 0 && *end == '\0';
}

/* One "key = value" line. Unknown keys are of a later version and compatible. */
static bool parse_line(const char *line, struct cas_format *out)
{
        const char *equals = strstr(line, " = ");
        if (!equals)
                return false;
        size_t key_len = (size_t)(equals - line);
        const char *value = equals + 3;
        uint64_t version;
        if (key_len == 7 && memcmp(line, "version", 7) == 0) {
                if (!parse_number(value, &version) || version == 0 || version > UINT32_MAX)
                        return false;
                out->version = (unsigned)version;
                return true;
        }
        if (key_len == 2 && memcmp(line, "id", 2) == 0) {
                if (strlen(value) != 32 || strspn(value, "0123456789abcdef") != 32)
                        return false;
                memcpy(out->id, value, 33);
                return true;
        }
        if (key_len == 6 && memcmp(line, "compat", 6) == 0)
                return parse_number(value, &out->compat);
        if (key_len == 9 && memcmp(line, "ro_compat", 9) == 0)
                return parse_number(value, &out->ro_compat);
        if (key_len == 8 && memcmp(line, "incompat", 8) == 0)
                return parse_number(value, &out->incompat);
        return true;
}

static bool parse_format(char *text, struct cas_format *out)
{
        bool first = true;
        for (char *line = text; *line;) {
                char *end = strchr(line, '\n');
                if (!end)
                        return false;
                *end = '\0';
                if (first ? strcmp(line, FIRST_LINE) != 0 : !parse_line(line, out))
                        return false;
                first = false;
                line = end + 1;
        }
        return out->version != 0 && out->id[0] != '\0';
}

int cas_format_read(const struct cas_io *io, int dirfd, struct cas_format *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        *out = (struct cas_format){0};
        int rc = cas_io_read_file(io, dirfd, CAS_FORMAT_PATH, FORMAT_BYTES_MAX, &text, err);
        if (rc < 0)
                return rc;
        if (memchr(text.data, '\0', text.len_bytes) || !parse_format((char *)text.data, out))
                return cas_fail(err, CAS_E_CORRUPT, "%s: malformed", CAS_FORMAT_PATH);
        return 0;
}

static void encode(const struct cas_format *format, struct cas_buf *out)
{
        cas_buf_printf(out,
                       FIRST_LINE "\nversion = %u\nid = %s\ncompat = 0x%llx\nro_compat = 0x%llx\n"
                                  "incompat = 0x%llx\n",
                       format->version, format->id, (unsigned long long)format->compat,
                       (unsigned long long)format->ro_compat, (unsigned long long)format->incompat);
}

int cas_format_write(const struct cas_io *io, int dirfd, const struct cas_format *format,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        encode(format, &text);
        return cas_io_replace_file(io, dirfd, ".", CAS_FORMAT_PATH, text.data, text.len_bytes, 0600,
                                   err);
}

int cas_format_verify(const struct cas_io *io, int dirfd, const char *id, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT, expected = CAS_BUF_INIT;
        struct cas_format format = {0};
        int rc = cas_format_read(io, dirfd, &format, err);
        if (rc == 0)
                rc = cas_format_check(&format, err);
        if (rc == 0)
                rc = cas_io_read_file(io, dirfd, CAS_FORMAT_PATH, FORMAT_BYTES_MAX, &text, err);
        if (rc < 0)
                return rc;
        memcpy(format.id, id, sizeof(format.id));
        format.compat &= CAS_FORMAT_COMPAT_KNOWN;
        encode(&format, &expected);
        if (text.len_bytes < expected.len_bytes ||
            memcmp(text.data, expected.data, expected.len_bytes) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "%s: other bytes than were written",
                                CAS_FORMAT_PATH);
        return 0;
}

int cas_format_check(const struct cas_format *format, struct cas_err *err)
{
        if (format->version > CAS_FORMAT_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "the store has format version %u, this program knows up to %u: "
                                "use a newer lamina",
                                format->version, CAS_FORMAT_VERSION);
        uint64_t unknown = (format->incompat & ~(uint64_t)CAS_FORMAT_INCOMPAT_KNOWN) |
                           (format->ro_compat & ~(uint64_t)CAS_FORMAT_RO_COMPAT_KNOWN);
        if (unknown)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "the store has features that this program does not know "
                                "(incompat 0x%llx, ro_compat 0x%llx): use a newer lamina",
                                (unsigned long long)format->incompat,
                                (unsigned long long)format->ro_compat);
        if (format->version < CAS_FORMAT_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "the store has format version %u: run `lamina upgrade`",
                                format->version);
        return 0;
}

int cas_format_new_id(char id[33], struct cas_err *err)
{
        uint8_t random[16];
        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return cas_fail_sys(err, errno, "random numbers");
        for (size_t i = 0; i < sizeof(random); i++)
                (void)snprintf(id + 2 * i, 3, "%02x", random[i]);
        return 0;
}
