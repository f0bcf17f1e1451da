/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: an endpoint, a region and a bucket become an origin and a path. */
#include "tiering/s3_int.h"

#include <ctype.h>

#define HOST_BYTES_MAX 253
#define BUCKET_BYTES_MIN 3
#define BUCKET_BYTES_MAX 63

static int check_bucket(const char *bucket, struct cas_err *err)
{
        size_t len = bucket ? strlen(bucket) : 0;
        bool well = len >= BUCKET_BYTES_MIN && len <= BUCKET_BYTES_MAX && bucket[0] != '.' &&
                    bucket[0] != '-' && !strstr(bucket, "..");
        for (size_t i = 0; well && i < len; i++)
                well = isalnum((unsigned char)bucket[i]) || strchr("-._", bucket[i]);
        if (!well)
                return cas_fail(err, CAS_E_INVALID, "S3: \"%.80s\" is no bucket's name",
                                bucket ? bucket : "");
        return 0;
}

static int check_region(const char *region, struct cas_err *err)
{
        size_t len = strlen(region);
        bool well = len > 0 && len < 64;
        for (size_t i = 0; well && i < len; i++)
                well = isalnum((unsigned char)region[i]) || region[i] == '-';
        if (!well)
                return cas_fail(err, CAS_E_INVALID, "S3: \"%.80s\" is no region", region);
        return 0;
}

static bool is_port(const char *text, const char *scheme_port, char *out, size_t size)
{
        size_t len = strspn(text, "0123456789");
        unsigned long port = strtoul(text, NULL, 10);
        if (len == 0 || len > 5 || text[len] || port == 0 || port > 65535)
                return false;
        (void)snprintf(out, size, ":%lu", port);
        if (strcmp(out + 1, scheme_port) == 0)
                out[0] = '\0';
        return true;
}

struct endpoint {
        bool tls, by_number;
        char host[HOST_BYTES_MAX + 1], port[8]; /* ":PORT", or "" */
};

static int fail_endpoint(const char *text, struct cas_err *err)
{
        return cas_fail(err, CAS_E_INVALID,
                        "S3: endpoint \"%.200s\" is not of the form https://HOST[:PORT]", text);
}

static int parse_host(const char *text, size_t len, struct endpoint *out)
{
        bool bracketed = len > 2 && text[0] == '[' && text[len - 1] == ']';
        if (len == 0 || len > HOST_BYTES_MAX)
                return -1;
        out->by_number = true;
        for (size_t i = 0; i < len; i++) {
                unsigned char c = (unsigned char)tolower((unsigned char)text[i]);
                bool inner = bracketed && (c == ':' || ((i == 0 || i == len - 1) && !isalnum(c)));
                if (!inner && !isalnum(c) && !strchr("-._", c))
                        return -1;
                if (!bracketed && !isdigit(c) && c != '.')
                        out->by_number = false;
                out->host[i] = (char)c;
        }
        out->host[len] = '\0';
        return 0;
}

static int parse_endpoint(const char *text, struct endpoint *out, struct cas_err *err)
{
        *out = (struct endpoint){0};
        out->tls = strncasecmp(text, "https://", 8) == 0;
        if (!out->tls && strncasecmp(text, "http://", 7) != 0)
                return fail_endpoint(text, err);
        const char *host = text + (out->tls ? 8 : 7);
        size_t len = strlen(host);
        if (len > 0 && host[len - 1] == '/')
                len--;
        size_t host_len = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/");
        if (host_len > len || parse_host(host, host_len, out) < 0)
                return fail_endpoint(text, err);
        if (host_len == len)
                return 0;
        cas_cleanup_free char *port = cas_xstrndup(host + host_len + 1, len - host_len - 1);
        if (host[host_len] != ':' ||
            !is_port(port, out->tls ? "443" : "80", out->port, sizeof(out->port)))
                return fail_endpoint(text, err);
        return 0;
}

int s3_place_init(const struct s3_config *config, struct s3_place *out, struct cas_err *err)
{
        const char *region = config->region ? config->region : "us-east-1";
        if (check_bucket(config->bucket, err) < 0 || check_region(region, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *text =
                config->endpoint ? cas_xstrdup(config->endpoint)
                                 : cas_xasprintf("https://s3.%s.amazonaws.com", region);
        struct endpoint e;
        if (parse_endpoint(text, &e, err) < 0)
                return -(int)err->code;
        if (!config->path_style &&
            (e.by_number || strchr(config->bucket, '_') || (e.tls && strchr(config->bucket, '.'))))
                return cas_fail(
                        err, CAS_E_INVALID,
                        "S3: bucket %s cannot be a part of the host's name at %s: set style "
                        "= path",
                        config->bucket, e.host);
        *out = (struct s3_place){.tls = e.tls};
        out->host = config->path_style ? cas_xasprintf("%s%s", e.host, e.port)
                                       : cas_xasprintf("%s.%s%s", config->bucket, e.host, e.port);
        for (char *c = out->host; *c; c++)
                *c = (char)tolower((unsigned char)*c);
        out->origin = cas_xasprintf("%s://%s", e.tls ? "https" : "http", out->host);
        out->base_path =
                config->path_style ? cas_xasprintf("/%s", config->bucket) : cas_xstrdup("");
        return 0;
}

void s3_place_release(struct s3_place *p)
{
        free(p->origin);
        free(p->host);
        free(p->base_path);
        *p = (struct s3_place){0};
}
