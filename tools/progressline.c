/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/progressline.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>

#include "cas/mutex.h"
#include "tools/cli.h"

#define REDRAW_NS UINT64_C(100000000)
#define BAR_CELLS 24

struct cli_progress {
        struct cas_progress sink;
        struct cas_mutex mutex; /* guards what follows */
        uint64_t drawn_at_ns;
        bool terminal;
        bool line_shown;
};

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int columns(void)
{
        struct winsize size;
        if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20)
                return 80;
        return size.ws_col;
}

static void draw(const char *what, uint64_t done, uint64_t total)
{
        char done_text[24], total_text[24], bar[BAR_CELLS + 1];
        cli_bytes_text(done, done_text, sizeof(done_text));
        char numbers[128];
        if (total > 0) {
                uint64_t cells = cas_min_u64(done, total) * BAR_CELLS / total;
                for (uint64_t i = 0; i < BAR_CELLS; i++)
                        bar[i] = i < cells ? '#' : '.';
                bar[BAR_CELLS] = '\0';
                cli_bytes_text(total, total_text, sizeof(total_text));
                snprintf(numbers, sizeof(numbers), "[%s] %s of %s", bar, done_text, total_text);
        } else {
                snprintf(numbers, sizeof(numbers), "%s", done_text);
        }
        int room = columns() - (int)strlen(numbers) - 2;
        fprintf(stderr, "\r\033[K%.*s %s", room > 0 ? room : 0, what, numbers);
        fflush(stderr);
}

static void update(void *arg, const char *what, uint64_t done, uint64_t total)
{
        struct cli_progress *p = arg;
        if (!p->terminal)
                return;
        cas_mutex_lock(&p->mutex);
        uint64_t now = now_ns();
        if (now - p->drawn_at_ns >= REDRAW_NS) {
                p->drawn_at_ns = now;
                p->line_shown = true;
                draw(what, done, total);
        }
        cas_mutex_unlock(&p->mutex);
}

struct cli_progress *cli_progress_new(void)
{
        struct cli_progress *p = cas_xcalloc(1, sizeof(*p));
        cas_mutex_init(&p->mutex, "cli.progress");
        p->sink = (struct cas_progress){.update = update, .arg = p};
        p->terminal = isatty(STDERR_FILENO) == 1;
        p->drawn_at_ns = now_ns(); /* short work draws nothing */
        return p;
}

void cli_progress_free(struct cli_progress *p)
{
        if (p->line_shown)
                fputs("\r\033[K", stderr);
        cas_mutex_release(&p->mutex);
        free(p);
}

const struct cas_progress *cli_progress_sink(struct cli_progress *p)
{
        return &p->sink;
}
