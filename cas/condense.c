/* SPDX-License-Identifier: Apache-2.0 */
/* Condensing one blob (spec/condense.md has the order). The blob is pinned from before the first
 * look at it until the end, and with it the layer that is read; a recipe is published when it was
 * proved, and a reason when there is none. */
#include "cas/condense.h"

#include <errno.h>
#include <stdio.h>

#include "cas/blobcache_int.h"
#include "cas/codec.h"
#include "cas/commit_int.h"
#include "cas/layer.h"
#include "cas/log.h"
#include "cas/once.h"
#include "cas/pins_int.h"
#include "cas/regen_int.h"
#include "cas/store_int.h"

/* Blobs below this cost more in records than they take. */
#define BLOB_BYTES_MIN 4096
/* What a recipe costs beside its object: records in packs and index. */
#define RECORDS_BYTES 512
#define ESTIMATE_BYTES (1 * CAS_MIB)
#define ESTIMATE_LEVEL 3

struct condensing {
        struct cas_store *s;
        struct cas_pins *pins;
        const struct cas_condense_options *options;
        const struct cas_progress *progress;
        struct cas_recipe_record rec;
        struct cas_layer_record layer;
        struct cas_publish *p;
        struct cas_wrap_input in;
        uint64_t read_offset; /* of the tar's source */
        struct cas_recipe_writer w;
};

static void refuse(struct condensing *c, const char *why)
{
        (void)snprintf(c->rec.reason, sizeof(c->rec.reason), "%.*s", (int)sizeof(c->rec.reason) - 1,
                       why);
}

/* Errors that say something of the blob make it stay verbatim; others are told. */
static int refuse_for(struct condensing *c, const struct cas_err *why, struct cas_err *err)
{
        switch (why->code) {
        case CAS_E_CORRUPT:
        case CAS_E_INVALID:
        case CAS_E_LIMIT:
        case CAS_E_UNSUPPORTED:
                refuse(c, why->msg);
                return 0;
        default:
                *err = *why;
                return -(int)why->code;
        }
}

/* ---- the recipe ---- */

/* How the blob was made of its tar. */
static int analyse_wrap(struct condensing *c, struct cas_err *err)
{
        struct cas_wrap_report report = {0};
        enum cas_wrap_kind kind = CAS_WRAP_PLAIN;
        struct cas_err why = CAS_ERR_INIT;
        int rc = 0;
        switch ((enum cas_compression)c->layer.compression) {
        case CAS_COMPRESSION_NONE:
                (void)snprintf(report.text, sizeof(report.text), "plain tar");
                c->w.head.tar_bytes = c->layer.tar_bytes;
                rc = cas_plain_analyse(&c->w, &why);
                break;
        case CAS_COMPRESSION_GZIP:
                rc = cas_gzip_analyse(&c->in, &c->w, &kind, &report, &why);
                break;
        case CAS_COMPRESSION_ZSTD:
                rc = cas_zstd_analyse(&c->in, c->p, &c->w, &kind, &report, &why);
                break;
        }
        if (rc < 0)
                return refuse_for(c, &why, err);
        c->w.head.wrap = kind;
        c->rec.wrap = (uint8_t)kind;
        c->rec.corrections_bytes = report.corrections_bytes;
        memcpy(c->rec.text, report.text, sizeof(c->rec.text));
        refuse(c, report.reason);
        return 0;
}

static int read_blob(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct condensing *c = arg;
        int rc = cas_io_pread(c->in.io, c->in.fd, buf, len, c->read_offset, out_len, "blob", err);
        if (rc == 0)
                c->read_offset += *out_len;
        return rc;
}

static int read_tar(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        return cas_decompress_read(arg, buf, len, out_len, err);
}

/* How the tar is made of file objects. */
static int analyse_tar(struct condensing *c, struct cas_err *err)
{
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        struct cas_tarrecipe_stats stats;
        c->read_offset = 0;
        int rc = cas_decompress_open(read_blob, c, &d, err);
        return rc < 0 ? rc
                      : cas_tarrecipe_make(c->s, &c->layer.listing, read_tar, d, &c->w, &stats,
                                           err);
}

/* ---- whether it is worth it ---- */

/* Length of the recipe object. */
static int recipe_length(struct condensing *c, uint64_t *out, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        int rc = cas_recipe_open_writer(&c->w, &r, err);
        if (rc < 0)
                return rc;
        *out = CAS_RECIPE_HEAD_BYTES;
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++)
                *out += cas_recipe_head(r)->section_bytes[i];
        return 0;
}

/* What a section takes in packs, about. */
static int estimate_section(struct cas_spool *section, struct cas_compressor *z, uint64_t *out,
                            struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(ESTIMATE_BYTES);
        cas_cleanup_free uint8_t *frame = cas_xmalloc(ESTIMATE_BYTES);
        uint64_t bytes = cas_spool_bytes(section);
        for (uint64_t at = 0; at < bytes;) {
                size_t n = cas_min_u64(ESTIMATE_BYTES, bytes - at);
                int rc = cas_spool_read(section, at, piece, n, err);
                if (rc < 0)
                        return rc;
                size_t stored = cas_compressor_run(z, piece, n, frame, n - 1);
                *out += stored > 0 ? stored : n;
                at += n;
        }
        return 0;
}

static int check_worth(struct condensing *c, struct cas_err *err)
{
        uint64_t stored = RECORDS_BYTES;
        int rc = recipe_length(c, &c->rec.recipe_bytes, err);
        if (rc < 0 || c->rec.recipe_bytes + stored < c->rec.blob_bytes / 2)
                return rc;
        cas_cleanup_compressor struct cas_compressor *z =
                cas_compressor_new(CAS_CODEC_ZSTD, ESTIMATE_LEVEL);
        for (unsigned i = 0; rc == 0 && i < CAS_RECIPE_SECTION_COUNT; i++)
                rc = estimate_section(c->w.sections[i], z, &stored, err);
        if (rc == 0 && stored >= c->rec.blob_bytes)
                refuse(c, "a recipe takes more than the blob");
        return rc;
}

/* ---- making, proving, publishing ---- */

/* Fills the writer, and c->rec.reason where the blob has to stay as it is. */
static int make_recipe(struct condensing *c, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        uint32_t dropped_marks;
        c->w.head.blob_bytes = c->in.blob_bytes;
        int rc = analyse_wrap(c, err);
        if (rc < 0 || c->rec.reason[0])
                return rc;
        if (cas_wrap_needs_tar(c->w.head.wrap))
                rc = analyse_tar(c, &why);
        if (rc < 0)
                return refuse_for(c, &why, err);
        rc = check_worth(c, err);
        if (rc < 0 || c->rec.reason[0])
                return rc;
        rc = cas_regen_prove(&c->w, &c->rec.blob, &c->in, c->options->threads, c->progress,
                             &dropped_marks, &why);
        if (rc < 0)
                return refuse_for(c, &why, err);
        return dropped_marks > 0 ? recipe_length(c, &c->rec.recipe_bytes, err) : 0;
}

/* The recipe as an object that nobody relies on yet, or why there is none. */
static int publish_recipe(struct condensing *c, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *opened = NULL;
        int rc = 0;
        if (c->rec.reason[0]) {
                c->rec.recipe = (struct cas_hash){0};
                c->rec.recipe_bytes = c->rec.corrections_bytes = 0;
        } else {
                rc = cas_recipe_writer_publish(&c->w, c->p, &c->rec.recipe, err);
                if (rc == 0)
                        rc = cas_publish_drain(c->p, err);
                if (rc == 0)
                        rc = cas_recipe_open_writer(&c->w, &opened, err);
        }
        if (rc == 0)
                rc = cas_publish_recipe(c->p, &c->rec, opened, err);
        return rc < 0 ? rc : cas_publish_commit(c->p, err);
}

/* From now on the copy may go. */
static int publish_proof(struct condensing *c, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        c->rec.is_proved = true;
        int rc = cas_publish_begin(c->s, &p, err);
        if (rc == 0)
                rc = cas_publish_recipe(p, &c->rec, NULL, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static int skip_bytes(void *arg CAS_UNUSED, const void *data CAS_UNUSED, size_t len CAS_UNUSED,
                      struct cas_err *err CAS_UNUSED)
{
        return 0;
}

/* What was proved is what is stored. */
static int read_back(struct condensing *c, struct cas_err *err)
{
        return cas_object_each(c->s, &c->rec.recipe, skip_bytes, NULL, err);
}

/* Two publications: what the first stores is read back before the second says that it is proved.
 * The first pins it until then. */
static int condense_file(struct condensing *c, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_fd int fd = -1;
        int rc = cas_publish_begin(c->s, &p, err);
        if (rc == 0 && !c->rec.reason[0]) {
                rc = cas_blob_open(c->s, &c->rec.blob, &fd, &c->in.blob_bytes, err);
                c->in.fd = fd;
                c->p = p;
                if (rc == 0)
                        rc = make_recipe(c, err);
        }
        c->p = p;
        if (rc == 0)
                rc = publish_recipe(c, err);
        if (rc < 0 || c->rec.reason[0])
                return rc;
        rc = read_back(c, err);
        return rc < 0 ? rc : publish_proof(c, err);
}

/* ---- what is there already ---- */

/* A recipe that somebody doubted and no file: it is all there is. Or one that is said to be proved,
 * of a blob that was brought again: it was not relied on for a while, so it is proved once more. */
static int prove_again(struct condensing *c, struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        cas_cleanup_free uint8_t *piece = cas_xmalloc(CAS_MIB);
        size_t n = 1;
        cas_pin_object(c->pins, &c->rec.recipe);
        int rc =
                cas_regen_open(c->s, &c->rec.blob, &c->rec.recipe, 0, c->options->threads, &g, err);
        while (rc == 0 && n > 0)
                rc = cas_regen_read(g, piece, CAS_MIB, &n, err);
        if (rc < 0)
                return rc;
        return publish_proof(c, err);
}

/* Decodes the layer; what is none stays verbatim. */
static int decode_layer(struct condensing *c, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_layer_ensure(c->s, &c->rec.blob, c->progress, &c->layer, &why);
        return rc < 0 ? refuse_for(c, &why, err) : 0;
}

static int start_anew(struct condensing *c, uint64_t blob_bytes, struct cas_err *err)
{
        c->rec = (struct cas_recipe_record){
                .blob = c->rec.blob, .analysis = CAS_CONDENSE_ANALYSIS, .blob_bytes = blob_bytes};
        c->in = (struct cas_wrap_input){.io = c->s->io, .fd = -1};
        int rc = 0;
        if (blob_bytes < BLOB_BYTES_MIN)
                refuse(c, "too small to be worth a recipe");
        else
                rc = decode_layer(c, err);
        if (rc < 0)
                return rc;
        cas_recipe_writer_init(&c->w, c->s);
        c->w.pins = c->pins;
        rc = condense_file(c, err);
        cas_recipe_writer_release(&c->w);
        return rc;
}

static int condense(void *arg, void *result, struct cas_err *err)
{
        struct condensing *c = arg;
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(c->s);
        struct cas_blob_record blob;
        struct cas_err miss = CAS_ERR_INIT;
        const struct cas_digest digest = c->rec.blob;
        c->pins = pins;
        cas_pin_blob(pins, &digest);
        int rc = cas_blob_record_get(c->s, &digest, &blob, err);
        if (rc < 0)
                return rc;
        rc = cas_recipe_stat(c->s, &digest, &c->rec, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        bool known = rc == 0, has_object = known && !cas_hash_is_zero(&c->rec.recipe);
        c->rec.blob = digest;
        bool again = blob.copy == CAS_BLOB_VERBATIM && c->rec.is_proved;
        if (has_object && (again || (blob.copy == CAS_BLOB_CONDENSED && !c->rec.is_proved)))
                rc = prove_again(c, err);
        else if (!known || (has_object && !c->rec.is_proved) ||
                 (!has_object && (c->options->again || c->rec.analysis < CAS_CONDENSE_ANALYSIS)))
                rc = start_anew(c, blob.size_bytes, err);
        else
                rc = 0;
        if (again && (rc == -CAS_E_CORRUPT || rc == -CAS_E_NOTFOUND)) {
                cas_log(CAS_LOG_WARN, "condense", "recipe=damaged error=\"%s\"", err->msg);
                *err = (struct cas_err)CAS_ERR_INIT;
                rc = start_anew(c, blob.size_bytes, err);
        }
        if (rc == 0)
                memcpy(result, &c->rec, sizeof(c->rec));
        return rc;
}

int cas_condense_blob(struct cas_store *s, const struct cas_digest *blob,
                      const struct cas_condense_options *options,
                      const struct cas_progress *progress, struct cas_recipe_record *out,
                      struct cas_err *err)
{
        static struct cas_once once = CAS_ONCE_INIT("condense.once");
        struct condensing c = {
                .s = s, .options = options, .progress = progress, .rec = {.blob = *blob}};
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = cas_once(&once, s, blob, condense, &c, out, sizeof(*out), err);
        if (rc < 0)
                return cas_err_wrap(err, "condense %s", cas_digest_text(blob, text));
        if (!out->is_proved || options->keep_verbatim)
                return 0;
        return cas_blob_cache_shrink(s, s->blob_cache_bytes, NULL, err);
}
