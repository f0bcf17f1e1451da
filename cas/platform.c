/* SPDX-License-Identifier: Apache-2.0 */
/* Platforms: OS, architecture and variant as Go names them. */
#include <ctype.h>
#include <sys/utsname.h>

#include "cas/image.h"

/* Names that people and uname(2) use, and what they are in images. */
static const struct {
        const char *name, *arch, *variant;
} platform_archs[] = {
        {"x86_64", "amd64", ""},   {"x86-64", "amd64", ""},
        {"aarch64", "arm64", ""},  {"armv8l", "arm", "v7"},
        {"armv7l", "arm", "v7"},   {"armv6l", "arm", "v6"},
        {"armv5tel", "arm", "v5"}, {"armhf", "arm", "v7"},
        {"armel", "arm", "v6"},    {"i386", "386", ""},
        {"i486", "386", ""},       {"i586", "386", ""},
        {"i686", "386", ""},       {"loongarch64", "loong64", ""},
};

static void platform_set_arch(struct cas_platform *p, const char *name)
{
        const char *arch = name, *variant = "";
        for (size_t i = 0; i < CAS_COUNT(platform_archs); i++) {
                if (strcmp(name, platform_archs[i].name) == 0) {
                        arch = platform_archs[i].arch;
                        variant = platform_archs[i].variant;
                }
        }
        (void)snprintf(p->arch, sizeof(p->arch), "%s", arch);
        (void)snprintf(p->variant, sizeof(p->variant), "%s", variant);
}

/* One word of [a-z0-9._-], lowercased. */
static int platform_word(const char *at, size_t len, char out[32], struct cas_err *err)
{
        if (len == 0 || len > 31)
                return cas_fail(err, CAS_E_INVALID,
                                "a platform is OS/ARCH or OS/ARCH/VARIANT, as linux/arm64/v8");
        for (size_t i = 0; i < len; i++) {
                if (!isalnum((unsigned char)at[i]) && !strchr("._-", at[i]))
                        return cas_fail(err, CAS_E_INVALID, "platform: bad character in \"%.*s\"",
                                        (int)len, at);
                out[i] = (char)tolower((unsigned char)at[i]);
        }
        out[len] = 0;
        return 0;
}

int cas_platform_parse(const char *text, struct cas_platform *out, struct cas_err *err)
{
        struct cas_platform p = {0};
        char words[3][32] = {{0}};
        size_t count = 0;
        for (const char *at = text;; at++) {
                size_t len = strcspn(at, "/");
                if (count == CAS_COUNT(words))
                        return cas_fail(err, CAS_E_INVALID,
                                        "platform \"%.64s\" has more than three parts", text);
                int r = platform_word(at, len, words[count++], err);
                if (r < 0)
                        return r;
                at += len;
                if (*at == 0)
                        break;
        }
        if (count < 2)
                return cas_fail(err, CAS_E_INVALID,
                                "platform \"%.64s\": the architecture is missing", text);
        memcpy(p.os, words[0], sizeof(p.os));
        platform_set_arch(&p, words[1]);
        if (count == 3)
                memcpy(p.variant, words[2], sizeof(p.variant));
        *out = p;
        return 0;
}

void cas_platform_host(struct cas_platform *out)
{
        struct utsname u;
        int r = uname(&u);
        cas_assert(r == 0);
        struct cas_platform p = {.os = "linux"};
        u.machine[31] = 0;
        platform_set_arch(&p, u.machine);
        *out = p;
}

char *cas_platform_text(const struct cas_platform *p, char *out)
{
        (void)snprintf(out, CAS_PLATFORM_TEXT_BYTES, "%s/%s%s%s", p->os[0] ? p->os : "unknown",
                       p->arch[0] ? p->arch : "unknown", p->variant[0] ? "/" : "", p->variant);
        return out;
}

/* "v8" or "v8.2" as 800 or 802; 0 when it is not such a number. */
static unsigned platform_level(const struct cas_platform *p)
{
        const char *v = p->variant;
        if (v[0] == 0) {
                if (strcmp(p->arch, "arm") == 0)
                        return 700;
                if (strcmp(p->arch, "arm64") == 0)
                        return 800;
                return 100;
        }
        unsigned major = 0, minor = 0;
        int end = 0;
        if (sscanf(v, "v%2u%n", &major, &end) != 1)
                return 0;
        if (v[end] == '.' && sscanf(v + end, ".%2u%n", &minor, &end) != 1)
                return 0;
        return major * 100 + minor;
}

unsigned cas_platform_fit(const struct cas_platform *want, const struct cas_platform *have)
{
        if (strcmp(want->os, have->os) != 0 || strcmp(want->arch, have->arch) != 0)
                return 0;
        if (strcmp(want->variant, have->variant) == 0)
                return 100000;
        unsigned wanted = platform_level(want), level = platform_level(have);
        if (wanted == 0 || level == 0 || level > wanted)
                return 0;
        return level;
}
