/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/tls_config.h"

/* The settings own the paths that servers only borrow. */
struct tls_config {
        struct reg_http_tls tls; /* first: what reg_config_area gives */
        char *cert, *key, *client_ca;
};

static int tls_set(void **area, const char *name, const char *key, const char *value,
                   struct cas_err *err)
{
        struct tls_config *c = *area;
        if (name[0])
                return cas_fail(err, CAS_E_INVALID, "the section has no name: %.64s", name);
        if (!c)
                *area = c = cas_xcalloc(1, sizeof(*c));
        int rc;
        if (strcmp(key, "cert") == 0)
                rc = reg_config_text(value, &c->cert, err);
        else if (strcmp(key, "key") == 0)
                rc = reg_config_text(value, &c->key, err);
        else if (strcmp(key, "client_ca") == 0)
                rc = reg_config_text(value, &c->client_ca, err);
        else if (strcmp(key, "client_required") == 0)
                rc = reg_config_switch(value, &c->tls.client_required, err);
        else
                rc = cas_fail(err, CAS_E_NOTFOUND, "no such setting");
        c->tls.cert_path = c->cert;
        c->tls.key_path = c->key;
        c->tls.client_ca_path = c->client_ca;
        return rc;
}

static void tls_release(void *area)
{
        struct tls_config *c = area;
        if (!c)
                return;
        free(c->cert);
        free(c->key);
        free(c->client_ca);
        free(c);
}

const struct reg_config_area reg_tls_area = {.word = "tls", .set = tls_set, .release = tls_release};
