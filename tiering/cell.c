/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/cell.h"

#include <stdio.h>

static const char *const state_words[] = {
        [TIER_CELL_LIVE] = "live",
        [TIER_CELL_CONDEMNED] = "condemned",
        [TIER_CELL_DEAD] = "dead",
        [TIER_CELL_FINISHING] = "finishing",
};

/* Texts and numbers by their words. */
static const struct text_field {
        const char *word;
        size_t offset, size;
} texts[] = {
        {"type", offsetof(struct tier_cell, type), sizeof(((struct tier_cell *)0)->type)},
        {"owner", offsetof(struct tier_cell, owner), sizeof(((struct tier_cell *)0)->owner)},
        {"name", offsetof(struct tier_cell, name), sizeof(((struct tier_cell *)0)->name)},
        {"store", offsetof(struct tier_cell, store), sizeof(((struct tier_cell *)0)->store)},
        {"holder", offsetof(struct tier_cell, holder), sizeof(((struct tier_cell *)0)->holder)},
};
static const struct number_field {
        const char *word;
        size_t offset;
} numbers[] = {
        {"size", offsetof(struct tier_cell, size_bytes)},
        {"seen", offsetof(struct tier_cell, seen_unix_s)},
        {"token", offsetof(struct tier_cell, token)},
        {"fresh", offsetof(struct tier_cell, fresh_s)},
        {"grace", offsetof(struct tier_cell, grace_s)},
        {"gc", offsetof(struct tier_cell, gc_s)},
};
static const struct digest_field {
        const char *word;
        size_t offset;
} digests[] = {
        {"digest", offsetof(struct tier_cell, digest)},
        {"wanted", offsetof(struct tier_cell, wanted)},
};

void tier_cell_release(struct tier_cell *cell)
{
        cas_buf_release(&cell->content);
        free(cell->pieces);
        *cell = (struct tier_cell)TIER_CELL_INIT;
}

void tier_cell_add_piece(struct tier_cell *cell, const char *key, uint64_t bytes)
{
        size_t n = cell->piece_count;
        if ((n & (n - 1)) == 0)
                cell->pieces = cas_xrealloc(cell->pieces, (n ? 2 * n : 1) * sizeof(*cell->pieces));
        struct tier_piece *piece = &cell->pieces[cell->piece_count++];
        *piece = (struct tier_piece){.bytes = bytes};
        (void)snprintf(piece->key, sizeof(piece->key), "%s", key);
}

bool tier_cell_has_piece(const struct tier_cell *cell, const char *key)
{
        for (size_t i = 0; i < cell->piece_count; i++) {
                if (strcmp(cell->pieces[i].key, key) == 0)
                        return true;
        }
        return false;
}

/* One line's worth. */
static bool is_plain(const char *text)
{
        for (const char *c = text; *c; c++) {
                if ((unsigned char)*c < ' ' || *c == 0x7f)
                        return false;
        }
        return true;
}

int tier_cell_encode(const struct tier_cell *cell, struct cas_buf *out, struct cas_err *err)
{
        const char *base = (const char *)cell;
        char text[CAS_DIGEST_TEXT_BYTES];
        if (cell->piece_count > TIER_CELL_PIECES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %u pieces", TIER_CELL_PIECES_MAX);
        cas_buf_printf(out, "lamina 1\nnonce %s\n", cell->nonce);
        if (cell->state != TIER_CELL_LIVE)
                cas_buf_printf(out, "state %s\n", state_words[cell->state]);
        if (cell->alg != CAS_DIGEST_NONE)
                cas_buf_printf(out, "alg %s\n", cas_digest_alg_name(cell->alg));
        for (size_t i = 0; i < CAS_COUNT(digests); i++) {
                const struct cas_digest *d =
                        (const struct cas_digest *)(const void *)(base + digests[i].offset);
                if (d->alg != CAS_DIGEST_NONE)
                        cas_buf_printf(out, "%s %s\n", digests[i].word, cas_digest_text(d, text));
        }
        for (size_t i = 0; i < CAS_COUNT(numbers); i++) {
                uint64_t n;
                memcpy(&n, base + numbers[i].offset, sizeof(n));
                if (n > 0)
                        cas_buf_printf(out, "%s %llu\n", numbers[i].word, (unsigned long long)n);
        }
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                const char *value = base + texts[i].offset;
                if (!is_plain(value))
                        return cas_fail(err, CAS_E_INVALID, "%s: control characters",
                                        texts[i].word);
                if (value[0])
                        cas_buf_printf(out, "%s %s\n", texts[i].word, value);
        }
        for (size_t i = 0; i < cell->piece_count; i++)
                cas_buf_printf(out, "piece %s %llu\n", cell->pieces[i].key,
                               (unsigned long long)cell->pieces[i].bytes);
        cas_buf_append_byte(out, '\n');
        cas_buf_append(out, cell->content.data, cell->content.len_bytes);
        return 0;
}

/* Decimal digits and nothing else. */
static bool number_parse(const char *text, uint64_t *out)
{
        *out = 0;
        if (!*text)
                return false;
        for (const char *c = text; *c; c++) {
                if (*c < '0' || *c > '9' || *out > (UINT64_MAX - 9) / 10)
                        return false;
                *out = *out * 10 + (uint64_t)(*c - '0');
        }
        return true;
}

static bool hex_valid(const char *text, size_t len)
{
        return strlen(text) == len && strspn(text, "0123456789abcdef") == len;
}

static bool state_parse(const char *value, enum tier_cell_state *out)
{
        for (unsigned i = TIER_CELL_CONDEMNED; i < CAS_COUNT(state_words); i++) {
                if (strcmp(value, state_words[i]) == 0) {
                        *out = (enum tier_cell_state)i;
                        return true;
                }
        }
        return false;
}

/* "KEY BYTES"; keys are used in requests. */
static bool piece_parse(char *value, struct tier_cell *out)
{
        static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-/";
        uint64_t bytes;
        char *space = strchr(value, ' ');
        if (!space || out->piece_count == TIER_CELL_PIECES_MAX)
                return false;
        *space = '\0';
        if (strncmp(value, "data/", 5) != 0 || strlen(value) >= TIER_PIECE_KEY_BYTES ||
            strspn(value, allowed) != strlen(value) || !number_parse(space + 1, &bytes) ||
            bytes > CAS_GIB)
                return false;
        tier_cell_add_piece(out, value, bytes);
        return true;
}

static bool line_parse(const char *word, char *value, struct tier_cell *out)
{
        char *base = (char *)out;
        struct cas_err ignored = CAS_ERR_INIT;
        if (strcmp(word, "piece") == 0)
                return piece_parse(value, out);
        if (strcmp(word, "state") == 0)
                return state_parse(value, &out->state);
        if (strcmp(word, "alg") == 0) {
                out->alg = cas_digest_alg_find(value);
                return out->alg != CAS_DIGEST_NONE;
        }
        for (size_t i = 0; i < CAS_COUNT(digests); i++) {
                if (strcmp(word, digests[i].word) == 0)
                        return cas_digest_parse(
                                       value,
                                       (struct cas_digest *)(void *)(base + digests[i].offset),
                                       &ignored) == 0;
        }
        for (size_t i = 0; i < CAS_COUNT(numbers); i++) {
                uint64_t n;
                if (strcmp(word, numbers[i].word) != 0)
                        continue;
                if (!number_parse(value, &n))
                        return false;
                memcpy(base + numbers[i].offset, &n, sizeof(n));
                return true;
        }
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                if (strcmp(word, texts[i].word) != 0)
                        continue;
                if (strlen(value) >= texts[i].size || !is_plain(value))
                        return false;
                memcpy(base + texts[i].offset, value, strlen(value) + 1);
                return true;
        }
        return false;
}

int tier_cell_decode(const void *data, size_t len, struct tier_cell *out, struct cas_err *err)
{
        if (len > TIER_CELL_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "a cell of %zu bytes", len);
        cas_cleanup_free char *text = cas_xmalloc(len + 1);
        memcpy(text, data, len);
        text[len] = '\0';
        char *at = text;
        for (unsigned n = 0;; n++) {
                char *end = memchr(at, '\n', len - (size_t)(at - text));
                if (!end)
                        return cas_fail(err, CAS_E_CORRUPT, "a cell that breaks off");
                *end = '\0';
                char *line = at;
                at = end + 1;
                if (n >= 2 && !line[0])
                        break;
                char *value = strchr(line, ' ');
                bool good = value != NULL;
                if (good)
                        *value++ = '\0';
                if (good && n == 0) {
                        good = strcmp(line, "lamina") == 0 && strcmp(value, "1") == 0;
                } else if (good && n == 1) {
                        good = strcmp(line, "nonce") == 0 &&
                               hex_valid(value, TIER_CELL_NONCE_BYTES - 1);
                        if (good)
                                memcpy(out->nonce, value, TIER_CELL_NONCE_BYTES);
                } else if (good) {
                        good = line_parse(line, value, out);
                }
                if (!good)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "a cell whose line %u is not understood", n + 1);
        }
        size_t left = len - (size_t)(at - text);
        if (left > TIER_CELL_CONTENT_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "a cell with %zu bytes of content", left);
        cas_buf_append(&out->content, at, left);
        return 0;
}
