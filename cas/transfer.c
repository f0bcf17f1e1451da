/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of images outside of the store. */
#include "cas/transfer.h"

static const struct {
        const char *prefix;
        enum cas_transfer_kind kind;
} transfer_kinds[] = {
        {"oci:", CAS_TRANSFER_OCI_LAYOUT},
        {"oci-archive:", CAS_TRANSFER_OCI_ARCHIVE},
        {"docker-archive:", CAS_TRANSFER_DOCKER_ARCHIVE},
};

int cas_transfer_address_parse(const char *text, struct cas_transfer_address *out,
                               struct cas_err *err)
{
        for (size_t i = 0; i < CAS_COUNT(transfer_kinds); i++) {
                size_t len = strlen(transfer_kinds[i].prefix);
                if (strncmp(text, transfer_kinds[i].prefix, len) != 0)
                        continue;
                const char *path = text + len;
                size_t path_len = strcspn(path, ":");
                if (path_len == 0)
                        return cas_fail(err, CAS_E_INVALID, "\"%s\": the path is missing", text);
                const char *tag = path[path_len] ? path + path_len + 1 : "";
                *out = (struct cas_transfer_address){.kind = transfer_kinds[i].kind,
                                                     .path = cas_xstrndup(path, path_len),
                                                     .tag = cas_xstrdup(tag)};
                return 0;
        }
        return cas_fail(err, CAS_E_INVALID,
                        "\"%s\" is not oci:DIR[:TAG], oci-archive:FILE[:TAG] or "
                        "docker-archive:FILE[:NAME:TAG]",
                        text);
}

void cas_transfer_address_release(struct cas_transfer_address *a)
{
        free(a->path);
        free(a->tag);
        *a = (struct cas_transfer_address){0};
}
