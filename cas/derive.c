/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/derive.h"

#include <errno.h>
#include <time.h>

#include "cas/blob.h"
#include "cas/json.h"

#define DATE_NEWEST_S INT64_C(253402300799) /* the end of 9999 */
#define DATE_BYTES 32

/* ---- dates ---- */

/* "2026-01-31T12:00:00Z". */
static int date_text(int64_t when_s, char out[DATE_BYTES], struct cas_err *err)
{
        time_t when = (time_t)when_s;
        struct tm tm;
        if (!gmtime_r(&when, &tm) || strftime(out, DATE_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
                return cas_fail(err, CAS_E_INVALID, "a time that is no date");
        return 0;
}

/* When the base was made, to the second; false where it does not say so that we understand. */
static bool base_date(const json_t *config, int64_t *out_s)
{
        struct tm tm = {0};
        const char *text = json_string_value(json_object_get(config, "created"));
        const char *end = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
        if (!end || text[strlen(text) - 1] != 'Z')
                return false;
        *out_s = (int64_t)timegm(&tm);
        return true;
}

static int choose_date(const struct cas_derive_options *o, const json_t *base, char *out,
                       struct cas_err *err)
{
        const char *epoch = getenv("SOURCE_DATE_EPOCH");
        /* Files of a sandbox may be of any time; a date has four digits of year. */
        int64_t when_s = o->newest_s < 0               ? 0
                         : o->newest_s > DATE_NEWEST_S ? DATE_NEWEST_S
                                                       : o->newest_s;
        int64_t base_s;
        if (epoch && epoch[0]) {
                char *end;
                errno = 0;
                when_s = strtoll(epoch, &end, 10);
                if (*end || errno)
                        return cas_fail(err, CAS_E_INVALID, "SOURCE_DATE_EPOCH: \"%.64s\"", epoch);
        } else if (base && base_date(base, &base_s) && base_s > when_s) {
                when_s = base_s;
        }
        return date_text(when_s, out, err);
}

/* ---- the config ---- */

static size_t key_length(const char *variable)
{
        return strcspn(variable, "=");
}

/* Sets a KEY=VALUE among others: in place of one of the same key, else at the end. */
static void set_variable(json_t *env, const json_t *variable)
{
        const char *text = json_string_value(variable);
        size_t key = key_length(text), i;
        json_t *have;
        json_array_foreach(env, i, have)
        {
                const char *other = json_string_value(have);
                if (other && key_length(other) == key && memcmp(other, text, key) == 0) {
                        json_array_set(env, i, (json_t *)(uintptr_t)variable);
                        return;
                }
        }
        json_array_append(env, (json_t *)(uintptr_t)variable);
}

static int merge_env(json_t *run, const json_t *given, struct cas_err *err)
{
        json_t *env = json_object_get(run, "Env"), *variable;
        size_t i;
        if (!json_is_array(given))
                return cas_fail(err, CAS_E_INVALID, "config: \"Env\" must be an array");
        if (!json_is_array(env)) {
                env = json_array();
                json_object_set_new(run, "Env", env);
        }
        json_array_foreach(given, i, variable)
        {
                if (!json_is_string(variable))
                        return cas_fail(err, CAS_E_INVALID, "\"Env\" must hold strings");
                set_variable(env, variable);
        }
        return 0;
}

/* What is given goes over what the base says. A new entrypoint without a command takes the base's
 * command away: those were words for another program. */
static int merge_run(json_t *run, const json_t *given, struct cas_err *err)
{
        const char *key;
        json_t *value, *labels = json_object_get(run, "Labels");
        if (json_object_get(given, "Entrypoint") && !json_object_get(given, "Cmd"))
                json_object_del(run, "Cmd");
        json_object_foreach((json_t *)(uintptr_t)given, key, value)
        {
                int rc = 0;
                if (strcmp(key, "Env") == 0)
                        rc = merge_env(run, value, err);
                else if (strcmp(key, "Labels") == 0 && json_is_object(labels) &&
                         json_is_object(value))
                        json_object_update(labels, value);
                else
                        json_object_set(run, key, value);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

static int take_config(json_t *config, const char *text, struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        const json_t *given = NULL;
        json_t *run = json_object_get(config, "config");
        if (!json_is_object(run)) {
                run = json_object();
                json_object_set_new(config, "config", run);
        }
        if (!text)
                return 0;
        if (cas_json_parse(text, strlen(text), CAS_CONFIG_BYTES_MAX, &j, err) < 0 ||
            cas_json_object_in(j, "config", &given, err) < 0 ||
            (given && merge_run(run, given, err) < 0))
                return cas_err_wrap(err, "config");
        return 0;
}

/* An entry for each layer that the base has none for, so that the new one stands at its layer. */
static json_t *history_of(json_t *config, size_t layer_count)
{
        json_t *history = json_object_get(config, "history"), *h;
        size_t filled = 0, i;
        if (!json_is_array(history)) {
                history = json_array();
                json_object_set_new(config, "history", history);
        }
        json_array_foreach(history, i, h) filled +=
                !json_is_true(json_object_get(h, "empty_layer"));
        for (; filled < layer_count; filled++)
                json_array_append_new(history, json_object());
        return history;
}

static int add_layer(json_t *config, const struct cas_derive_options *o, const char *date,
                     struct cas_err *err)
{
        char diff_id[CAS_DIGEST_TEXT_BYTES];
        json_t *diff_ids = json_object_get(json_object_get(config, "rootfs"), "diff_ids");
        if (!json_is_array(diff_ids)) {
                diff_ids = json_array();
                json_object_set_new(
                        config, "rootfs",
                        json_pack("{s:s, s:o}", "type", "layers", "diff_ids", diff_ids));
        }
        json_t *history = history_of(config, json_array_size(diff_ids));
        json_t *entry = json_pack("{s:s, s:s, s:s*, s:s*}", "created", date, "created_by",
                                  o->created_by, "author", o->author, "comment", o->comment);
        if (!entry)
                return cas_fail(err, CAS_E_INVALID, "comment or author: not UTF-8 text");
        json_array_append_new(history, entry);
        if (o->layer)
                json_array_append_new(diff_ids,
                                      json_string(cas_digest_text(&o->layer->diff_id, diff_id)));
        else
                json_object_set_new(entry, "empty_layer", json_true());
        if (o->author)
                json_object_set_new(config, "author", json_string(o->author));
        return 0;
}

static json_t *fresh_config(const struct cas_derive_options *o, const char *date)
{
        struct cas_platform p;
        cas_platform_host(&p);
        if (o->platform)
                p = *o->platform;
        json_t *j =
                json_pack("{s:s, s:s, s:s, s:s*, s:{}}", "created", date, "architecture", p.arch,
                          "os", p.os, "variant", p.variant[0] ? p.variant : NULL, "config");
        cas_assert(j != NULL);
        return j;
}

/* The base's configuration; what only says how the base was built is left out. */
static int base_config(struct cas_store *s, const struct cas_image *base, json_t **out,
                       struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_json json_t *j = NULL;
        if (cas_blob_read(s, &base->manifest.config.digest, CAS_CONFIG_BYTES_MAX, &bytes, err) <
                    0 ||
            cas_json_parse(bytes.data, bytes.len_bytes, CAS_CONFIG_BYTES_MAX, &j, err) < 0)
                return cas_err_wrap(err, "config of the base");
        if (!json_is_object(j))
                return cas_fail(err, CAS_E_INVALID, "config of the base: not an object");
        json_object_del(j, "container");
        json_object_del(j, "container_config");
        *out = cas_steal(&j);
        return 0;
}

static int make_config(struct cas_store *s, const struct cas_derive_options *o, struct cas_buf *out,
                       struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        char date[DATE_BYTES];
        if ((o->base && base_config(s, o->base, &j, err) < 0) || choose_date(o, j, date, err) < 0)
                return -(int)err->code;
        if (j)
                json_object_set_new(j, "created", json_string(date));
        else
                j = fresh_config(o, date);
        if (take_config(j, o->config_json, err) < 0 || add_layer(j, o, date, err) < 0)
                return -(int)err->code;
        cas_json_append(j, out);
        return 0;
}

/* ---- the manifest ---- */

static json_t *descriptor(const char *media_type, const struct cas_digest *digest, uint64_t bytes)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        json_t *j = json_pack("{s:s, s:s, s:I}", "mediaType", media_type, "digest",
                              cas_digest_text(digest, text), "size", (json_int_t)bytes);
        cas_assert(j != NULL);
        return j;
}

/* The base's layers as its manifest describes them: annotations and URLs are kept. */
static int base_layers(struct cas_store *s, const struct cas_image *base, json_t **out,
                       struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_json json_t *j = NULL;
        const json_t *layers = NULL;
        if (cas_blob_read(s, &base->manifest_digest, CAS_MANIFEST_BYTES_MAX, &bytes, err) < 0 ||
            cas_json_parse(bytes.data, bytes.len_bytes, CAS_MANIFEST_BYTES_MAX, &j, err) < 0 ||
            cas_json_array_in(j, "layers", &layers, err) < 0)
                return cas_err_wrap(err, "manifest of the base");
        *out = layers ? json_deep_copy(layers) : json_array();
        return 0;
}

static int make_manifest(struct cas_store *s, const struct cas_derive_options *o,
                         const struct cas_digest *config, uint64_t config_bytes, const char **type,
                         struct cas_buf *out, struct cas_err *err)
{
        bool docker = o->base && strcmp(o->base->manifest.media_type, CAS_MT_DOCKER_MANIFEST) == 0;
        cas_cleanup_json json_t *layers = NULL;
        uint64_t layer_bytes;
        if (o->base && base_layers(s, o->base, &layers, err) < 0)
                return -(int)err->code;
        if (!layers)
                layers = json_array();
        if (o->layer) {
                if (cas_blob_stat(s, &o->layer->blob, &layer_bytes, err) < 0)
                        return -(int)err->code;
                json_array_append_new(layers, descriptor(docker ? CAS_MT_DOCKER_LAYER_GZIP
                                                                : CAS_MT_OCI_LAYER_GZIP,
                                                         &o->layer->blob, layer_bytes));
        }
        *type = docker ? CAS_MT_DOCKER_MANIFEST : CAS_MT_OCI_MANIFEST;
        cas_cleanup_json json_t *j = json_pack(
                "{s:i, s:s, s:o, s:O}", "schemaVersion", 2, "mediaType", *type, "config",
                descriptor(docker ? CAS_MT_DOCKER_CONFIG : CAS_MT_OCI_CONFIG, config, config_bytes),
                "layers", layers);
        cas_assert(j != NULL);
        cas_json_append(j, out);
        return 0;
}

/* The publication, which is the caller's, keeps it. */
static int publish_config(struct cas_store *s, const struct cas_buf *config,
                          struct cas_publish **out, struct cas_digest *digest, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (cas_publish_begin(s, &p, err) < 0 ||
            cas_publish_blob(p, config->data, config->len_bytes, NULL, digest, err) < 0 ||
            cas_publish_commit(p, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&p);
        return 0;
}

int cas_image_derive(struct cas_store *s, const struct cas_ref *ref,
                     const struct cas_derive_options *options, struct cas_manifest_info *out,
                     struct cas_err *err)
{
        cas_assert(options->base || options->layer);
        cas_cleanup_buf struct cas_buf config = CAS_BUF_INIT, manifest = CAS_BUF_INIT;
        cas_cleanup_publish struct cas_publish *keep = NULL;
        struct cas_digest digest;
        const char *type = NULL;
        if (ref->digest.alg != CAS_DIGEST_NONE)
                return cas_fail(err, CAS_E_INVALID,
                                "an image is made under NAME[:TAG], without a "
                                "digest");
        if (make_config(s, options, &config, err) < 0 ||
            publish_config(s, &config, &keep, &digest, err) < 0 ||
            make_manifest(s, options, &digest, config.len_bytes, &type, &manifest, err) < 0)
                return -(int)err->code;
        struct cas_manifest_put_options put = {
                .repo = ref->repo, .tag = ref->tag, .media_type = type};
        return cas_manifest_put(s, &put, manifest.data, manifest.len_bytes, out, err);
}
