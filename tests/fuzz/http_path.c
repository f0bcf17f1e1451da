/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a client writes into a request line or a header is parsed without
 * fault, and what comes out keeps its promises. The input is lines: a target, then values of
 * Range, Content-Range, If-None-Match and n. */
#include "cas/names.h"
#include "registry/range.h"
#include "registry/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_target(const char *target)
{
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_uri struct reg_uri uri = {0};
        struct reg_route route;
        if (reg_uri_parse(target, &uri, &err) < 0) {
                cas_assert(uri.text == NULL);
                return;
        }
        cas_assert(strcmp(uri.raw, target) == 0);
        cas_assert(uri.segment_count >= 1);
        for (size_t i = 0; i < uri.segment_count; i++)
                cas_assert(strchr(uri.segments[i], '/') == NULL);
        for (size_t i = 0; i < uri.param_count; i++)
                cas_assert(reg_uri_param(&uri, uri.params[i].name) != NULL);
        if (reg_route_parse(&uri, &route, &err) < 0)
                return;
        bool nameless = route.noun == REG_NOUN_PING || route.noun == REG_NOUN_CATALOG;
        cas_assert(nameless ? route.repo[0] == '\0' : cas_repo_name_valid(route.repo));
}

static void check_range(const char *header)
{
        static const uint64_t sizes[] = {0, 1, 100, UINT64_MAX};
        for (size_t i = 0; i < CAS_COUNT(sizes); i++) {
                struct reg_range r;
                if (reg_range_parse(header, sizes[i], &r) != REG_RANGE_PART)
                        continue;
                cas_assert(r.bytes > 0);
                cas_assert(r.bytes <= sizes[i]);
                cas_assert(r.first <= sizes[i] - r.bytes);
        }
}

static void check_values(const char *header)
{
        uint64_t first, last;
        check_range(header);
        if (reg_content_range_parse(header, &first, &last))
                cas_assert(first <= last && last < UINT64_MAX);
        (void)reg_etag_listed(header, "sha256:x");
        (void)reg_if_range_allows(header, "sha256:x");
        if (reg_count_parse(header, 1000, &first))
                cas_assert(first <= 1000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        cas_cleanup_free char *text = cas_xmalloc(size + 1);
        memcpy(text, data, size);
        text[size] = '\0';
        char *rest = strchr(text, '\n');
        if (rest)
                *rest++ = '\0';
        check_target(text);
        while (rest) {
                char *line = rest;
                rest = strchr(line, '\n');
                if (rest)
                        *rest++ = '\0';
                check_values(line);
        }
        return 0;
}
