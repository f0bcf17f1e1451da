/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/repair_source.h"

#include "cas/log.h"
#include "registry/registry.h"
#include "registry/remote.h"
#include "tools/remote_name.h"
#include "tools/remotes.h"

#define JOBS 1

/* "host_5000/team/app" is what HOST:5000 calls "team/app". */
static int from_name(const struct repair_source *source, const char *repo,
                     const struct cas_digest *blob, struct cas_publish *p, struct cas_err *err)
{
        const char *slash = strchr(repo, '/');
        if (!remote_name_is(repo) && !(slash && memchr(repo, '_', (size_t)(slash - repo))))
                return cas_fail(err, CAS_E_NOTFOUND, "%s is not called after a registry", repo);
        cas_cleanup_free char *host = cas_xstrndup(repo, (size_t)(slash - repo));
        char *port = strrchr(host, '_');
        if (port)
                *port = ':';
        struct reg_httpc *http = NULL;
        reg_cleanup_remote struct reg_remote *remote = NULL;
        int rc = remotes_client(source->remotes, false, JOBS, &http, err);
        if (rc < 0)
                return rc;
        const struct reg_remote_config config = {.http = http, .host = host, .impatient = true};
        rc = reg_remote_open(&config, &remote, err);
        if (rc == 0)
                rc = reg_blob_take(remote, slash + 1, blob, p, err);
        reg_remote_close(cas_steal(&remote));
        remotes_client_free(source->remotes, http);
        return rc;
}

int repair_source_fetch(void *arg, struct cas_publish *p, const struct cas_digest *blob,
                        const char *const *repos, size_t repo_count, struct cas_err *err)
{
        const struct repair_source *source = arg;
        int rc = cas_fail(err, CAS_E_NOTFOUND, "no registry to ask");
        for (size_t i = 0; i < repo_count; i++) {
                struct cas_err why = CAS_ERR_INIT;
                rc = -CAS_E_NOTFOUND;
                if (source->registry)
                        rc = reg_blob_from_upstream(source->registry, repos[i], blob, p, &why);
                if (rc == -CAS_E_NOTFOUND)
                        rc = from_name(source, repos[i], blob, p, &why);
                if (rc == 0)
                        return 0;
                cas_log(CAS_LOG_WARN, "repair", "repository=%s error=\"%s\"", repos[i], why.msg);
        }
        return cas_fail(err, CAS_E_NOTFOUND, "no registry gave it");
}
