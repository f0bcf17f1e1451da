/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <strings.h>
#include <time.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static _Atomic int level_max = CAS_LOG_INFO;
static pthread_once_t level_once = PTHREAD_ONCE_INIT;

static void level_from_environment(void)
{
        const char *want = getenv("LAMINA_LOG");
        for (size_t i = 0; want && i < CAS_COUNT(level_names); i++) {
                if (strcasecmp(want, level_names[i]) == 0)
                        atomic_store(&level_max, (int)i);
        }
}

void cas_log_set_level(enum cas_log_level level)
{
        (void)pthread_once(&level_once, level_from_environment);
        atomic_store(&level_max, (int)level);
}

bool cas_log_enabled(enum cas_log_level level)
{
        (void)pthread_once(&level_once, level_from_environment);
        return (int)level <= atomic_load(&level_max);
}

void cas_log(enum cas_log_level level, const char *event, const char *fmt, ...)
{
        if (!cas_log_enabled(level))
                return;
        char line[1024];
        struct timespec now;
        struct tm utc;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        (void)gmtime_r(&now.tv_sec, &utc);
        size_t len = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &utc);
        len += (size_t)snprintf(line + len, sizeof(line) - len, ".%03ldZ %s %s ",
                                now.tv_nsec / 1000000, level_names[level], event);
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
        va_end(ap);
        if (n > 0)
                len = cas_min_u64(len + (size_t)n, sizeof(line) - 2);
        for (size_t i = 0; i < len; i++) {
                if ((unsigned char)line[i] < ' ')
                        line[i] = '?'; /* one event, one line, whatever a client sent */
        }
        line[len++] = '\n';
        (void)!write(STDERR_FILENO, line, len);
}
