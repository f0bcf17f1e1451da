/* SPDX-License-Identifier: Apache-2.0 */
/* The protocol of nodes that share a bucket (spec/cluster.md), explored whole: every order of every
 * request of two nodes that push the same blob and a manifest each that names it, deletions, and
 * runs of collection. There is no time in it: all graces are over at once, a node may stop for ever
 * between any two requests, and two runs of collection may go on side by side, as if there were no
 * lease. Then each of a list of protocols with one step broken, which must be found to go wrong.
 *
 * A request is a step. A condition on a version that was read holds while nothing has written the
 * cell since; a condition on its being absent holds whenever it is absent, also again.
 *
 *   cluster_model         the bounds of `make test`
 *   cluster_model --long  larger ones
 *   cluster_model NAME    one broken protocol, and the steps that lead to where it goes wrong */
#include <stdio.h>

#include "cas/base.h"

/* ---- states ---- */

enum { PUSHERS = 2, COLLECTORS = 2 };

/* The blob's cell, with whose pieces it has (PUSHERS: nobody's). */
enum blob_state { ABSENT, FINISHING, LIVE, CONDEMNED, DEAD };

/* What a pusher does next. */
enum step {
        P_SESSION,
        P_READ_BLOB,
        P_TAKE,
        P_SEE_SESSION,
        P_MAKE_LIVE,
        P_READ_LINK,
        P_WRITE_LINK,
        P_HOLD_BLOB,
        P_HOLD_BLOB_WRITE,
        P_HOLD_LINK,
        P_HOLD_LINK_WRITE,
        P_MANIFEST,
        P_AGAIN_LINK,
        P_AGAIN_LINK_WRITE,
        P_ACKNOWLEDGE,
        P_END,
};
/* What a collector does next. */
enum run {
        C_IDLE,
        C_BEFORE_LINK,
        C_BEFORE_BLOB,
        C_MARK_MANIFEST_0,
        C_MARK_MANIFEST_1,
        C_MARK_LINK,
        C_LINK,
        C_LINK_WRITE,
        C_BLOB,
        C_BLOB_WRITE,
        C_PIECES,
        C_EMPTY,
        C_SESSION_0,
        C_SESSION_BLOB_0,
        C_SESSION_PIECES_0,
        C_SESSION_1,
        C_SESSION_BLOB_1,
        C_SESSION_PIECES_1,
        C_END,
};

struct pusher {
        uint8_t step;
        uint8_t session; /* cell: ABSENT, FINISHING, DEAD */
        uint8_t pieces;  /* they are there */
        uint8_t manifest;
        uint8_t acknowledged;
        uint8_t tried;                         /* to make the blob live: the answer may be lost */
        uint8_t saw_blob, saw_owner, saw_link; /* as read … */
        uint8_t same_blob, same_link;          /* … and whether nothing has written it since */
};
struct collector {
        uint8_t step, runs;
        uint8_t before_link, before_blob, before_owner; /* before the mark */
        uint8_t same_link, same_blob;
        uint8_t named, linked;
        uint8_t saw, saw_owner, same; /* of the write that follows */
};
struct state {
        uint8_t blob, owner, link;
        struct pusher p[PUSHERS];
        struct collector c[COLLECTORS];
};

enum broken {
        NOTHING,
        NO_LINK_AGAIN,
        NO_BLOB_AGAIN,
        NO_CLEARING,
        NO_VERSION_BEFORE,
        MARK_FIRST,
        ANY_VERSION,
        LIVE_AT_ONCE,
        NO_LOOK_AT_SESSION,
        NO_LOOK_AT_BLOB,
        PARENT_FIRST,
        TAKE_AGAIN,
        BROKEN_COUNT,
};
static const struct {
        const char *name, *what;
} brokens[BROKEN_COUNT] = {
        [NOTHING] = {"protocol", "as it is"},
        [NO_LINK_AGAIN] = {"no-link-again", "a manifest's links are not held again behind it"},
        [NO_BLOB_AGAIN] = {"no-blob-again", "a link's blob is not held again behind it"},
        [NO_CLEARING] = {"no-clearing", "what is condemned is taken for held as it is"},
        [NO_VERSION_BEFORE] = {"no-version-before",
                               "what goes need not be as it was before the mark"},
        [MARK_FIRST] = {"mark-first", "cells are listed after the mark"},
        [ANY_VERSION] = {"any-version", "what goes is removed without a condition"},
        [LIVE_AT_ONCE] = {"live-at-once", "a blob is live as soon as it has pieces"},
        [NO_LOOK_AT_SESSION] = {"no-look-at-session", "nobody looks whether the session is alive"},
        [NO_LOOK_AT_BLOB] = {"no-look-at-blob", "a session ends whatever the blob's cell says"},
        [TAKE_AGAIN] = {"take-again", "pieces are used again when an answer was lost"},
        [PARENT_FIRST] = {"parent-first", "acknowledged before what it names is held"},
};

struct bounds {
        unsigned pushers, collectors, runs;
};
static struct bounds bounds;
static enum broken broken;

/* ---- writes ---- */

static void blob_set(struct state *s, uint8_t blob, uint8_t owner)
{
        s->blob = blob;
        s->owner = blob == ABSENT ? 0 : owner;
        for (unsigned i = 0; i < PUSHERS; i++)
                s->p[i].same_blob = 0;
        for (unsigned i = 0; i < COLLECTORS; i++) {
                s->c[i].same_blob = 0;
                if (s->c[i].step == C_BLOB_WRITE || s->c[i].step == C_EMPTY ||
                    s->c[i].step == C_SESSION_BLOB_0 || s->c[i].step == C_SESSION_BLOB_1)
                        s->c[i].same = 0;
        }
}

static void link_set(struct state *s, uint8_t link)
{
        s->link = link;
        for (unsigned i = 0; i < PUSHERS; i++)
                s->p[i].same_link = 0;
        for (unsigned i = 0; i < COLLECTORS; i++) {
                s->c[i].same_link = 0;
                if (s->c[i].step == C_LINK_WRITE)
                        s->c[i].same = 0;
        }
}

/* Whether a pusher's condition holds: an absent cell has no version. */
static bool blob_holds(const struct state *s, const struct pusher *p)
{
        return p->saw_blob == ABSENT ? s->blob == ABSENT : p->same_blob;
}

static bool link_holds(const struct state *s, const struct pusher *p)
{
        return p->saw_link == ABSENT ? s->link == ABSENT : p->same_link;
}

static void see_blob(const struct state *s, struct pusher *p)
{
        p->saw_blob = s->blob;
        p->saw_owner = s->owner;
        p->same_blob = 1;
}

static void see_link(const struct state *s, struct pusher *p)
{
        p->saw_link = s->link;
        p->same_link = 1;
}

static bool needs_clearing(uint8_t cell)
{
        return cell == CONDEMNED && broken != NO_CLEARING;
}

static bool is_there(uint8_t cell)
{
        return cell == LIVE || cell == CONDEMNED;
}

/* ---- steps of a pusher ---- */

static void pusher_write_blob(struct state *s, unsigned i)
{
        struct pusher *p = &s->p[i];
        if (!blob_holds(s, p)) {
                p->step = P_READ_BLOB;
        } else if (p->saw_blob == CONDEMNED) {
                blob_set(s, LIVE, s->owner);
                p->step = P_READ_LINK;
        } else {
                blob_set(s, broken == LIVE_AT_ONCE ? LIVE : FINISHING, (uint8_t)i);
                p->saw_blob = s->blob;
                p->same_blob = 1;
                p->step = broken == LIVE_AT_ONCE ? P_READ_LINK : P_SEE_SESSION;
        }
}

/* Held, by a write when that is needed; else it goes on, or ends where there is none. */
static void hold(struct pusher *p, uint8_t cell, uint8_t write, uint8_t next)
{
        p->step = !is_there(cell) ? P_END : needs_clearing(cell) ? write : next;
}

static void pusher_step(struct state *s, unsigned i)
{
        struct pusher *p = &s->p[i];
        switch ((enum step)p->step) {
        case P_SESSION:
                p->session = FINISHING;
                p->pieces = 1;
                p->step = P_READ_BLOB;
                break;
        case P_READ_BLOB:
                see_blob(s, p);
                if (s->blob == LIVE || (s->blob == CONDEMNED && !needs_clearing(s->blob)))
                        p->step = P_READ_LINK;
                else if (p->tried && s->blob != CONDEMNED && broken != TAKE_AGAIN)
                        p->step = P_END; /* it may have been live, and its pieces may be gone */
                else if (broken == LIVE_AT_ONCE && s->blob == ABSENT)
                        p->step = P_SEE_SESSION;
                else
                        p->step = P_TAKE;
                break;
        case P_TAKE:
                pusher_write_blob(s, i);
                break;
        case P_SEE_SESSION: /* live-at-once looks before it writes, as it must */
                if (p->session != FINISHING && broken != NO_LOOK_AT_SESSION)
                        p->step = P_END;
                else
                        p->step = broken == LIVE_AT_ONCE ? P_TAKE : P_MAKE_LIVE;
                break;
        case P_MAKE_LIVE:
                p->step = P_READ_BLOB;
                p->tried = 1;
                if (p->same_blob) {
                        blob_set(s, LIVE, (uint8_t)i);
                        p->step = P_READ_LINK;
                }
                break;
        case P_READ_LINK:
                see_link(s, p);
                p->step = s->link == LIVE || (s->link == CONDEMNED && !needs_clearing(s->link))
                                  ? P_HOLD_BLOB
                                  : P_WRITE_LINK;
                break;
        case P_WRITE_LINK:
                p->step = P_READ_LINK;
                if (link_holds(s, p)) {
                        link_set(s, LIVE);
                        p->step = P_HOLD_BLOB;
                }
                break;
        case P_HOLD_BLOB:
                see_blob(s, p);
                if (broken == NO_BLOB_AGAIN)
                        p->step = P_HOLD_LINK;
                else
                        hold(p, s->blob, P_HOLD_BLOB_WRITE, P_HOLD_LINK);
                break;
        case P_HOLD_BLOB_WRITE:
                p->step = P_HOLD_BLOB;
                if (p->same_blob) {
                        blob_set(s, LIVE, s->owner);
                        p->step = P_HOLD_LINK;
                }
                break;
        case P_HOLD_LINK: /* the manifest arrives: are its blobs there? */
                see_link(s, p);
                hold(p, s->link, P_HOLD_LINK_WRITE, P_MANIFEST);
                break;
        case P_HOLD_LINK_WRITE:
                p->step = P_HOLD_LINK;
                if (p->same_link) {
                        link_set(s, LIVE);
                        p->step = P_MANIFEST;
                }
                break;
        case P_MANIFEST:
                p->manifest = 1;
                p->acknowledged = broken == PARENT_FIRST;
                p->step = broken == NO_LINK_AGAIN ? P_ACKNOWLEDGE : P_AGAIN_LINK;
                break;
        case P_AGAIN_LINK:
                see_link(s, p);
                hold(p, s->link, P_AGAIN_LINK_WRITE, P_ACKNOWLEDGE);
                break;
        case P_AGAIN_LINK_WRITE:
                p->step = P_AGAIN_LINK;
                if (p->same_link) {
                        link_set(s, LIVE);
                        p->step = P_ACKNOWLEDGE;
                }
                break;
        case P_ACKNOWLEDGE:
                p->acknowledged = p->manifest;
                p->step = P_END;
                break;
        case P_END:
                break;
        }
}

/* ---- steps of a collector ---- */

static bool collector_goes(bool same, uint8_t before)
{
        return broken == NO_VERSION_BEFORE || broken == ANY_VERSION || (same && before != ABSENT);
}

static void end_session(struct state *s, struct collector *c, unsigned i, enum run blob,
                        enum run next)
{
        if (s->p[i].session == ABSENT) {
                c->step = next;
                return;
        }
        s->p[i].session = DEAD;
        c->saw = s->blob;
        c->saw_owner = s->owner;
        c->step = blob;
        c->same = 0; /* it is read in the next step */
}

/* The blob's cell is replaced where it is about to take the session's pieces. */
static void end_session_blob(struct state *s, struct collector *c, unsigned i, enum run pieces)
{
        c->saw_owner = 0;
        if (broken != NO_LOOK_AT_BLOB && s->owner == i) {
                if (s->blob == FINISHING)
                        blob_set(s, DEAD, PUSHERS);
                c->saw_owner = is_there(s->blob); /* they stay */
        }
        c->step = pieces;
}

static void end_session_pieces(struct state *s, struct collector *c, unsigned i, enum run next)
{
        if (!c->saw_owner)
                s->p[i].pieces = 0;
        s->p[i].session = ABSENT;
        c->step = next;
}

static void collector_blob_write(struct state *s, struct collector *c)
{
        bool holds = c->same || broken == ANY_VERSION;
        c->step = C_SESSION_0;
        if (!holds)
                return;
        if (c->saw == LIVE) {
                blob_set(s, CONDEMNED, s->owner);
        } else if (c->saw != ABSENT && s->blob != ABSENT) {
                /* whose pieces go: of one that is finishing, they are the session's still */
                c->saw_owner = c->saw == FINISHING ? PUSHERS : s->owner;
                blob_set(s, DEAD, c->saw_owner);
                c->same = 1;
                c->step = C_PIECES;
        }
}

static void collector_step(struct state *s, unsigned k)
{
        struct collector *c = &s->c[k];
        switch ((enum run)c->step) {
        case C_IDLE:
                c->named = c->linked = 0;
                c->step = broken == MARK_FIRST ? C_MARK_MANIFEST_0 : C_BEFORE_LINK;
                break;
        case C_BEFORE_LINK:
                c->before_link = s->link;
                c->same_link = 1;
                c->step = C_BEFORE_BLOB;
                break;
        case C_BEFORE_BLOB:
                c->before_blob = s->blob;
                c->before_owner = s->owner;
                c->same_blob = 1;
                c->step = broken == MARK_FIRST ? C_LINK : C_MARK_MANIFEST_0;
                break;
        case C_MARK_MANIFEST_0:
                c->named |= s->p[0].manifest;
                c->step = C_MARK_MANIFEST_1;
                break;
        case C_MARK_MANIFEST_1:
                c->named |= s->p[1].manifest;
                c->step = C_MARK_LINK;
                break;
        case C_MARK_LINK:
                c->linked = s->link != ABSENT;
                c->step = broken == MARK_FIRST ? C_BEFORE_LINK : C_LINK;
                break;
        case C_LINK:
                c->saw = s->link;
                c->same = 1;
                c->step = !c->named && s->link != ABSENT &&
                                          collector_goes(c->same_link, c->before_link)
                                  ? C_LINK_WRITE
                                  : C_BLOB;
                break;
        case C_LINK_WRITE:
                if (c->same || broken == ANY_VERSION)
                        link_set(s, c->saw == LIVE ? CONDEMNED : ABSENT);
                c->step = C_BLOB;
                break;
        case C_BLOB:
                c->saw = s->blob;
                c->same = 1;
                c->step = !c->named && !c->linked && s->blob != ABSENT &&
                                          collector_goes(c->same_blob, c->before_blob)
                                  ? C_BLOB_WRITE
                                  : C_SESSION_0;
                break;
        case C_BLOB_WRITE:
                collector_blob_write(s, c);
                break;
        case C_PIECES:
                if (c->saw_owner < PUSHERS)
                        s->p[c->saw_owner].pieces = 0;
                c->same = s->blob == DEAD; /* only a dead one is emptied; see C_EMPTY */
                c->step = C_EMPTY;
                break;
        case C_EMPTY:
                if (c->same && s->blob == DEAD)
                        blob_set(s, ABSENT, 0);
                c->step = C_SESSION_0;
                break;
        case C_SESSION_0:
                end_session(s, c, 0, C_SESSION_BLOB_0, C_SESSION_1);
                break;
        case C_SESSION_BLOB_0:
                end_session_blob(s, c, 0, C_SESSION_PIECES_0);
                break;
        case C_SESSION_PIECES_0:
                end_session_pieces(s, c, 0, C_SESSION_1);
                break;
        case C_SESSION_1:
                end_session(s, c, 1, C_SESSION_BLOB_1, C_END);
                break;
        case C_SESSION_BLOB_1:
                end_session_blob(s, c, 1, C_SESSION_PIECES_1);
                break;
        case C_SESSION_PIECES_1:
                end_session_pieces(s, c, 1, C_END);
                break;
        case C_END: {
                uint8_t runs = (uint8_t)(c->runs + 1);
                *c = (struct collector){.runs = runs};
                break;
        }
        }
}

/* ---- what must hold ---- */

static const char *wrong(const struct state *s)
{
        if (is_there(s->blob) && !s->p[s->owner].pieces)
                return "a blob is there whose pieces are not";
        for (unsigned i = 0; i < PUSHERS; i++) {
                if (!s->p[i].acknowledged || !s->p[i].manifest)
                        continue;
                if (!is_there(s->blob))
                        return "an acknowledged manifest's blob is gone";
                if (!is_there(s->link))
                        return "an acknowledged manifest's link is gone";
        }
        return NULL;
}

/* Nobody pushes any more, and nothing is named: some runs leave nothing. */
static const char *leaves(const struct state *from)
{
        struct state s = *from;
        for (unsigned i = 0; i < PUSHERS; i++) {
                if (s.p[i].step != P_END && s.p[i].step != P_SESSION)
                        return NULL;
                if (s.p[i].manifest)
                        return NULL;
        }
        for (unsigned k = 0; k < COLLECTORS; k++) {
                if (s.c[k].step != C_IDLE)
                        return NULL;
        }
        for (unsigned run = 0; run < 6; run++) {
                do
                        collector_step(&s, 0);
                while (s.c[0].step != C_IDLE);
        }
        bool left = s.blob != ABSENT || s.link != ABSENT;
        for (unsigned i = 0; i < PUSHERS; i++)
                left = left || s.p[i].pieces || s.p[i].session != ABSENT;
        return left ? "collection leaves what nothing needs" : NULL;
}

/* ---- all of them ---- */

struct found {
        struct state *list; /* owned, in the order in which they were found */
        uint32_t *from;     /* owned: from which; for the way back */
        uint32_t count, alloc;
        uint32_t *slots; /* owned: number + 1 */
        uint32_t slot_mask;
};

static uint64_t hash_of(const struct state *s)
{
        const uint8_t *bytes = (const uint8_t *)s;
        uint64_t h = UINT64_C(0xcbf29ce484222325);
        for (size_t i = 0; i < sizeof(*s); i++)
                h = (h ^ bytes[i]) * UINT64_C(0x100000001b3);
        return h ^ h >> 29;
}

static void grow(struct found *f)
{
        uint32_t size = f->slot_mask ? 2 * (f->slot_mask + 1) : 1U << 16;
        free(f->slots);
        f->slots = cas_xcalloc(size, sizeof(*f->slots));
        f->slot_mask = size - 1;
        for (uint32_t i = 0; i < f->count; i++) {
                uint64_t at = hash_of(&f->list[i]);
                while (f->slots[at & f->slot_mask])
                        at++;
                f->slots[at & f->slot_mask] = i + 1;
        }
        f->alloc = size / 2;
        f->list = cas_xrealloc(f->list, f->alloc * sizeof(*f->list));
        f->from = cas_xrealloc(f->from, f->alloc * sizeof(*f->from));
}

static void found_add(struct found *f, const struct state *s, uint32_t from)
{
        if (f->count == f->alloc)
                grow(f);
        uint64_t at = hash_of(s);
        for (; f->slots[at & f->slot_mask]; at++) {
                if (memcmp(&f->list[f->slots[at & f->slot_mask] - 1], s, sizeof(*s)) == 0)
                        return;
        }
        f->slots[at & f->slot_mask] = f->count + 1;
        f->list[f->count] = *s;
        f->from[f->count++] = from;
}

static void successors(struct found *f, uint32_t from)
{
        const struct state s = f->list[from];
        for (unsigned i = 0; i < bounds.pushers; i++) {
                struct state next = s;
                if (s.p[i].step != P_END) {
                        pusher_step(&next, i);
                        found_add(f, &next, from);
                        if (s.p[i].step == P_MAKE_LIVE && next.p[i].step == P_READ_LINK) {
                                next.p[i].step = P_READ_BLOB; /* the answer is lost */
                                found_add(f, &next, from);
                        }
                        next = s;
                        next.p[i].step = P_END; /* it stops for ever */
                        if (s.p[i].step != P_SESSION)
                                found_add(f, &next, from);
                } else if (s.p[i].manifest) { /* a deletion */
                        next.p[i].manifest = next.p[i].acknowledged = 0;
                        found_add(f, &next, from);
                }
        }
        for (unsigned k = 0; k < bounds.collectors; k++) {
                struct state next = s;
                if (s.c[k].step == C_IDLE && s.c[k].runs == bounds.runs)
                        continue;
                collector_step(&next, k);
                found_add(f, &next, from);
        }
}

static void print_state(const struct state *s)
{
        static const char *const cells[] = {"-", "finishing", "live", "condemned", "dead"};
        printf("  blob %s of %u, link %s;", cells[s->blob], s->owner, cells[s->link]);
        for (unsigned i = 0; i < bounds.pushers; i++)
                printf(" push %u: step %u session %s pieces %u manifest %u%s;", i, s->p[i].step,
                       cells[s->p[i].session], s->p[i].pieces, s->p[i].manifest,
                       s->p[i].acknowledged ? " acknowledged" : "");
        for (unsigned k = 0; k < bounds.collectors; k++)
                printf(" run %u.%u: step %u named %u linked %u;", k, s->c[k].runs, s->c[k].step,
                       s->c[k].named, s->c[k].linked);
        printf("\n");
}

static void print_way(const struct found *f, uint32_t to)
{
        if (to != 0)
                print_way(f, f->from[to]);
        print_state(&f->list[to]);
}

/* NULL: nothing goes wrong. */
static const char *explore(enum broken how, const struct bounds *within, bool way, uint32_t *count)
{
        struct found f = {0};
        struct state first;
        const char *bad = NULL;
        memset(&first, 0, sizeof(first));
        bounds = *within;
        broken = how;
        found_add(&f, &first, 0);
        for (uint32_t i = 0; i < f.count && !bad; i++) {
                bad = wrong(&f.list[i]);
                if (!bad)
                        bad = leaves(&f.list[i]);
                if (bad && way)
                        print_way(&f, i);
                if (!bad)
                        successors(&f, i);
        }
        *count = f.count;
        free(f.list);
        free(f.from);
        free(f.slots);
        return bad;
}

static const struct bounds usual[] = {{1, 1, 6}, {1, 2, 1}, {2, 1, 2}};
static const struct bounds longer[] = {{1, 2, 2}, {2, 1, 3}, {2, 1, 5}, {1, 2, 4}, {2, 2, 2}};

static int run(enum broken how, const struct bounds *all, size_t count, bool way)
{
        const char *bad = NULL;
        uint32_t states = 0, more;
        for (size_t i = 0; i < count && !bad; i++) {
                bad = explore(how, &all[i], way, &more);
                states += more;
        }
        bool good = (bad == NULL) == (how == NOTHING);
        printf("%s %s (%s): %u states: %s\n", good ? "ok  " : "FAIL", brokens[how].name,
               brokens[how].what, states, bad ? bad : "nothing goes wrong");
        return good ? 0 : 1;
}

int main(int argc, char **argv)
{
        bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
        int failed = 0, passed = 0;
        for (unsigned i = 0; i < BROKEN_COUNT; i++) {
                if (argc > 1 && !is_long && strcmp(argv[1], brokens[i].name) != 0)
                        continue;
                int rc = run((enum broken)i, usual, CAS_COUNT(usual), argc > 1 && !is_long);
                if (rc == 0 && is_long && i == NOTHING)
                        rc = run(NOTHING, longer, CAS_COUNT(longer), false);
                failed += rc;
                passed += 1 - rc;
        }
        printf("%d passed, %d failed\n", passed, failed);
        return failed ? 1 : 0;
}
