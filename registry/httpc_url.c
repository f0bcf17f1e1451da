/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP client's URLs, by libcurl's parser, so that what is judged is what is used. */
#include <arpa/inet.h>

#include "registry/httpc_int.h"

static void cleanup_url(CURLU **u)
{
        curl_url_cleanup(*u);
}
static void cleanup_part(char **part)
{
        curl_free(*part);
}
#define url_cleanup __attribute__((cleanup(cleanup_url)))
#define part_cleanup __attribute__((cleanup(cleanup_part)))

static int set(CURLU *u, const char *text, unsigned flags, struct cas_err *err)
{
        if (strlen(text) > REG_HTTPC_URL_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a URL of %zu bytes", strlen(text));
        for (const char *p = text; *p; p++) {
                if ((unsigned char)*p <= ' ' || *p == 0x7f)
                        return cas_fail(err, CAS_E_INVALID, "a URL with a space or control byte");
        }
        CURLUcode rc = curl_url_set(u, CURLUPART_URL, text, flags | CURLU_DISALLOW_USER);
        if (rc != CURLUE_OK)
                return cas_fail(err, CAS_E_INVALID, "URL %.100s: %s", text, curl_url_strerror(rc));
        return 0;
}

int httpc_url(const char *base, const char *relative, char **url, char **origin,
              struct cas_err *err)
{
        url_cleanup CURLU *u = curl_url();
        cas_assert(u != NULL);
        if (set(u, base, 0, err) < 0 || (relative && set(u, relative, 0, err) < 0))
                return -(int)err->code;
        (void)curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
        part_cleanup char *scheme = NULL, *host = NULL, *port = NULL, *whole = NULL;
        if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
            curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
            curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK ||
            curl_url_get(u, CURLUPART_URL, &whole, 0) != CURLUE_OK)
                return cas_fail(err, CAS_E_INVALID, "URL %.100s: not of http or https",
                                relative ? relative : base);
        if (strcmp(scheme, "https") != 0 && strcmp(scheme, "http") != 0)
                return cas_fail(err, CAS_E_INVALID, "URL %.100s: not of http or https", whole);
        for (char *p = host; *p; p++) {
                if (*p >= 'A' && *p <= 'Z')
                        *p = (char)(*p - 'A' + 'a');
        }
        *url = cas_xstrdup(whole);
        *origin = cas_xasprintf("%s://%s:%s", scheme, host, port);
        return 0;
}

char *httpc_url_shown(const char *url)
{
        size_t len = strcspn(url, "?#");
        return cas_xasprintf("%.*s", (int)(len < 200 ? len : 200), url);
}

char *httpc_origin_host(const char *origin)
{
        const char *host = strstr(origin, "://");
        cas_assert(host != NULL);
        host += 3;
        const char *port = strrchr(host, ':');
        cas_assert(port != NULL);
        const char *usual = strncmp(origin, "https:", 6) == 0 ? ":443" : ":80";
        return cas_xstrndup(host, strcmp(port, usual) == 0 ? (size_t)(port - host) : strlen(host));
}

static bool v4_is_near(uint32_t a)
{
        return a >> 24 == 127 || a >> 24 == 0 || a >> 16 == 0xa9fe; /* 169.254/16 */
}

bool httpc_host_is_near(const char *host)
{
        char name[256];
        size_t len = host[0] == '[' ? strcspn(host + 1, "]") : strcspn(host, ":");
        if (len >= sizeof(name))
                return false;
        memcpy(name, host[0] == '[' ? host + 1 : host, len);
        name[len] = 0;
        if (strcasecmp(name, "localhost") == 0 ||
            (len > 10 && strcasecmp(name + len - 10, ".localhost") == 0))
                return true;
        struct in_addr v4;
        struct in6_addr v6;
        name[strcspn(name, "%")] = 0;
        if (inet_aton(name, &v4))
                return v4_is_near(ntohl(v4.s_addr));
        if (inet_pton(AF_INET6, name, &v6) != 1)
                return false;
        if (IN6_IS_ADDR_V4MAPPED(&v6)) {
                memcpy(&v4, &v6.s6_addr[12], sizeof(v4));
                return v4_is_near(ntohl(v4.s_addr));
        }
        return IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_UNSPECIFIED(&v6) ||
               IN6_IS_ADDR_LINKLOCAL(&v6);
}

bool httpc_address_is_near(const struct sockaddr *address)
{
        char text[INET6_ADDRSTRLEN + 2] = "";
        if (address->sa_family == AF_INET) {
                const struct sockaddr_in *v4 = (const void *)address;
                return v4_is_near(ntohl(v4->sin_addr.s_addr));
        }
        if (address->sa_family != AF_INET6)
                return false;
        const struct sockaddr_in6 *v6 = (const void *)address;
        text[0] = '[';
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, text + 1, sizeof(text) - 1);
        return httpc_host_is_near(text);
}

int httpc_redirect_allowed(const char *from_origin, const char *to_origin, struct cas_err *err)
{
        if (strncmp(from_origin, "https:", 6) == 0 && strncmp(to_origin, "https:", 6) != 0)
                return cas_fail(err, CAS_E_DENIED, "%s redirects to %s: not from https to http",
                                from_origin, to_origin);
        if (httpc_host_is_near(strstr(to_origin, "://") + 3) &&
            !httpc_host_is_near(strstr(from_origin, "://") + 3))
                return cas_fail(err, CAS_E_DENIED, "%s redirects to %s, on this machine or link",
                                from_origin, to_origin);
        return 0;
}
