/* SPDX-License-Identifier: Apache-2.0 */
/* What `lamina fsck` can say. X(NAME, severity, id, meaning). Ids are stable;
 * spec/store.md lists them in this order. */
#ifndef CAS_FSCK_MESSAGES_H
#define CAS_FSCK_MESSAGES_H

#define CAS_FSCK_TABLE(X)                                                                          \
        X(RECORD_MALFORMED, ERROR, "record-malformed", "an index record cannot be read")           \
        X(INDEX_DAMAGED, ERROR, "index-damaged", "a part of the index cannot be read")             \
        X(INDEX_TABLE, ERROR, "index-table", "a table file of the index is damaged")               \
        X(INDEX_LOG, ERROR, "index-log", "a log file of the index is damaged")                     \
        X(FORMAT_DAMAGED, ERROR, "format-damaged", "the file `format` is not what was written")    \
        X(PACK_MISSING, ERROR, "pack-missing", "a pack of the index has no file")                  \
        X(PACK_SHORT, ERROR, "pack-short", "a pack is shorter than the index says")                \
        X(PACK_DAMAGED, ERROR, "pack-damaged", "a record of a pack cannot be read")                \
        X(PACK_SHA256, ERROR, "pack-sha256", "a sealed pack has another digest")                   \
        X(PACK_GARBAGE, WARNING, "pack-garbage", "a pack holds what the index does not know")      \
        X(PACK_UNKNOWN, WARNING, "pack-unknown", "a file among the packs that is none")            \
        X(PACK_TAIL, WARNING, "pack-tail",                                                         \
          "a pack has records behind damage; nobody writes to it")                                 \
        X(PACK_UNREACHABLE, ERROR, "pack-unreachable",                                             \
          "a pack lies on a tier that cannot be reached")                                          \
        X(BLOCK_DAMAGED, ERROR, "block-damaged", "a block does not decode to what it should")      \
        X(CHUNK_DIGEST, ERROR, "chunk-digest", "the bytes of a chunk have another digest")         \
        X(CHUNK_LOCATION, ERROR, "chunk-location", "a chunk is not where the index says")          \
        X(CHUNK_MISSING, ERROR, "chunk-missing", "an object needs a chunk that is not there")      \
        X(CHUNK_UNUSED, WARNING, "chunk-unused", "chunks that no object needs")                    \
        X(OBJECT_SIZE, ERROR, "object-size", "the chunks of an object do not add up to it")        \
        X(OBJECT_DIGEST, ERROR, "object-digest", "an object has another fs-verity digest")         \
        X(OBJECT_MISSING, ERROR, "object-missing", "a layer needs an object that is not there")    \
        X(LAYER_BLOB, ERROR, "layer-blob", "the blob of a decoded layer is not there")             \
        X(LAYER_LISTING, ERROR, "layer-listing", "the listing of a layer cannot be read")          \
        X(LAYER_ELSEWHERE, NOTE, "layer-elsewhere", "a layer has not wholly come")                 \
        X(BLOB_MISSING, ERROR, "blob-missing", "a blob of the index has no file")                  \
        X(BLOB_SIZE, ERROR, "blob-size", "the file of a blob has another size")                    \
        X(BLOB_DIGEST, ERROR, "blob-digest", "the file of a blob has another digest")              \
        X(BLOB_UNKNOWN, WARNING, "blob-unknown", "a file of a blob that the index does not know")  \
        X(BLOB_STRAY, WARNING, "blob-stray", "a file among the blobs that is none")                \
        X(LAYER_TAR, ERROR, "layer-tar", "a layer's blob is not what was decoded")                 \
        X(RECIPE_MISSING, ERROR, "recipe-missing", "a condensed blob has no proved recipe")        \
        X(RECIPE_OBJECT, ERROR, "recipe-object", "a recipe needs an object that is not there")     \
        X(RECIPE_DIGEST, ERROR, "recipe-digest", "what a recipe makes is not the blob")            \
        X(RECIPE_BLOB, WARNING, "recipe-blob", "a recipe of a blob that is not there")             \
        X(COPY_DAMAGED, WARNING, "copy-damaged",                                                   \
          "the copy of a condensed blob is gone or damaged; it is made again")                     \
        X(COPY_UNKNOWN, WARNING, "copy-unknown",                                                   \
          "a copy of a condensed blob that the index does not count")                              \
        X(TREE_MISSING, WARNING, "tree-missing", "a tree's file is gone; it is made again")        \
        X(TREE_DIGEST, ERROR, "tree-digest", "the file of a tree has another size or digest")      \
        X(TREE_UNKNOWN, WARNING, "tree-unknown", "a file among the trees that is none")            \
        X(MANIFEST_BLOB, ERROR, "manifest-blob", "a linked manifest is not there")                 \
        X(MANIFEST_MALFORMED, ERROR, "manifest-malformed", "a linked manifest cannot be read")     \
        X(MANIFEST_REFERENCE, ERROR, "manifest-reference", "a manifest names what is not there")   \
        X(BLOB_LINK, ERROR, "blob-link", "a repository links a blob that is not there")            \
        X(TAG_MANIFEST, ERROR, "tag-manifest", "a tag names a manifest that is not linked")        \
        X(REFERRER_MANIFEST, ERROR, "referrer-manifest", "a referrer is not linked")               \
        X(JOURNAL_DAMAGED, ERROR, "journal-damaged", "the journal cannot be read")                 \
        X(JOURNAL_DIFFERS, ERROR, "journal-differs", "journal and index disagree on a name")       \
        X(REFERENCE_MISSING, ERROR, "reference-missing", "a reference that should be is not")      \
        X(REFERENCE_STALE, WARNING, "reference-stale", "a reference has no parent")

enum cas_fsck_message {
#define X(name, severity, id, meaning) CAS_FSCK_##name,
        CAS_FSCK_TABLE(X)
#undef X
};

#endif
