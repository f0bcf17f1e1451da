/* SPDX-License-Identifier: Apache-2.0 */
/* The protocol of collection (spec/gc.md), explored whole: every order of every step of a few
 * processes, breadth first, over a small store. Then each of a list of protocols with one step
 * broken, which must be found to go wrong: so the model is known to see what the step is for.
 *
 * The store: two manifests, each of one layer; both layers have the same listing, of two files.
 * Manifest 0 is there at the start. Processes: a client for each manifest that pushes it (asks for
 * the blob, or brings it), somebody who deletes manifests, a mount that takes a lease on manifest
 * 0, the collector, time, and power cuts. How often each may happen is bounded.
 *
 * A step is what others see at once: a commit, a pin, one look. The collector's batches are two,
 * between which commits of others happen: the look, and the write that follows from it; the gate is
 * closed meanwhile. What it writes is lost by a power cut until it has synced. Time goes by graces:
 * what was condemned before, and what clients were promised, is old then.
 *
 *   gc_model            the bounds of `make test`
 *   gc_model --long     larger ones
 *   gc_model NAME       one broken protocol, and the steps that lead to where it goes wrong */
#include <inttypes.h>
#include <stdio.h>

#include "cas/base.h"

/* ---- states ---- */

enum { NONE, YOUNG, OLD }; /* condemned */

/* name, how many, bits of each. The index comes first: it is what a power cut takes back. */
#define INDEX_FIELDS(X)                                                                            \
        X(BLOB, 2, 1)    /* record of a layer's blob */                                            \
        X(LAYER, 2, 1)   /* record of the layer, and its reference to the listing */               \
        X(LISTING, 1, 1) /* the listing's object */                                                \
        X(FILE_REF, 2, 1)                                                                          \
        X(OBJECT, 2, 1)                                                                            \
        X(MANIFEST, 2, 1) /* its blob, and its reference to the layer's */                         \
        X(TAGGED, 2, 1)   /* linked in the repository */                                           \
        X(LINK, 2, 1)     /* of the blob in the repository */                                      \
        X(LEASE, 1, 1)                                                                             \
        X(C_LINK, 2, 2)                                                                            \
        X(C_MANIFEST, 2, 2)                                                                        \
        X(C_BLOB, 2, 2)                                                                            \
        X(C_LISTING, 1, 2)                                                                         \
        X(C_OBJECT, 2, 2)                                                                          \
        X(C_LISTING_OBJECT, 1, 2)
#define OTHER_FIELDS(X)                                                                            \
        X(FILE, 2, 1)      /* the blob's */                                                        \
        X(FILE_GOES, 2, 1) /* the collector is about to unlink it */                               \
        X(CUT, 1, 1)       /* there was a power cut: a full run is due */                          \
        X(STEP, 2, 5)      /* of the clients */                                                    \
        X(HAS_BLOB, 2, 1)  /* what they saw */                                                     \
        X(HAS_LISTING, 2, 1)                                                                       \
        X(HAS_FILE_0, 2, 1)                                                                        \
        X(HAS_FILE_1, 2, 1)                                                                        \
        X(HAS_MANIFEST, 2, 1)                                                                      \
        X(PROMISED, 2, 1) /* they were told, less than a grace ago, that the blob is there */      \
        X(PIN_BLOB, 2, 1)                                                                          \
        X(PIN_LISTING, 2, 1)                                                                       \
        X(PIN_FILE_0, 2, 1)                                                                        \
        X(PIN_FILE_1, 2, 1)                                                                        \
        X(PIN_MANIFEST, 2, 1)                                                                      \
        X(MOUNT, 1, 2)                                                                             \
        X(LEASED, 1, 1) /* in memory */                                                            \
        X(GATE, 1, 2)   /* the collector's step */                                                 \
        X(THING, 1, 4)  /* what it looks at */                                                     \
        X(VERDICT, 1, 2)                                                                           \
        X(APART, 1, 1)     /* listing: its layer was looked at when its references began to go */  \
        X(LINK_GOES, 2, 1) /* the collector saw it some time ago */                                \
        X(LATE, 2, 1)      /* a manifest was deleted and is not condemned yet */                   \
        X(SEEN, 2, 1)      /* a client's early look */                                             \
        X(PUSHES, 2, 2)                                                                            \
        X(DELETES, 1, 2)                                                                           \
        X(GRACES, 1, 2)                                                                            \
        X(CUTS, 1, 2)                                                                              \
        X(MOUNTS, 1, 2)

#define ENUM_FIELD(name, count, bits) F_##name,
enum field {
        INDEX_FIELDS(ENUM_FIELD) F_INDEX_END,
        F_GAP = F_INDEX_END - 1,
        OTHER_FIELDS(ENUM_FIELD) F_END
};
#undef ENUM_FIELD

struct place {
        uint8_t word, shift, bits;
};
static struct place places[F_END];

enum { WORD_NOW, WORD_SYNCED, WORD_OTHER, WORDS = 4 };
struct state {
        uint64_t words[WORDS];
};

static void place_fields(void)
{
#define COUNT_FIELD(name, count, bits) {count, bits},
        static const uint8_t sizes[][2] = {INDEX_FIELDS(COUNT_FIELD) OTHER_FIELDS(COUNT_FIELD)};
#undef COUNT_FIELD
        uint8_t word = WORD_NOW, shift = 0;
        _Static_assert(CAS_COUNT(sizes) == F_END, "a size for each field");
        for (unsigned f = 0; f < F_END; f++) {
                uint8_t all = (uint8_t)(sizes[f][0] * sizes[f][1]);
                if (f == F_INDEX_END || shift + all > 64) {
                        word = word == WORD_NOW ? WORD_OTHER : (uint8_t)(word + 1);
                        shift = 0;
                }
                cas_assert(word < WORDS);
                places[f] = (struct place){word, shift, sizes[f][1]};
                shift = (uint8_t)(shift + all);
        }
        cas_assert(places[F_C_LISTING_OBJECT].word == WORD_NOW);
}

static unsigned get(const struct state *s, enum field f, unsigned i)
{
        const struct place p = places[f];
        return (unsigned)(s->words[p.word] >> (p.shift + i * p.bits)) & ((1U << p.bits) - 1);
}

static void set(struct state *s, enum field f, unsigned i, unsigned value)
{
        const struct place p = places[f];
        const unsigned shift = p.shift + i * p.bits;
        const uint64_t mask = ((UINT64_C(1) << p.bits) - 1) << shift;
        cas_assert(value < 1U << p.bits);
        s->words[p.word] = (s->words[p.word] & ~mask) | (uint64_t)value << shift;
}

static void sync_index(struct state *s)
{
        s->words[WORD_SYNCED] = s->words[WORD_NOW];
}

/* Fields of one kind for the two files. */
static enum field file_field(enum field first, unsigned file)
{
        return (enum field)(first + file);
}
_Static_assert(F_PIN_FILE_1 == F_PIN_FILE_0 + 1 && F_HAS_FILE_1 == F_HAS_FILE_0 + 1, "in pairs");

/* ---- protocols ---- */

struct protocol {
        const char *name;
        bool looks_before_pinning; /* clients look, and pin what they saw */
        bool frees_before_commit;
        bool no_gate; /* pins come while the collector looks and writes */
        bool lease_passes_no_gate;
        bool lease_after_looking; /* the mount looks first */
        bool refs_not_rewritten;  /* of a listing that is there only the layer's reference is */
        bool listing_looked_at_once;
        bool file_not_looked_at; /* before it is unlinked */
        bool file_before_sync;
        bool no_file_lock;         /* between naming a file and the commit */
        bool no_renewal;           /* who asks for a blob renews nothing */
        bool renews_after_look;    /* and looks again no more */
        bool link_looked_at_early; /* not in the commit that removes it */
        bool condemns_later;       /* not in the commit that deletes */
        bool no_condemning_lock;   /* what is condemned while the collector looks */
        bool passes_nothing_on;    /* what a listing needed is not condemned */
        bool pins_not_asked;       /* by the collector */
        bool leases_not_asked;
        bool manifest_pins_nothing; /* its push looks at the blob and commits */
        bool no_grace;              /* for what manifests named */
};

static const struct protocol right = {.name = "right"};
static const struct protocol broken[] = {
        {.name = "looks-before-pinning", .looks_before_pinning = true},
        {.name = "frees-before-commit", .frees_before_commit = true},
        {.name = "no-gate", .no_gate = true},
        {.name = "lease-passes-no-gate", .lease_passes_no_gate = true},
        {.name = "lease-after-looking", .lease_after_looking = true},
        {.name = "refs-not-rewritten", .refs_not_rewritten = true},
        {.name = "listing-looked-at-once", .listing_looked_at_once = true},
        {.name = "file-not-looked-at", .file_not_looked_at = true},
        {.name = "file-before-sync", .file_before_sync = true},
        {.name = "no-file-lock", .no_file_lock = true},
        {.name = "no-renewal", .no_renewal = true},
        {.name = "renews-after-look", .renews_after_look = true},
        {.name = "link-looked-at-early", .link_looked_at_early = true},
        {.name = "condemns-later", .condemns_later = true},
        {.name = "no-condemning-lock", .no_condemning_lock = true},
        {.name = "passes-nothing-on", .passes_nothing_on = true},
        {.name = "pins-not-asked", .pins_not_asked = true},
        {.name = "leases-not-asked", .leases_not_asked = true},
        {.name = "manifest-pins-nothing", .manifest_pins_nothing = true},
        {.name = "no-grace", .no_grace = true},
};

/* How often what may happen. */
struct bounds {
        const char *name;
        unsigned pushes[2], deletes, graces, cuts, mounts;
};

/* ---- the exploration ---- */

struct node {
        struct state state;
        uint32_t parent;
        uint16_t action; /* of actions */
};

struct explorer {
        const struct protocol *protocol;
        const struct bounds *bounds;
        struct node *nodes;
        uint32_t count, max;
        uint32_t *slots; /* 1 + number of a node; 0: empty */
        uint32_t slot_count;
        uint32_t at; /* node whose successors are made */
        const char *violation;
        uint32_t violation_at; /* in this state, or in a step from it */
};

/* Texts of steps: "client", number, what. */
struct action {
        const char *who, *what;
        unsigned number;
};
static struct action actions[512];
static uint16_t action_count;

static uint16_t action_of(const char *who, unsigned number, const char *what)
{
        for (uint16_t i = 0; i < action_count; i++) {
                const struct action *a = &actions[i];
                if (a->who == who && a->what == what && a->number == number)
                        return i;
        }
        cas_assert(action_count < CAS_COUNT(actions));
        actions[action_count] = (struct action){.who = who, .what = what, .number = number};
        return action_count++;
}

static uint64_t hash_of(const struct state *s)
{
        uint64_t h = 0;
        for (unsigned i = 0; i < WORDS; i++) {
                h = (h ^ s->words[i]) * UINT64_C(0x9e3779b97f4a7c15);
                h ^= h >> 29;
        }
        return h;
}

static uint32_t *slot_of(struct explorer *x, const struct state *s)
{
        uint32_t at = (uint32_t)hash_of(s) & (x->slot_count - 1);
        while (x->slots[at] != 0 && memcmp(&x->nodes[x->slots[at] - 1].state, s, sizeof(*s)) != 0)
                at = (at + 1) & (x->slot_count - 1);
        return &x->slots[at];
}

static void grow(struct explorer *x)
{
        if (x->count == x->max) {
                x->max = x->max ? 2 * x->max : 1 << 16;
                x->nodes = cas_xrealloc(x->nodes, x->max * sizeof(x->nodes[0]));
        }
        if (x->count * 2 < x->slot_count)
                return;
        free(x->slots);
        x->slot_count = x->slot_count ? 2 * x->slot_count : 1 << 17;
        x->slots = cas_xcalloc(x->slot_count, sizeof(x->slots[0]));
        for (uint32_t i = 0; i < x->count; i++)
                *slot_of(x, &x->nodes[i].state) = i + 1;
}

static void violate(struct explorer *x, uint32_t at, const char *what)
{
        if (x->violation)
                return;
        x->violation = what;
        x->violation_at = at;
}

static const char *check(const struct state *s);

/* A successor of the state that is looked at. */
static void step(struct explorer *x, const struct state *s, const char *who, unsigned number,
                 const char *what)
{
        grow(x);
        uint32_t *slot = slot_of(x, s);
        if (*slot != 0)
                return;
        x->nodes[x->count] =
                (struct node){.state = *s, .parent = x->at, .action = action_of(who, number, what)};
        *slot = ++x->count;
        const char *wrong = check(s);
        if (wrong)
                violate(x, x->count - 1, wrong);
}

/* ---- what must hold ---- */

/* In every state. */
static const char *check(const struct state *s)
{
        for (unsigned i = 0; i < 2; i++) {
                if (get(s, F_TAGGED, i) && !get(s, F_MANIFEST, i))
                        return "a manifest of a repository is gone";
                if (get(s, F_MANIFEST, i) && !get(s, F_BLOB, i))
                        return "a manifest names a blob that is gone";
                if (get(s, F_BLOB, i) && !get(s, F_FILE, i))
                        return "a blob's file is gone";
                if (get(s, F_LAYER, i) && !get(s, F_LISTING, 0))
                        return "a layer's listing is gone";
                for (unsigned f = 0; f < 2; f++) {
                        if (get(s, F_LAYER, i) && !get(s, F_OBJECT, f))
                                return "a layer's file is gone";
                }
        }
        if (get(s, F_MOUNT, 0) == 3 && !get(s, F_MANIFEST, 0))
                return "what is mounted is gone";
        return NULL;
}

static bool is_named(const struct state *s, unsigned i)
{
        return get(s, F_TAGGED, i) != 0;
}

static bool has_layer(const struct state *s)
{
        return get(s, F_LAYER, 0) || get(s, F_LAYER, 1);
}

/* One thing less, of what nothing needs and is condemned, as the collector alone would. */
static bool collect_one(struct state *s)
{
        for (unsigned i = 0; i < 2; i++) {
                if (get(s, F_C_LINK, i)) {
                        set(s, F_C_LINK, i, NONE);
                        if (get(s, F_LINK, i) && !is_named(s, i)) {
                                set(s, F_LINK, i, 0);
                                set(s, F_C_BLOB, i, OLD);
                        }
                        return true;
                }
                if (get(s, F_C_MANIFEST, i)) {
                        set(s, F_C_MANIFEST, i, NONE);
                        if (get(s, F_MANIFEST, i) && !get(s, F_TAGGED, i)) {
                                set(s, F_MANIFEST, i, 0);
                                set(s, F_C_BLOB, i, OLD);
                        }
                        return true;
                }
                if (get(s, F_C_BLOB, i)) {
                        set(s, F_C_BLOB, i, NONE);
                        if (!get(s, F_LINK, i) && !get(s, F_MANIFEST, i)) {
                                set(s, F_BLOB, i, 0);
                                set(s, F_FILE, i, 0);
                                if (get(s, F_LAYER, i))
                                        set(s, F_C_LISTING, 0, OLD);
                                set(s, F_LAYER, i, 0);
                        }
                        return true;
                }
        }
        if (get(s, F_C_LISTING, 0)) {
                set(s, F_C_LISTING, 0, NONE);
                if (!has_layer(s)) {
                        for (unsigned f = 0; f < 2; f++) {
                                if (get(s, F_FILE_REF, f))
                                        set(s, F_C_OBJECT, f, OLD);
                                set(s, F_FILE_REF, f, 0);
                        }
                        set(s, F_C_LISTING_OBJECT, 0, OLD);
                }
                return true;
        }
        if (get(s, F_C_LISTING_OBJECT, 0)) {
                set(s, F_C_LISTING_OBJECT, 0, NONE);
                if (!has_layer(s))
                        set(s, F_LISTING, 0, 0);
                return true;
        }
        for (unsigned f = 0; f < 2; f++) {
                if (get(s, F_C_OBJECT, f)) {
                        set(s, F_C_OBJECT, f, NONE);
                        if (!get(s, F_FILE_REF, f))
                                set(s, F_OBJECT, f, 0);
                        return true;
                }
        }
        return false;
}

/* Nobody does anything: what a run leaves when all graces are over. */
static const char *check_leftover(const struct state *now)
{
        struct state s = *now;
        while (collect_one(&s))
                ;
        for (unsigned i = 0; i < 2; i++) {
                if (get(&s, F_CUT, 0) && !get(&s, F_BLOB, i))
                        set(&s, F_FILE, i, 0); /* by the full run */
                if (get(&s, F_MANIFEST, i) && !get(&s, F_TAGGED, i))
                        return "a manifest that nothing needs is left";
                if (get(&s, F_LINK, i) && !is_named(&s, i))
                        return "a blob's link is left";
                if (get(&s, F_BLOB, i) && !get(&s, F_LINK, i) && !get(&s, F_MANIFEST, i))
                        return "a blob that nothing needs is left";
                if (get(&s, F_FILE, i) && !get(&s, F_BLOB, i) && !get(&s, F_FILE_GOES, i))
                        return "a file that no blob has is left";
                if (get(&s, F_OBJECT, i) && !get(&s, F_FILE_REF, i))
                        return "a file object that nothing needs is left";
                if (get(&s, F_FILE_REF, i) && !has_layer(&s))
                        return "a reference of a listing that is gone is left";
        }
        return get(&s, F_LISTING, 0) && !has_layer(&s) ? "a listing that nothing needs is left"
                                                       : NULL;
}

/* ---- clients ---- */

enum client {
        IDLE,
        ASK,
        ASKED,
        PIN_BLOB,
        LOOK_BLOB,
        PIN_FILE_0,
        LOOK_FILE_0,
        PIN_FILE_1,
        LOOK_FILE_1,
        PIN_LISTING,
        LOOK_LISTING,
        NAME_FILE,
        COMMIT_LAYER,
        FREE_LAYER,
        PIN_NAMED,
        LOOK_NAMED,
        COMMIT_MANIFEST,
        FREE_MANIFEST,
};

/* Pins wait while the gate is closed. */
static bool may_pin(const struct explorer *x, const struct state *s)
{
        return get(s, F_GATE, 0) == 0 || x->protocol->no_gate;
}

/* So do batches that condemn. */
static bool may_condemn(const struct explorer *x, const struct state *s)
{
        return get(s, F_GATE, 0) == 0 || x->protocol->no_condemning_lock;
}

static void free_pins(struct state *s, unsigned i)
{
        static const enum field pins[] = {F_PIN_BLOB, F_PIN_LISTING, F_PIN_FILE_0, F_PIN_FILE_1,
                                          F_PIN_MANIFEST};
        for (unsigned k = 0; k < CAS_COUNT(pins); k++)
                set(s, pins[k], i, 0);
}

/* What was seen counts until the end only. */
static void forget(struct state *s, unsigned i)
{
        static const enum field seen[] = {F_HAS_BLOB,   F_HAS_LISTING,  F_HAS_FILE_0,
                                          F_HAS_FILE_1, F_HAS_MANIFEST, F_SEEN};
        for (unsigned k = 0; k < CAS_COUNT(seen); k++)
                set(s, seen[k], i, 0);
}

static void go(struct explorer *x, struct state s, unsigned i, enum client next, const char *what)
{
        set(&s, F_STEP, i, next);
        step(x, &s, "client", i, what);
}

static bool blob_is_here(const struct state *s, unsigned i)
{
        return get(s, F_BLOB, i) && get(s, F_FILE, i);
}

/* HEAD: the grace of a link that waits begins anew, then it is looked for. */
static void ask(struct explorer *x, struct state s, unsigned i)
{
        if (x->protocol->renews_after_look && !get(&s, F_SEEN, i)) {
                if (get(&s, F_LINK, i)) {
                        set(&s, F_SEEN, i, 1);
                        go(x, s, i, ASK, "sees the link");
                }
                return;
        }
        if (get(&s, F_LINK, i) && get(&s, F_C_LINK, i) && !x->protocol->no_renewal) {
                if (!may_condemn(x, &s))
                        return;
                set(&s, F_C_LINK, i, YOUNG);
                sync_index(&s);
        }
        set(&s, F_PROMISED, i, 1); /* if the answer is yes, it holds from now */
        go(x, s, i, ASKED, "renews the link");
}

static void answer(struct explorer *x, struct state s, unsigned i)
{
        bool here = x->protocol->renews_after_look ? get(&s, F_SEEN, i) : get(&s, F_LINK, i);
        set(&s, F_SEEN, i, 0);
        if (!here)
                set(&s, F_PROMISED, i, 0);
        go(x, s, i, here ? PIN_NAMED : IDLE, here ? "is told: here" : "is told: not here");
}

/* In the order of the protocol: pin and look, or the other way round. */
static void pin_then_look(struct explorer *x, struct state s, unsigned i, enum client pinning,
                          enum field pin, enum field has, bool here)
{
        const bool is_first = get(&s, F_STEP, i) == pinning;
        const bool pins = is_first != x->protocol->looks_before_pinning;
        if (pins && !may_pin(x, &s))
                return;
        set(&s, pins ? pin : has, i, pins ? 1 : here);
        go(x, s, i, is_first ? pinning + 1 : pinning + 2, pins ? "pins" : "looks");
}

static void commit_layer(struct explorer *x, struct state s, unsigned i)
{
        if (!may_condemn(x, &s))
                return;
        if (!get(&s, F_HAS_BLOB, i))
                set(&s, F_BLOB, i, 1);
        set(&s, F_LINK, i, 1);
        set(&s, F_C_LINK, i, YOUNG);
        set(&s, F_LAYER, i, 1);
        for (unsigned f = 0; f < 2; f++) {
                if (!get(&s, file_field(F_HAS_FILE_0, f), i))
                        set(&s, F_OBJECT, f, 1);
                if (!get(&s, F_HAS_LISTING, i) || !x->protocol->refs_not_rewritten)
                        set(&s, F_FILE_REF, f, 1);
        }
        if (!get(&s, F_HAS_LISTING, i))
                set(&s, F_LISTING, 0, 1);
        sync_index(&s);
        set(&s, F_PROMISED, i, 1);
        go(x, s, i, FREE_LAYER, "commits the layer");
}

static void look_named(struct explorer *x, struct state s, unsigned i)
{
        const bool here = blob_is_here(&s, i) && get(&s, F_LINK, i);
        const bool promised = get(&s, F_PROMISED, i);
        set(&s, F_HAS_MANIFEST, i, get(&s, F_MANIFEST, i));
        if (here) {
                go(x, s, i, COMMIT_MANIFEST, "looks at what the manifest names");
                return;
        }
        free_pins(&s, i);
        forget(&s, i);
        set(&s, F_PROMISED, i, 0);
        set(&s, F_STEP, i, IDLE);
        step(x, &s, "client", i, "is refused its manifest: the blob is gone");
        if (promised)
                violate(x, x->at, "a blob that a client was told of is gone within the grace");
}

static void commit_manifest(struct explorer *x, struct state s, unsigned i)
{
        if (!get(&s, F_HAS_MANIFEST, i))
                set(&s, F_MANIFEST, i, 1);
        set(&s, F_TAGGED, i, 1);
        sync_index(&s);
        go(x, s, i, FREE_MANIFEST, "commits the manifest");
}

static void client(struct explorer *x, const struct state *now, unsigned i)
{
        struct state s = *now;
        const enum client at = get(now, F_STEP, i);
        switch (at) {
        case IDLE:
                if (get(&s, F_PUSHES, i) >= x->bounds->pushes[i])
                        return;
                set(&s, F_PUSHES, i, get(&s, F_PUSHES, i) + 1);
                go(x, s, i, ASK, "asks for the blob");
                go(x, s, i, PIN_BLOB, "brings the blob");
                return;
        case ASK:
                ask(x, s, i);
                return;
        case ASKED:
                answer(x, s, i);
                return;
        case PIN_BLOB:
        case LOOK_BLOB:
                pin_then_look(x, s, i, PIN_BLOB, F_PIN_BLOB, F_HAS_BLOB, blob_is_here(&s, i));
                return;
        case PIN_FILE_0:
        case LOOK_FILE_0:
                pin_then_look(x, s, i, PIN_FILE_0, F_PIN_FILE_0, F_HAS_FILE_0,
                              get(&s, F_OBJECT, 0));
                return;
        case PIN_FILE_1:
        case LOOK_FILE_1:
                pin_then_look(x, s, i, PIN_FILE_1, F_PIN_FILE_1, F_HAS_FILE_1,
                              get(&s, F_OBJECT, 1));
                return;
        case PIN_LISTING:
        case LOOK_LISTING:
                pin_then_look(x, s, i, PIN_LISTING, F_PIN_LISTING, F_HAS_LISTING,
                              get(&s, F_LISTING, 0));
                return;
        case NAME_FILE:
                if (x->protocol->frees_before_commit) {
                        if (!may_pin(x, &s))
                                return;
                        free_pins(&s, i);
                }
                if (!get(&s, F_HAS_BLOB, i))
                        set(&s, F_FILE, i, 1);
                go(x, s, i, COMMIT_LAYER, "names the blob's file");
                return;
        case COMMIT_LAYER:
                commit_layer(x, s, i);
                return;
        case FREE_LAYER:
        case FREE_MANIFEST:
                if (!may_pin(x, &s))
                        return;
                free_pins(&s, i);
                forget(&s, i);
                if (at == FREE_MANIFEST)
                        set(&s, F_PROMISED, i, 0);
                go(x, s, i, at == FREE_LAYER ? PIN_NAMED : IDLE, "frees its pins");
                return;
        case PIN_NAMED:
                if (!x->protocol->manifest_pins_nothing) {
                        if (!may_pin(x, &s))
                                return;
                        set(&s, F_PIN_BLOB, i, 1);
                        set(&s, F_PIN_MANIFEST, i, 1);
                }
                go(x, s, i, LOOK_NAMED, "pins what the manifest names");
                return;
        case LOOK_NAMED:
                look_named(x, s, i);
                return;
        case COMMIT_MANIFEST:
                commit_manifest(x, s, i);
                return;
        }
}

/* ---- who deletes, who mounts, time, power ---- */

static void deleter(struct explorer *x, const struct state *now, unsigned i)
{
        struct state s = *now;
        if (get(&s, F_LATE, i)) {
                set(&s, F_LATE, i, 0);
                set(&s, F_C_MANIFEST, i, YOUNG);
                sync_index(&s);
                step(x, &s, "deleter", i, "condemns the manifest");
                return;
        }
        if (!get(&s, F_TAGGED, i) || get(&s, F_DELETES, 0) >= x->bounds->deletes ||
            !may_condemn(x, &s))
                return;
        set(&s, F_DELETES, 0, get(&s, F_DELETES, 0) + 1);
        set(&s, F_TAGGED, i, 0);
        if (x->protocol->condemns_later)
                set(&s, F_LATE, i, 1);
        else
                set(&s, F_C_MANIFEST, i, YOUNG);
        if (get(&s, F_LINK, i))
                set(&s, F_C_LINK, i, YOUNG);
        sync_index(&s);
        step(x, &s, "deleter", i, "deletes the manifest");
}

enum { UNMOUNTED, LEASING, LOOKING, MOUNTED };

static void mount_end(struct state *s)
{
        set(s, F_MOUNT, 0, UNMOUNTED);
        set(s, F_LEASED, 0, 0);
        set(s, F_LEASE, 0, 0);
        sync_index(s);
}

static void mounter(struct explorer *x, const struct state *now)
{
        struct state s = *now;
        const bool gate = get(&s, F_GATE, 0) == 0 || x->protocol->lease_passes_no_gate;
        switch (get(now, F_MOUNT, 0)) {
        case UNMOUNTED:
                if (get(&s, F_MOUNTS, 0) >= x->bounds->mounts)
                        return;
                if (x->protocol->lease_after_looking ? !get(&s, F_MANIFEST, 0) : !gate)
                        return;
                set(&s, F_MOUNTS, 0, get(&s, F_MOUNTS, 0) + 1);
                set(&s, F_LEASED, 0, !x->protocol->lease_after_looking);
                set(&s, F_MOUNT, 0, LEASING);
                step(x, &s, "mount", 0, "holds the root");
                return;
        case LEASING:
                if (x->protocol->lease_after_looking && !gate)
                        return;
                set(&s, F_LEASED, 0, 1);
                set(&s, F_LEASE, 0, 1);
                sync_index(&s);
                set(&s, F_MOUNT, 0, x->protocol->lease_after_looking ? MOUNTED : LOOKING);
                step(x, &s, "mount", 0, "writes its lease");
                return;
        case LOOKING:
                if (get(&s, F_MANIFEST, 0))
                        set(&s, F_MOUNT, 0, MOUNTED);
                else
                        mount_end(&s);
                step(x, &s, "mount", 0, "looks for the manifest");
                return;
        default:
                if (!may_condemn(x, &s))
                        return;
                mount_end(&s);
                if (get(&s, F_MANIFEST, 0))
                        set(&s, F_C_MANIFEST, 0, YOUNG);
                sync_index(&s);
                step(x, &s, "mount", 0, "drops its lease");
                return;
        }
}

static void grow_old(struct state *s, enum field f, unsigned i)
{
        if (get(s, f, i) == YOUNG)
                set(s, f, i, OLD);
}

static void pass_grace(struct explorer *x, const struct state *now)
{
        struct state s = *now;
        if (get(&s, F_GRACES, 0) >= x->bounds->graces)
                return;
        for (unsigned i = 0; i < 2; i++) {
                grow_old(&s, F_C_LINK, i);
                grow_old(&s, F_C_MANIFEST, i);
                grow_old(&s, F_C_BLOB, i);
                grow_old(&s, F_C_OBJECT, i);
                set(&s, F_PROMISED, i, 0);
        }
        grow_old(&s, F_C_LISTING, 0);
        grow_old(&s, F_C_LISTING_OBJECT, 0);
        /* Ages are times that were written: they are the same after a power cut. */
        struct state synced = s;
        synced.words[WORD_NOW] = now->words[WORD_SYNCED];
        for (unsigned i = 0; i < 2; i++) {
                grow_old(&synced, F_C_LINK, i);
                grow_old(&synced, F_C_MANIFEST, i);
                grow_old(&synced, F_C_BLOB, i);
                grow_old(&synced, F_C_OBJECT, i);
        }
        grow_old(&synced, F_C_LISTING, 0);
        grow_old(&synced, F_C_LISTING_OBJECT, 0);
        s.words[WORD_SYNCED] = synced.words[WORD_NOW];
        set(&s, F_GRACES, 0, get(&s, F_GRACES, 0) + 1);
        step(x, &s, "time", 0, "a grace is over");
}

static void cut_power(struct explorer *x, const struct state *now, bool loses)
{
        struct state s = *now;
        if (get(&s, F_CUTS, 0) >= x->bounds->cuts)
                return;
        set(&s, F_CUTS, 0, get(&s, F_CUTS, 0) + 1);
        set(&s, F_CUT, 0, 1);
        if (loses)
                s.words[WORD_NOW] = s.words[WORD_SYNCED];
        sync_index(&s);
        for (unsigned i = 0; i < 2; i++) {
                free_pins(&s, i);
                forget(&s, i);
                if (get(&s, F_STEP, i) == ASK || get(&s, F_STEP, i) == ASKED)
                        set(&s, F_PROMISED, i, 0); /* there was no answer */
                set(&s, F_LINK_GOES, i, 0);
                set(&s, F_STEP, i, get(&s, F_PROMISED, i) ? PIN_NAMED : IDLE);
                set(&s, F_FILE_GOES, i, 0);
                set(&s, F_LATE, i, 0);
        }
        set(&s, F_GATE, 0, 0);
        set(&s, F_THING, 0, 0);
        set(&s, F_VERDICT, 0, 0);
        set(&s, F_APART, 0, 0);
        set(&s, F_LEASED, 0, get(&s, F_LEASE, 0));
        if (!get(&s, F_LEASE, 0))
                set(&s, F_MOUNT, 0, UNMOUNTED);
        else if (get(&s, F_MOUNT, 0) == LEASING)
                set(&s, F_MOUNT, 0, LOOKING);
        step(x, &s, "power", 0, loses ? "is cut, what was not synced is lost" : "is cut");
}

/* ---- the collector ---- */

enum thing {
        T_MANIFEST = 0,
        T_BLOB = 2,
        T_LISTING = 4,
        T_LISTING_OBJECT = 5,
        T_OBJECT = 6,
        THINGS = 8
};
enum { STAYS, NEEDED, GOES };
enum { OPEN, CLOSED, LOOKED };

static unsigned condemned(const struct state *s, unsigned thing)
{
        if (thing < T_BLOB)
                return get(s, F_C_MANIFEST, thing);
        if (thing < T_LISTING)
                return get(s, F_C_BLOB, thing - T_BLOB);
        if (thing == T_LISTING)
                return get(s, F_C_LISTING, 0);
        if (thing == T_LISTING_OBJECT)
                return get(s, F_C_LISTING_OBJECT, 0);
        return get(s, F_C_OBJECT, thing - T_OBJECT);
}

static bool is_pinned(const struct explorer *x, const struct state *s, enum field first,
                      enum field last, unsigned i, bool of_both)
{
        if (x->protocol->pins_not_asked)
                return false;
        for (enum field f = first; f <= last; f++) {
                if (get(s, f, i) || (of_both && get(s, f, 1 - i)))
                        return true;
        }
        return false;
}

static bool thing_is_pinned(const struct explorer *x, const struct state *s, unsigned thing)
{
        if (thing < T_BLOB)
                return is_pinned(x, s, F_PIN_MANIFEST, F_PIN_MANIFEST, thing, false);
        if (thing < T_LISTING)
                return is_pinned(x, s, F_PIN_BLOB, F_PIN_BLOB, thing - T_BLOB, false);
        if (thing == T_LISTING)
                return false; /* its layers are what matters */
        if (thing == T_LISTING_OBJECT)
                return is_pinned(x, s, F_PIN_LISTING, F_PIN_LISTING, 0, true);
        const enum field f = file_field(F_PIN_FILE_0, thing - T_OBJECT);
        return is_pinned(x, s, f, f, 0, true);
}

static bool thing_is_needed(const struct explorer *x, const struct state *s, unsigned thing)
{
        if (thing < T_BLOB)
                return get(s, F_TAGGED, thing);
        if (thing < T_LISTING)
                return get(s, F_LINK, thing - T_BLOB) || get(s, F_MANIFEST, thing - T_BLOB);
        if (thing == T_LISTING)
                return has_layer(s) && !(x->protocol->listing_looked_at_once && get(s, F_APART, 0));
        if (thing == T_LISTING_OBJECT)
                return has_layer(s);
        return get(s, F_FILE_REF, thing - T_OBJECT);
}

static unsigned verdict_of(const struct explorer *x, const struct state *s, unsigned thing)
{
        if (thing_is_needed(x, s, thing))
                return NEEDED;
        const bool leased = thing == T_MANIFEST && get(s, F_LEASED, 0);
        if (condemned(s, thing) != OLD || thing_is_pinned(x, s, thing) ||
            (leased && !x->protocol->leases_not_asked))
                return STAYS;
        return GOES;
}

static void clear_condemned(struct state *s, unsigned thing)
{
        if (thing < T_BLOB)
                set(s, F_C_MANIFEST, thing, NONE);
        else if (thing < T_LISTING)
                set(s, F_C_BLOB, thing - T_BLOB, NONE);
        else if (thing == T_LISTING)
                set(s, F_C_LISTING, 0, NONE);
        else if (thing == T_LISTING_OBJECT)
                set(s, F_C_LISTING_OBJECT, 0, NONE);
        else
                set(s, F_C_OBJECT, thing - T_OBJECT, NONE);
        if (thing == T_LISTING)
                set(s, F_APART, 0, 0);
}

/* Of a listing, one reference at a time. False: there is more. */
static bool remove_listing(const struct explorer *x, struct state *s)
{
        for (unsigned f = 0; f < 2; f++) {
                if (!get(s, F_FILE_REF, f))
                        continue;
                set(s, F_FILE_REF, f, 0);
                if (!x->protocol->passes_nothing_on)
                        set(s, F_C_OBJECT, f, OLD);
                set(s, F_APART, 0, 1);
                return false;
        }
        set(s, F_C_LISTING_OBJECT, 0, OLD);
        return true;
}

static void remove_thing(const struct explorer *x, struct state *s, unsigned thing)
{
        if (thing == T_LISTING) {
                if (!remove_listing(x, s))
                        return;
        } else if (thing < T_BLOB) {
                set(s, F_MANIFEST, thing, 0);
                set(s, F_C_BLOB, thing, x->protocol->no_grace ? OLD : YOUNG);
                if (get(s, F_LINK, thing) && x->protocol->no_grace)
                        set(s, F_C_LINK, thing, OLD);
        } else if (thing < T_LISTING) {
                const unsigned i = thing - T_BLOB;
                set(s, F_FILE_GOES, i, get(s, F_BLOB, i));
                set(s, F_BLOB, i, 0);
                if (get(s, F_LAYER, i))
                        set(s, F_C_LISTING, 0, OLD);
                set(s, F_LAYER, i, 0);
        } else if (thing == T_LISTING_OBJECT) {
                set(s, F_LISTING, 0, 0);
        } else {
                set(s, F_OBJECT, thing - T_OBJECT, 0);
        }
        clear_condemned(s, thing);
}

/* Links go by commits of names, which look while nobody else commits names. */
static void collect_link(struct explorer *x, const struct state *now, unsigned i)
{
        struct state s = *now;
        const unsigned age = get(&s, F_C_LINK, i);
        if (x->protocol->link_looked_at_early && !get(&s, F_LINK_GOES, i)) {
                if (age != OLD || is_named(&s, i))
                        return;
                set(&s, F_LINK_GOES, i, 1);
                step(x, &s, "collector", i, "looks at a blob's link, to remove it later");
                return;
        }
        if (get(&s, F_LINK_GOES, i)) {
                set(&s, F_LINK_GOES, i, 0);
                set(&s, F_LINK, i, 0);
                set(&s, F_C_LINK, i, NONE);
                set(&s, F_C_BLOB, i, YOUNG);
                sync_index(&s);
                step(x, &s, "collector", i, "removes it");
                return;
        }
        if (age == NONE || (age == YOUNG && !is_named(&s, i)))
                return;
        set(&s, F_C_LINK, i, NONE);
        if (get(&s, F_LINK, i) && !is_named(&s, i)) {
                set(&s, F_LINK, i, 0);
                set(&s, F_C_BLOB, i, YOUNG);
        }
        sync_index(&s);
        step(x, &s, "collector", i, "looks at a blob's link");
}

/* After the batch was synced, and while nobody is between naming a file and telling the index. */
static void unlink_file(struct explorer *x, const struct state *now, unsigned i)
{
        struct state s = *now;
        if (!get(&s, F_FILE_GOES, i) ||
            (get(&s, F_STEP, i) == COMMIT_LAYER && !x->protocol->no_file_lock))
                return;
        set(&s, F_FILE_GOES, i, 0);
        if (!x->protocol->file_before_sync)
                sync_index(&s);
        if (x->protocol->file_not_looked_at || !get(&s, F_BLOB, i))
                set(&s, F_FILE, i, 0);
        step(x, &s, "collector", i, "unlinks a file");
}

static void collector(struct explorer *x, const struct state *now)
{
        struct state s = *now;
        const unsigned thing = get(now, F_THING, 0);
        switch (get(now, F_GATE, 0)) {
        case OPEN:
                for (unsigned i = 0; i < 2; i++) {
                        collect_link(x, now, i);
                        unlink_file(x, now, i);
                }
                for (unsigned t = 0; t < THINGS; t++) {
                        if (condemned(now, t) == NONE)
                                continue;
                        set(&s, F_GATE, 0, CLOSED);
                        set(&s, F_THING, 0, t);
                        step(x, &s, "collector", t, "closes the gate");
                }
                return;
        case CLOSED:
                set(&s, F_VERDICT, 0, verdict_of(x, &s, thing));
                set(&s, F_GATE, 0, LOOKED);
                step(x, &s, "collector", thing, "looks");
                return;
        default:
                if (get(&s, F_VERDICT, 0) == NEEDED)
                        clear_condemned(&s, thing);
                else if (get(&s, F_VERDICT, 0) == GOES)
                        remove_thing(x, &s, thing);
                set(&s, F_GATE, 0, OPEN);
                set(&s, F_THING, 0, 0);
                set(&s, F_VERDICT, 0, 0);
                step(x, &s, "collector", thing, "writes, and opens the gate");
                return;
        }
}

/* ---- all together ---- */

static bool is_quiet(const struct state *s)
{
        return get(s, F_STEP, 0) == IDLE && get(s, F_STEP, 1) == IDLE &&
               get(s, F_MOUNT, 0) == UNMOUNTED && get(s, F_GATE, 0) == OPEN && !get(s, F_LATE, 0) &&
               !get(s, F_LATE, 1);
}

static void successors(struct explorer *x, const struct state *s)
{
        for (unsigned i = 0; i < 2; i++) {
                client(x, s, i);
                deleter(x, s, i);
        }
        mounter(x, s);
        collector(x, s);
        pass_grace(x, s);
        cut_power(x, s, false);
        if (s->words[WORD_NOW] != s->words[WORD_SYNCED])
                cut_power(x, s, true);
}

static struct state first_state(void)
{
        static const enum field there[] = {F_BLOB, F_FILE, F_LAYER, F_MANIFEST, F_TAGGED, F_LINK};
        struct state s = {{0}};
        for (unsigned k = 0; k < CAS_COUNT(there); k++)
                set(&s, there[k], 0, 1);
        set(&s, F_LISTING, 0, 1);
        for (unsigned f = 0; f < 2; f++) {
                set(&s, F_OBJECT, f, 1);
                set(&s, F_FILE_REF, f, 1);
        }
        sync_index(&s);
        return s;
}

static void print_steps(const struct explorer *x, uint32_t at)
{
        if (at == 0)
                return;
        const struct node *n = &x->nodes[at];
        print_steps(x, n->parent);
        const struct action *a = &actions[n->action];
        printf("    %s %u %s\n", a->who, a->number, a->what);
}

/* False: something goes wrong. */
static bool explore(const struct protocol *protocol, const struct bounds *bounds, bool tells)
{
        struct explorer x = {.protocol = protocol, .bounds = bounds};
        const struct state first = first_state();
        step(&x, &first, "start", 0, "");
        for (; x.at < x.count && !x.violation; x.at++) {
                const struct state s = x.nodes[x.at].state;
                const char *left = is_quiet(&s) ? check_leftover(&s) : NULL;
                if (left)
                        violate(&x, x.at, left);
                successors(&x, &s);
        }
        printf("  %-24s %-12s %9" PRIu32 " states: %s\n", protocol->name, bounds->name, x.count,
               x.violation ? x.violation : "holds");
        if (x.violation && tells)
                print_steps(&x, x.violation_at);
        bool holds = x.violation == NULL;
        free(x.nodes);
        free(x.slots);
        return holds;
}

static const struct bounds short_bounds[] = {
        {.name = "power", .pushes = {0, 1}, .deletes = 1, .graces = 2, .cuts = 1},
        {.name = "mount", .pushes = {1, 0}, .deletes = 1, .graces = 2, .mounts = 1},
        {.name = "pushes", .pushes = {1, 1}, .deletes = 1, .graces = 2},
};
static const struct bounds long_bounds[] = {
        {.name = "pushes", .pushes = {2, 1}, .deletes = 2, .graces = 3},
        {.name = "power", .pushes = {1, 1}, .deletes = 2, .graces = 2, .cuts = 1},
        {.name = "mounts", .pushes = {1, 1}, .deletes = 1, .graces = 2, .mounts = 1},
};

/* Whether a broken protocol is found out by one of the bounds. */
static bool is_found(const struct protocol *p, bool tells)
{
        for (unsigned b = 0; b < CAS_COUNT(short_bounds); b++) {
                if (!explore(p, &short_bounds[b], tells))
                        return true;
        }
        printf("  %s is not found\n", p->name);
        return false;
}

int main(int argc, char **argv)
{
        const bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
        int status = 0;
        place_fields();
        for (unsigned b = 0; argc > 1 && !is_long && b < CAS_COUNT(broken); b++) {
                if (strcmp(broken[b].name, argv[1]) == 0)
                        return is_found(&broken[b], true) ? 0 : 1;
        }
        printf("the protocol:\n");
        for (unsigned b = 0; b < CAS_COUNT(short_bounds); b++)
                status |= !explore(&right, is_long ? &long_bounds[b] : &short_bounds[b], true);
        printf("with a step broken:\n");
        for (unsigned b = 0; b < CAS_COUNT(broken); b++)
                status |= !is_found(&broken[b], false);
        return status;
}
