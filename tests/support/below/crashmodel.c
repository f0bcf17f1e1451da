/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/below/crashmodel.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "cas/buf.h"
#include "cas/map.h"

#define TEAR_UNIT_BYTES 512
#define LONG_AGO_S 1000000000 /* when files of a state were written: what expires has expired */

/* What is certain of a file or a directory. */
struct node {
        bool is_dir;
        bool keeps_order; /* of its names */
        uint64_t hash;    /* of data; 0: not taken yet */
        struct cas_buf data;
};
/* A name. */
struct entry {
        uint32_t dir, file;
        const char *name; /* borrowed from the trace */
};
struct names {
        struct entry *list;
        size_t count, max;
};

/* A change that is not certain. */
struct pending {
        struct recorder_op op;
        bool doomed;    /* a sync of it failed */
        bool half_only; /* of a rename: that the old name goes */
};
/* What came of a change. */
enum choice {
        CHOICE_ABSENT,
        CHOICE_WHOLE,
        CHOICE_FIRST,  /* of a write: its first half … */
        CHOICE_SECOND, /* … its second half … */
        CHOICE_LENGTH, /* … its length alone */
        CHOICE_BOTH,   /* of a rename: both names are there */
};

struct crash_model {
        const struct recorder *r;
        enum crash_rules rules;
        size_t at;
        struct node *nodes; /* by number */
        size_t node_count, node_max;
        struct names names; /* that are certain */
        struct pending *pending;
        size_t pending_count, pending_max;
        uint64_t rng;
        struct cas_map *contents; /* file and choices -> hash, at this point */
};
struct crash_state {
        struct crash_model *m;
        const uint8_t *choices; /* by pending change */
        struct names names;
        uint64_t hash;
};

/* ---- names ---- */

static void names_push(struct names *n, const struct entry *e)
{
        if (n->count == n->max) {
                n->max = n->max ? 2 * n->max : 64;
                n->list = cas_xrealloc(n->list, n->max * sizeof(n->list[0]));
        }
        n->list[n->count++] = *e;
}

static struct entry *names_find(struct names *n, uint32_t dir, const char *name)
{
        for (size_t i = 0; i < n->count; i++) {
                if (n->list[i].dir == dir && strcmp(n->list[i].name, name) == 0)
                        return &n->list[i];
        }
        return NULL;
}

static void names_set(struct names *n, uint32_t dir, const char *name, uint32_t file)
{
        struct entry *e = names_find(n, dir, name);
        if (e)
                e->file = file;
        else
                names_push(n, &(struct entry){.dir = dir, .name = name, .file = file});
}

static void names_remove(struct names *n, uint32_t dir, const char *name, uint32_t file)
{
        struct entry *e = names_find(n, dir, name);
        if (e && e->file == file)
                *e = n->list[--n->count];
}

static bool is_name_change(const struct recorder_op *op)
{
        return op->kind == RECORDER_CREATE || op->kind == RECORDER_LINK ||
               op->kind == RECORDER_RENAME || op->kind == RECORDER_UNLINK;
}

static bool is_of_file(const struct pending *p, uint32_t file)
{
        return !is_name_change(&p->op) && p->op.file == file;
}

static void apply_name(struct names *n, const struct pending *p, enum choice choice)
{
        const struct recorder_op *op = &p->op;
        switch (op->kind) {
        case RECORDER_CREATE:
        case RECORDER_LINK:
                names_set(n, op->dir, op->name, op->file);
                break;
        case RECORDER_UNLINK:
                names_remove(n, op->dir, op->name, op->file);
                break;
        case RECORDER_RENAME:
                if (choice != CHOICE_BOTH)
                        names_remove(n, op->dir, op->name, op->file);
                if (!p->half_only)
                        names_set(n, op->to_dir, op->to_name, op->file);
                break;
        default:
                cas_assert(false);
        }
}

/* ---- bytes ---- */

static void set_length(struct cas_buf *b, uint64_t length)
{
        if (length > b->len_bytes) {
                size_t more = length - b->len_bytes;
                cas_buf_reserve(b, more);
                memset(b->data + b->len_bytes, 0, more);
        }
        b->len_bytes = length;
}

static void write_bytes(struct cas_buf *b, const struct recorder_op *op, uint64_t from, uint64_t to)
{
        if (op->offset + to > b->len_bytes)
                set_length(b, op->offset + to);
        memcpy(b->data + op->offset + from, op->data + from, to - from);
}

static uint64_t tear_at(uint64_t length)
{
        uint64_t half = length / 2;
        return length > 2 * TEAR_UNIT_BYTES ? half - half % TEAR_UNIT_BYTES : half;
}

static void apply_data(struct cas_buf *b, const struct recorder_op *op, enum choice choice)
{
        if (op->kind == RECORDER_TRUNCATE) {
                set_length(b, op->length);
                return;
        }
        switch (choice) {
        case CHOICE_WHOLE:
                write_bytes(b, op, 0, op->length);
                break;
        case CHOICE_FIRST:
                write_bytes(b, op, 0, tear_at(op->length));
                break;
        case CHOICE_SECOND:
                write_bytes(b, op, tear_at(op->length), op->length);
                break;
        case CHOICE_LENGTH:
                set_length(b, cas_max_u64(b->len_bytes, op->offset + op->length));
                break;
        default:
                cas_assert(false);
        }
}

/* ---- the model ---- */

static struct node *node_at(struct crash_model *m, uint32_t number)
{
        while (number >= m->node_max) {
                size_t max = m->node_max ? 2 * m->node_max : 1024;
                m->nodes = cas_xrealloc(m->nodes, max * sizeof(m->nodes[0]));
                memset(m->nodes + m->node_max, 0, (max - m->node_max) * sizeof(m->nodes[0]));
                m->node_max = max;
        }
        m->node_count = cas_max_u64(m->node_count, number + 1);
        return &m->nodes[number];
}

static void read_whole(const char *path, struct cas_buf *out)
{
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        cas_assert(fd >= 0);
        for (ssize_t n = 1; n > 0;) {
                cas_buf_reserve(out, 65536);
                n = read(fd, out->data + out->len_bytes, 65536);
                cas_assert(n >= 0);
                out->len_bytes += (size_t)n;
        }
}

static void note_directory(struct node *node, const char *name)
{
        node->is_dir = true;
        node->keeps_order = strncmp(name, CRASH_ROCKSDB_DIR, strlen(CRASH_ROCKSDB_DIR)) == 0;
}

/* Directories come before what is in them. */
static void load_base(struct crash_model *m, const char *base)
{
        size_t count = recorder_file_count(m->r);
        char **paths = cas_xcalloc(count + 1, sizeof(paths[0]));
        for (size_t i = 0; i < count; i++) {
                const struct recorder_file f = recorder_file(m->r, i);
                struct node *node = node_at(m, (uint32_t)i);
                if (f.is_dir)
                        note_directory(node, f.name);
                paths[i] =
                        i == 0 ? cas_xstrdup(base) : cas_xasprintf("%s/%s", paths[f.dir], f.name);
                if (i > 0)
                        names_push(
                                &m->names,
                                &(struct entry){.dir = f.dir, .file = (uint32_t)i, .name = f.name});
                if (!f.is_dir)
                        read_whole(paths[i], &node->data);
        }
        for (size_t i = 0; i < count; i++)
                free(paths[i]);
        free(paths);
}

struct crash_model *crash_model_new(const struct recorder *r, const char *base,
                                    enum crash_rules rules)
{
        struct crash_model *m = cas_xcalloc(1, sizeof(*m));
        m->r = r;
        m->rules = rules;
        m->contents = cas_map_new();
        load_base(m, base);
        return m;
}

void crash_model_free(struct crash_model *m)
{
        for (size_t i = 0; i < m->node_count; i++)
                cas_buf_release(&m->nodes[i].data);
        cas_map_free(m->contents);
        free(m->nodes);
        free(m->names.list);
        free(m->pending);
        free(m);
}

size_t crash_model_at(const struct crash_model *m)
{
        return m->at;
}

size_t crash_model_pending(const struct crash_model *m)
{
        return m->pending_count;
}

/* ---- syncs ---- */

static void make_certain(struct crash_model *m, const struct pending *p)
{
        if (is_name_change(&p->op)) {
                apply_name(&m->names, p, CHOICE_WHOLE);
                return;
        }
        struct node *node = node_at(m, p->op.file);
        apply_data(&node->data, &p->op, CHOICE_WHOLE);
        node->hash = 0;
}

static bool changes_name(const struct pending *p, uint32_t dir, const char *name)
{
        const struct recorder_op *op = &p->op;
        if (op->kind == RECORDER_RENAME && !p->half_only && op->to_dir == dir &&
            strcmp(op->to_name, name) == 0)
                return true;
        return op->dir == dir && strcmp(op->name, name) == 0;
}

static bool share_name(const struct pending *p, const struct pending *later)
{
        return changes_name(p, later->op.dir, later->op.name) ||
               (later->op.kind == RECORDER_RENAME &&
                changes_name(p, later->op.to_dir, later->op.to_name));
}

/* Whether the sync of a directory, or a later change that it makes certain, settles p. */
static bool settles(struct crash_model *m, size_t i, uint32_t dir, const bool *settled)
{
        struct pending *p = &m->pending[i];
        if (!is_name_change(&p->op) || p->doomed)
                return false;
        if (p->op.dir == dir)
                return true;
        for (size_t k = i + 1; k < m->pending_count; k++) {
                const struct pending *later = &m->pending[k];
                /* A rename that came is there in both of its directories, with all that was
                 * done to these names before. */
                if (settled[k] && share_name(p, later))
                        return true;
        }
        return false;
}

/* A rename into the directory: the new name is certain, the old one may be there besides. */
static bool settles_half(const struct pending *p, uint32_t dir)
{
        return p->op.kind == RECORDER_RENAME && !p->doomed && !p->half_only &&
               p->op.to_dir == dir && p->op.dir != dir;
}

static void drop_settled(struct crash_model *m, const bool *settled)
{
        size_t kept = 0;
        for (size_t i = 0; i < m->pending_count; i++) {
                if (!settled[i])
                        m->pending[kept++] = m->pending[i];
        }
        m->pending_count = kept;
}

static bool overlaps(const struct recorder_op *op, const struct recorder_op *later)
{
        uint64_t end = op->offset + op->length;
        if (later->kind == RECORDER_TRUNCATE)
                return later->length < end;
        return later->offset < end && op->offset < later->offset + later->length;
}

/* What a failed sync left uncertain is certain to be gone where something later took its place. */
static bool is_replaced(const struct crash_model *m, size_t i, const bool *settled)
{
        const struct pending *p = &m->pending[i];
        for (size_t k = i + 1; p->doomed && k < m->pending_count; k++) {
                const struct pending *later = &m->pending[k];
                if (!settled[k] || later->doomed)
                        continue;
                if (is_name_change(&p->op)
                            ? is_name_change(&later->op) && share_name(p, later)
                            : is_of_file(later, p->op.file) && overlaps(&p->op, &later->op))
                        return true;
        }
        return false;
}

static void drop_replaced(const struct crash_model *m, bool *settled)
{
        for (size_t i = 0; i < m->pending_count; i++)
                settled[i] = settled[i] || is_replaced(m, i, settled);
}

static void sync_names(struct crash_model *m, uint32_t dir)
{
        cas_cleanup_free bool *settled = cas_xcalloc(m->pending_count + 1, sizeof(bool));
        for (size_t i = m->pending_count; i-- > 0;)
                settled[i] = settles(m, i, dir, settled);
        for (size_t i = 0; i < m->pending_count; i++) {
                struct pending *p = &m->pending[i];
                if (settled[i]) {
                        make_certain(m, p);
                } else if (settles_half(p, dir)) {
                        names_set(&m->names, dir, p->op.to_name, p->op.file);
                        p->half_only = true;
                }
        }
        drop_replaced(m, settled);
        drop_settled(m, settled);
}

static void sync_where(struct crash_model *m, bool (*fn)(const struct pending *p, uint32_t file),
                       uint32_t file)
{
        cas_cleanup_free bool *settled = cas_xcalloc(m->pending_count + 1, sizeof(bool));
        for (size_t i = 0; i < m->pending_count; i++) {
                settled[i] = !m->pending[i].doomed && fn(&m->pending[i], file);
                if (settled[i])
                        make_certain(m, &m->pending[i]);
        }
        drop_replaced(m, settled);
        drop_settled(m, settled);
}

static bool is_any_name(const struct pending *p, uint32_t file CAS_UNUSED)
{
        return is_name_change(&p->op);
}

static bool is_any(const struct pending *p CAS_UNUSED, uint32_t file CAS_UNUSED)
{
        return true;
}

static void step_sync(struct crash_model *m, const struct recorder_op *op)
{
        if (m->rules == CRASH_ORDERED)
                sync_where(m, is_any_name, 0);
        if (!op->is_dir)
                sync_where(m, is_of_file, op->file);
        else if (m->rules == CRASH_POSIX)
                sync_names(m, op->file);
}

static void step_bad_sync(struct crash_model *m, const struct recorder_op *op)
{
        for (size_t i = 0; i < m->pending_count; i++) {
                struct pending *p = &m->pending[i];
                bool name = is_name_change(&p->op);
                if (op->is_dir ? name && (p->op.dir == op->file || p->op.to_dir == op->file)
                               : is_of_file(p, op->file))
                        p->doomed = true;
        }
}

bool crash_model_step(struct crash_model *m)
{
        if (m->at == recorder_op_count(m->r))
                return false;
        const struct recorder_op op = recorder_op(m->r, m->at++);
        cas_map_free(m->contents);
        m->contents = cas_map_new();
        switch (op.kind) {
        case RECORDER_SYNC:
                step_sync(m, &op);
                return true;
        case RECORDER_SYNC_BAD:
                step_bad_sync(m, &op);
                return true;
        case RECORDER_SYNC_ALL:
                sync_where(m, is_any, 0);
                return true;
        case RECORDER_NOTE:
                return true;
        case RECORDER_CREATE:
                if (op.is_dir)
                        note_directory(node_at(m, op.file), op.name);
                else
                        (void)node_at(m, op.file);
                break;
        default:
                break;
        }
        if (m->pending_count == m->pending_max) {
                m->pending_max = m->pending_max ? 2 * m->pending_max : 64;
                m->pending = cas_xrealloc(m->pending, m->pending_max * sizeof(m->pending[0]));
        }
        m->pending[m->pending_count++] = (struct pending){.op = op};
        return true;
}

/* ---- one state ---- */

static bool has_changes(const struct crash_state *s, uint32_t file)
{
        for (size_t i = 0; i < s->m->pending_count; i++) {
                if (s->choices[i] != CHOICE_ABSENT && is_of_file(&s->m->pending[i], file))
                        return true;
        }
        return false;
}

static void content_of(const struct crash_state *s, uint32_t file, struct cas_buf *out)
{
        const struct cas_buf *certain = &s->m->nodes[file].data;
        cas_buf_append(out, certain->data, certain->len_bytes);
        for (size_t i = 0; i < s->m->pending_count; i++) {
                if (s->choices[i] != CHOICE_ABSENT && is_of_file(&s->m->pending[i], file))
                        apply_data(out, &s->m->pending[i].op, s->choices[i]);
        }
}

static uint64_t hash_of(const struct cas_buf *b)
{
        uint64_t hash = XXH3_64bits(b->data, b->len_bytes);
        return hash ? hash : 1;
}

static uint64_t content_hash(const struct crash_state *s, uint32_t file)
{
        struct node *node = &s->m->nodes[file];
        if (!has_changes(s, file)) {
                if (node->hash == 0)
                        node->hash = hash_of(&node->data);
                return node->hash;
        }
        cas_cleanup_buf struct cas_buf key = CAS_BUF_INIT, bytes = CAS_BUF_INIT;
        cas_buf_append_le32(&key, file);
        for (size_t i = 0; i < s->m->pending_count; i++) {
                if (is_of_file(&s->m->pending[i], file))
                        cas_buf_append_byte(&key, s->choices[i]);
        }
        uint64_t *hash = cas_map_put(s->m->contents, key.data, key.len_bytes, NULL);
        if (*hash == 0) {
                content_of(s, file, &bytes);
                *hash = hash_of(&bytes);
        }
        return *hash;
}

static size_t links_of(const struct crash_state *s, uint32_t file)
{
        size_t count = 0;
        for (size_t i = 0; i < s->names.count; i++)
                count += s->names.list[i].file == file;
        return count;
}

/* Directories that can be reached: a hash of where they are, 0 for the others. */
static uint64_t *reach(const struct crash_state *s)
{
        uint64_t *where = cas_xcalloc(s->m->node_count, sizeof(where[0]));
        where[0] = 1;
        for (bool more = true; more;) {
                more = false;
                for (size_t i = 0; i < s->names.count; i++) {
                        const struct entry *e = &s->names.list[i];
                        if (!s->m->nodes[e->file].is_dir || where[e->file] || !where[e->dir])
                                continue;
                        where[e->file] =
                                XXH3_64bits_withSeed(e->name, strlen(e->name), where[e->dir]) | 1;
                        more = true;
                }
        }
        return where;
}

static uint64_t state_hash(const struct crash_state *s)
{
        cas_cleanup_free uint64_t *where = reach(s);
        uint64_t sum = 0;
        for (size_t i = 0; i < s->names.count; i++) {
                const struct entry *e = &s->names.list[i];
                if (!where[e->dir])
                        continue;
                bool is_dir = s->m->nodes[e->file].is_dir;
                uint64_t one[3] = {where[e->dir], is_dir ? 2 : content_hash(s, e->file),
                                   is_dir ? 1 : links_of(s, e->file)};
                one[0] = XXH3_64bits_withSeed(e->name, strlen(e->name), one[0]);
                sum += XXH3_64bits(one, sizeof(one)); /* in any order */
        }
        return sum;
}

uint64_t crash_state_hash(const struct crash_state *s)
{
        return s->hash;
}

static void write_file(const struct crash_state *s, uint32_t file, const char *path)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        const struct cas_buf *data = &s->m->nodes[file].data;
        if (has_changes(s, file)) {
                content_of(s, file, &bytes);
                data = &bytes;
        }
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        cas_assert(fd >= 0);
        ssize_t n = write(fd, data->data, data->len_bytes);
        cas_assert(n == (ssize_t)data->len_bytes);
        const struct timespec long_ago[2] = {{.tv_sec = LONG_AGO_S}, {.tv_sec = LONG_AGO_S}};
        int rc = futimens(fd, long_ago);
        cas_assert(rc == 0);
}

void crash_state_write(const struct crash_state *s, const char *dir)
{
        char **made = cas_xcalloc(s->m->node_count, sizeof(made[0])); /* by number */
        made[0] = cas_xstrdup(dir);
        int rc = mkdir(dir, 0700);
        cas_assert(rc == 0);
        for (bool more = true; more;) {
                more = false;
                for (size_t i = 0; i < s->names.count; i++) {
                        const struct entry *e = &s->names.list[i];
                        if (!s->m->nodes[e->file].is_dir || made[e->file] || !made[e->dir])
                                continue;
                        made[e->file] = cas_xasprintf("%s/%s", made[e->dir], e->name);
                        rc = mkdir(made[e->file], 0700);
                        cas_assert(rc == 0);
                        more = true;
                }
        }
        for (size_t i = 0; i < s->names.count; i++) {
                const struct entry *e = &s->names.list[i];
                if (s->m->nodes[e->file].is_dir || !made[e->dir])
                        continue;
                char *path = cas_xasprintf("%s/%s", made[e->dir], e->name);
                if (made[e->file]) {
                        rc = link(made[e->file], path);
                        cas_assert(rc == 0);
                        free(path);
                } else {
                        write_file(s, e->file, path);
                        made[e->file] = path;
                }
        }
        for (size_t i = 0; i < s->m->node_count; i++)
                free(made[i]);
        free(made);
}

void crash_state_print(const struct crash_state *s)
{
        static const char *const words[] = {"lost",        "came",         "first half",
                                            "second half", "length alone", "both names"};
        for (size_t i = 0; i < s->m->pending_count; i++) {
                const struct recorder_op *op = &s->m->pending[i].op;
                (void)fprintf(stderr, "  %-12s %s of file %u", words[s->choices[i]],
                              recorder_kind_name(op->kind), op->file);
                if (op->name)
                        (void)fprintf(stderr, " %s", op->name);
                if (op->to_name)
                        (void)fprintf(stderr, " to %s", op->to_name);
                if (op->kind == RECORDER_WRITE)
                        (void)fprintf(stderr, ", %llu bytes at %llu",
                                      (unsigned long long)op->length,
                                      (unsigned long long)op->offset);
                (void)fprintf(stderr, "%s\n", s->m->pending[i].doomed ? " (sync failed)" : "");
        }
}

/* ---- all of them ---- */

struct walk {
        struct crash_model *m;
        crash_state_fn fn;
        void *arg;
        struct cas_map *seen;
        uint8_t *choices;
        bool ended;
};

/* Of directories that keep it: of RocksDB. */
static bool names_in_order(const struct crash_model *m, const uint8_t *choices)
{
        bool lost = false;
        for (size_t i = 0; i < m->pending_count; i++) {
                const struct pending *p = &m->pending[i];
                if (p->doomed || !is_name_change(&p->op) || !m->nodes[p->op.dir].keeps_order)
                        continue;
                if (lost && choices[i] != CHOICE_ABSENT)
                        return false;
                lost = lost || choices[i] == CHOICE_ABSENT;
        }
        return true;
}

/* Whether the rules allow the choices; CRASH_ORDERED forbids some. */
static bool is_allowed(const struct crash_model *m, const uint8_t *choices)
{
        if (m->rules == CRASH_POSIX)
                return names_in_order(m, choices);
        bool name_lost = false;
        for (size_t i = 0; i < m->pending_count; i++) {
                const struct recorder_op *op = &m->pending[i].op;
                if (m->pending[i].doomed)
                        continue;
                if (is_name_change(op)) {
                        if (choices[i] == CHOICE_BOTH || (name_lost && choices[i]))
                                return false;
                        name_lost = name_lost || !choices[i];
                        continue;
                }
                /* Growing comes in order, bytes first. */
                uint64_t length = m->nodes[op->file].data.len_bytes;
                bool grows = op->kind == RECORDER_TRUNCATE || op->offset + op->length > length;
                if (!grows || choices[i] == CHOICE_ABSENT)
                        continue;
                if (choices[i] == CHOICE_SECOND || choices[i] == CHOICE_LENGTH)
                        return false;
                for (size_t k = 0; k < i; k++) {
                        const struct recorder_op *before = &m->pending[k].op;
                        if (is_of_file(&m->pending[k], op->file) && choices[k] != CHOICE_WHOLE &&
                            before->offset + before->length > length)
                                return false;
                }
        }
        return true;
}

static void visit(struct walk *w)
{
        struct crash_model *m = w->m;
        if (w->ended || !is_allowed(m, w->choices))
                return;
        struct crash_state s = {.m = m, .choices = w->choices};
        s.names.max = m->names.count + m->pending_count + 1;
        s.names.count = m->names.count;
        s.names.list = cas_xmalloc(s.names.max * sizeof(s.names.list[0]));
        if (m->names.count)
                memcpy(s.names.list, m->names.list, m->names.count * sizeof(s.names.list[0]));
        for (size_t i = 0; i < m->pending_count; i++) {
                if (w->choices[i] != CHOICE_ABSENT && is_name_change(&m->pending[i].op))
                        apply_name(&s.names, &m->pending[i], w->choices[i]);
        }
        s.hash = state_hash(&s);
        bool fresh;
        (void)cas_map_put(w->seen, &s.hash, sizeof(s.hash), &fresh);
        if (fresh)
                w->ended = !w->fn(w->arg, &s);
        free(s.names.list);
}

static void set_all(struct walk *w, size_t from, size_t to, enum choice choice)
{
        for (size_t i = from; i < to; i++)
                w->choices[i] = (uint8_t)choice;
}

static uint64_t random_bits(struct crash_model *m)
{
        m->rng = m->rng * 6364136223846793005ULL + 1442695040888963407ULL;
        return m->rng >> 33;
}

static void visit_combinations(struct walk *w)
{
        size_t n = w->m->pending_count;
        for (uint64_t bits = 0; bits < 1ULL << n; bits++) {
                for (size_t i = 0; i < n; i++)
                        w->choices[i] = bits >> i & 1 ? CHOICE_WHOLE : CHOICE_ABSENT;
                visit(w);
        }
}

static void visit_some(struct walk *w, const struct crash_bounds *bounds)
{
        size_t n = w->m->pending_count;
        for (size_t i = 0; i <= n; i++) { /* the first i */
                set_all(w, 0, i, CHOICE_WHOLE);
                set_all(w, i, n, CHOICE_ABSENT);
                visit(w);
        }
        for (size_t i = 0; i < n; i++) {
                set_all(w, 0, n, CHOICE_ABSENT);
                w->choices[i] = CHOICE_WHOLE;
                visit(w);
                set_all(w, 0, n, CHOICE_WHOLE);
                w->choices[i] = CHOICE_ABSENT;
                visit(w);
        }
        for (unsigned k = 0; k < bounds->samples; k++) {
                for (size_t i = 0; i < n; i++)
                        w->choices[i] = random_bits(w->m) & 1 ? CHOICE_WHOLE : CHOICE_ABSENT;
                visit(w);
        }
}

/* One change that came in part, among the rest in three ways. */
static void visit_partly(struct walk *w, size_t at, enum choice choice)
{
        size_t n = w->m->pending_count;
        for (unsigned way = 0; way < 3; way++) {
                set_all(w, 0, at, way < 2 ? CHOICE_WHOLE : CHOICE_ABSENT);
                set_all(w, at + 1, n, way == 0 ? CHOICE_WHOLE : CHOICE_ABSENT);
                w->choices[at] = (uint8_t)choice;
                visit(w);
        }
}

static void visit_torn(struct walk *w)
{
        for (size_t i = 0; i < w->m->pending_count; i++) {
                const struct pending *p = &w->m->pending[i];
                if (p->op.kind == RECORDER_WRITE && p->op.length > 1) {
                        visit_partly(w, i, CHOICE_FIRST);
                        visit_partly(w, i, CHOICE_SECOND);
                        visit_partly(w, i, CHOICE_LENGTH);
                } else if (p->op.kind == RECORDER_RENAME && p->op.dir != p->op.to_dir &&
                           !p->half_only) {
                        visit_partly(w, i, CHOICE_BOTH);
                }
        }
}

void crash_model_states(struct crash_model *m, const struct crash_bounds *bounds, crash_state_fn fn,
                        void *arg)
{
        cas_cleanup_free uint8_t *choices = cas_xcalloc(m->pending_count + 1, 1);
        cas_cleanup_map struct cas_map *seen = cas_map_new();
        struct walk w = {.m = m, .fn = fn, .arg = arg, .seen = seen, .choices = choices};
        m->rng = bounds->seed ^ m->at;
        set_all(&w, 0, m->pending_count, CHOICE_WHOLE); /* as kill -9 leaves it */
        visit(&w);
        if (m->pending_count <= bounds->bound_bits)
                visit_combinations(&w);
        else
                visit_some(&w, bounds);
        visit_torn(&w);
}
