/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of the HTTP server: certificate, key and trusted authorities from files
 * that are read again while connections go on.
 *
 * The library gives its callbacks no argument, so each server has a slot with
 * functions of its own. What a handshake needs of the files it copies, or holds
 * counted: files that are replaced go with the last handshake that uses them. */
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "cas/io.h"
#include "registry/http_int.h"

#define TLS_SERVERS_MAX 4
#define TLS_FILE_BYTES_MAX (4 * 1024 * 1024)
#define TLS_CHAIN_MAX 16
#define TLS_NAME_BYTES_MAX 255

/* What was read. Immutable. */
struct tls_files {
        _Atomic unsigned refs;
        unsigned chain_count;
        gnutls_x509_crt_t *chain; /* gnutls_malloc */
        gnutls_x509_privkey_t key;
        gnutls_x509_trust_list_t trust; /* NULL: clients are not asked */
        bool client_required;
};

struct reg_tls {
        unsigned slot;
        char *cert_path, *key_path, *client_ca_path;
        bool client_required;
        struct cas_mutex mutex; /* guards files */
        struct tls_files *files;
};

static struct cas_mutex slots_mutex = CAS_MUTEX_INIT("http tls slots");
/* A slot is emptied once its server has ended, and so has its last handshake. */
static struct reg_tls *slots[TLS_SERVERS_MAX];

static void files_unref(struct tls_files *f)
{
        if (!f || atomic_fetch_sub(&f->refs, 1) != 1)
                return;
        for (unsigned i = 0; i < f->chain_count; i++)
                gnutls_x509_crt_deinit(f->chain[i]);
        gnutls_free(f->chain);
        gnutls_x509_privkey_deinit(f->key);
        if (f->trust)
                gnutls_x509_trust_list_deinit(f->trust, 1);
        free(f);
}
CAS_DEFINE_CLEANUP(cleanup_files, struct tls_files *, files_unref);
#define cleanup_files __attribute__((cleanup(cleanup_files)))

static struct tls_files *files_get(struct reg_tls *tls)
{
        cas_mutex_lock(&tls->mutex);
        struct tls_files *f = tls->files;
        atomic_fetch_add(&f->refs, 1);
        cas_mutex_unlock(&tls->mutex);
        return f;
}

/* Reading */

static int read_pem(const char *path, struct cas_buf *out, gnutls_datum_t *datum,
                    struct cas_err *err)
{
        int rc = cas_io_read_file(cas_io_posix(), AT_FDCWD, path, TLS_FILE_BYTES_MAX, out, err);
        if (rc < 0)
                return cas_err_wrap(err, "%s", path);
        *datum = (gnutls_datum_t){.data = out->data, .size = (unsigned)out->len_bytes};
        return 0;
}

static int fail_tls(struct cas_err *err, int code, const char *path, const char *what)
{
        return cas_fail(err, CAS_E_INVALID, "%s: %s: %s", path, what, gnutls_strerror(code));
}

static int read_chain(const char *path, struct tls_files *f, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        gnutls_datum_t datum;
        int rc = read_pem(path, &text, &datum, err);
        if (rc < 0)
                return rc;
        int code = gnutls_x509_crt_list_import2(&f->chain, &f->chain_count, &datum,
                                                GNUTLS_X509_FMT_PEM, GNUTLS_X509_CRT_LIST_SORT);
        if (code < 0)
                return fail_tls(err, code, path, "no chain of certificates");
        if (f->chain_count > TLS_CHAIN_MAX)
                return cas_fail(err, CAS_E_INVALID, "%s: more than %d certificates", path,
                                TLS_CHAIN_MAX);
        return 0;
}

static int read_key(const char *path, struct tls_files *f, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        gnutls_datum_t datum;
        int rc = read_pem(path, &text, &datum, err);
        if (rc < 0)
                return rc;
        int code = gnutls_x509_privkey_import2(f->key, &datum, GNUTLS_X509_FMT_PEM, NULL, 0);
        explicit_bzero(text.data, text.len_bytes);
        return code < 0 ? fail_tls(err, code, path, "no private key") : 0;
}

static int read_trust(const char *path, struct tls_files *f, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        gnutls_datum_t datum;
        int rc = read_pem(path, &text, &datum, err);
        if (rc < 0)
                return rc;
        int code = gnutls_x509_trust_list_init(&f->trust, 0);
        cas_assert(code == 0);
        code = gnutls_x509_trust_list_add_trust_mem(f->trust, &datum, NULL, GNUTLS_X509_FMT_PEM, 0,
                                                    0);
        if (code < 0)
                return fail_tls(err, code, path, "no certificates of authorities");
        return code > 0 ? 0 : cas_fail(err, CAS_E_INVALID, "%s: no certificate in it", path);
}

static bool same_key(const struct tls_files *f)
{
        unsigned char of_cert[64], of_key[64];
        size_t cert_len = sizeof(of_cert), key_len = sizeof(of_key);
        return gnutls_x509_crt_get_key_id(f->chain[0], GNUTLS_KEYID_USE_SHA256, of_cert,
                                          &cert_len) == 0 &&
               gnutls_x509_privkey_get_key_id(f->key, GNUTLS_KEYID_USE_SHA256, of_key, &key_len) ==
                       0 &&
               cert_len == key_len && memcmp(of_cert, of_key, key_len) == 0;
}

static int files_read(const struct reg_tls *tls, struct tls_files **out, struct cas_err *err)
{
        cleanup_files struct tls_files *f = cas_xcalloc(1, sizeof(*f));
        atomic_init(&f->refs, 1);
        int code = gnutls_x509_privkey_init(&f->key);
        cas_assert(code == 0);
        f->client_required = tls->client_required;
        int rc = read_chain(tls->cert_path, f, err);
        if (rc == 0)
                rc = read_key(tls->key_path, f, err);
        if (rc == 0 && !same_key(f))
                rc = cas_fail(err, CAS_E_INVALID, "%s is not the key of %s", tls->key_path,
                              tls->cert_path);
        if (rc == 0 && tls->client_ca_path)
                rc = read_trust(tls->client_ca_path, f, err);
        if (rc == 0)
                *out = cas_steal(&f);
        return rc;
}

/* Handshakes, on event threads */

/* Copies of the chain, for one session. */
static gnutls_pcert_st *copy_chain(const struct tls_files *f)
{
        gnutls_pcert_st *copy = gnutls_calloc(f->chain_count, sizeof(*copy));
        for (unsigned i = 0; copy && i < f->chain_count; i++) {
                if (gnutls_pcert_import_x509(&copy[i], f->chain[i], 0) < 0) {
                        while (i-- > 0)
                                gnutls_pcert_deinit(&copy[i]);
                        gnutls_free(copy);
                        return NULL;
                }
        }
        return copy;
}

static gnutls_privkey_t copy_key(const struct tls_files *f)
{
        gnutls_privkey_t copy;
        if (gnutls_privkey_init(&copy) < 0)
                return NULL;
        if (gnutls_privkey_import_x509(copy, f->key, GNUTLS_PRIVKEY_IMPORT_COPY) == 0)
                return copy;
        gnutls_privkey_deinit(copy);
        return NULL;
}

/* Whether an authority that is trusted has signed what the client has shown. */
static bool is_trusted(const struct tls_files *f, gnutls_session_t session,
                       gnutls_x509_crt_t *out_first)
{
        gnutls_x509_crt_t certs[TLS_CHAIN_MAX];
        unsigned count = 0, ready = 0, status = 0;
        const gnutls_datum_t *peers = gnutls_certificate_get_peers(session, &count);
        bool trusted = false;
        if (!f->trust || !peers || count == 0 || count > TLS_CHAIN_MAX)
                return false;
        while (ready < count && gnutls_x509_crt_init(&certs[ready]) == 0) {
                ready++;
                if (gnutls_x509_crt_import(certs[ready - 1], &peers[ready - 1],
                                           GNUTLS_X509_FMT_DER) < 0)
                        break;
                if (ready == count)
                        trusted = true; /* all could be read */
        }
        static const char purpose[] = GNUTLS_KP_TLS_WWW_CLIENT;
        gnutls_typed_vdata_st wanted = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                        .data = (unsigned char *)(uintptr_t)purpose};
        trusted = trusted &&
                  gnutls_x509_trust_list_verify_crt2(f->trust, certs, count, &wanted, 1, 0, &status,
                                                     NULL) == 0 &&
                  status == 0;
        for (unsigned i = 0; i < ready; i++) {
                if (i == 0 && trusted && out_first)
                        *out_first = certs[0];
                else
                        gnutls_x509_crt_deinit(certs[i]);
        }
        return trusted;
}

/* Who must show a certificate must show one that is trusted. */
static int verify(unsigned slot, gnutls_session_t session)
{
        cleanup_files struct tls_files *f = files_get(slots[slot]);
        return !f->client_required || is_trusted(f, session, NULL) ? 0 : GNUTLS_E_CERTIFICATE_ERROR;
}

static int retrieve(unsigned slot, gnutls_session_t session,
                    gnutls_certificate_verify_function *verify_fn, gnutls_pcert_st **certs,
                    unsigned *certs_length, gnutls_privkey_t *key, unsigned *flags)
{
        cleanup_files struct tls_files *f = files_get(slots[slot]);
        if (f->trust) {
                gnutls_certificate_server_set_request(
                        session, f->client_required ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_REQUEST);
                gnutls_session_set_verify_function(session, verify_fn);
                /* names of authorities would be those of the library's fixed list: none */
                gnutls_certificate_send_x509_rdn_sequence(session, 1);
        }
        gnutls_pcert_st *chain = copy_chain(f);
        gnutls_privkey_t copy = chain ? copy_key(f) : NULL;
        if (!copy) {
                for (unsigned i = 0; chain && i < f->chain_count; i++)
                        gnutls_pcert_deinit(&chain[i]);
                gnutls_free(chain);
                return -1;
        }
        *certs = chain;
        *certs_length = f->chain_count;
        *key = copy;
        *flags = GNUTLS_CERT_RETR_DEINIT_ALL;
        return 0;
}

#define SLOT(n)                                                                                    \
        static int verify_##n(gnutls_session_t session)                                            \
        {                                                                                          \
                return verify(n, session);                                                         \
        }                                                                                          \
        static int retrieve_##n(                                                                   \
                gnutls_session_t session, const struct gnutls_cert_retr_st *info CAS_UNUSED,       \
                gnutls_pcert_st **certs, unsigned *certs_length, gnutls_ocsp_data_st **ocsp,       \
                unsigned *ocsp_length, gnutls_privkey_t *key, unsigned *flags)                     \
        {                                                                                          \
                *ocsp = NULL;                                                                      \
                *ocsp_length = 0;                                                                  \
                return retrieve(n, session, verify_##n, certs, certs_length, key, flags);          \
        }
SLOT(0)
SLOT(1)
SLOT(2)
SLOT(3)
static gnutls_certificate_retrieve_function3 *const retrieves[TLS_SERVERS_MAX] = {
        retrieve_0, retrieve_1, retrieve_2, retrieve_3};

void *reg_tls_retrieve(const struct reg_tls *tls)
{
        gnutls_certificate_retrieve_function3 *fn = retrieves[tls->slot];
        void *out;
        _Static_assert(sizeof(out) == sizeof(fn), "functions are pointers");
        memcpy(&out, &fn, sizeof(out));
        return out;
}

/* Start, end, reload */

static int take_slot(struct reg_tls *tls, struct cas_err *err)
{
        cas_mutex_lock(&slots_mutex);
        while (tls->slot < TLS_SERVERS_MAX && slots[tls->slot])
                tls->slot++;
        if (tls->slot < TLS_SERVERS_MAX)
                slots[tls->slot] = tls;
        cas_mutex_unlock(&slots_mutex);
        return tls->slot < TLS_SERVERS_MAX
                       ? 0
                       : cas_fail(err, CAS_E_LIMIT, "more than %d servers with TLS",
                                  TLS_SERVERS_MAX);
}

void reg_tls_free(struct reg_tls *tls)
{
        if (!tls)
                return;
        cas_mutex_lock(&slots_mutex);
        if (tls->slot < TLS_SERVERS_MAX && slots[tls->slot] == tls)
                slots[tls->slot] = NULL;
        cas_mutex_unlock(&slots_mutex);
        files_unref(tls->files);
        free(tls->cert_path);
        free(tls->key_path);
        free(tls->client_ca_path);
        cas_mutex_release(&tls->mutex);
        free(tls);
}

int reg_tls_new(const struct reg_http_tls *config, struct reg_tls **out, struct cas_err *err)
{
        if (!config->cert_path || !config->key_path)
                return cas_fail(err, CAS_E_INVALID, "TLS needs a certificate and its key");
        if (config->client_required && !config->client_ca_path)
                return cas_fail(err, CAS_E_INVALID,
                                "certificates of clients need authorities that sign them");
        struct reg_tls *tls = cas_xcalloc(1, sizeof(*tls));
        cas_mutex_init(&tls->mutex, "http tls");
        tls->cert_path = cas_xstrdup(config->cert_path);
        tls->key_path = cas_xstrdup(config->key_path);
        tls->client_ca_path = config->client_ca_path ? cas_xstrdup(config->client_ca_path) : NULL;
        tls->client_required = config->client_required;
        int rc = files_read(tls, &tls->files, err);
        if (rc == 0)
                rc = take_slot(tls, err);
        if (rc < 0)
                reg_tls_free(tls);
        else
                *out = tls;
        return rc;
}

int reg_http_tls_reload(struct reg_http_server *server, struct cas_err *err)
{
        struct reg_tls *tls = server->tls;
        struct tls_files *fresh = NULL;
        if (!tls)
                return 0;
        int rc = files_read(tls, &fresh, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&tls->mutex);
        struct tls_files *former = tls->files;
        tls->files = fresh;
        cas_mutex_unlock(&tls->mutex);
        files_unref(former);
        return 0;
}

/* Names */

/* The common name, when it is one line of text. */
static char *common_name(gnutls_x509_crt_t cert)
{
        char name[TLS_NAME_BYTES_MAX + 1];
        size_t len = sizeof(name);
        if (gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &len) < 0)
                return NULL;
        for (size_t i = 0; i < len; i++) {
                if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
                        return NULL;
        }
        return len > 0 ? strndup(name, len) : NULL;
}

const char *reg_http_client_cert_name(const struct reg_http_req *req)
{
        struct reg_http_conn *conn = reg_http_conn(req);
        gnutls_x509_crt_t cert;
        if (!req->server->tls || conn->cert_known)
                return conn->cert_name;
        cleanup_files struct tls_files *f = files_get(req->server->tls);
        gnutls_session_t session =
                MHD_get_connection_info(req->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION)
                        ->tls_session;
        conn->cert_known = true;
        if (is_trusted(f, session, &cert)) {
                conn->cert_name = common_name(cert);
                gnutls_x509_crt_deinit(cert);
        }
        return conn->cert_name;
}
