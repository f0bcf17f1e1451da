/* SPDX-License-Identifier: Apache-2.0 */
/* Lanes: each is an encoder that might be how the stream goes on. There is one, but for the
 * beginning of what follows a point, which is where the stream was flushed: there one lane goes on
 * with the encoder that came there, and others begin anew. They are fed the same bytes, and drop
 * out when what they make differs from the blob. */
#include "cas/gzipreplay_int.h"

#include <isa-l/crc.h>

#include "cas/deflate/zlibclass.h"
#include "cas/io.h"

#define VIEW_BYTES (64 * CAS_KIB)
#define FEED_BYTES (64 * CAS_KIB)
#define UNDECIDED_BYTES_MAX (1 * CAS_MIB) /* so long may several lanes go on side by side */
#define TIES_MAX 4                        /* so often several fit, before one is chosen for good */
#define PIECE_BYTES_MIN (32 * CAS_KIB)    /* pieces that are shorter are not regular */
#define POINT_BLOCKS_MAX 64               /* empty blocks in a row */

/* Fresh without a dictionary is what zlib makes of a full flush, too. */
enum choice { CHOICE_GO_ON, CHOICE_FRESH, CHOICE_FRESH_16K, CHOICE_FRESH_32K, CHOICE_COUNT };
static const uint32_t choice_dictionary[CHOICE_COUNT] = {0, 0, 16384, 32768};

struct lane {
        struct cas_deflate_encoder *encoder; /* owned; NULL: not made yet */
        bool is_alive;
        enum choice choice;
        uint32_t dictionary_bytes;
        uint64_t run_tar, run_blob; /* where its run began, in tar and blob */
        uint64_t blob_at;           /* what it made is the blob's up to here */
        struct cas_buf out;
        uint8_t *view; /* of the blob, VIEW_BYTES: what is compared with */
        uint64_t view_at;
        size_t view_bytes;
};

/* A point in the making: what was seen since the last block that had content. */
struct point {
        bool is_there;
        unsigned bits; /* of the last byte, at the end of that block */
        unsigned count;
        uint8_t types[POINT_BLOCKS_MAX]; /* of the empty blocks behind it */
        uint64_t end_bits;               /* where they end in the stream */
};

struct cas_gzipreplay {
        const struct cas_wrap_input *in; /* borrowed */
        struct cas_deflate_parser *parser;
        uint64_t source_at;  /* in the blob, of the parser's source */
        uint64_t work_bytes; /* fed to encoders */

        /* of the member: */
        struct cas_gzip_coder coder;
        enum cas_gzip_framing framing;
        struct cas_gzip_member *member;
        uint64_t member_tar, member_blob; /* where its content and its stream begin */
        uint64_t tar_at;
        uint64_t spacing, *last_mark_at;
        uint8_t history[CAS_GZIP_DICTIONARY_BYTES_MAX]; /* content before tar_at … */
        size_t history_bytes;                           /* … as much as there is */
        uint64_t piece_bytes;                           /* expected between points; 0: unknown */

        struct lane lanes[CHOICE_COUNT];
        struct lane *main; /* the one that is settled on; NULL: several */
        unsigned tried;    /* choices since the last point, as bits */
        unsigned viable;   /* choices that fitted wherever they were tried */
        unsigned ties;     /* points where several did */
        bool is_regular;   /* all points were at multiples of CAS_GZIP_PIECE_BYTES */

        uint64_t part_tar;     /* where the present part's content begins */
        uint64_t block_plain;  /* of the present block */
        uint64_t block_tokens; /* likewise */
        struct point point;
};

void cas_gzip_member_release(struct cas_gzip_member *m)
{
        free(m->parts);
        free(m->marks);
        *m = (struct cas_gzip_member){0};
}

uint64_t cas_gzip_full_block_tokens(const struct cas_deflate_class *class)
{
        if (class == &cas_deflate_zlib)
                return 16383;
        return class == &cas_deflate_zlib_mem9 ? 32767 : 0;
}

struct cas_gzipreplay *cas_gzipreplay_new(const struct cas_wrap_input *in)
{
        struct cas_gzipreplay *g = cas_xcalloc(1, sizeof(*g));
        g->in = in;
        cas_gzipreplay_seek(g, 0);
        return g;
}

void cas_gzipreplay_free(struct cas_gzipreplay *g)
{
        if (!g)
                return;
        cas_deflate_parser_free(g->parser);
        for (unsigned i = 0; i < CHOICE_COUNT; i++) {
                cas_deflate_encoder_free(g->lanes[i].encoder);
                cas_buf_release(&g->lanes[i].out);
                free(g->lanes[i].view);
        }
        free(g);
}

uint64_t cas_gzipreplay_work_bytes(const struct cas_gzipreplay *g)
{
        return g->work_bytes;
}

/* ---- the blob ---- */

static int read_blob(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct cas_gzipreplay *g = arg;
        *out_len = 0;
        if (cas_io_pread(g->in->io, g->in->fd, buf, len, g->source_at, out_len, "blob", err) < 0)
                return -(int)err->code;
        g->source_at += *out_len;
        return 0;
}

void cas_gzipreplay_seek(struct cas_gzipreplay *g, uint64_t blob_offset)
{
        cas_deflate_parser_free(g->parser);
        g->source_at = blob_offset;
        g->parser = cas_deflate_parser_new(read_blob, g);
}

uint64_t cas_gzipreplay_offset(const struct cas_gzipreplay *g)
{
        const uint8_t *data;
        size_t len;
        cas_deflate_parser_rest(g->parser, &data, &len);
        return g->source_at - len;
}

int cas_gzipreplay_peek(struct cas_gzipreplay *g, size_t want, const uint8_t **data, size_t *len,
                        struct cas_err *err)
{
        if (cas_deflate_parser_fill(g->parser, want, err) < 0)
                return -(int)err->code;
        cas_deflate_parser_rest(g->parser, data, len);
        return 0;
}

void cas_gzipreplay_skip(struct cas_gzipreplay *g, size_t skip)
{
        cas_deflate_parser_restart(g->parser, skip);
}

/* ---- lanes ---- */

/* Compares what the lane made with the blob; it is out when that differs. */
static int check_lane(struct cas_gzipreplay *g, struct lane *l, struct cas_err *err)
{
        for (size_t at = 0; at < l->out.len_bytes && l->is_alive;) {
                if (l->blob_at < l->view_at || l->blob_at >= l->view_at + l->view_bytes) {
                        if (!l->view)
                                l->view = cas_xmalloc(VIEW_BYTES);
                        l->view_at = l->blob_at;
                        if (cas_io_pread(g->in->io, g->in->fd, l->view, VIEW_BYTES, l->view_at,
                                         &l->view_bytes, "blob", err) < 0)
                                return -(int)err->code;
                }
                size_t skip = (size_t)(l->blob_at - l->view_at);
                size_t n = cas_min_u64(l->out.len_bytes - at, l->view_bytes - skip);
                if (n == 0 || memcmp(l->out.data + at, l->view + skip, n) != 0)
                        l->is_alive = false;
                at += n;
                l->blob_at += n;
        }
        cas_buf_clear(&l->out);
        return 0;
}

static void begin_lane(struct cas_gzipreplay *g, struct lane *l, enum choice choice,
                       uint64_t blob_at)
{
        struct cas_deflate_encoder *e = l->encoder;
        if (!e || e->class != g->coder.class || e->level != g->coder.level) {
                cas_deflate_encoder_free(e);
                l->encoder = e = g->coder.class->create(g->coder.class, g->coder.level);
        }
        l->is_alive = true;
        l->choice = choice;
        l->run_tar = g->tar_at;
        l->run_blob = l->blob_at = blob_at;
        l->dictionary_bytes = (uint32_t)cas_min_u64(choice_dictionary[choice], g->history_bytes);
        e->ops->begin(
                e, l->dictionary_bytes ? g->history + g->history_bytes - l->dictionary_bytes : NULL,
                l->dictionary_bytes);
}

static unsigned alive_choices(const struct cas_gzipreplay *g)
{
        unsigned mask = 0;
        for (unsigned i = 0; i < CHOICE_COUNT; i++)
                if (g->lanes[i].is_alive)
                        mask |= 1U << g->lanes[i].choice;
        return mask;
}

static struct lane *find_choice(struct cas_gzipreplay *g, enum choice choice)
{
        for (unsigned i = 0; i < CHOICE_COUNT; i++)
                if (g->lanes[i].is_alive && g->lanes[i].choice == choice)
                        return &g->lanes[i];
        return NULL;
}

/* Of several that fit: to go on, because from there a later fresh beginning is found as well; but
 * fresh where the points are where pigz has them, and where going on failed before. NULL: none. */
static struct lane *best_lane(struct cas_gzipreplay *g)
{
        bool is_doubt = g->framing == CAS_GZIP_FRAMING_DOUBT;
        bool is_pigz = g->is_regular && g->coder.class->ends >> CAS_DEFLATE_END_PIGZ & 1;
        bool prefers_fresh = !is_doubt && (is_pigz || !(g->viable >> CHOICE_GO_ON & 1));
        struct lane *l = prefers_fresh ? NULL : find_choice(g, CHOICE_GO_ON);
        for (int choice = CHOICE_FRESH_32K; !l && choice >= CHOICE_GO_ON; choice--)
                if (is_doubt || g->viable >> choice & 1)
                        l = find_choice(g, (enum choice)choice);
        return l ? l : find_choice(g, CHOICE_GO_ON);
}

/* ---- parts and marks ---- */

static void *grow(void *array, size_t count, size_t *alloc, size_t item_bytes)
{
        if (count < *alloc)
                return array;
        *alloc = *alloc ? 2 * *alloc : 16;
        return cas_xrealloc(array, *alloc * item_bytes);
}

/* The present part, which belongs to the main lane, ends here. False: too many. */
static bool close_part(struct cas_gzipreplay *g, const uint8_t *ends, unsigned count, bool is_open)
{
        struct cas_gzip_member *m = g->member;
        if (m->part_count == CAS_GZIP_PARTS_MAX)
                return false;
        m->parts = grow(m->parts, m->part_count, &m->part_alloc, sizeof(*m->parts));
        struct cas_gzip_found_part *p = &m->parts[m->part_count++];
        *p = (struct cas_gzip_found_part){
                .part = {.class_id = g->coder.class->id,
                         .level = (int8_t)g->coder.level,
                         .begins = g->main->choice != CHOICE_GO_ON,
                         .dictionary_bytes = g->main->dictionary_bytes,
                         .length_bytes = g->tar_at - g->part_tar,
                         .end_count = (uint8_t)count},
                .first_end_is_open = is_open,
        };
        if (!p->part.begins)
                p->part.dictionary_bytes = 0;
        memcpy(p->part.ends, ends, count);
        m->has_pieces |= p->part.begins && g->part_tar > g->member_tar && p->part.length_bytes > 0;
        g->part_tar = g->tar_at;
        g->main->choice = CHOICE_GO_ON;
        return true;
}

static void add_mark(struct cas_gzipreplay *g, const struct cas_gzip_found_mark *mark)
{
        struct cas_gzip_member *m = g->member;
        m->marks = grow(m->marks, m->mark_count, &m->mark_alloc, sizeof(*m->marks));
        m->marks[m->mark_count++] = *mark;
        *g->last_mark_at = mark->tar_offset + mark->mark.window_bytes;
}

static bool is_mark_due(const struct cas_gzipreplay *g, uint64_t tar_at)
{
        return tar_at >= *g->last_mark_at + g->spacing;
}

/* Where a fresh encoder began is a mark. */
static void mark_beginning(struct cas_gzipreplay *g)
{
        if (g->main->choice == CHOICE_GO_ON || g->part_tar == g->member_tar ||
            !is_mark_due(g, g->part_tar))
                return;
        uint32_t window =
                (uint32_t)cas_min_u64(CAS_GZIP_DICTIONARY_BYTES_MAX, g->part_tar - g->member_tar);
        add_mark(g, &(struct cas_gzip_found_mark){
                            .blob_offset = g->main->run_blob,
                            .tar_offset = g->part_tar - window,
                            .mark = {.part_index = g->member->part_count, .window_bytes = window},
                    });
}

/* The end of a block within a part is a mark. */
static void mark_block(struct cas_gzipreplay *g)
{
        const struct lane *l = g->main;
        struct cas_deflate_mark m;
        if (!is_mark_due(g, g->tar_at) || !l->encoder->ops->mark(l->encoder, &m))
                return;
        uint64_t at = l->run_tar + m.in_bytes;
        if (at <= g->part_tar || at < *g->last_mark_at + g->spacing / 2)
                return;
        uint32_t seen = (uint32_t)cas_min_u64(g->coder.class->window_bytes,
                                              m.in_bytes + l->dictionary_bytes);
        uint32_t window = (uint32_t)cas_max_u64(
                seen, cas_min_u64(CAS_GZIP_DICTIONARY_BYTES_MAX, at - g->member_tar));
        if (window > CAS_GZIP_WINDOW_BYTES_MAX)
                return;
        add_mark(g, &(struct cas_gzip_found_mark){
                            .blob_offset = l->run_blob + m.out_bytes,
                            .tar_offset = at - window,
                            .mark = {.part_index = g->member->part_count,
                                     .window_bytes = window,
                                     .is_within = true,
                                     .fed_bytes = at - g->part_tar,
                                     .seen_bytes = seen,
                                     .encoder = m},
                    });
}

/* ---- points ---- */

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
        while (b > 0) {
                uint64_t rest = a % b;
                a = b;
                b = rest;
        }
        return a;
}

/* What fits where the present part began, of what was tried there, tells of the rest. Fresh
 * encoders at regular distances are expected further on even where no empty block shows it. */
static void learn(struct cas_gzipreplay *g, unsigned alive, enum choice best)
{
        if ((g->tried & (g->tried - 1)) == 0)
                return;
        g->viable &= ~(g->tried & ~alive);
        if ((alive & (alive - 1)) != 0 && ++g->ties >= TIES_MAX)
                g->viable = 1U << best;
        if (best == CHOICE_GO_ON || g->framing != CAS_GZIP_FRAMING_LEARN)
                return;
        g->piece_bytes = common_divisor(g->part_tar - g->member_tar, g->piece_bytes);
        if (g->piece_bytes < PIECE_BYTES_MIN)
                g->piece_bytes = 0;
}

/* One lane remains. False: none fits. */
static bool settle(struct cas_gzipreplay *g)
{
        if (g->main)
                return g->main->is_alive;
        struct lane *best = best_lane(g);
        if (!best)
                return false;
        learn(g, alive_choices(g), best->choice);
        for (unsigned i = 0; i < CHOICE_COUNT; i++)
                g->lanes[i].is_alive = &g->lanes[i] == best;
        g->main = best;
        mark_beginning(g);
        return true;
}

/* What pigz puts behind a block that ends so many bits into a byte. */
static bool is_pigz_filling(const struct point *p)
{
        if (p->bits % 2)
                return p->count == 1 && p->types[0] == CAS_DEFLATE_STORED;
        if (p->count != (p->bits ? (8 - p->bits) / 2 : 0))
                return false;
        for (unsigned i = 0; i < p->count; i++)
                if (p->types[i] != CAS_DEFLATE_FIXED)
                        return false;
        return true;
}

/* The ends that make the point's empty blocks. *out_open as in cas_gzipplan_add. */
static unsigned point_ends(const struct cas_gzipreplay *g, uint8_t *ends, bool *out_open)
{
        const struct point *p = &g->point;
        uint32_t has = g->coder.class->ends;
        bool is_filling = (has >> CAS_DEFLATE_END_PIGZ & 1) && is_pigz_filling(p);
        unsigned count = 0;
        *out_open = is_filling && p->bits % 2;
        if (is_filling && !*out_open) {
                ends[count++] = CAS_DEFLATE_END_PIGZ;
                return count;
        }
        for (unsigned i = 0; i < p->count; i++) {
                bool again = i > 0 && p->types[i - 1] == CAS_DEFLATE_STORED;
                if (p->types[i] == CAS_DEFLATE_FIXED)
                        ends[count++] = CAS_DEFLATE_END_PARTIAL;
                else
                        ends[count++] = again && (has >> CAS_DEFLATE_END_FULL & 1)
                                                ? CAS_DEFLATE_END_FULL
                                                : CAS_DEFLATE_END_SYNC;
        }
        if (count == 0)
                ends[count++] = CAS_DEFLATE_END_BLOCK;
        return count;
}

/* Lanes of what may follow the point, at which the main one is. */
static void fork_lanes(struct cas_gzipreplay *g, bool is_aligned, bool is_end)
{
        struct lane *from = g->main;
        unsigned viable = g->framing == CAS_GZIP_FRAMING_DOUBT ? UINT32_MAX : g->viable;
        uint64_t blob_at = from->blob_at;
        uint32_t before = UINT32_MAX;
        struct lane *spare = g->lanes;
        from->choice = CHOICE_GO_ON;
        g->tried = 1U << CHOICE_GO_ON;
        for (int choice = CHOICE_FRESH; is_aligned && choice < CHOICE_COUNT; choice++) {
                /* With a short history, two may be the same. */
                uint32_t dictionary =
                        (uint32_t)cas_min_u64(choice_dictionary[choice], g->history_bytes);
                if (!(viable >> choice & 1) || dictionary == before)
                        continue;
                before = dictionary;
                if (spare == from)
                        spare++;
                begin_lane(g, spare++, (enum choice)choice, blob_at);
                g->tried |= 1U << choice;
        }
        if (!(viable >> CHOICE_GO_ON & 1) && !is_end && g->tried != 1U << CHOICE_GO_ON) {
                from->is_alive = false;
                g->tried &= ~(1U << CHOICE_GO_ON);
        }
        g->main = NULL;
        if ((g->tried & (g->tried - 1)) == 0)
                (void)settle(g);
}

/* Ends a lane's part. It is out when that makes other bytes. */
static int end_lane(struct cas_gzipreplay *g, struct lane *l, const uint8_t *ends, unsigned count,
                    struct cas_err *err)
{
        for (unsigned i = 0; i < count && l->is_alive; i++) {
                if (!(g->coder.class->ends >> ends[i] & 1)) {
                        l->is_alive = false;
                        break;
                }
                l->encoder->ops->end(l->encoder, (enum cas_deflate_end)ends[i], &l->out);
                if (check_lane(g, l, err) < 0)
                        return -(int)err->code;
        }
        /* Bits of a byte that is not whole come later. */
        if (l->blob_at != g->member_blob + g->point.end_bits / 8)
                l->is_alive = false;
        return 0;
}

/* Ends the present part as the point wants it, and goes on behind. *fits is unchanged unless that
 * makes other bytes. */
static int pass_point(struct cas_gzipreplay *g, bool is_end, bool *fits, struct cas_err *err)
{
        uint8_t ends[POINT_BLOCKS_MAX];
        bool is_open;
        unsigned count = point_ends(g, ends, &is_open);
        g->member->has_points = true;
        g->is_regular &= (g->tar_at - g->member_tar) % CAS_GZIP_PIECE_BYTES == 0 || is_end;
        for (unsigned i = 0; i < CHOICE_COUNT; i++)
                if (g->lanes[i].is_alive && end_lane(g, &g->lanes[i], ends, count, err) < 0)
                        return -(int)err->code;
        *fits = settle(g);
        for (unsigned i = 0; i < count && *fits; i += CAS_GZIP_ENDS_MAX)
                *fits = close_part(g, ends + i, (unsigned)cas_min_u64(count - i, CAS_GZIP_ENDS_MAX),
                                   is_open && i == 0);
        if (*fits)
                fork_lanes(g, g->point.end_bits % 8 == 0, is_end);
        g->point = (struct point){0};
        return 0;
}

/* Looks whether a block's end is, or belongs to, a point. False: too many empty blocks. */
static bool see_block_end(struct cas_gzipreplay *g, const struct cas_deflate_block *b)
{
        struct point *p = &g->point;
        uint64_t bits = cas_deflate_parser_bits(g->parser);
        if (b->is_final)
                return true;
        if (g->block_plain == 0) {
                if (p->count == POINT_BLOCKS_MAX)
                        return false;
                p->types[p->count++] = (uint8_t)b->type;
                p->is_there = true;
                p->end_bits = bits;
                return true;
        }
        *p = (struct point){.bits = (unsigned)(bits % 8), .end_bits = bits};
        uint64_t full = cas_gzip_full_block_tokens(g->coder.class);
        if (full > 0) {
                /* Stored blocks do not tell how many tokens they were meant to have. */
                bool is_short = b->type != CAS_DEFLATE_STORED && g->block_tokens != full;
                uint64_t piece = g->piece_bytes;
                bool is_due = piece > 0 && (g->tar_at - g->member_tar) % piece == 0;
                p->is_there = is_due || (is_short && g->coder.level > 0);
        }
        return true;
}

/* ---- members ---- */

static void remember(struct cas_gzipreplay *g, const uint8_t *data, size_t len)
{
        size_t room = sizeof(g->history);
        if (len >= room) {
                memcpy(g->history, data + len - room, room);
                g->history_bytes = room;
                return;
        }
        size_t kept = cas_min_u64(g->history_bytes, room - len);
        memmove(g->history, g->history + g->history_bytes - kept, kept);
        memcpy(g->history + kept, data, len);
        g->history_bytes = kept + len;
}

static void measure(struct cas_gzip_member *m, const struct cas_deflate_event *e)
{
        m->crc = crc32_gzip_refl(m->crc, e->plain, e->plain_bytes);
        m->plain_bytes += e->plain_bytes;
}

/* Feeds what was decoded to all lanes. *fits is unchanged unless none is left. */
static int feed(struct cas_gzipreplay *g, const struct cas_deflate_event *e, bool *fits,
                struct cas_err *err)
{
        for (size_t at = 0; at < e->plain_bytes; at += FEED_BYTES) {
                size_t len = cas_min_u64(e->plain_bytes - at, FEED_BYTES);
                for (unsigned i = 0; i < CHOICE_COUNT; i++) {
                        struct lane *l = &g->lanes[i];
                        if (!l->is_alive)
                                continue;
                        l->encoder->ops->write(l->encoder, e->plain + at, len, &l->out);
                        g->work_bytes += len;
                        if (check_lane(g, l, err) < 0)
                                return -(int)err->code;
                }
                g->tar_at += len;
                unsigned alive = alive_choices(g);
                bool is_decided = (alive & (alive - 1)) == 0;
                if (alive == 0 ||
                    ((is_decided || g->tar_at - g->part_tar > UNDECIDED_BYTES_MAX) && !settle(g))) {
                        *fits = false;
                        return 0;
                }
                if (g->main)
                        mark_block(g);
        }
        remember(g, e->plain, e->plain_bytes);
        measure(g->member, e);
        return 0;
}

/* The stream ends: every lane finishes, and one must have made all of it. */
static int finish(struct cas_gzipreplay *g, bool *fits, struct cas_err *err)
{
        uint64_t end = g->member_blob + cas_deflate_parser_bits(g->parser) / 8;
        for (unsigned i = 0; i < CHOICE_COUNT; i++) {
                struct lane *l = &g->lanes[i];
                if (!l->is_alive)
                        continue;
                l->encoder->ops->end(l->encoder, CAS_DEFLATE_END_FINISH, &l->out);
                if (check_lane(g, l, err) < 0)
                        return -(int)err->code;
                l->is_alive = l->is_alive && l->blob_at == end;
        }
        *fits = settle(g) && close_part(g, (const uint8_t[]){CAS_DEFLATE_END_FINISH}, 1, false);
        return 0;
}

static void begin_member(struct cas_gzipreplay *g, uint64_t tar_offset)
{
        g->member_tar = g->part_tar = g->tar_at = tar_offset;
        g->member_blob = cas_gzipreplay_offset(g);
        g->history_bytes = 0;
        g->point = (struct point){0};
        g->viable = (1U << CHOICE_COUNT) - 1;
        g->ties = 0;
        g->is_regular = true;
        g->piece_bytes = g->framing == CAS_GZIP_FRAMING_PIECES ? CAS_GZIP_PIECE_BYTES : 0;
        for (unsigned i = 0; i < CHOICE_COUNT; i++)
                g->lanes[i].is_alive = false;
        g->main = NULL;
        g->tried = 1U << CHOICE_FRESH;
        begin_lane(g, &g->lanes[0], CHOICE_FRESH, g->member_blob);
        (void)settle(g);
}

static int take_event(struct cas_gzipreplay *g, const struct cas_deflate_event *e, bool *fits,
                      struct cas_err *err)
{
        switch (e->kind) {
        case CAS_DEFLATE_BLOCK:
                g->block_plain = g->block_tokens = 0;
                return 0;
        case CAS_DEFLATE_TOKENS:
        case CAS_DEFLATE_BYTES:
                if (g->point.is_there && pass_point(g, false, fits, err) < 0)
                        return -(int)err->code;
                g->block_plain += e->plain_bytes;
                g->block_tokens += e->token_count;
                return *fits ? feed(g, e, fits, err) : 0;
        case CAS_DEFLATE_BLOCK_END:
                *fits = see_block_end(g, e->block);
                return 0;
        case CAS_DEFLATE_END:
                if (g->point.is_there && pass_point(g, true, fits, err) < 0)
                        return -(int)err->code;
                return *fits ? finish(g, fits, err) : 0;
        }
        return 0;
}

int cas_gzipreplay_member(struct cas_gzipreplay *g, struct cas_gzip_coder coder,
                          enum cas_gzip_framing framing, uint64_t tar_offset, uint64_t spacing,
                          uint64_t *last_mark_at, struct cas_gzip_member *m, bool *out_fits,
                          struct cas_err *err)
{
        struct cas_deflate_event e = {0};
        cas_gzip_member_release(m);
        g->coder = coder;
        g->framing = framing;
        g->member = m;
        g->spacing = spacing;
        g->last_mark_at = last_mark_at;
        begin_member(g, tar_offset);
        *out_fits = true;
        do {
                if (cas_deflate_parser_next(g->parser, &e, err) < 0 ||
                    take_event(g, &e, out_fits, err) < 0)
                        return -(int)err->code;
        } while (*out_fits && e.kind != CAS_DEFLATE_END);
        m->deflate_bytes = cas_deflate_parser_bits(g->parser) / 8;
        return 0;
}

int cas_gzipreplay_measure(struct cas_gzipreplay *g, struct cas_gzip_member *m, struct cas_err *err)
{
        struct cas_deflate_event e;
        cas_gzip_member_release(m);
        do {
                if (cas_deflate_parser_next(g->parser, &e, err) < 0)
                        return -(int)err->code;
                measure(m, &e);
        } while (e.kind != CAS_DEFLATE_END);
        m->deflate_bytes = cas_deflate_parser_bits(g->parser) / 8;
        return 0;
}
