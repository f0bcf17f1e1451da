/* SPDX-License-Identifier: Apache-2.0 */
/* Auth files, and the URLs of the HTTP client, of whatever bytes. */
#include "registry/authfile.h"
#include "registry/httpc_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_file(const uint8_t *data, size_t size, const char *host, const char *repo)
{
        reg_cleanup_credentials struct reg_credentials c = {0};
        cas_cleanup_free char *helper = NULL, *server = NULL;
        struct cas_err err = CAS_ERR_INIT;
        if (reg_authfile_parse(data, size, host, repo, &c, &helper, &server, &err) < 0) {
                cas_assert(!c.user && !c.password && !c.identity_token && !helper);
                return;
        }
        cas_assert(!c.user == !c.password);
        cas_assert(!helper == !server);
        cas_assert(!helper || (!c.user && !c.identity_token));
}

static void check_url(const char *text)
{
        cas_cleanup_free char *url = NULL, *origin = NULL, *again = NULL, *again_origin = NULL;
        struct cas_err err = CAS_ERR_INIT;
        if (httpc_url("https://h.example/v2/", text, &url, &origin, &err) < 0)
                return;
        cas_assert(strncmp(origin, "http://", 7) == 0 || strncmp(origin, "https://", 8) == 0);
        cas_assert(!strpbrk(url, " \r\n\t"));
        cas_cleanup_free char *host = httpc_origin_host(origin);
        (void)httpc_host_is_near(host);
        cas_assert(httpc_url(url, NULL, &again, &again_origin, &err) == 0);
        cas_assert(strcmp(origin, again_origin) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        cas_cleanup_free char *text = cas_xstrndup((const char *)data, size);
        check_file(data, size, "h:5", "a/b");
        check_file(data, size, "docker.io", NULL);
        check_url(text);
        return 0;
}
