/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the klauspost/compress encoders share (spec/deflate-classes.md): the dates,
 * the tokens of a block, the block writer, the match finders of levels 1 to 6 and the engines that
 * cut input into blocks.
 *
 *   klauspost.c          the classes, and the encoder that the catalogue gives out
 *   klauspost_token.c    tokens of a block, and how many bits they may need
 *   klauspost_code.c     Huffman codes
 *   klauspost_write.c    blocks to bits: stored, fixed or dynamic, codes kept from block to block
 *   klauspost_plain.c    engines of levels 0 and -2
 *   klauspost_fast.c     engine of levels 1 to 6: cuts at 65535 bytes, keeps the history
 *   klauspost_level*.c   match finders; klauspost_find.h, klauspost_cursor.h: what they share
 *   klauspost_chain.c    engine of levels 7 to 9: steps over a window, lazy matching
 *   klauspost_window.c   that window, its chains, the search in them
 *
 * Nothing here is shared between threads. */
#ifndef CAS_KLAUSPOST_INT_H
#define CAS_KLAUSPOST_INT_H

#include "cas/deflate/encoder.h"

/* When output of some level changed, in order: code asks `date >= CAS_KP_2022_01`. The comments
 * name the first release of each. */
enum cas_kp_date {
        CAS_KP_2020_02,  /* v1.10.0 */
        CAS_KP_2020_02B, /* v1.10.2: smaller tables, empty fixed block at the end */
        CAS_KP_2021_03,  /* v1.11.13: penalty of new codes, HuffmanOnly */
        CAS_KP_2021_04,  /* v1.12.2: levels 5 and 6 look at the end of a match */
        CAS_KP_2021_05,  /* v1.12.3: HuffmanOnly */
        CAS_KP_2022_01,  /* v1.14.0: codes are reused only where they hold all symbols */
        CAS_KP_2022_01B, /* v1.14.2: levels 7 to 9 */
        CAS_KP_2022_02,  /* v1.14.3: fixed codes only below 250 tokens, levels 1 and 3 */
        CAS_KP_2022_03,  /* v1.15.0: how matches above 258 are cut */
        CAS_KP_2022_09,  /* v1.15.10: levels 5 and 6 */
        CAS_KP_2022_09B, /* v1.15.11: levels 1 to 3 */
        CAS_KP_2023_01,  /* v1.15.15: levels 7 to 9 */
        CAS_KP_2025_02,  /* v1.18.0: level 4 */
        CAS_KP_2025_10,  /* v1.18.1 (retracted): no room for codes that are not there, level 9 */
        CAS_KP_2025_12,  /* v1.18.2: level 9 */
        CAS_KP_GO_1_27   /* Go 1.27: as v1.18.2, but level 9, and a dictionary at 7 to 9 */
};

#define CAS_KP_BLOCK_BYTES_MAX 65535U
#define CAS_KP_REACH 32768U /* distances stay below this at levels 1 to 6 */
#define CAS_KP_WINDOW_BYTES (4 * CAS_KP_BLOCK_BYTES_MAX) /* of input before a mark */
/* Readable behind the end of what a finder is given; what is there must not matter. */
#define CAS_KP_SLACK_BYTES 32U

/* The tokens of one block and how often each symbol is in them. Finders only add, by the functions
 * below. In a token, bits 0 to 14 are the distance - 1, bits 15 to 23 the byte, or 256 and the
 * length - 3, bits 24 to 28 the symbol of the distance or NO_DISTANCE: so that literals and matches
 * are written and counted by the same steps. */
#define CAS_KP_NO_DISTANCE 31U
#define CAS_KP_LITERAL_TOKEN(byte) (CAS_KP_NO_DISTANCE << 24 | (uint32_t)(byte) << 15)
struct cas_kp_tokens {
        uint32_t count;
        uint32_t literals[256];
        uint32_t lengths[32]; /* [1 + i] is symbol 257 + i; [0] is the writer's */
        uint32_t distances[32];
        uint32_t token[CAS_KP_BLOCK_BYTES_MAX + 8]; /* written in eights */
};
void cas_kp_tokens_clear(struct cas_kp_tokens *t);

extern const uint8_t cas_kp_length_symbol[256];   /* by length - 3; 0 is symbol 257 */
extern const uint8_t cas_kp_distance_symbol[512]; /* by what cas_kp_distance_code makes */
static inline uint32_t cas_kp_distance_code(uint32_t distance)
{
        uint32_t d = distance - 1;
        return cas_kp_distance_symbol[d < 256 ? d : 256 + (d >> 7)];
}

static inline void cas_kp_literal(struct cas_kp_tokens *t, uint8_t byte)
{
        t->token[t->count++] = CAS_KP_LITERAL_TOKEN(byte);
        t->literals[byte]++;
}
static inline void cas_kp_literals(struct cas_kp_tokens *t, const uint8_t *data, size_t len)
{
        for (size_t i = 0; i < len; i++)
                cas_kp_literal(t, data[i]);
}
/* Adds a match, and counts its distance but not its length. */
static inline void cas_kp_match_token(struct cas_kp_tokens *t, uint32_t length, uint32_t distance)
{
        uint32_t code = cas_kp_distance_code(distance);
        t->token[t->count++] = code << 24 | 1U << 23 | (length - 3) << 15 | (distance - 1);
        t->distances[code]++;
}
/* length 3 to 258, distance 1 to 32768. */
static inline void cas_kp_match(struct cas_kp_tokens *t, uint32_t length, uint32_t distance)
{
        cas_kp_match_token(t, length, distance);
        t->lengths[1 + cas_kp_length_symbol[length - 3]]++;
}
/* What of a length above 258 becomes the next match: what remains is 3 at least. */
static inline uint32_t cas_kp_match_part(enum cas_kp_date date, uint32_t length)
{
        return date >= CAS_KP_2022_03 && length > 261 ? 258 : 255;
}
/* The same for any length from 3: what is above 258 becomes several matches. */
void cas_kp_match_long(struct cas_kp_tokens *t, enum cas_kp_date date, uint32_t length,
                       uint32_t distance);

/* Counts bytes and lengths, when no token was counted as it was added. */
void cas_kp_tokens_count(struct cas_kp_tokens *t);
/* Bits that an optimal code of its own is thought to need for these tokens, without its header; in
 * single precision, as the originals reckon. total: of tokens. */
uint32_t cas_kp_tokens_estimate(const struct cas_kp_tokens *t, enum cas_kp_date date,
                                uint32_t total);
/* The same for `total` literals, and for `absent` more that occur once each; rounded up. */
uint32_t cas_kp_literals_estimate(const uint32_t freq[256], uint32_t total);
uint32_t cas_kp_absent_estimate(unsigned absent, uint32_t total);

extern const uint8_t cas_kp_length_extra[29];
extern const uint8_t cas_kp_distance_extra[30];

/* ------------------------------------------------------------------ Huffman codes */
struct cas_kp_code {
        uint16_t bits[288]; /* in the order that they are written, the code's first bit lowest */
        uint8_t length[288];
};
/* The length-limited code that Go makes for freq[0, count): count is at most 288, a frequency below
 * 65536, bits_max at most 15. Symbols that do not occur get length 0; one or two symbols get
 * length 1. Entries from count on stay as they are. */
void cas_kp_code_make(struct cas_kp_code *c, const uint32_t *freq, unsigned count,
                      unsigned bits_max);
/* The sum of frequency times length. */
uint32_t cas_kp_code_size(const struct cas_kp_code *c, const uint32_t *freq, unsigned count);

/* ------------------------------------------------------------------ the block writer */
/* Where a writer that knows nothing of earlier blocks would go on with the same bits. */
struct cas_kp_point {
        uint64_t out_bytes; /* of the run */
        uint8_t bit_count;  /* 0 to 7 that follow them … */
        uint8_t bits;       /* … lowest first */
};
struct cas_kp_writer;
struct cas_kp_writer *cas_kp_writer_new(enum cas_kp_date date, int level);
void cas_kp_writer_free(struct cas_kp_writer *w);
void cas_kp_writer_begin(struct cas_kp_writer *w);
void cas_kp_writer_restart(struct cas_kp_writer *w, const struct cas_kp_point *at);
/* Between these two, output goes to `out`. */
void cas_kp_writer_attach(struct cas_kp_writer *w, struct cas_buf *out);
void cas_kp_writer_detach(struct cas_kp_writer *w);

/* Each writes one block and says whether the point before it (cas_kp_writer_point) is one to
 * restart from: an encoder that begins there with this block makes the same. `sync`: nothing of the
 * block stays open for the next one. */

/* As the tokens, unless stored or fixed is shorter. input: what they stand for, NULL when it is
 * not at hand (the block is never stored then). The tokens may be changed. */
bool cas_kp_write_tokens(struct cas_kp_writer *w, struct cas_kp_tokens *t, const uint8_t *input,
                         size_t len, bool sync);
/* As literals with a code of their own, or stored. */
bool cas_kp_write_literals(struct cas_kp_writer *w, const uint8_t *input, size_t len, bool sync);
bool cas_kp_write_stored(struct cas_kp_writer *w, const uint8_t *input, size_t len);
/* The empty stored block of a flush; the end of the stream. After both, the output is whole bytes
 * and a restart is possible. */
void cas_kp_write_sync(struct cas_kp_writer *w);
void cas_kp_write_finish(struct cas_kp_writer *w);
/* Before the latest block, or behind the latest flush. */
struct cas_kp_point cas_kp_writer_point(const struct cas_kp_writer *w);

/* ------------------------------------------------------------------ finders, levels 1 to 6 */
struct cas_kp_finder;
struct cas_kp_finder_ops {
        /* Finds the tokens of data[start, end), 1 to 65535 bytes, into `out`, which is empty.
         * data[0, start) is what came before and may be reached. A position is known as base +
         * index; base only grows (or see rebase), and what an earlier call gave an index has
         * another one now when base differs. base >= 65535, base + end < 2^31: 0 in a table is
         * thus always out of reach. Leaves `out` empty when there is no match at all.
         * Level 4 from CAS_KP_2025_02 on also looks at data[0, 65535) for bytes that it takes for
         * others: data[0] must be what the original's history buffer begins with. That one holds
         * 327675 bytes; a block that does not fit any more first moves the last 32768 to its
         * beginning; a reset empties it. */
        void (*encode)(struct cas_kp_finder *f, const uint8_t *data, uint32_t start, uint32_t end,
                       uint32_t base, struct cas_kp_tokens *out);
        /* Positions become smaller by `less`; those below it are out of reach: make them 0. */
        void (*rebase)(struct cas_kp_finder *f, uint32_t less);
        /* Forget everything: as after creation. */
        void (*reset)(struct cas_kp_finder *f);
        void (*free)(struct cas_kp_finder *f);
};
/* The first member of every finder's own struct. */
struct cas_kp_finder {
        const struct cas_kp_finder_ops *ops;
        enum cas_kp_date date;
};
struct cas_kp_finder *cas_kp_level1_new(enum cas_kp_date date);
struct cas_kp_finder *cas_kp_level2_new(enum cas_kp_date date);
struct cas_kp_finder *cas_kp_level3_new(enum cas_kp_date date);
struct cas_kp_finder *cas_kp_level4_new(enum cas_kp_date date);
struct cas_kp_finder *cas_kp_level5_new(enum cas_kp_date date);
struct cas_kp_finder *cas_kp_level6_new(enum cas_kp_date date);

/* ------------------------------------------------------------------ engines */
/* An engine takes input, cuts it into blocks and hands them to the writer. It notes in `mark` the
 * latest point to restart from. */
struct cas_kp_mark {
        bool valid;
        struct cas_kp_point point;
        uint64_t in_bytes;   /* of the run: a restarted engine is fed from here on */
        uint8_t state_bytes; /* the engine's own */
        uint8_t state[CAS_DEFLATE_STATE_BYTES_MAX - 2];
};
struct cas_kp_engine;
struct cas_kp_engine_ops {
        /* A run begins; mark is not valid, the writer is fresh. Not attached. */
        void (*begin)(struct cas_kp_engine *e, const uint8_t *dictionary, size_t len);
        void (*write)(struct cas_kp_engine *e, const uint8_t *data, size_t len);
        /* Everything that waits goes out as blocks that are closed (sync); the driver adds what
         * comes behind them. True: a restart is possible behind that, in_bytes and state of mark
         * are set; the driver sets the rest. False: mark was left alone. */
        bool (*sync)(struct cas_kp_engine *e);
        /* The writer is set up already. window: input before the mark. A mark may be hostile.
         * Not attached. */
        int (*restart)(struct cas_kp_engine *e, const struct cas_kp_mark *mark,
                       const uint8_t *window, size_t len, struct cas_err *err);
        void (*free)(struct cas_kp_engine *e);
};
/* The first member of every engine's own struct. */
struct cas_kp_engine {
        const struct cas_kp_engine_ops *ops;
        struct cas_kp_writer *writer; /* borrowed */
        enum cas_kp_date date;
        int level;
        struct cas_kp_mark mark;
};
struct cas_kp_engine *cas_kp_plain_new(struct cas_kp_writer *w, enum cas_kp_date date, int level);
struct cas_kp_engine *cas_kp_fast_new(struct cas_kp_writer *w, enum cas_kp_date date, int level);
struct cas_kp_engine *cas_kp_chain_new(struct cas_kp_writer *w, enum cas_kp_date date, int level);

#endif
