/* SPDX-License-Identifier: Apache-2.0 */
/* Images: manifests and indexes (OCI image-spec 1.1 and Docker schema 2), their
 * configuration, platform choice, and what makes an image usable. */
#ifndef CAS_IMAGE_H
#define CAS_IMAGE_H

#include "cas/layer.h"
#include "cas/names.h"
#include "cas/publish.h"
#include "cas/tree.h"

#define CAS_MT_OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define CAS_MT_OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define CAS_MT_OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define CAS_MT_OCI_LAYER_GZIP "application/vnd.oci.image.layer.v1.tar+gzip"
#define CAS_MT_OCI_LAYER_TAR "application/vnd.oci.image.layer.v1.tar"
#define CAS_MT_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define CAS_MT_DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define CAS_MT_DOCKER_CONFIG "application/vnd.docker.container.image.v1+json"
#define CAS_MT_DOCKER_LAYER_GZIP "application/vnd.docker.image.rootfs.diff.tar.gzip"
#define CAS_MT_DOCKER_SCHEMA1 "application/vnd.docker.distribution.manifest.v1+" /* prefix */

struct cas_platform {
        char os[32];
        char arch[32];
        char variant[32];
};
/* "linux/arm64/v8". */
int cas_platform_parse(const char *text, struct cas_platform *out,
                       struct cas_err *err) CAS_MUST_CHECK;
void cas_platform_host(struct cas_platform *out);
#define CAS_PLATFORM_TEXT_BYTES 96
/* The same text again; out has CAS_PLATFORM_TEXT_BYTES. Returns out. */
char *cas_platform_text(const struct cas_platform *p, char *out);
/* How well what is made for `have` runs on `want`: 0 not at all, else the more the better. A
 * variant runs what was made for lower ones (arm v7 runs v6); none means v7 for arm, v8 for
 * arm64, v1 for amd64. */
unsigned cas_platform_fit(const struct cas_platform *want, const struct cas_platform *have);

struct cas_descriptor {
        char media_type[256];
        struct cas_digest digest;
        uint64_t size_bytes;
        bool has_platform;
        struct cas_platform platform;
        bool foreign; /* of a non-distributable type: need not be here */
};

enum cas_manifest_kind { CAS_MANIFEST_IMAGE, CAS_MANIFEST_INDEX };

/* A parsed manifest or index. Unknown fields are of no concern: bytes are kept elsewhere. */
struct cas_manifest {
        enum cas_manifest_kind kind;
        char media_type[256];
        char artifact_type[256];
        struct cas_descriptor config;    /* images */
        struct cas_descriptor *children; /* owned: layers of an image, manifests of an index */
        size_t child_count;
        bool has_subject;
        struct cas_descriptor subject;
};
void cas_manifest_release(struct cas_manifest *m);
#define cas_cleanup_manifest __attribute__((cleanup(cas_manifest_release)))
/* Of an image or an index, of either standard. */
bool cas_media_type_is_manifest(const char *media_type);
/* What the standards call a layer; artifacts keep anything in theirs. */
bool cas_media_type_is_layer(const char *media_type);
/* media_type: as it was pushed, or NULL when it must follow from the bytes.
 * Errors: INVALID (JSON, fields, schema 1), LIMIT. */
int cas_manifest_parse(const void *data, size_t len, const char *media_type,
                       struct cas_manifest *out, struct cas_err *err) CAS_MUST_CHECK;
/* Stores a manifest under repo, and under tag when that is not NULL or "", in one publication
 * that also links its blobs to the repository. What it names must be there, with the size it
 * says: blobs in the store or, with linked_only, in this repository (a push must not reach what
 * another repository holds); children of an index in this repository. Subjects and
 * non-distributable layers may be absent, and children when allow_sparse. Layers are decoded
 * later, or by the first use. Durable on return.
 * Errors: as cas_manifest_parse, INVALID (expected, sizes), NOTFOUND (message names the digest
 * that is missing). */
struct cas_manifest_put_options {
        const char *repo;
        const char *tag;
        const char *media_type;
        const struct cas_digest *expected; /* may be NULL */
        bool allow_sparse;
        bool allow_elsewhere; /* layers may be noted as elsewhere (cas/elsewhere.h) */
        bool linked_only;
        const char *const *tags; /* more of them, in the same publication */
        size_t tag_count;
        cas_tag_guard_fn guard; /* cas_publish_guard_tags; may be NULL */
        void *guard_arg;
        bool learned;      /* cas_publish_learned */
        bool allow_absent; /* blobs of an image may come later: they are linked as they do */
};
int cas_manifest_put(struct cas_store *s, const struct cas_manifest_put_options *options,
                     const void *data, size_t len, struct cas_manifest_info *out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Removes a tag, or (tag NULL) a manifest with every tag of it in this repository. Blobs stay
 * linked: a push under way may count on them. Durable on return. guard: cas_publish_guard_tags;
 * may be NULL. Errors: NOTFOUND. */
int cas_manifest_delete(struct cas_store *s, const char *repo, const char *tag,
                        const struct cas_digest *digest, cas_tag_guard_fn guard, void *guard_arg,
                        struct cas_err *err) CAS_MUST_CHECK;

/* The runtime configuration that an image carries. Strings owned; arrays NULL-terminated. */
struct cas_image_config {
        struct cas_platform platform;
        char *user;
        char *working_dir;
        char **env;
        char **entrypoint;
        char **cmd;
        struct cas_digest *diff_ids; /* owned */
        size_t diff_id_count;
};
void cas_image_config_release(struct cas_image_config *c);
#define cas_cleanup_image_config __attribute__((cleanup(cas_image_config_release)))
int cas_image_config_parse(const void *data, size_t len, struct cas_image_config *out,
                           struct cas_err *err) CAS_MUST_CHECK;

/* An image chosen for a platform (an index is descended), with its layers decoded. */
struct cas_image {
        struct cas_ref ref;
        struct cas_manifest_info top;      /* what the reference names */
        struct cas_digest manifest_digest; /* the image manifest that was chosen */
        struct cas_manifest manifest;
        struct cas_image_config config;
        struct cas_layer_record *layers; /* owned; manifest.child_count of them, lowest first */
};
void cas_image_release(struct cas_image *i);
/* Keeps what was opened until the publication is freed, with all that it is made of. Errors:
 * NOTFOUND (it was removed since it was opened). */
int cas_image_keep(struct cas_publish *p, const struct cas_image *image,
                   struct cas_err *err) CAS_MUST_CHECK;
#define cas_cleanup_image __attribute__((cleanup(cas_image_release)))
/* Chooses and reads manifest and config; layers stay NULL. platform NULL: the host's.
 * Errors: NOTFOUND (the message lists the platforms there are), INVALID (an artifact, bad
 * documents), CORRUPT. */
int cas_image_find(struct cas_store *s, const struct cas_ref *ref,
                   const struct cas_platform *platform, struct cas_image *out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* The same, and decodes layers that are not yet. diff_ids of the config must
 * agree with the layers (CORRUPT). */
int cas_image_open(struct cas_store *s, const struct cas_ref *ref,
                   const struct cas_platform *platform, const struct cas_progress *progress,
                   struct cas_image *out, struct cas_err *err) CAS_MUST_CHECK;
/* The image of a manifest that the store has, under whatever name or none: ref is empty. Leases
 * keep such images. Errors: as cas_image_open. */
int cas_image_open_manifest(struct cas_store *s, const struct cas_digest *manifest,
                            const struct cas_progress *progress, struct cas_image *out,
                            struct cas_err *err) CAS_MUST_CHECK;
/* The same two for a mount: layers that are elsewhere (cas/elsewhere.h) count as decoded, and what
 * they lack is brought when it is read. manifest NULL: by ref and platform. */
int cas_image_open_lazy(struct cas_store *s, const struct cas_ref *ref,
                        const struct cas_platform *platform, const struct cas_digest *manifest,
                        const struct cas_progress *progress, struct cas_image *out,
                        struct cas_err *err) CAS_MUST_CHECK;
/* The trees that a mount of the image stacks, topmost first (design: a chain may be cut at
 * the longest prefix that other images stand on). */
#define CAS_IMAGE_TREES_MAX 2
int cas_image_trees(struct cas_store *s, const struct cas_image *image,
                    struct cas_tree_ref out[CAS_IMAGE_TREES_MAX], size_t *out_count,
                    struct cas_err *err) CAS_MUST_CHECK;

#endif
