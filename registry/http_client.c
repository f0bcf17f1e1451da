/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks: the address of the other end, or what proxies say that are trusted.
 *
 * X-Forwarded-For is read from its end, which the nearest proxy has written:
 * the first address there that is no trusted proxy is the client. What is before
 * it anybody may have sent. */
#include <netinet/in.h>
#include <strings.h>
#include <sys/socket.h>

#include "registry/http_int.h"
#include "registry/networks.h"

#define FORWARDED_LINES_MAX 16
#define FORWARDED_HOPS_MAX 32

struct reg_proxies {
        bool with_unix;
        struct reg_networks networks;
};

static bool is_trusted(const struct reg_proxies *p, const struct in6_addr *address)
{
        return p && reg_networks_have(&p->networks, address);
}

void reg_proxies_free(struct reg_proxies *p)
{
        if (!p)
                return;
        reg_networks_release(&p->networks);
        free(p);
}

int reg_proxies_parse(const char *text, struct reg_proxies **out, struct cas_err *err)
{
        struct reg_proxies *p = cas_xcalloc(1, sizeof(*p));
        cas_cleanup_free char *copy = cas_xstrdup(text);
        int rc = 0;
        char *at = copy;
        for (char *part; rc == 0 && (part = strsep(&at, ", \t"));) {
                if (strcmp(part, "unix") == 0)
                        p->with_unix = true;
                else if (*part)
                        rc = reg_networks_add(&p->networks, part, err);
        }
        if (rc < 0)
                reg_proxies_free(p);
        else
                *out = p;
        return rc < 0 ? cas_err_wrap(err, "trusted proxies") : 0;
}

/* The text of an address; IPv4 as such. */
static void address_text(const struct in6_addr *address, char out[REG_HTTP_CLIENT_BYTES])
{
        if (IN6_IS_ADDR_V4MAPPED(address))
                (void)inet_ntop(AF_INET, address->s6_addr + 12, out, REG_HTTP_CLIENT_BYTES);
        else
                (void)inet_ntop(AF_INET6, address, out, REG_HTTP_CLIENT_BYTES);
}

static void fill_conn(const struct reg_http_req *req, struct reg_http_conn *conn)
{
        const struct reg_proxies *p = req->server->proxies;
        const struct sockaddr *peer =
                MHD_get_connection_info(req->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)
                        ->client_addr;
        struct in6_addr address;
        if (peer && peer->sa_family == AF_INET) {
                address =
                        reg_ip_mapped(&((const struct sockaddr_in *)(const void *)peer)->sin_addr);
        } else if (peer && peer->sa_family == AF_INET6) {
                address = ((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr;
        } else {
                conn->is_proxy = p && p->with_unix;
                memcpy(conn->client, "unix", sizeof("unix"));
                return;
        }
        conn->is_proxy = is_trusted(p, &address);
        address_text(&address, conn->client);
}

static struct reg_http_conn *conn_known(const struct reg_http_req *req)
{
        struct reg_http_conn *conn = reg_http_conn(req);
        if (!conn->client[0])
                fill_conn(req, conn);
        return conn;
}

/* Lines of one header, the last of them when they are too many. */
struct lines {
        size_t count;
        const char *text[FORWARDED_LINES_MAX];
};

static bool add_line(void *arg, const char *value)
{
        struct lines *lines = arg;
        if (lines->count == FORWARDED_LINES_MAX) {
                memmove(lines->text, lines->text + 1, sizeof(lines->text) - sizeof(lines->text[0]));
                lines->count--;
        }
        lines->text[lines->count++] = value;
        return true;
}

/* Cuts the last item of a comma-separated list off: *len becomes what is left of it. False: no
 * item was left. An item that is too long for `out` becomes "". */
static bool take_last(const char *list, size_t *len, char *out, size_t out_bytes)
{
        if (*len == 0)
                return false;
        size_t end = *len, start = end;
        while (start > 0 && list[start - 1] != ',')
                start--;
        *len = start > 0 ? start - 1 : 0;
        while (start < end && (list[start] == ' ' || list[start] == '\t'))
                start++;
        while (end > start && (list[end - 1] == ' ' || list[end - 1] == '\t'))
                end--;
        size_t n = end - start < out_bytes ? end - start : 0;
        memcpy(out, list + start, n);
        out[n] = '\0';
        return true;
}

/* The address of an item: "1.2.3.4", "1.2.3.4:567", "::1", "[::1]", "[::1]:567". */
static bool hop_address(char *item, struct in6_addr *out)
{
        unsigned bits;
        if (item[0] == '[') {
                item++;
                item[strcspn(item, "]")] = '\0';
        } else {
                char *colon = strchr(item, ':');
                if (colon && !strchr(colon + 1, ':'))
                        *colon = '\0';
        }
        return reg_ip_parse(item, out, &bits);
}

/* What the chain of trusted proxies says, "" when it says nothing. */
static void forwarded_client(const struct reg_http_req *req, char out[REG_HTTP_CLIENT_BYTES])
{
        struct lines lines = {0};
        unsigned hops = 0;
        out[0] = '\0';
        reg_http_header_each(req, "X-Forwarded-For", add_line, &lines);
        for (size_t i = lines.count; i-- > 0;) {
                size_t len = strlen(lines.text[i]);
                char item[REG_HTTP_CLIENT_BYTES + 16];
                struct in6_addr address;
                while (take_last(lines.text[i], &len, item, sizeof(item))) {
                        if (!hop_address(item, &address) || hops++ == FORWARDED_HOPS_MAX)
                                return;
                        address_text(&address, out);
                        if (!is_trusted(req->server->proxies, &address))
                                return;
                }
        }
}

const char *reg_http_client(const struct reg_http_req *req)
{
        struct reg_http_conn *conn = conn_known(req);
        if (!conn->is_proxy)
                return conn->client;
        if (!conn->forwarded[0])
                forwarded_client(req, conn->forwarded);
        if (!conn->forwarded[0]) /* it says nothing: itself */
                memcpy(conn->forwarded, conn->client, sizeof(conn->forwarded));
        return conn->forwarded;
}

bool reg_http_is_https(const struct reg_http_req *req)
{
        struct lines lines = {0};
        char last[16];
        if (req->server->tls)
                return true;
        if (!conn_known(req)->is_proxy)
                return false;
        reg_http_header_each(req, "X-Forwarded-Proto", add_line, &lines);
        if (lines.count == 0)
                return false;
        const char *line = lines.text[lines.count - 1];
        size_t len = strlen(line);
        return take_last(line, &len, last, sizeof(last)) && strcasecmp(last, "https") == 0;
}
