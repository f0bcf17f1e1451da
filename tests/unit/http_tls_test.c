/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of the HTTP server: certificates that are replaced while connections go
 * on, and those of clients. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <sys/socket.h>

#include "registry/http.h"
#include "tests/support/httpclient.h"

/* A certificate and its key. */
struct pair {
        gnutls_x509_crt_t cert;
        gnutls_x509_privkey_t key;
};

struct fixture {
        char *dir;
        char *cert_path, *key_path, *ca_path;
        struct pair ca, other_ca;
        unsigned serial;
        struct reg_http_server *server;
};

static struct pair make_pair(struct fixture *f, const char *name, const struct pair *issuer,
                             const char *purpose)
{
        struct pair p;
        const unsigned char serial[] = {1, (unsigned char)++f->serial};
        assert_int_equal(gnutls_x509_privkey_init(&p.key), 0);
        assert_int_equal(
                gnutls_x509_privkey_generate(p.key, GNUTLS_PK_ECDSA,
                                             GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
                0);
        assert_int_equal(gnutls_x509_crt_init(&p.cert), 0);
        assert_int_equal(gnutls_x509_crt_set_version(p.cert, 3), 0);
        assert_int_equal(gnutls_x509_crt_set_serial(p.cert, serial, sizeof(serial)), 0);
        assert_int_equal(gnutls_x509_crt_set_activation_time(p.cert, time(NULL) - 100), 0);
        assert_int_equal(gnutls_x509_crt_set_expiration_time(p.cert, time(NULL) + 3600), 0);
        assert_int_equal(gnutls_x509_crt_set_dn_by_oid(p.cert, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                                       (unsigned)strlen(name)),
                         0);
        assert_int_equal(gnutls_x509_crt_set_key(p.cert, p.key), 0);
        if (purpose)
                assert_int_equal(gnutls_x509_crt_set_key_purpose_oid(p.cert, purpose, 0), 0);
        else
                assert_int_equal(gnutls_x509_crt_set_basic_constraints(p.cert, 1, -1), 0);
        const struct pair *by = issuer ? issuer : &p;
        assert_int_equal(gnutls_x509_crt_sign2(p.cert, by->cert, by->key, GNUTLS_DIG_SHA256, 0), 0);
        return p;
}

static void pair_free(struct pair *p)
{
        gnutls_x509_crt_deinit(p->cert);
        gnutls_x509_privkey_deinit(p->key);
}

static void write_file(const char *path, const gnutls_datum_t *text)
{
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, text->data, text->size), (ssize_t)text->size);
}

static void write_cert(const char *path, gnutls_x509_crt_t cert)
{
        gnutls_datum_t text;
        assert_int_equal(gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &text), 0);
        write_file(path, &text);
        gnutls_free(text.data);
}

static void write_key(const char *path, gnutls_x509_privkey_t key)
{
        gnutls_datum_t text;
        assert_int_equal(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &text), 0);
        write_file(path, &text);
        gnutls_free(text.data);
}

/* A new certificate of the server into the files. */
static void write_server(struct fixture *f, const char *name)
{
        struct pair p = make_pair(f, name, &f->ca, GNUTLS_KP_TLS_WWW_SERVER);
        write_cert(f->cert_path, p.cert);
        write_key(f->key_path, p.key);
        pair_free(&p);
}

static void begin(void *arg, struct reg_http_req *req)
{
        (void)arg;
        const char *name = reg_http_client_cert_name(req);
        cas_cleanup_free char *text = cas_xasprintf("%s %s", name ? name : "nobody",
                                                    reg_http_is_https(req) ? "https" : "http");
        reg_http_reply_bytes(req, 200, text, strlen(text));
}

static void start(struct fixture *f, bool ca, bool required)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct reg_http_tls tls = {.cert_path = f->cert_path,
                                         .key_path = f->key_path,
                                         .client_ca_path = ca ? f->ca_path : NULL,
                                         .client_required = required};
        struct reg_http_config config = {.listen = "127.0.0.1:0", .begin = begin, .tls = &tls};
        assert_int_equal(reg_http_start(&config, &f->server, &err), 0);
}

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        f->dir = cas_xstrdup("/tmp/lamina-tls-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        f->cert_path = cas_xasprintf("%s/cert", f->dir);
        f->key_path = cas_xasprintf("%s/key", f->dir);
        f->ca_path = cas_xasprintf("%s/ca", f->dir);
        f->ca = make_pair(f, "authority", NULL, NULL);
        f->other_ca = make_pair(f, "another", NULL, NULL);
        write_server(f, "first");
        write_cert(f->ca_path, f->ca.cert);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        reg_http_stop(f->server, 1000);
        pair_free(&f->ca);
        pair_free(&f->other_ca);
        (void)unlink(f->cert_path);
        (void)unlink(f->key_path);
        (void)unlink(f->ca_path);
        assert_int_equal(rmdir(f->dir), 0);
        free(f->cert_path);
        free(f->key_path);
        free(f->ca_path);
        free(f->dir);
        free(f);
        return 0;
}

/* A client of TLS. */
struct client {
        int fd;
        gnutls_session_t session;
        gnutls_certificate_credentials_t credentials;
        bool open;
};

/* False: it was refused. With TLS 1.3 the client learns so from its first read. */
static bool client_open(struct client *c, const struct fixture *f, const struct pair *own)
{
        c->fd = httpclient_dial(reg_http_port(f->server));
        assert_int_equal(gnutls_init(&c->session, GNUTLS_CLIENT), 0);
        assert_int_equal(gnutls_certificate_allocate_credentials(&c->credentials), 0);
        if (own) {
                gnutls_x509_crt_t cert = own->cert;
                assert_int_equal(
                        gnutls_certificate_set_x509_key(c->credentials, &cert, 1, own->key), 0);
        }
        assert_int_equal(gnutls_set_default_priority(c->session), 0);
        assert_int_equal(gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE, c->credentials),
                         0);
        gnutls_transport_set_int(c->session, c->fd);
        int rc;
        do {
                rc = gnutls_handshake(c->session);
        } while (rc < 0 && !gnutls_error_is_fatal(rc));
        c->open = rc == 0;
        return c->open;
}

static void client_close(struct client *c)
{
        gnutls_deinit(c->session);
        gnutls_certificate_free_credentials(c->credentials);
        (void)close(c->fd);
}

/* The body of an answer, NULL when there is none. */
static char *client_ask(struct client *c)
{
        static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        char text[4096] = "";
        size_t len = 0;
        if (gnutls_record_send(c->session, request, strlen(request)) < 0)
                return NULL;
        for (const char *body = NULL; len < sizeof(text) - 1;) {
                ssize_t n = gnutls_record_recv(c->session, text + len, sizeof(text) - 1 - len);
                if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
                        continue;
                if (n <= 0)
                        return NULL;
                len += (size_t)n;
                text[len] = '\0';
                body = strstr(text, "\r\n\r\n");
                if (body && body[4])
                        return cas_xstrdup(body + 4);
        }
        return NULL;
}

static void assert_asked(struct client *c, const char *expected)
{
        cas_cleanup_free char *body = client_ask(c);
        assert_non_null(body);
        assert_string_equal(body, expected);
}

/* The name in the certificate that the server showed. */
static void assert_server(const struct client *c, const char *expected)
{
        unsigned count = 0;
        const gnutls_datum_t *shown = gnutls_certificate_get_peers(c->session, &count);
        gnutls_x509_crt_t cert;
        char name[64] = "";
        size_t len = sizeof(name);
        assert_true(count >= 1);
        assert_int_equal(gnutls_x509_crt_init(&cert), 0);
        assert_int_equal(gnutls_x509_crt_import(cert, &shown[0], GNUTLS_X509_FMT_DER), 0);
        assert_int_equal(
                gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &len),
                0);
        assert_string_equal(name, expected);
        gnutls_x509_crt_deinit(cert);
}

/* Tests. */

static void reloads_without_dropping(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct client before, after;
        start(f, false, false);
        assert_true(client_open(&before, f, NULL));
        assert_server(&before, "first");
        assert_asked(&before, "nobody https");
        write_server(f, "second");
        assert_int_equal(reg_http_tls_reload(f->server, &err), 0);
        assert_asked(&before, "nobody https");
        assert_true(client_open(&after, f, NULL));
        assert_server(&after, "second");
        assert_asked(&after, "nobody https");
        assert_asked(&before, "nobody https");
        client_close(&before);
        client_close(&after);
}

static void keeps_what_was_good(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct client c;
        start(f, true, false);
        write_key(f->key_path, f->ca.key); /* not that of the certificate */
        assert_int_equal(reg_http_tls_reload(f->server, &err), -CAS_E_INVALID);
        write_file(f->cert_path, &(gnutls_datum_t){(unsigned char *)"nonsense", 8});
        assert_int_equal(reg_http_tls_reload(f->server, &err), -CAS_E_INVALID);
        assert_int_equal(unlink(f->cert_path), 0);
        assert_int_equal(reg_http_tls_reload(f->server, &err), -CAS_E_NOTFOUND);
        assert_true(client_open(&c, f, NULL));
        assert_server(&c, "first");
        client_close(&c);
        /* what does not start says why */
        const struct reg_http_tls missing = {.cert_path = f->cert_path, .key_path = f->key_path};
        const struct reg_http_tls no_ca = {
                .cert_path = f->cert_path, .key_path = f->key_path, .client_required = true};
        struct reg_http_config config = {.listen = "127.0.0.1:0", .begin = begin, .tls = &missing};
        struct reg_http_server *server;
        assert_int_equal(reg_http_start(&config, &server, &err), -CAS_E_NOTFOUND);
        config.tls = &no_ca;
        assert_int_equal(reg_http_start(&config, &server, &err), -CAS_E_INVALID);
}

static void names_clients(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct pair ada = make_pair(f, "ada", &f->ca, GNUTLS_KP_TLS_WWW_CLIENT);
        struct pair eve = make_pair(f, "eve", &f->other_ca, GNUTLS_KP_TLS_WWW_CLIENT);
        struct pair odd = make_pair(f, "odd", &f->ca, GNUTLS_KP_TLS_WWW_SERVER);
        struct pair two = make_pair(f, "a\nb", &f->ca, GNUTLS_KP_TLS_WWW_CLIENT);
        struct client c;
        const struct {
                const struct pair *own;
                const char *answer;
        } cases[] = {{&ada, "ada https"},
                     {NULL, "nobody https"},
                     {&eve, "nobody https"},
                     {&odd, "nobody https"},
                     {&two, "nobody https"}};
        start(f, true, false);
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                assert_true(client_open(&c, f, cases[i].own));
                assert_asked(&c, cases[i].answer);
                assert_asked(&c, cases[i].answer);
                client_close(&c);
        }
        /* the authorities are read again, too */
        struct client ada_before;
        assert_true(client_open(&ada_before, f, &ada));
        assert_asked(&ada_before, "ada https");
        write_cert(f->ca_path, f->other_ca.cert);
        assert_int_equal(reg_http_tls_reload(f->server, &err), 0);
        assert_true(client_open(&c, f, &eve));
        assert_asked(&c, "eve https");
        client_close(&c);
        assert_true(client_open(&c, f, &ada));
        assert_asked(&c, "nobody https");
        client_close(&c);
        assert_asked(&ada_before, "ada https");
        client_close(&ada_before);
        pair_free(&ada);
        pair_free(&eve);
        pair_free(&odd);
        pair_free(&two);
}

static void requires_clients(void **state)
{
        struct fixture *f = *state;
        struct pair ada = make_pair(f, "ada", &f->ca, GNUTLS_KP_TLS_WWW_CLIENT);
        struct pair eve = make_pair(f, "eve", &f->other_ca, GNUTLS_KP_TLS_WWW_CLIENT);
        const struct pair *const bad[] = {NULL, &eve};
        struct client c;
        start(f, true, true);
        assert_true(client_open(&c, f, &ada));
        assert_asked(&c, "ada https");
        client_close(&c);
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                (void)client_open(&c, f, bad[i]);
                cas_cleanup_free char *body = c.open ? client_ask(&c) : NULL;
                assert_null(body);
                client_close(&c);
        }
        pair_free(&ada);
        pair_free(&eve);
}

/* Plain HTTP to a server with TLS is no request. */
static void plain_is_refused(void **state)
{
        struct fixture *f = *state;
        char c;
        start(f, false, false);
        cas_cleanup_fd int fd = httpclient_dial(reg_http_port(f->server));
        httpclient_say(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        while (recv(fd, &c, 1, 0) > 0)
                assert_true(c != 'H');
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(reloads_without_dropping), TEST(keeps_what_was_good), TEST(names_clients),
                TEST(requires_clients),         TEST(plain_is_refused),
        };
        return cmocka_run_group_tests_name("http tls", tests, NULL, NULL);
}
