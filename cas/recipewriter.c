/* SPDX-License-Identifier: Apache-2.0 */
/* Writing of recipes: sections are spooled while they are made, marks at their full width; the
 * recipe becomes one object in the end. */
#include "cas/pins_int.h"
#include "cas/recipe_int.h"

#define COPY_BYTES (64 * CAS_KIB)

void cas_recipe_writer_pin(const struct cas_recipe_writer *w, const struct cas_hash *object)
{
        if (w->pins)
                cas_pin_object(w->pins, object);
}

void cas_recipe_writer_init(struct cas_recipe_writer *w, struct cas_store *s)
{
        *w = (struct cas_recipe_writer){.store = s};
        w->head.mark_bytes = CAS_RECIPE_MARK_BYTES_MAX;
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++)
                w->sections[i] = cas_spool_new(s);
}

void cas_recipe_writer_release(struct cas_recipe_writer *w)
{
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++)
                cas_spool_free(w->sections[i]);
        *w = (struct cas_recipe_writer){0};
}

void cas_recipe_writer_clear(struct cas_recipe_writer *w, enum cas_recipe_section section)
{
        cas_spool_truncate(w->sections[section], 0);
        if (section == CAS_RECIPE_MARKS)
                w->head.mark_count = 0;
}

int cas_recipe_writer_mark(struct cas_recipe_writer *w, const struct cas_recipe_mark *mark,
                           struct cas_err *err)
{
        uint8_t bytes[CAS_RECIPE_MARK_BYTES_MAX] = {0};
        const struct cas_recipe_mark *last = &w->last_mark;
        bool first = w->head.mark_count == 0;
        cas_assert(mark->state_bytes <= CAS_MARK_STATE_BYTES_MAX);
        if (first ? mark->blob_offset != 0 || mark->tar_offset != 0
                  : mark->blob_offset <= last->blob_offset || mark->tar_offset < last->tar_offset)
                return cas_fail(err, CAS_E_INVALID, "mark %u of a recipe is out of order",
                                w->head.mark_count);
        if (w->head.mark_count == UINT32_MAX)
                return cas_fail(err, CAS_E_LIMIT, "too many marks");
        cas_put_le64(bytes, mark->blob_offset);
        cas_put_le64(bytes + 8, mark->tar_offset);
        bytes[16] = mark->state_bytes;
        memcpy(bytes + CAS_RECIPE_MARK_BYTES_MIN, mark->state, mark->state_bytes);
        if (cas_spool_append(w->sections[CAS_RECIPE_MARKS], bytes, sizeof(bytes), err) < 0)
                return -(int)err->code;
        w->last_mark = *mark;
        w->head.mark_count++;
        return 0;
}

int cas_recipe_writer_drop_marks(struct cas_recipe_writer *w, const bool *drop, struct cas_err *err)
{
        struct cas_spool *marks = w->sections[CAS_RECIPE_MARKS];
        uint8_t bytes[CAS_RECIPE_MARK_BYTES_MAX];
        cas_cleanup_spool struct cas_spool *kept = cas_spool_new(w->store);
        uint32_t count = 0;
        cas_assert(w->head.mark_count > 0 && !drop[0]);
        for (uint32_t i = 0; i < w->head.mark_count; i++) {
                if (drop[i])
                        continue;
                if (cas_spool_read(marks, (uint64_t)i * sizeof(bytes), bytes, sizeof(bytes), err) <
                            0 ||
                    cas_spool_append(kept, bytes, sizeof(bytes), err) < 0)
                        return -(int)err->code;
                count++;
        }
        w->head.mark_count = count;
        w->sections[CAS_RECIPE_MARKS] = cas_steal(&kept);
        cas_spool_free(marks);
        return 0;
}

/* ---- as an object ---- */

/* The width that holds the longest state. */
static int marks_width(struct cas_recipe_writer *w, uint8_t *out, struct cas_err *err)
{
        uint8_t bytes[CAS_RECIPE_MARK_BYTES_MIN], longest = 0;
        for (uint32_t i = 0; i < w->head.mark_count; i++) {
                if (cas_spool_read(w->sections[CAS_RECIPE_MARKS],
                                   (uint64_t)i * CAS_RECIPE_MARK_BYTES_MAX, bytes, sizeof(bytes),
                                   err) < 0)
                        return -(int)err->code;
                longest = bytes[16] > longest ? bytes[16] : longest;
        }
        *out = (uint8_t)(CAS_RECIPE_MARK_BYTES_MIN + longest);
        return 0;
}

static int publish_head(struct cas_recipe_writer *w, struct cas_publish *p, uint8_t mark_bytes,
                        struct cas_err *err)
{
        uint8_t head[CAS_RECIPE_HEAD_BYTES] = {0};
        memcpy(head, CAS_RECIPE_MAGIC, 4);
        cas_put_le32(head + 4, CAS_RECIPE_VERSION);
        cas_put_le64(head + 8, w->head.blob_bytes);
        cas_put_le64(head + 16, w->head.tar_bytes);
        head[24] = (uint8_t)w->head.wrap;
        head[25] = mark_bytes;
        cas_put_le32(head + 28, w->head.mark_count);
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++) {
                uint64_t bytes = i == CAS_RECIPE_MARKS ? (uint64_t)w->head.mark_count * mark_bytes
                                                       : cas_spool_bytes(w->sections[i]);
                cas_put_le64(head + 32 + 8 * i, bytes);
        }
        return cas_publish_object_write(p, head, sizeof(head), err);
}

static int publish_section(struct cas_spool *section, struct cas_publish *p, struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(COPY_BYTES);
        uint64_t bytes = cas_spool_bytes(section);
        for (uint64_t at = 0; at < bytes;) {
                size_t n = cas_min_u64(COPY_BYTES, bytes - at);
                if (cas_spool_read(section, at, piece, n, err) < 0 ||
                    cas_publish_object_write(p, piece, n, err) < 0)
                        return -(int)err->code;
                at += n;
        }
        return 0;
}

static int publish_marks(struct cas_recipe_writer *w, struct cas_publish *p, uint8_t mark_bytes,
                         struct cas_err *err)
{
        uint8_t bytes[CAS_RECIPE_MARK_BYTES_MAX];
        for (uint32_t i = 0; i < w->head.mark_count; i++)
                if (cas_spool_read(w->sections[CAS_RECIPE_MARKS],
                                   (uint64_t)i * CAS_RECIPE_MARK_BYTES_MAX, bytes, mark_bytes,
                                   err) < 0 ||
                    cas_publish_object_write(p, bytes, mark_bytes, err) < 0)
                        return -(int)err->code;
        return 0;
}

int cas_recipe_writer_publish(struct cas_recipe_writer *w, struct cas_publish *p,
                              struct cas_hash *id_slot, struct cas_err *err)
{
        uint8_t mark_bytes = 0;
        cas_assert(w->head.mark_count > 0);
        if (marks_width(w, &mark_bytes, err) < 0 || cas_publish_object_begin(p, id_slot, err) < 0 ||
            publish_head(w, p, mark_bytes, err) < 0)
                return -(int)err->code;
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++)
                if (i != CAS_RECIPE_MARKS && publish_section(w->sections[i], p, err) < 0)
                        return -(int)err->code;
        _Static_assert(CAS_RECIPE_MARKS + 1 == CAS_RECIPE_SECTION_COUNT, "marks stand last");
        if (publish_marks(w, p, mark_bytes, err) < 0)
                return -(int)err->code;
        return cas_publish_object_end(p, err);
}
