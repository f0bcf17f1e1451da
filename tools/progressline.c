/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/progressline.h"

#include <errno.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>

#include "cas/buf.h"
#include "cas/mutex.h"
#include "tools/cli.h"

#define REDRAW_NS UINT64_C(100000000)
#define BAR_CELLS 24
#define BAR_CELLS_NARROW 14
#define BLOCK_COLUMNS 92     /* that lines with whole bars want */
#define BLOCK_COLUMNS_MIN 80 /* narrower: one line, as ever */
#define BLOCK_LINES_MAX 12   /* items beyond count in the last line alone */
#define RATE_WEIGHT 0.2      /* of the newest measurement */
#define TEXT_BYTES 24

/* How fast something moves. */
struct pace {
        uint64_t at_ns, done;
        double bytes_per_s;
};

struct item {
        char name[32];
        uint64_t done, total;
        struct pace pace;
};

struct cli_progress {
        struct cas_progress sink;
        struct cas_mutex mutex; /* guards what follows */
        uint64_t drawn_at_ns;
        bool terminal;
        unsigned lines_shown;
        struct item items[BLOCK_LINES_MAX];
        size_t item_count;
        struct pace pace;
};

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void window(int *columns, int *rows)
{
        struct winsize size;
        bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20;
        *columns = known ? size.ws_col : 80;
        *rows = known && size.ws_row > 0 ? size.ws_row : 24;
}

static void bar_text(uint64_t done, uint64_t total, unsigned width, char bar[BAR_CELLS + 1])
{
        unsigned cells = (unsigned)((double)cas_min_u64(done, total) / (double)total * width);
        for (unsigned i = 0; i < width; i++)
                bar[i] = i < cells ? '#' : '.';
        bar[width] = '\0';
}

/* "[####....] 1 MiB of 2 MiB", or the bytes alone. */
static void numbers_text(uint64_t done, uint64_t total, unsigned width, char *out, size_t out_bytes)
{
        char done_text[TEXT_BYTES], total_text[TEXT_BYTES], bar[BAR_CELLS + 1];
        cli_bytes_text(done, done_text, sizeof(done_text));
        if (total == 0) {
                (void)snprintf(out, out_bytes, "%s", done_text);
                return;
        }
        bar_text(done, total, width, bar);
        cli_bytes_text(total, total_text, sizeof(total_text));
        (void)snprintf(out, out_bytes, "[%s] %9s of %9s", bar, done_text, total_text);
}

static void pace_note(struct pace *p, uint64_t done)
{
        uint64_t now = now_ns();
        if (p->at_ns == 0 || done < p->done) {
                *p = (struct pace){.at_ns = now, .done = done};
                return;
        }
        double seconds = (double)(now - p->at_ns) / 1e9;
        if (seconds < 0.05)
                return;
        double rate = (double)(done - p->done) / seconds;
        p->bytes_per_s =
                p->bytes_per_s > 0 ? RATE_WEIGHT * rate + (1 - RATE_WEIGHT) * p->bytes_per_s : rate;
        p->at_ns = now;
        p->done = done;
}

static void rate_text(const struct pace *p, char *out, size_t out_bytes)
{
        char bytes[TEXT_BYTES];
        cli_bytes_text((uint64_t)p->bytes_per_s, bytes, sizeof(bytes));
        (void)snprintf(out, out_bytes, "%9s/s", bytes);
}

/* "1:05 left", or nothing. */
static void left_text(const struct pace *p, uint64_t done, uint64_t total, char *out,
                      size_t out_bytes)
{
        out[0] = '\0';
        if (total <= done || p->bytes_per_s < 1)
                return;
        double seconds = (double)(total - done) / p->bytes_per_s + 0.5;
        if (seconds < 360000)
                (void)snprintf(out, out_bytes, "  %u:%02u left", (unsigned)seconds / 60,
                               (unsigned)seconds % 60);
}

/* Whole pictures go out in one write, so that nothing flickers. */
static void show(const struct cas_buf *picture)
{
        for (size_t at = 0; at < picture->len_bytes;) {
                ssize_t n = write(STDERR_FILENO, picture->data + at, picture->len_bytes - at);
                if (n < 0 && errno != EINTR)
                        return;
                at += n > 0 ? (size_t)n : 0;
        }
}

/* To where the picture begins. */
static void append_home(struct cas_buf *out, unsigned lines)
{
        if (lines > 1)
                cas_buf_printf(out, "\033[%uA", lines - 1);
        cas_buf_append_str(out, "\r");
}

static void draw_line(struct cli_progress *p, int columns, const char *what, uint64_t done,
                      uint64_t total)
{
        char numbers[160];
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        numbers_text(done, total, BAR_CELLS, numbers, sizeof(numbers));
        int room = columns - (int)strlen(numbers) - 2;
        append_home(&out, p->lines_shown);
        cas_buf_printf(&out, "\033[J%.*s %s", room > 0 ? room : 0, what, numbers);
        show(&out);
        p->lines_shown = 1;
}

static void draw_block(struct cli_progress *p, unsigned width, const char *what, uint64_t done,
                       uint64_t total)
{
        char numbers[160], rate[40], left[40];
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        append_home(&out, p->lines_shown);
        for (size_t i = 0; i < p->item_count; i++) {
                const struct item *item = &p->items[i];
                numbers_text(item->done, item->total, width, numbers, sizeof(numbers));
                rate_text(&item->pace, rate, sizeof(rate));
                if (item->done >= item->total)
                        (void)snprintf(rate, sizeof(rate), "   storing");
                cas_buf_printf(&out, "%-12.12s %s %s\033[K\n", item->name, numbers, rate);
        }
        numbers_text(done, total, width, numbers, sizeof(numbers));
        rate_text(&p->pace, rate, sizeof(rate));
        left_text(&p->pace, done, total, left, sizeof(left));
        cas_buf_printf(&out, "%-12.12s %s %s%s\033[K\033[J", what, numbers, rate, left);
        show(&out);
        p->lines_shown = (unsigned)p->item_count + 1;
}

static void update(void *arg, const char *what, uint64_t done, uint64_t total)
{
        struct cli_progress *p = arg;
        if (!p->terminal)
                return;
        cas_mutex_lock(&p->mutex);
        uint64_t now = now_ns();
        if (now - p->drawn_at_ns >= REDRAW_NS) {
                int columns, rows;
                p->drawn_at_ns = now;
                pace_note(&p->pace, done);
                window(&columns, &rows);
                if (p->item_count == 0 || columns < BLOCK_COLUMNS_MIN ||
                    rows < (int)p->item_count + 2)
                        draw_line(p, columns, what, done, total);
                else
                        draw_block(p, columns < BLOCK_COLUMNS ? BAR_CELLS_NARROW : BAR_CELLS, what,
                                   done, total);
        }
        cas_mutex_unlock(&p->mutex);
}

/* Those that were there keep their pace. */
static void items(void *arg, const struct cas_progress_item *list, size_t count)
{
        struct cli_progress *p = arg;
        struct item now[BLOCK_LINES_MAX] = {0};
        size_t n = 0;
        if (!p->terminal)
                return;
        cas_mutex_lock(&p->mutex);
        for (; n < count && n < BLOCK_LINES_MAX; n++) {
                now[n] = (struct item){.done = list[n].done, .total = list[n].total};
                (void)snprintf(now[n].name, sizeof(now[n].name), "%s", list[n].name);
                for (size_t i = 0; i < p->item_count; i++) {
                        if (strcmp(p->items[i].name, now[n].name) == 0)
                                now[n].pace = p->items[i].pace;
                }
                pace_note(&now[n].pace, now[n].done);
        }
        memcpy(p->items, now, n * sizeof(now[0]));
        p->item_count = n;
        cas_mutex_unlock(&p->mutex);
}

struct cli_progress *cli_progress_new(void)
{
        struct cli_progress *p = cas_xcalloc(1, sizeof(*p));
        cas_mutex_init(&p->mutex, "cli.progress");
        p->sink = (struct cas_progress){.update = update, .arg = p, .items = items};
        p->terminal = isatty(STDERR_FILENO) == 1;
        p->drawn_at_ns = now_ns(); /* short work draws nothing */
        return p;
}

void cli_progress_free(struct cli_progress *p)
{
        if (p->lines_shown) {
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                append_home(&out, p->lines_shown);
                cas_buf_append_str(&out, "\033[J");
                show(&out);
        }
        cas_mutex_release(&p->mutex);
        free(p);
}

const struct cas_progress *cli_progress_sink(struct cli_progress *p)
{
        return &p->sink;
}
