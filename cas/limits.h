/* SPDX-License-Identifier: Apache-2.0 */
/* Named limits of what comes from outside. Each bounds memory or time; going
 * over one is CAS_E_LIMIT. */
#ifndef CAS_LIMITS_H
#define CAS_LIMITS_H

#define CAS_KIB (UINT64_C(1) << 10)
#define CAS_MIB (UINT64_C(1) << 20)
#define CAS_GIB (UINT64_C(1) << 30)

/* OCI documents */
#define CAS_MANIFEST_BYTES_MAX (4 * CAS_MIB)
#define CAS_CONFIG_BYTES_MAX (16 * CAS_MIB)
#define CAS_INDEX_CHILDREN_MAX 10000
#define CAS_INDEX_DEPTH_MAX 8
#define CAS_INDEX_VISITS_MAX 1000 /* nested indexes read to choose one image */
#define CAS_LAYERS_MAX 512
#define CAS_JSON_DEPTH_MAX 64
#define CAS_JSON_VALUES_MAX 500000   /* of one document */
#define CAS_CONFIG_STRINGS_MAX 10000 /* Env, Entrypoint or Cmd of an image config */
#define CAS_REPO_NAME_BYTES_MAX 255
#define CAS_TAG_BYTES_MAX 128

/* layouts and archives */
#define CAS_LAYOUT_INDEX_BYTES_MAX (64 * CAS_MIB)
#define CAS_ARCHIVE_ENTRIES_MAX 200000
#define CAS_SOURCE_IMAGES_MAX 100000
#define CAS_IMPORT_DOCUMENTS_MAX 100000               /* manifests of one import */
#define CAS_IMPORT_DOCUMENT_BYTES_MAX (512 * CAS_MIB) /* theirs, as often as images name them */
#define CAS_IMPORT_BLOBS_MAX 1000000                  /* blobs of one import */

/* layers */
#define CAS_TAR_BYTES_MAX (1024 * CAS_GIB)      /* decoded bytes of one layer */
#define CAS_TAR_RATIO_MAX 2000                  /* decoded ÷ stored, beyond … */
#define CAS_TAR_RATIO_FREE_BYTES (64 * CAS_MIB) /* … so much, which is never a bomb */
#define CAS_TAR_HOLES_FREE_BYTES (16 * CAS_GIB) /* holes that any layer may have */
#define CAS_TAR_ENTRIES_MAX 4000000
#define CAS_LISTING_BYTES_MAX (1 * CAS_GIB)     /* listing of one layer, encoded or in the making */
#define CAS_ZSTD_WINDOW_LOG_MAX 27              /* 128 MiB, what zstd itself decodes by default */
#define CAS_TAR_HEADER_BYTES_MAX (1 * CAS_MIB)  /* PAX or GNU long name records of one entry */
#define CAS_TAR_GLOBAL_BYTES_MAX (16 * CAS_KIB) /* PAX records for all entries */
#define CAS_TAR_SPARSE_MAX 1000000              /* sparse regions of one entry */
#define CAS_PATH_BYTES_MAX 65536
#define CAS_PATH_DEPTH_MAX 2048
#define CAS_NAME_BYTES_MAX 255 /* one component: NAME_MAX */
#define CAS_SYMLINK_BYTES_MAX 4095
#define CAS_XATTR_NAME_BYTES_MAX 255
#define CAS_XATTR_VALUE_BYTES_MAX 65536
#define CAS_XATTRS_MAX 512         /* of one inode */
#define CAS_XATTRS_BYTES_MAX 65536 /* all xattrs of one inode: EROFS's own bound */

/* trees */
#define CAS_TREE_ENTRIES_MAX 50000000 /* names of one merged tree, deleted ones included */
#define CAS_TREE_DEPTH_MAX CAS_PATH_DEPTH_MAX
#define CAS_TREE_LINKS_MAX 255 /* symlinks followed in one path */
#define CAS_TREE_LINK_STEPS_MAX                                                                    \
        (UINT64_C(1) << 26)               /* path components behind symlinks, per layer            \
                                           */
#define CAS_TREE_BYTES_MAX (64 * CAS_GIB) /* one image: inode numbers stay below 2^32 */

/* store */
#define CAS_OBJECT_BYTES_MAX (UINT64_C(1) << 44)
#define CAS_CHUNK_SMALL_BYTES_MAX (256 * CAS_KIB) /* files up to this are one chunk */
#define CAS_CHUNK_BYTES_MAX (512 * CAS_KIB)
#define CAS_BLOCK_BYTES_MAX (4 * CAS_MIB)  /* decoded bytes of one block */
#define CAS_PACK_BYTES_MAX (256 * CAS_MIB) /* a pack is sealed when it has grown past this */

/* uploads and requests */
#define CAS_UPLOAD_BYTES_MAX (256 * CAS_GIB)

#endif
