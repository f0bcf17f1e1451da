/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/lazymount.h"

#include "registry/lazypull.h"
#include "registry/pull.h"
#include "tools/remote_arg.h"
#include "tools/remote_name.h"
#include "tools/remotes.h"

int lazymount_pull_parse(const char *text, enum lazymount_pull *out, struct cas_err *err)
{
        if (!text || strcmp(text, "missing") == 0)
                *out = LAZYMOUNT_MISSING;
        else if (strcmp(text, "always") == 0)
                *out = LAZYMOUNT_ALWAYS;
        else if (strcmp(text, "never") == 0)
                *out = LAZYMOUNT_NEVER;
        else if (strcmp(text, "proved") == 0)
                *out = LAZYMOUNT_PROVED;
        else
                return cas_fail(err, CAS_E_INVALID,
                                "--pull %.50s: missing, always, never or proved", text);
        return 0;
}

/* All of the image, for who cannot give it by its parts. */
static int bring_whole(struct cas_store *s, const struct remote_name *name,
                       struct reg_remote *remote, const char *reference,
                       const struct lazymount_options *options, struct cas_err *err)
{
        struct cas_platform host;
        struct reg_transfer_result result;
        const struct reg_transfer_options transfer = {
                .platform = options->platform ? options->platform : &host,
                .progress = options->progress,
                .proved = options->pull == LAZYMOUNT_PROVED};
        cas_platform_host(&host);
        return reg_pull(s, remote, name->there.ref.repo, reference, &name->here, &transfer, &result,
                        err);
}

static int bring(struct cas_store *s, const struct remote_name *name, struct reg_httpc *http,
                 const struct lazymount_options *options, struct cas_err *err)
{
        reg_cleanup_remote struct reg_remote *remote = NULL;
        const struct reg_remote_config config = {.http = http, .host = name->there.host};
        const struct reg_lazy_options lazy = {.platform = options->platform,
                                              .source = name->source,
                                              .on_demand_only = options->on_demand_only,
                                              .progress = options->progress};
        struct cas_manifest_info info;
        struct cas_err why = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        const char *reference = remote_reference(&name->there, text);
        if (reg_remote_open(&config, &remote, err) < 0)
                return -(int)err->code;
        if (options->pull == LAZYMOUNT_PROVED)
                return bring_whole(s, name, remote, reference, options, err);
        int rc = reg_lazy_pull(s, remote, name->there.ref.repo, reference, &name->here, &lazy,
                               &info, &why);
        if (rc == -CAS_E_UNSUPPORTED)
                return bring_whole(s, name, remote, reference, options, err);
        if (rc < 0)
                *err = why;
        return rc;
}

int lazymount_bring(struct cas_store *s, const char *name, const struct lazymount_options *options,
                    struct cas_ref *out, struct cas_err *err)
{
        cas_cleanup_free struct remote_name *remote = cas_xcalloc(1, sizeof(*remote));
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        if (remote_name_parse(name, remote, err) < 0)
                return -(int)err->code;
        *out = remote->here;
        if (options->pull != LAZYMOUNT_ALWAYS && options->pull != LAZYMOUNT_PROVED) {
                int rc = cas_ref_resolve(s, out, &info, &miss);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_NOTFOUND || options->pull == LAZYMOUNT_NEVER) {
                        *err = miss;
                        return rc;
                }
        }
        struct reg_httpc *http;
        if (remotes_client(options->remotes, false, 0, &http, err) < 0)
                return -(int)err->code;
        int rc = bring(s, remote, http, options, err);
        remotes_client_free(options->remotes, http);
        return rc < 0 ? cas_err_wrap(err, "%s", name) : 0;
}
