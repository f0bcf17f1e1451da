/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests and indexes: JSON of either standard becomes one struct. No state, no I/O. */
#include "cas/manifest_int.h"

static bool type_is(const char *type, const char *want)
{
        return strcmp(type, want) == 0;
}

/* The kind that a media type stands for. */
static int manifest_kind_of(const char *type, enum cas_manifest_kind *out, struct cas_err *err)
{
        if (type_is(type, CAS_MT_OCI_MANIFEST) || type_is(type, CAS_MT_DOCKER_MANIFEST)) {
                *out = CAS_MANIFEST_IMAGE;
                return 0;
        }
        if (type_is(type, CAS_MT_OCI_INDEX) || type_is(type, CAS_MT_DOCKER_LIST)) {
                *out = CAS_MANIFEST_INDEX;
                return 0;
        }
        if (strncmp(type, CAS_MT_DOCKER_SCHEMA1, strlen(CAS_MT_DOCKER_SCHEMA1)) == 0)
                return cas_fail(err, CAS_E_INVALID,
                                "Docker manifests of schema 1 are not supported: push the image "
                                "again with a client of this decade");
        return cas_fail(err, CAS_E_INVALID, "\"%s\" is not a media type of manifests", type);
}

bool cas_media_type_is_manifest(const char *media_type)
{
        return type_is(media_type, CAS_MT_OCI_MANIFEST) || type_is(media_type, CAS_MT_OCI_INDEX) ||
               type_is(media_type, CAS_MT_DOCKER_MANIFEST) ||
               type_is(media_type, CAS_MT_DOCKER_LIST);
}

bool cas_media_type_is_layer(const char *media_type)
{
        static const char oci[] = "application/vnd.oci.image.layer.";
        static const char docker[] = "application/vnd.docker.image.rootfs.";
        return strncmp(media_type, oci, sizeof(oci) - 1) == 0 ||
               strncmp(media_type, docker, sizeof(docker) - 1) == 0;
}

static bool descriptor_is_foreign(const char *type)
{
        static const char oci[] = "application/vnd.oci.image.layer.nondistributable.";
        static const char docker[] = "application/vnd.docker.image.rootfs.foreign.";
        return strncmp(type, oci, sizeof(oci) - 1) == 0 ||
               strncmp(type, docker, sizeof(docker) - 1) == 0;
}

static int platform_from_json(const json_t *j, struct cas_platform *out, struct cas_err *err)
{
        int r = cas_json_copy_in(j, "os", out->os, sizeof(out->os), err);
        if (r == 0)
                r = cas_json_copy_in(j, "architecture", out->arch, sizeof(out->arch), err);
        if (r == 0)
                r = cas_json_copy_in(j, "variant", out->variant, sizeof(out->variant), err);
        return r;
}

int cas_descriptor_from_json(const json_t *j, struct cas_descriptor *out, struct cas_err *err)
{
        if (!json_is_object(j))
                return cas_fail(err, CAS_E_INVALID, "a descriptor must be an object");
        int r = cas_json_copy_in(j, "mediaType", out->media_type, sizeof(out->media_type), err);
        if (r < 0)
                return r;
        if (out->media_type[0] == 0)
                return cas_fail(err, CAS_E_INVALID, "\"mediaType\" of a descriptor is missing");
        const char *digest;
        r = cas_json_string_in(j, "digest", &digest, err);
        if (r < 0)
                return r;
        if (!digest)
                return cas_fail(err, CAS_E_INVALID, "\"digest\" of a descriptor is missing");
        r = cas_digest_parse(digest, &out->digest, err);
        if (r < 0)
                return r;
        r = cas_json_u64_in(j, "size", UINT64_MAX, &out->size_bytes, err);
        if (r < 0)
                return r;
        if (out->size_bytes == UINT64_MAX)
                return cas_fail(err, CAS_E_INVALID, "\"size\" of %s is missing", digest);
        out->foreign = descriptor_is_foreign(out->media_type);
        const json_t *platform;
        r = cas_json_object_in(j, "platform", &platform, err);
        if (r < 0 || !platform)
                return r;
        out->has_platform = true;
        return platform_from_json(platform, &out->platform, err);
}

static int descriptors_from_json(const json_t *array, struct cas_manifest *m, struct cas_err *err)
{
        size_t count = array ? json_array_size(array) : 0;
        if (count > CAS_INDEX_CHILDREN_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a manifest of %zu descriptors, over %d", count,
                                CAS_INDEX_CHILDREN_MAX);
        if (count == 0)
                return 0;
        m->children = calloc(count, sizeof(*m->children));
        if (!m->children)
                return cas_fail(err, CAS_E_NOMEM, "no memory for %zu descriptors", count);
        for (; m->child_count < count; m->child_count++) {
                const json_t *j = json_array_get(array, m->child_count);
                if (cas_descriptor_from_json(j, &m->children[m->child_count], err) < 0)
                        return cas_err_wrap(err, "descriptor %zu", m->child_count);
        }
        return 0;
}

/* The type of a document that does not say it: what its fields make it. */
static int manifest_guess_type(const json_t *j, const char **out, struct cas_err *err)
{
        if (cas_json_has(j, "manifests")) {
                *out = CAS_MT_OCI_INDEX;
                return 0;
        }
        const json_t *config;
        const char *type = NULL;
        int r = cas_json_object_in(j, "config", &config, err);
        if (r == 0 && config)
                r = cas_json_string_in(config, "mediaType", &type, err);
        if (r < 0)
                return r;
        if (!config)
                return cas_fail(err, CAS_E_INVALID,
                                "neither a manifest nor an index: "
                                "no \"config\" and no \"manifests\"");
        *out = type && type_is(type, CAS_MT_DOCKER_CONFIG) ? CAS_MT_DOCKER_MANIFEST
                                                           : CAS_MT_OCI_MANIFEST;
        return 0;
}

/* The type by what was said beside the bytes and in them; the two must agree. */
static int manifest_type(const json_t *j, const char *said, char out[256], struct cas_err *err)
{
        char inside[256];
        int r = cas_json_copy_in(j, "mediaType", inside, sizeof(inside), err);
        if (r < 0)
                return r;
        size_t len = said ? strcspn(said, "; \t") : 0; /* without parameters */
        if (len > 0) {
                if (len >= 256)
                        return cas_fail(err, CAS_E_INVALID, "a media type of %zu bytes", len);
                memcpy(out, said, len);
                out[len] = 0;
                if (inside[0] && !type_is(inside, out))
                        return cas_fail(err, CAS_E_INVALID,
                                        "the media type is \"%s\", but the document says \"%s\"",
                                        out, inside);
                return 0;
        }
        const char *type = inside;
        if (!inside[0]) {
                r = manifest_guess_type(j, &type, err);
                if (r < 0)
                        return r;
        }
        memcpy(out, type, strlen(type) + 1);
        return 0;
}

/* A document that is both a manifest and an index would be one thing to us and another to
 * somebody else. */
static int manifest_refuse_both(const json_t *j, enum cas_manifest_kind kind, struct cas_err *err)
{
        static const char *const of_index[] = {"manifests", "fsLayers"};
        static const char *const of_image[] = {"config", "layers", "fsLayers"};
        const char *const *denied = kind == CAS_MANIFEST_IMAGE ? of_index : of_image;
        size_t count = kind == CAS_MANIFEST_IMAGE ? CAS_COUNT(of_index) : CAS_COUNT(of_image);
        for (size_t i = 0; i < count; i++) {
                if (json_object_get(j, denied[i]))
                        return cas_fail(err, CAS_E_INVALID, "%s with \"%s\"",
                                        kind == CAS_MANIFEST_IMAGE ? "an image manifest"
                                                                   : "an index",
                                        denied[i]);
        }
        return 0;
}

static int manifest_image_fields(const json_t *j, struct cas_manifest *m, struct cas_err *err)
{
        const json_t *config, *layers;
        int r = cas_json_object_in(j, "config", &config, err);
        if (r < 0)
                return r;
        if (!config)
                return cas_fail(err, CAS_E_INVALID, "\"config\" is missing");
        if (cas_descriptor_from_json(config, &m->config, err) < 0)
                return cas_err_wrap(err, "config");
        r = cas_json_array_in(j, "layers", &layers, err);
        if (r < 0)
                return r;
        return descriptors_from_json(layers, m, err);
}

static int manifest_index_fields(const json_t *j, struct cas_manifest *m, struct cas_err *err)
{
        const json_t *manifests;
        int r = cas_json_array_in(j, "manifests", &manifests, err);
        if (r < 0)
                return r;
        if (!json_object_get(j, "manifests"))
                return cas_fail(err, CAS_E_INVALID, "\"manifests\" is missing");
        return descriptors_from_json(manifests, m, err);
}

static int manifest_from_json(const json_t *j, const char *media_type, struct cas_manifest *m,
                              struct cas_err *err)
{
        if (!json_is_object(j))
                return cas_fail(err, CAS_E_INVALID, "a manifest must be an object");
        uint64_t version;
        int r = cas_json_u64_in(j, "schemaVersion", 0, &version, err);
        if (r < 0)
                return r;
        if (version == 1)
                return manifest_kind_of(CAS_MT_DOCKER_SCHEMA1, &m->kind, err);
        if (version != 2)
                return cas_fail(err, CAS_E_INVALID, "\"schemaVersion\" must be 2");
        r = manifest_type(j, media_type, m->media_type, err);
        if (r == 0)
                r = manifest_kind_of(m->media_type, &m->kind, err);
        if (r == 0)
                r = manifest_refuse_both(j, m->kind, err);
        if (r == 0)
                r = cas_json_copy_in(j, "artifactType", m->artifact_type, sizeof(m->artifact_type),
                                     err);
        if (r < 0)
                return r;
        const json_t *subject;
        r = cas_json_object_in(j, "subject", &subject, err);
        if (r < 0)
                return r;
        if (subject) {
                m->has_subject = true;
                if (cas_descriptor_from_json(subject, &m->subject, err) < 0)
                        return cas_err_wrap(err, "subject");
        }
        return m->kind == CAS_MANIFEST_IMAGE ? manifest_image_fields(j, m, err)
                                             : manifest_index_fields(j, m, err);
}

int cas_manifest_parse(const void *data, size_t len, const char *media_type,
                       struct cas_manifest *out, struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        cas_cleanup_manifest struct cas_manifest m = {0};
        if (cas_json_parse(data, len, CAS_MANIFEST_BYTES_MAX, &j, err) < 0 ||
            manifest_from_json(j, media_type, &m, err) < 0)
                return cas_err_wrap(err, "manifest");
        *out = m;
        m = (struct cas_manifest){0};
        return 0;
}

void cas_manifest_release(struct cas_manifest *m)
{
        free(m->children);
        *m = (struct cas_manifest){0};
}
