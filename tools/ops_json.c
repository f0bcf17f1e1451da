/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/ops_json.h"

#include "cas/condense.h"

#include <stdio.h>
#include <sys/random.h>

#include "tools/ops.h"

int op_arg_ref(const json_t *args, const char *key, struct cas_ref *out, struct cas_err *err)
{
        const char *text;
        if (op_arg_string(args, key, &text, err) < 0)
                return -(int)err->code;
        return cas_ref_parse(text, out, err);
}

int op_arg_platform(const json_t *args, struct cas_platform *out, bool *out_given,
                    struct cas_err *err)
{
        const char *text;
        if (op_arg_string_opt(args, "platform", &text, err) < 0)
                return -(int)err->code;
        *out_given = text != NULL;
        return text ? cas_platform_parse(text, out, err) : 0;
}

int op_client_path(const json_t *args, const char *path, char **out, struct cas_err *err)
{
        if (path[0] != '/')
                return cas_fail(err, CAS_E_INVALID, "%s is not an absolute path", path);
        int pid = 0;
        const char *mounts = NULL;
        if (json_unpack((json_t *)(uintptr_t)args, "{s:{s:i, s:s}}", "client", "pid", &pid,
                        "mountNamespace", &mounts) != 0) {
                *out = cas_xstrdup(path); /* called in this process */
                return 0;
        }
        char link[64], ours[64] = "", theirs[64] = "";
        snprintf(link, sizeof(link), "/proc/%d/ns/mnt", pid);
        if (readlink("/proc/self/ns/mnt", ours, sizeof(ours) - 1) < 0 ||
            strcmp(ours, mounts) == 0) {
                *out = cas_xstrdup(path);
                return 0;
        }
        if (readlink(link, theirs, sizeof(theirs) - 1) < 0 || strcmp(theirs, mounts) != 0)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "%s: the owner of the store cannot see the files of this process "
                                "(another PID namespace)",
                                path);
        *out = cas_xasprintf("/proc/%d/root%s", pid, path);
        return 0;
}

int op_arg_path(const json_t *args, const char *key, char **out, struct cas_err *err)
{
        const char *path;
        if (op_arg_string(args, key, &path, err) < 0)
                return -(int)err->code;
        return op_client_path(args, path, out, err);
}

int op_arg_address(const json_t *args, const char *key, struct cas_transfer_address *out,
                   struct cas_err *err)
{
        const char *text;
        if (op_arg_string(args, key, &text, err) < 0)
                return -(int)err->code;
        op_cleanup_address struct cas_transfer_address address = {0};
        char *path;
        if (cas_transfer_address_parse(text, &address, err) < 0 ||
            op_client_path(args, address.path, &path, err) < 0)
                return -(int)err->code;
        free(address.path);
        address.path = path;
        *out = address;
        address = (struct cas_transfer_address){0};
        return 0;
}

char *op_ref_text(const struct cas_ref *ref)
{
        if (ref->tag[0])
                return cas_xasprintf("%s:%s", ref->repo, ref->tag);
        char digest[CAS_DIGEST_TEXT_BYTES];
        return cas_xasprintf("%s@%s", ref->repo, cas_digest_text(&ref->digest, digest));
}

void op_lease_id_new(char *out, size_t out_bytes)
{
        uint8_t random[16];
        cas_assert(getrandom(random, sizeof(random), 0) == (ssize_t)sizeof(random));
        int at = snprintf(out, out_bytes, "mount:");
        for (size_t i = 0; i < sizeof(random); i++)
                at += snprintf(out + at, out_bytes - (size_t)at, "%02x", random[i]);
}

json_t *op_text_json(const char *text)
{
        json_t *v = json_string(text);
        if (v)
                return v;
        cas_cleanup_free char *copy = cas_xstrdup(text);
        for (char *p = copy; *p; p++) {
                if ((unsigned char)*p >= 0x80)
                        *p = '?';
        }
        return json_string(copy);
}

json_t *op_manifest_json(const char *repo, const char *tag, const struct cas_manifest_info *m)
{
        char digest[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&m->digest, digest);
        cas_cleanup_free char *name =
                tag[0] ? cas_xasprintf("%s:%s", repo, tag) : cas_xasprintf("%s@%s", repo, digest);
        json_t *v = json_pack("{s:s, s:s, s:s, s:o, s:I}", "name", name, "repository", repo,
                              "digest", digest, "mediaType", op_text_json(m->media_type), "size",
                              (json_int_t)m->size_bytes);
        cas_assert(v != NULL);
        if (tag[0])
                json_object_set_new(v, "tag", json_string(tag));
        return v;
}

json_t *op_recipe_json(struct cas_store *s, const struct cas_recipe_record *rec)
{
        uint64_t wrap_bytes = 0;
        struct cas_err ignored = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        json_t *j = json_pack("{s:s, s:I, s:b}", "digest", cas_digest_text(&rec->blob, text),
                              "size", (json_int_t)rec->blob_bytes, "condensed", rec->is_proved);
        if (rec->text[0])
                json_object_set_new(j, "class", op_text_json(rec->text));
        if (rec->reason[0])
                json_object_set_new(j, "reason", op_text_json(rec->reason));
        if (rec->is_proved) {
                json_object_set_new(j, "recipeBytes", json_integer((json_int_t)rec->recipe_bytes));
                if (cas_recipe_wrap_bytes(s, rec, &wrap_bytes, &ignored) == 0)
                        json_object_set_new(j, "wrapBytes", json_integer((json_int_t)wrap_bytes));
                json_object_set_new(j, "correctionsBytes",
                                    json_integer((json_int_t)rec->corrections_bytes));
        }
        return j;
}
