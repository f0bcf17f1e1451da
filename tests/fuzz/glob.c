/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns of names: whatever pattern and text are, matching ends, and says what a search through
 * every way to stretch the stars says. */
#include "registry/glob.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Slow and plain; for short texts only. */
static bool plain_match(const char *pattern, const char *text)
{
        if (!*pattern)
                return !*text;
        if (*pattern != '*')
                return *pattern == *text && *text && plain_match(pattern + 1, text + 1);
        bool across = pattern[1] == '*';
        const char *rest = pattern + (across ? 2 : 1);
        for (;; text++) {
                if (plain_match(rest, text))
                        return true;
                if (!*text || (!across && *text == '/'))
                        return false;
        }
}

/* PATTERN, newline, text; the whole is also a list. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        cas_cleanup_free char *pattern = cas_xstrndup((const char *)data, size);
        struct cas_err err = CAS_ERR_INIT;
        struct reg_globs globs = {0};
        if (reg_globs_add(&globs, pattern, &err) == 0)
                cas_assert(globs.count > 0 && globs.count <= REG_GLOBS_MAX);
        char *text = strchr(pattern, '\n');
        if (text)
                *text++ = '\0';
        else
                text = pattern + strlen(pattern);
        bool match = reg_glob_match(pattern, text);
        if (strlen(pattern) <= 8 && strlen(text) <= 12)
                cas_assert(match == (reg_glob_valid(pattern) && plain_match(pattern, text)));
        reg_globs_release(&globs);
        return 0;
}
