/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/findings.h"

#include <stdint.h>
#include <stdio.h>

static const char *member(const json_t *object, const char *key)
{
        const char *text = json_string_value(json_object_get(object, key));
        return text ? text : "";
}

static long long count(const json_t *result, const char *key)
{
        return json_integer_value(json_object_get(result, key));
}

void findings_print(const json_t *result)
{
        size_t i;
        json_t *finding;
        json_array_foreach(json_object_get(result, "findings"), i, finding)
        {
                printf("%s %s: %s: %s\n", member(finding, "severity"), member(finding, "id"),
                       member(finding, "subject"), member(finding, "message"));
        }
        const json_t *checked = json_object_get(result, "checked");
        const char *key;
        json_t *value;
        const char *before = "checked ";
        json_object_foreach((json_t *)(uintptr_t)checked, key, value)
        {
                printf("%s%lld %s", before, (long long)json_integer_value(value), key);
                before = ", ";
        }
        printf("\n%lld errors, %lld warnings", count(result, "errors"), count(result, "warnings"));
        if (count(result, "repaired") + count(result, "quarantined") > 0)
                printf("; %lld repaired, %lld put aside", count(result, "repaired"),
                       count(result, "quarantined"));
        printf("\n");
        if (json_is_true(json_object_get(result, "stopped")))
                printf("stopped before the end: the next run goes on\n");
}

bool findings_good(const json_t *result)
{
        return count(result, "errors") == count(result, "repaired");
}
