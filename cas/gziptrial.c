/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/gziptrial_int.h"

#include "cas/deflate/zlibclass.h"
#include "cas/gzipheader.h"
#include "cas/io.h"

#define PLAIN_BYTES_MAX (1 * CAS_MIB) /* that are tried */
/* … of so much deflate: heads of blocks may be hundreds of times longer than what is in them. */
#define DEFLATE_BYTES_MAX (2 * PLAIN_BYTES_MAX)
#define STEP_BYTES (32 * CAS_KIB)
#define CANDIDATES_MAX 1024
#define MATCHES_TELLING 1000 /* so many without a length of 3: there are none */

/* Ids of classes, by family (cas/deflate/encoder.h). */
#define ID_GO 1
#define ID_GO_127 2
#define ID_KLAUSPOST_MIN 16
#define ID_KLAUSPOST_MAX 31
#define ID_KLAUSPOST_USUAL 27 /* 2023 and 2024 */

/* What the beginning of a stream looks like. */
struct looks {
        uint8_t xfl, os;
        uint32_t mtime;
        uint64_t matches;
        bool has_length_3;
        bool has_whole_block; /* the first is not the last: */
        uint64_t block_tokens, block_plain;
        bool is_all_stored;
};

/* Where a class of full blocks is known, or likely, to have been flushed first. */
struct cut {
        uint64_t full_tokens; /* of the class's blocks */
        size_t plain_bytes;   /* 0: nowhere */
        uint64_t bits;
};

struct candidate {
        struct cas_gzip_coder coder;
        unsigned penalty; /* what speaks against it */
};

struct cas_gziptrial {
        const struct cas_wrap_input *in; /* borrowed */
        uint64_t source_at;
        struct cas_buf plain;   /* what the stream begins with, up to the first flush */
        struct cas_buf deflate; /* what it was decoded of; the last byte may be half */
        bool is_whole;          /* that was all of the stream */
        struct looks looks;
        struct cut cuts[2];
        struct candidate candidates[CANDIDATES_MAX];
        size_t candidate_count, candidate_at;
};

void cas_gziptrial_free(struct cas_gziptrial *t)
{
        if (!t)
                return;
        cas_buf_release(&t->plain);
        cas_buf_release(&t->deflate);
        free(t);
}

/* ---- looks ---- */

static int read_blob(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct cas_gziptrial *t = arg;
        *out_len = 0;
        if (cas_io_pread(t->in->io, t->in->fd, buf, len, t->source_at, out_len, "blob", err) < 0)
                return -(int)err->code;
        t->source_at += *out_len;
        return 0;
}

static void look_at_tokens(struct looks *looks, const struct cas_deflate_event *e)
{
        for (size_t i = 0; i < e->token_count; i++) {
                uint32_t token = e->tokens[i];
                if (!(token & CAS_TOKEN_IS_MATCH))
                        continue;
                looks->matches++;
                looks->has_length_3 |= cas_token_length(token) == 3;
        }
}

static void note_cuts(struct cas_gziptrial *t, const struct cas_deflate_block *b, uint64_t tokens,
                      uint64_t bits)
{
        size_t plain = t->plain.len_bytes;
        for (size_t i = 0; i < CAS_COUNT(t->cuts); i++) {
                bool is_cut = plain % CAS_GZIP_PIECE_BYTES == 0 ||
                              (b->type != CAS_DEFLATE_STORED && tokens != t->cuts[i].full_tokens);
                if (is_cut && t->cuts[i].plain_bytes == 0) {
                        t->cuts[i].plain_bytes = plain;
                        t->cuts[i].bits = bits;
                }
        }
}

/* Decodes the beginning. *bits: how much of the stream that is. */
static int look(struct cas_gziptrial *t, struct cas_deflate_parser *p, uint64_t *bits,
                struct cas_err *err)
{
        struct looks *looks = &t->looks;
        struct cas_deflate_event e;
        uint64_t blocks = 0, plain = 0, tokens = 0;
        *bits = 0;
        looks->is_all_stored = true;
        while (t->plain.len_bytes < PLAIN_BYTES_MAX && *bits / 8 < DEFLATE_BYTES_MAX) {
                if (cas_deflate_parser_next(p, &e, err) < 0)
                        return -(int)err->code;
                if (e.kind == CAS_DEFLATE_BLOCK) {
                        plain = tokens = 0;
                        looks->is_all_stored &= e.block->type == CAS_DEFLATE_STORED;
                } else if (e.kind == CAS_DEFLATE_BLOCK_END) {
                        /* An empty block: flushed. */
                        if (plain == 0 && !e.block->is_final)
                                return 0;
                        if (!e.block->is_final)
                                note_cuts(t, e.block, tokens, cas_deflate_parser_bits(p));
                        if (blocks++ == 0 && !e.block->is_final) {
                                looks->has_whole_block = true;
                                looks->block_plain = plain;
                                looks->block_tokens = tokens;
                        }
                } else if (e.kind == CAS_DEFLATE_END) {
                        t->is_whole = true;
                        *bits = cas_deflate_parser_bits(p);
                        return 0;
                }
                look_at_tokens(looks, &e);
                plain += e.plain_bytes;
                tokens += e.token_count;
                cas_buf_append(&t->plain, e.plain, e.plain_bytes);
                if (plain > 0)
                        *bits = cas_deflate_parser_bits(p);
        }
        return 0;
}

/* ---- candidates ---- */

static bool is_go_like(const struct cas_deflate_class *c)
{
        return c->id == ID_GO || c->id == ID_GO_127 ||
               (c->id >= ID_KLAUSPOST_MIN && c->id <= ID_KLAUSPOST_MAX);
}

static bool is_klauspost(const struct cas_deflate_class *c)
{
        return c->id >= ID_KLAUSPOST_MIN && c->id <= ID_KLAUSPOST_MAX;
}

/* Level that the header speaks of; 0: not of any in particular. */
static int header_level(const struct looks *looks)
{
        return looks->xfl == 2 ? 9 : looks->xfl == 4 ? 1 : 0;
}

static unsigned penalty_of(const struct looks *looks, const struct cas_gzip_coder *coder)
{
        bool go_like = is_go_like(coder->class);
        int level = coder->level, spoken = header_level(looks);
        unsigned penalty = 0;
        /* Matches of three bytes are not what Go's kind of encoder looks for. */
        if (go_like ? looks->has_length_3
                    : !looks->has_length_3 && looks->matches >= MATCHES_TELLING)
                penalty += 800;
        if (looks->is_all_stored != (level == 0))
                penalty += 400;
        /* Blocks of so many tokens, or so many bytes. */
        if (looks->has_whole_block && coder->class->id == ID_GO && level > 1 &&
            looks->block_tokens != 16384)
                penalty += 200;
        if (looks->has_whole_block && coder->class->id != ID_GO && go_like &&
            looks->block_tokens == 16384)
                penalty += 200;
        if (spoken ? level != spoken : level == 9 || level == 1)
                penalty += 100;
        if (is_klauspost(coder->class) != (looks->mtime == UINT32_C(0x886e0900)))
                penalty += 50;
        if (go_like != (looks->os == 255))
                penalty += 50;
        int usual = is_klauspost(coder->class) ? 5 : 6;
        return penalty + (unsigned)abs(level - usual);
}

/* How far from what is usual: of klauspost's dates, from the one that most was made with; else the
 * lower id. */
static int distance(const struct cas_deflate_class *c)
{
        return is_klauspost(c) ? abs(2 * (c->id - ID_KLAUSPOST_USUAL) - 1) : 100 + c->id;
}

static int compare_candidates(const void *a, const void *b)
{
        const struct candidate *x = a, *y = b;
        if (x->penalty != y->penalty)
                return x->penalty < y->penalty ? -1 : 1;
        return distance(x->coder.class) - distance(y->coder.class);
}

static void list_candidates(struct cas_gziptrial *t)
{
        for (size_t i = 0; cas_deflate_classes[i]; i++) {
                const struct cas_deflate_class *class = cas_deflate_classes[i];
                for (int level = class->level_min; level <= class->level_max; level++) {
                        /* -1 is another name of the usual level. */
                        if (level == -1)
                                continue;
                        cas_assert(t->candidate_count < CANDIDATES_MAX);
                        struct candidate *c = &t->candidates[t->candidate_count++];
                        c->coder = (struct cas_gzip_coder){class, level};
                        c->penalty = penalty_of(&t->looks, &c->coder);
                }
        }
        qsort(t->candidates, t->candidate_count, sizeof(t->candidates[0]), compare_candidates);
}

int cas_gziptrial_new(const struct cas_wrap_input *in, uint64_t blob_offset, size_t header_bytes,
                      struct cas_gziptrial **out, struct cas_err *err)
{
        cas_cleanup_gziptrial struct cas_gziptrial *t = cas_xcalloc(1, sizeof(*t));
        uint8_t header[CAS_GZIP_HEADER_BYTES_MIN];
        uint64_t bits = 0;
        t->in = in;
        if (cas_io_pread_exact(in->io, in->fd, header, sizeof(header), blob_offset, "blob", err) <
            0)
                return -(int)err->code;
        t->cuts[0].full_tokens = cas_gzip_full_block_tokens(&cas_deflate_zlib);
        t->cuts[1].full_tokens = cas_gzip_full_block_tokens(&cas_deflate_zlib_mem9);
        t->looks.mtime = cas_get_le32(header + 4);
        t->looks.xfl = header[8];
        t->looks.os = header[9];
        t->source_at = blob_offset + header_bytes;
        cas_cleanup_deflate_parser struct cas_deflate_parser *p =
                cas_deflate_parser_new(read_blob, t);
        if (look(t, p, &bits, err) < 0)
                return -(int)err->code;
        size_t bytes = (size_t)(bits + 7) / 8;
        cas_buf_reserve(&t->deflate, bytes);
        if (cas_io_pread_exact(in->io, in->fd, t->deflate.data, bytes, blob_offset + header_bytes,
                               "blob", err) < 0)
                return -(int)err->code;
        t->deflate.len_bytes = bytes;
        list_candidates(t);
        *out = cas_steal(&t);
        return 0;
}

/* ---- trying ---- */

/* Whether what was made is the same as the first `known` bytes, as far as it goes. */
static bool is_same_so_far(const struct cas_gziptrial *t, const struct cas_buf *made, size_t known)
{
        size_t len = cas_min_u64(known, made->len_bytes);
        return len == 0 || memcmp(made->data, t->deflate.data, len) == 0;
}

static const struct cut *cut_of(const struct cas_gziptrial *t,
                                const struct cas_deflate_class *class)
{
        uint64_t full = cas_gzip_full_block_tokens(class);
        for (size_t i = 0; full > 0 && i < CAS_COUNT(t->cuts); i++)
                if (t->cuts[i].full_tokens == full && t->cuts[i].plain_bytes > 0)
                        return &t->cuts[i];
        return NULL;
}

static bool makes_beginning(const struct cas_gziptrial *t, const struct cas_gzip_coder *coder)
{
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                coder->class->create(coder->class, coder->level);
        cas_cleanup_buf struct cas_buf made = CAS_BUF_INIT;
        if (!e) /* the class has no such level */
                return false;
        const struct cut *cut = cut_of(t, coder->class);
        size_t plain = cut ? cut->plain_bytes : t->plain.len_bytes;
        size_t known = t->deflate.len_bytes;
        /* The last byte may be half known. */
        if (cut)
                known = (size_t)(cut->bits / 8);
        else if (!t->is_whole && known > 0)
                known--;
        e->ops->begin(e, NULL, 0);
        for (size_t at = 0; at < plain; at += STEP_BYTES) {
                e->ops->write(e, t->plain.data + at, cas_min_u64(STEP_BYTES, plain - at), &made);
                if (!is_same_so_far(t, &made, known))
                        return false;
        }
        if (cut) {
                e->ops->end(e, CAS_DEFLATE_END_BLOCK, &made);
                return is_same_so_far(t, &made, known);
        }
        if (!t->is_whole)
                return true;
        e->ops->end(e, CAS_DEFLATE_END_FINISH, &made);
        return made.len_bytes == known && is_same_so_far(t, &made, known);
}

bool cas_gziptrial_next(struct cas_gziptrial *t, struct cas_gzip_coder *out)
{
        while (t->candidate_at < t->candidate_count) {
                const struct candidate *c = &t->candidates[t->candidate_at++];
                if (makes_beginning(t, &c->coder)) {
                        *out = c->coder;
                        return true;
                }
        }
        return false;
}
