/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/check_cdn.h"

#include <fcntl.h>
#include <stdio.h>

#include "cas/io.h"
#include "registry/cachecheck.h"
#include "tools/ops_json.h"

#define PASSWORD_BYTES_MAX 4096

/* Without the newline at its end. */
static int read_password(const char *path, struct cas_buf *out, struct cas_err *err)
{
        int rc = cas_io_read_file(cas_io_posix(), AT_FDCWD, path, PASSWORD_BYTES_MAX, out, err);
        while (rc == 0 && out->len_bytes > 0 && strchr("\r\n", out->data[out->len_bytes - 1]))
                out->data[--out->len_bytes] = '\0';
        return rc;
}

/* For people: a line each, and what to do below it. */
static void tell_text(void *arg, const struct reg_finding *f)
{
        (void)arg;
        printf("%-8s %-16s %s\n", reg_finding_kind_text(f->kind), f->check, f->what);
        if (f->advice[0])
                printf("%-8s %-16s -> %s\n", "", "", f->advice);
        (void)fflush(stdout);
}

static void tell_json(void *arg, const struct reg_finding *f)
{
        json_t *value =
                json_pack("{s:s,s:s,s:s,s:s}", "check", f->check, "result",
                          reg_finding_kind_text(f->kind), "what", f->what, "advice", f->advice);
        if (!value) /* an answer that is not UTF-8 is part of the text */
                value = json_pack("{s:s,s:s,s:s,s:s}", "check", f->check, "result",
                                  reg_finding_kind_text(f->kind), "what", "", "advice", f->advice);
        json_array_append_new(arg, value);
}

static int finish(const struct cli *cli, json_t *findings, unsigned wrong)
{
        if (cli->json) {
                op_cleanup_json json_t *result =
                        json_pack("{s:i,s:O}", "wrong", (int)wrong, "findings", findings);
                int rc = cli_print_json(result);
                return rc != CLI_OK ? rc : wrong ? CLI_FAILED : CLI_OK;
        }
        if (wrong)
                printf("%u wrong\n", wrong);
        else
                printf("nothing wrong\n");
        int rc = cli_finish();
        return rc != CLI_OK ? rc : wrong ? CLI_FAILED : CLI_OK;
}

int check_cdn_run(const struct cli *cli, const struct check_cdn_args *args)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf password = CAS_BUF_INIT;
        op_cleanup_json json_t *findings = json_array();
        struct reg_cachecheck_config config = {.url = args->url,
                                               .repo = args->repo,
                                               .user = args->user,
                                               .insecure = args->insecure};
        unsigned wrong = 0;
        if (args->upload_size && !cli_bytes_parse(args->upload_size, &config.upload_bytes))
                return cli_usage_error(cli, "--upload-size: a size such as 128M, not %s",
                                       args->upload_size);
        if (args->password_file && !args->user)
                return cli_usage_error(cli, "--password-file is of --user");
        int rc = args->password_file ? read_password(args->password_file, &password, &err) : 0;
        config.password = cas_buf_str(&password);
        if (rc == 0)
                rc = reg_cachecheck_run(&config, cli->json ? tell_json : tell_text, findings,
                                        &wrong, &err);
        return rc < 0 ? cli_report(args->url, &err) : finish(cli, findings, wrong);
}
