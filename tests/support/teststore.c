/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/teststore.h"

#include "tests/support/scratch.h"

/* Says why and ends the test program. */
#define must(call, err)                                                                            \
        do {                                                                                       \
                if ((call) < 0) {                                                                  \
                        (void)fprintf(stderr, "%s: %s\n", #call, (err)->msg);                      \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)

int teststore_open(struct teststore *t, struct cas_err *err)
{
        const struct cas_store_config config = {.path = t->path, .io = t->io, .threads = 2};
        return cas_store_open(&config, &t->store, err);
}

void teststore_close(struct teststore *t)
{
        cas_store_close(cas_steal(&t->store));
}

void teststore_reopen(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        teststore_close(t);
        must(teststore_open(t, &err), &err);
}

int teststore_setup(void **state)
{
        struct cas_err err = CAS_ERR_INIT;
        struct teststore *t = cas_xcalloc(1, sizeof(*t));
        t->dir = scratch_new();
        t->path = cas_xasprintf("%s/store", t->dir);
        must(teststore_open(t, &err), &err);
        *state = t;
        return 0;
}

int teststore_teardown(void **state)
{
        struct teststore *t = *state;
        teststore_close(t);
        scratch_free(t->dir);
        free(t->path);
        free(t);
        return 0;
}

struct cas_digest test_digest(const char *text)
{
        struct cas_digest d;
        cas_digest_of(CAS_DIGEST_SHA256, text, strlen(text), &d);
        return d;
}

struct cas_digest test_put_blob(struct cas_store *s, const char *repo, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_digest d;
        must(cas_publish_begin(s, &p, &err), &err);
        must(cas_publish_blob(p, text, strlen(text), NULL, &d, &err), &err);
        if (repo)
                must(cas_publish_blob_link(p, repo, &d, &err), &err);
        must(cas_publish_commit(p, &err), &err);
        return d;
}

struct cas_digest test_put_manifest(struct cas_store *s, const char *repo, const char *tag,
                                    const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_digest d;
        must(cas_publish_begin(s, &p, &err), &err);
        must(cas_publish_blob(p, text, strlen(text), NULL, &d, &err), &err);
        must(cas_publish_manifest_link(p, repo, &d, "application/test", strlen(text), &err), &err);
        if (tag)
                must(cas_publish_tag(p, repo, tag, &d, &err), &err);
        must(cas_publish_commit(p, &err), &err);
        return d;
}

bool test_has_blob(struct cas_store *s, const struct cas_digest *d)
{
        struct cas_err err = CAS_ERR_INIT;
        return cas_blob_stat(s, d, NULL, &err) == 0;
}
