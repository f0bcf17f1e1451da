/* SPDX-License-Identifier: Apache-2.0 */
/* The few language helpers that every file uses: always-on assertions, scope
 * cleanup with cas_steal(), array sizes, little-endian access to bytes.
 * Includes nothing of the project. */
#ifndef CAS_BASE_H
#define CAS_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define CAS_MUST_CHECK __attribute__((warn_unused_result))
#define CAS_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define CAS_UNUSED __attribute__((unused))
#define CAS_NORETURN __attribute__((noreturn))
#define CAS_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A programmer's error: never used on bytes that come from disk, the network
 * or a user. One condition each, so that the message names it. */
#define cas_assert(cond)                                                                           \
        do {                                                                                       \
                if (__builtin_expect(!(cond), 0))                                                  \
                        cas_assert_failed(#cond, __FILE__, __LINE__);                              \
        } while (0)
CAS_NORETURN void cas_assert_failed(const char *cond, const char *file, int line);

/* Memory of small fixed size: aborts when there is none. What is sized by
 * input uses malloc() and reports CAS_E_NOMEM after checking a named limit. */
void *cas_xmalloc(size_t size);
void *cas_xcalloc(size_t count, size_t size);
void *cas_xrealloc(void *old, size_t size);
char *cas_xstrdup(const char *s);
char *cas_xstrndup(const char *s, size_t n);
char *cas_xasprintf(const char *fmt, ...) CAS_PRINTF(1, 2);

/* Scope cleanup. A variable declared with one of these is never released by
 * hand; hand its value on with cas_steal(). */
static inline void cas_cleanup_free_(void *p)
{
        free(*(void **)p);
}
static inline void cas_cleanup_fd_(int *fd)
{
        if (*fd >= 0)
                (void)close(*fd);
}
#define cas_cleanup_free __attribute__((cleanup(cas_cleanup_free_)))
#define cas_cleanup_fd __attribute__((cleanup(cas_cleanup_fd_)))

/* Defines cleanup function NAME for a pointer of TYPE released by FREE. */
#define CAS_DEFINE_CLEANUP(NAME, TYPE, FREE)                                                       \
        static inline void NAME(TYPE *p)                                                           \
        {                                                                                          \
                if (*p)                                                                            \
                        FREE(*p);                                                                  \
        }                                                                                          \
        _Static_assert(1, "")

#define cas_steal(p)                                                                               \
        ({                                                                                         \
                __typeof__(*(p)) cas_stolen_ = *(p);                                               \
                *(p) = NULL;                                                                       \
                cas_stolen_;                                                                       \
        })
static inline int cas_steal_fd(int *fd)
{
        int stolen = *fd;
        *fd = -1;
        return stolen;
}

static inline uint64_t cas_min_u64(uint64_t a, uint64_t b)
{
        return a < b ? a : b;
}
static inline uint64_t cas_max_u64(uint64_t a, uint64_t b)
{
        return a > b ? a : b;
}
/* align is a power of two. */
static inline uint64_t cas_align_up(uint64_t n, uint64_t align)
{
        return (n + align - 1) & ~(align - 1);
}

/* Little-endian bytes: every format of ours is encoded through these. */
static inline void cas_put_le16(void *p, uint16_t v)
{
        memcpy(p, &v, sizeof(v));
}
static inline void cas_put_le32(void *p, uint32_t v)
{
        memcpy(p, &v, sizeof(v));
}
static inline void cas_put_le64(void *p, uint64_t v)
{
        memcpy(p, &v, sizeof(v));
}
static inline uint16_t cas_get_le16(const void *p)
{
        uint16_t v;
        memcpy(&v, p, sizeof(v));
        return v;
}
static inline uint32_t cas_get_le32(const void *p)
{
        uint32_t v;
        memcpy(&v, p, sizeof(v));
        return v;
}
static inline uint64_t cas_get_le64(const void *p)
{
        uint64_t v;
        memcpy(&v, p, sizeof(v));
        return v;
}
/* Big-endian, where keys must sort by number. */
static inline void cas_put_be64(void *p, uint64_t v)
{
        v = __builtin_bswap64(v);
        memcpy(p, &v, sizeof(v));
}
static inline uint64_t cas_get_be64(const void *p)
{
        uint64_t v;
        memcpy(&v, p, sizeof(v));
        return __builtin_bswap64(v);
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "port cas_put_le* first");

#endif
