/* SPDX-License-Identifier: Apache-2.0 */
/* Every vector of tests/golden/deflate against the catalogue of classes (README.md there). Each is
 * made three times: in one piece, in odd pieces, and again from the marks of the second time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <glob.h>
#include <cmocka.h>

#include "cas/deflate/encoder.h"
#include "cas/digest.h"
#include "tests/support/deflatesample.h"

#define MARKS_CHECKED_MAX 24
#ifdef __SANITIZE_ADDRESS__ /* ten times slower: what the bytes are, the other build says of all   \
                             */
#define VECTORS_STRIDE 8
#else
#define VECTORS_STRIDE 1
#endif

struct vector {
        const struct cas_deflate_class *class;
        int level;
        enum cas_deflate_end end; /* NONE: only FINISH */
        size_t end_every;
        size_t dictionary_bytes;
        int kind;
        uint32_t seed;
        size_t len, out_len;
        char sha256[65];
};

struct mark {
        struct cas_deflate_mark mark;
        size_t ends_done; /* when it was taken */
};

struct marks {
        struct mark *list;
        size_t count;
};

static const char *const end_names[] = {
        [CAS_DEFLATE_END_SYNC] = "sync",       [CAS_DEFLATE_END_FULL] = "full",
        [CAS_DEFLATE_END_PARTIAL] = "partial", [CAS_DEFLATE_END_BLOCK] = "block",
        [CAS_DEFLATE_END_PIGZ] = "pigz",
};

static void vector_parse(const char *line, struct vector *v)
{
        char class[64], ends[64];
        int n = sscanf(line, "%63s\t%d\t%63s\t%zu\t%d\t%u\t%zu\t%zu\t%64s", class, &v->level, ends,
                       &v->dictionary_bytes, &v->kind, &v->seed, &v->len, &v->out_len, v->sha256);
        if (n != 9)
                fail_msg("not a vector: %s", line);
        v->class = cas_deflate_class_by_name(class);
        if (!v->class)
                fail_msg("no class %s", class);
        assert_in_range(v->kind, 0, DEFLATE_SAMPLE_COUNT - 1);
        assert_true(v->dictionary_bytes <= v->len);
        v->end = CAS_DEFLATE_END_NONE;
        v->end_every = 0;
        if (strcmp(ends, "-") == 0)
                return;
        const char *colon = strchr(ends, ':');
        assert_non_null(colon);
        for (unsigned i = CAS_DEFLATE_END_SYNC; i < CAS_COUNT(end_names); i++)
                if (strlen(end_names[i]) == (size_t)(colon - ends) &&
                    memcmp(ends, end_names[i], (size_t)(colon - ends)) == 0)
                        v->end = (enum cas_deflate_end)i;
        assert_int_not_equal(v->end, CAS_DEFLATE_END_NONE);
        assert_true(v->class->ends >> v->end & 1);
        v->end_every = strtoul(colon + 1, NULL, 10);
        assert_true(v->end_every > 0);
}

static void marks_note(struct marks *m, const struct vector *v, size_t len,
                       const struct cas_deflate_encoder *e, size_t ends_done)
{
        struct mark now = {.ends_done = ends_done};
        if (!e->ops->mark(e, &now.mark))
                return;
        /* Ends behind the mark are still to come, also when it was seen only after them. */
        while (now.ends_done > 0 &&
               cas_min_u64(now.ends_done * v->end_every, len) > now.mark.in_bytes)
                now.ends_done--;
        const struct mark *last = m->count > 0 ? &m->list[m->count - 1] : NULL;
        if (last && last->mark.out_bytes == now.mark.out_bytes &&
            last->mark.in_bytes == now.mark.in_bytes && last->ends_done == ends_done)
                return;
        if (last && last->mark.in_bytes == now.mark.in_bytes &&
            last->mark.out_bytes == now.mark.out_bytes &&
            last->mark.state_bytes == now.mark.state_bytes &&
            memcmp(last->mark.state, now.mark.state, now.mark.state_bytes) == 0)
                return; /* the same place; an end that came later is not behind it */
        m->list = cas_xrealloc(m->list, (m->count + 1) * sizeof(*m->list));
        m->list[m->count++] = now;
}

/* Goes on from input byte `at`. pieces: sizes of the calls of write are odd. */
static void feed(const struct vector *v, struct cas_deflate_encoder *e, const uint8_t *input,
                 size_t len, size_t at, size_t ends_done, bool pieces, struct marks *marks,
                 struct cas_buf *out)
{
        static const size_t sizes[] = {1, 65521, 7, 300, 2, 32749, 262, 1009, 13, 131071};
        size_t turn = 0;
        for (;;) {
                size_t next_end = v->end_every > 0 ? (ends_done + 1) * v->end_every : len;
                next_end = next_end < len ? next_end : len;
                while (at < next_end) {
                        size_t n = next_end - at;
                        if (pieces)
                                n = cas_min_u64(n, sizes[turn++ % CAS_COUNT(sizes)]);
                        e->ops->write(e, input + at, n, out);
                        at += n;
                        if (marks)
                                marks_note(marks, v, len, e, ends_done);
                }
                if (v->end_every == 0 || ends_done * v->end_every >= len)
                        break;
                e->ops->end(e, v->end, out);
                ends_done++;
                if (marks)
                        marks_note(marks, v, len, e, ends_done);
        }
        e->ops->end(e, CAS_DEFLATE_END_FINISH, out);
}

static void check_digest(const struct vector *v, const char *line, const struct cas_buf *out)
{
        struct cas_hash hash;
        char hex[65];
        cas_sha256(out->data, out->len_bytes, &hash);
        for (unsigned i = 0; i < 32; i++)
                snprintf(hex + 2 * i, 3, "%02x", hash.bytes[i]);
        if (out->len_bytes != v->out_len || strcmp(hex, v->sha256) != 0)
                fail_msg("%zu bytes, %s; wanted:\n%s", out->len_bytes, hex, line);
}

static void check_mark(const struct vector *v, const char *line, const struct cas_buf *sample,
                       const struct mark *m, const struct cas_buf *want)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                v->class->create(v->class, v->level);
        const uint8_t *input = sample->data + v->dictionary_bytes;
        size_t at = (size_t)m->mark.in_bytes;
        size_t window = cas_min_u64(v->dictionary_bytes + at, v->class->window_bytes);
        assert_true(at <= sample->len_bytes - v->dictionary_bytes);
        if (e->ops->restart(e, &m->mark, input + at - window, window, &err) < 0)
                fail_msg("mark at %zu: %s\n%s", at, err.msg, line);
        feed(v, e, input, sample->len_bytes - v->dictionary_bytes, at, m->ends_done, false, NULL,
             &out);
        assert_true(m->mark.out_bytes <= want->len_bytes);
        if (out.len_bytes != want->len_bytes - m->mark.out_bytes ||
            memcmp(out.data, want->data + m->mark.out_bytes, out.len_bytes) != 0)
                fail_msg("other output from the mark at %zu\n%s", at, line);
}

static size_t check_vector(const char *line)
{
        struct vector v;
        struct marks marks = {0};
        cas_cleanup_buf struct cas_buf sample = CAS_BUF_INIT, out = CAS_BUF_INIT,
                                       again = CAS_BUF_INIT;
        vector_parse(line, &v);
        deflate_sample((enum deflate_sample)v.kind, v.seed, v.len, &sample);
        cas_buf_reserve(&sample, 1);
        const uint8_t *dictionary = v.dictionary_bytes > 0 ? sample.data : NULL;
        const uint8_t *input = sample.data + v.dictionary_bytes;
        size_t len = v.len - v.dictionary_bytes;
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                v.class->create(v.class, v.level);
        e->ops->begin(e, dictionary, v.dictionary_bytes);
        feed(&v, e, input, len, 0, 0, false, NULL, &out);
        check_digest(&v, line, &out);
        e->ops->begin(e, dictionary, v.dictionary_bytes);
        feed(&v, e, input, len, 0, 0, true, &marks, &again);
        if (again.len_bytes != out.len_bytes || memcmp(again.data, out.data, out.len_bytes) != 0)
                fail_msg("other output when written in pieces\n%s", line);
        size_t step = 1 + marks.count / MARKS_CHECKED_MAX;
        for (size_t i = marks.count; i > 0; i -= cas_min_u64(step, i))
                check_mark(&v, line, &sample, &marks.list[i - 1], &out);
        free(marks.list);
        return marks.count;
}

static void vectors(void **state CAS_UNUSED)
{
        glob_t found = {0};
        if (glob("tests/golden/deflate/*.tsv", 0, NULL, &found) != 0)
                fail_msg("no vectors");
        for (size_t i = 0; i < found.gl_pathc; i++) {
                char line[512];
                size_t seen = 0, count = 0, marks = 0;
                FILE *f = fopen(found.gl_pathv[i], "re");
                assert_non_null(f);
                while (fgets(line, sizeof(line), f)) {
                        if (line[0] == '#' || seen++ % VECTORS_STRIDE != 0)
                                continue;
                        marks += check_vector(line);
                        count++;
                }
                fclose(f);
                print_message("%s: %zu vectors, %zu marks\n", found.gl_pathv[i], count, marks);
                assert_true(count > 0);
                assert_true(marks > 0);
        }
        globfree(&found);
}

/* Ids and names are in recipes: one class each. */
static void catalogue(void **state CAS_UNUSED)
{
        for (size_t i = 0; cas_deflate_classes[i]; i++) {
                const struct cas_deflate_class *class = cas_deflate_classes[i];
                assert_ptr_equal(cas_deflate_class_by_id(class->id), class);
                assert_ptr_equal(cas_deflate_class_by_name(class->name), class);
                assert_true(class->level_min <= class->level_max);
                assert_true(class->ends >> CAS_DEFLATE_END_FINISH & 1);
        }
        assert_null(cas_deflate_class_by_id(0));
        assert_null(cas_deflate_class_by_name(""));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(catalogue),
                cmocka_unit_test(vectors),
        };
        return cmocka_run_group_tests_name("deflate_vectors", tests, NULL, NULL);
}
