/* SPDX-License-Identifier: Apache-2.0 */
/* Cuts operations of the store short at each of their calls, ours and RocksDB's (tests/support/
 * below): power that goes with every state that may be left of what was not synced; calls that
 * fail. Then the store is opened: see tests/crash/parts/check.h for what must hold.
 *
 *   enumerate [--long] [--rules posix|ordered] [--bits N] [--samples N] [--seed N]
 *             [--only crashes|errors] [--step N] [--stop] [--keep DIR] [OPERATION…]
 *
 * Prints a table: operation, points (calls that change something), states, those that differ,
 * faults (calls that failed), how many of these RocksDB ended the process for. --step: with --long,
 * one in N calls fails (1). --stop: ends at the first failure. --keep: leaves the first state that
 * was not survived in a directory that is not there yet. This process never opens a store itself
 * (RocksDB's threads do not survive a fork): children prepare, operate and check. */
#include <assert.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "cas/map.h"
#include "tests/crash/parts/check.h"
#include "tests/support/below/crashmodel.h"
#include "tests/support/scratch.h"

#define CALLS_MAX 20000
/* Without --long: of an operation states, but one of each point at least; of a kind of fault calls,
 * one in QUICK_STEP. */
#define QUICK_STATES 40
#define QUICK_FAULTS 6
#define QUICK_STEP 11
/* Of what a failed call leaves, states that are looked at when the power goes then. */
#define ERROR_STATES 4

struct options {
        bool is_long, stop, crashes, errors;
        enum crash_rules rules;
        struct crash_bounds bounds;
        unsigned step;    /* of calls that fail */
        const char *keep; /* where the first state that is not survived goes */
        char **only;
        size_t only_count;
};

/* What children tell; in shared memory. */
struct told {
        bool acknowledged;
        bool asserted; /* RocksDB ended the process */
        bool have_print;
        struct print print;
};

struct arena {
        const struct options *options;
        const struct operation *op;
        char *dir;   /* scratch */
        char *base;  /* a directory with the prepared store; what is recorded is a copy of it: */
        char *work;  /* … */
        char *store; /* work/store */
        struct recorder *recorder;
        /* of the operation */
        size_t points, states, tried, faults, asserted;
        unsigned failures;
        /* of all */
        unsigned all_failures;
        size_t all_points, all_states, all_tried, all_faults, all_asserted, operations;
};

static struct told *told;

/* Libraries that were built with assertions, as Debian's RocksDB is, end the process at some
 * errors: for the store that is as if it had been killed. */
CAS_NORETURN __attribute__((visibility("default"))) void
__assert_fail(const char *text, const char *file, unsigned line, const char *function CAS_UNUSED)
{
        (void)fprintf(stderr, "%s:%u: assertion %s\n", file, line, text);
        told->asserted = true;
        _exit(1);
}

/* Runs fn in a child; its exit status, or 128 + signal. */
static int in_child(void (*fn)(struct arena *a), struct arena *a)
{
        (void)fflush(NULL);
        pid_t pid = fork();
        must(pid >= 0);
        if (pid == 0) {
                fn(a);
                (void)fflush(NULL);
                _exit(0);
        }
        int status;
        pid_t got;
        do {
                got = waitpid(pid, &status, 0);
        } while (got < 0 && errno == EINTR);
        must(got == pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void remove_store(struct arena *a)
{
        scratch_free(cas_xstrdup(a->work));
}

/* ---- children ---- */

static void child_prepare(struct arena *a)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/store", a->base);
        struct cas_store *s = open_store(path);
        a->op->prepare(s);
        if (a->op->closes)
                cas_store_close(s);
        /* Else not closed in order: prepare may have left what a crash leaves. */
        _exit(0);
}

/* Opens the store, recorded, and does the operation. NULL when it could not be opened. */
static int operate(struct arena *a, struct cas_store **out, struct cas_err *err)
{
        const struct cas_store_config config = {
                .path = a->store, .threads = 1, .backend_open = crash_backend_open};
        recorder_begin(a->recorder, a->work);
        if (a->op->run_closed || a->op->opening)
                recorder_arm(true);
        int rc = a->op->run_closed ? a->op->run_closed(&config, err)
                                   : cas_store_open(&config, out, err);
        if (rc < 0 && !a->op->run_closed && !a->op->opening) {
                (void)fprintf(stderr, "open: %s\n", err->msg);
                _exit(1);
        }
        recorder_arm(true);
        if (rc == 0 && *out)
                rc = a->op->run(*out, err);
        return rc;
}

static void child_record(struct arena *a)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        int rc = operate(a, &s, &err);
        if (rc < 0)
                (void)fprintf(stderr, "%s: %s\n", a->op->name, err.msg);
        must(rc == 0);
        recorder_note(1);
        cas_store_close(s); /* may be cut short as well */
}

static void child_print(struct arena *a)
{
        check_closed(a->op, a->store, true, NULL, &told->print);
        told->have_print = true;
}

static void child_check(struct arena *a)
{
        check_closed(a->op, a->store, told->acknowledged, &told->print, NULL);
}

/* A call fails; then none does any more, and the same process goes on. */
static void child_fail(struct arena *a)
{
        struct cas_err err = CAS_ERR_INIT, again = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        int rc = operate(a, &s, &err);
        bool acknowledged = rc == 0;
        /* While it lasts it is tried once more. */
        if (s && !acknowledged && a->op->run(s, &again) == 0)
                acknowledged = true;
        recorder_arm(false);
        recorder_fault_clear(a->recorder);
        must(rc == 0 || (err.code != CAS_OK && err.msg[0] && recorder_struck(a->recorder)));
        if (!a->op->run_closed) {
                if (!s)
                        s = open_store(a->store);
                check_whole(a->op, s, acknowledged, true);
        } else if (!acknowledged) {
                const struct cas_store_config config = {
                        .path = a->store, .threads = 1, .backend_open = crash_backend_open};
                rc = a->op->run_closed(&config, &again);
                must(rc == 0);
        }
        told->acknowledged = true;
}

/* ---- crashes ---- */

struct crash_walk {
        struct arena *a;
        struct crash_model *m;
        struct cas_map *seen;
        bool acknowledged;
        size_t left; /* states that are still to be tried here */
        const char *why;
};

static void print_point(const struct crash_walk *w)
{
        const struct recorder_op op = recorder_op(w->a->recorder, crash_model_at(w->m) - 1);
        (void)fprintf(stderr, "FAILED: %s, %s, behind call %zu of %zu: %s%s%s, %s\n",
                      w->a->op->name, w->why, crash_model_at(w->m),
                      recorder_op_count(w->a->recorder), recorder_kind_name(op.kind),
                      op.name ? " " : "", op.name ? op.name : "",
                      w->acknowledged ? "acknowledged" : "under way");
}

static bool try_state(void *arg, const struct crash_state *state)
{
        struct crash_walk *w = arg;
        struct arena *a = w->a;
        uint64_t key[2] = {crash_state_hash(state), w->acknowledged};
        bool fresh;
        a->states++;
        (void)cas_map_put(w->seen, key, sizeof(key), &fresh);
        if (!fresh)
                return true;
        if (w->left == 0)
                return false;
        w->left--;
        a->tried++;
        crash_state_write(state, a->work);
        told->acknowledged = w->acknowledged;
        int status = in_child(child_check, a);
        if (status != 0) {
                print_point(w);
                crash_state_print(state);
                if (a->options->keep && a->all_failures + a->failures == 0)
                        crash_state_write(state, a->options->keep);
                a->failures++;
        }
        remove_store(a);
        return status == 0;
}

/* The trace of an operation that ended well, and what the store is like when it is done twice. */
static bool record(struct arena *a)
{
        scratch_copy(a->base, a->work);
        recorder_reset(a->recorder);
        told->have_print = false;
        bool good =
                in_child(child_record, a) == 0 && in_child(child_print, a) == 0 && told->have_print;
        remove_store(a);
        return good;
}

static void enumerate_crashes(struct arena *a)
{
        const struct options *o = a->options;
        struct crash_walk w = {.a = a, .seen = cas_map_new(), .why = "power cut"};
        size_t count = recorder_op_count(a->recorder);
        w.m = crash_model_new(a->recorder, a->base, o->rules);
        while (a->failures == 0 && crash_model_step(w.m)) {
                const struct recorder_op op = recorder_op(a->recorder, crash_model_at(w.m) - 1);
                w.acknowledged = w.acknowledged || op.kind == RECORDER_NOTE;
                if (!op.armed)
                        continue;
                a->points++;
                w.left = o->is_long ? SIZE_MAX : cas_max_u64(1, QUICK_STATES / count);
                crash_model_states(w.m, &o->bounds, try_state, &w);
        }
        crash_model_free(w.m);
        cas_map_free(w.seen);
}

/* ---- errors ---- */

static const struct fault_kind {
        const char *name;
        enum recorder_fault fault;
        bool stays;
        bool quick;
} fault_kinds[] = {
        {"I/O error", RECORDER_EIO, false, true},
        {"I/O errors", RECORDER_EIO, true, false},
        {"no space once", RECORDER_ENOSPC, false, false},
        {"no space", RECORDER_ENOSPC, true, true},
        {"no descriptors", RECORDER_EMFILE, true, false},
        {"no descriptor once", RECORDER_EMFILE, false, false},
        {"no memory", RECORDER_ENOMEM, false, false},
        {"short reads and writes", RECORDER_SHORT, true, false},
};

/* What the power leaves after the failure and all that came then. */
static void check_after_error(struct arena *a, const char *why)
{
        struct crash_walk w = {.a = a,
                               .seen = cas_map_new(),
                               .why = why,
                               .left = ERROR_STATES,
                               .acknowledged = true};
        w.m = crash_model_new(a->recorder, a->base, a->options->rules);
        while (crash_model_step(w.m)) {
        }
        const struct crash_bounds few = {.bound_bits = 0, .samples = 0};
        crash_model_states(w.m, &few, try_state, &w);
        crash_model_free(w.m);
        cas_map_free(w.seen);
}

/* False when the operation ended before call `at`. */
static bool fail_at(struct arena *a, const struct fault_kind *kind, unsigned at)
{
        scratch_copy(a->base, a->work);
        recorder_reset(a->recorder);
        recorder_fault_set(a->recorder, kind->fault, at, kind->stays);
        told->asserted = told->acknowledged = false;
        int status = in_child(child_fail, a);
        bool struck = recorder_struck(a->recorder);
        if (told->asserted && struck) {
                a->asserted++;
                status = in_child(child_check, a);
        }
        remove_store(a);
        a->faults += struck;
        if (status != 0) {
                (void)fprintf(stderr, "FAILED: %s, %s at call %u: %s\n", a->op->name, kind->name,
                              at, recorder_struck_call(a->recorder));
                a->failures++;
        } else if (struck && !told->asserted) {
                check_after_error(a, kind->name);
        }
        return struck && status == 0;
}

static void enumerate_errors(struct arena *a)
{
        for (size_t i = 0; i < CAS_COUNT(fault_kinds); i++) {
                const struct fault_kind *kind = &fault_kinds[i];
                if (!a->options->is_long && !kind->quick)
                        continue;
                unsigned step = a->options->is_long ? a->options->step : QUICK_STEP;
                unsigned last = a->options->is_long ? CALLS_MAX : QUICK_FAULTS * QUICK_STEP;
                for (unsigned at = 1; at < last && fail_at(a, kind, at); at += step) {
                }
        }
}

/* ---- all ---- */

static void enumerate(struct arena *a, const struct operation *op)
{
        struct timespec start, end;
        (void)clock_gettime(CLOCK_MONOTONIC, &start);
        a->op = op;
        crash_backend_open = op->backend_open;
        a->points = a->states = a->tried = a->faults = a->asserted = 0;
        a->failures = 0;
        must(mkdir(a->base, 0700) == 0);
        must(!op->prepare || in_child(child_prepare, a) == 0);
        if (!record(a)) {
                (void)fprintf(stderr, "FAILED: %s, undisturbed\n", op->name);
                a->failures++;
        }
        if (a->failures == 0 && a->options->crashes)
                enumerate_crashes(a);
        if (a->failures == 0 && a->options->errors)
                enumerate_errors(a);
        scratch_free(cas_xstrdup(a->base));
        cas_cleanup_free char *layout = cas_xasprintf("%s/layout", crash_side);
        scratch_free(cas_xstrdup(layout));
        (void)clock_gettime(CLOCK_MONOTONIC, &end);
        (void)printf("%-13s %6zu %8zu %8zu %7zu %6zu %6.1f  %s\n", op->name, a->points, a->states,
                     a->tried, a->faults, a->asserted,
                     (double)(end.tv_sec - start.tv_sec) +
                             (double)(end.tv_nsec - start.tv_nsec) / 1e9,
                     a->failures ? "FAILED" : "survived");
        (void)fflush(stdout);
        a->all_points += a->points;
        a->all_states += a->states;
        a->all_tried += a->tried;
        a->all_faults += a->faults;
        a->all_asserted += a->asserted;
        a->all_failures += a->failures;
        a->operations++;
}

static bool is_wanted(const struct options *o, const struct operation *op)
{
        for (size_t i = 0; i < o->only_count; i++) {
                if (strcmp(o->only[i], op->name) == 0)
                        return true;
        }
        return o->only_count == 0 && (op->quick || o->is_long);
}

static unsigned number_after(char ***arg)
{
        char *end;
        must(*++*arg != NULL);
        unsigned long n = strtoul(**arg, &end, 10);
        must(*end == '\0' && n < UINT32_MAX);
        return (unsigned)n;
}

static void parse_options(char **arg, struct options *o)
{
        *o = (struct options){.crashes = true,
                              .errors = true,
                              .step = 1,
                              .bounds = {.bound_bits = 5, .samples = 8, .seed = 1}};
        for (arg++; *arg && (*arg)[0] == '-'; arg++) {
                if (strcmp(*arg, "--long") == 0)
                        o->is_long = true;
                else if (strcmp(*arg, "--stop") == 0)
                        o->stop = true;
                else if (strcmp(*arg, "--bits") == 0)
                        o->bounds.bound_bits = number_after(&arg);
                else if (strcmp(*arg, "--samples") == 0)
                        o->bounds.samples = number_after(&arg);
                else if (strcmp(*arg, "--seed") == 0)
                        o->bounds.seed = number_after(&arg);
                else if (strcmp(*arg, "--step") == 0)
                        o->step = number_after(&arg);
                else if (strcmp(*arg, "--keep") == 0 && *++arg)
                        o->keep = *arg;
                else if (strcmp(*arg, "--rules") == 0 && *++arg)
                        o->rules = strcmp(*arg, "ordered") == 0 ? CRASH_ORDERED : CRASH_POSIX;
                else if (strcmp(*arg, "--only") == 0 && *++arg)
                        *(strcmp(*arg, "errors") == 0 ? &o->crashes : &o->errors) = false;
                else
                        must(!"known options");
        }
        must(o->bounds.bound_bits < 20 && o->step > 0);
        o->only = arg;
        while (arg[o->only_count])
                o->only_count++;
}

int main(int argc CAS_UNUSED, char **argv)
{
        static const struct operations *const tables[] = {
                &crash_push,     &crash_names,  &crash_condense, &crash_elsewhere,
                &crash_maintain, &crash_repair, &crash_tiers};
        struct options options;
        parse_options(argv, &options);
        if (access("/dev/shm", W_OK) == 0)
                (void)setenv("TMPDIR", "/dev/shm", 1); /* thousands of stores; crashes are made */
        struct arena a = {.options = &options, .dir = scratch_new()};
        a.base = cas_xasprintf("%s/base", a.dir);
        a.work = cas_xasprintf("%s/work", a.dir);
        a.store = cas_xasprintf("%s/store", a.work);
        cas_cleanup_free char *side = cas_xasprintf("%s/side", a.dir);
        must(mkdir(side, 0700) == 0);
        crash_side = side;
        a.recorder = recorder_new();
        told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        must(told != MAP_FAILED);
        (void)printf("%-13s %6s %8s %8s %7s %6s %6s\n", "operation", "points", "states", "distinct",
                     "faults", "ended", "s");
        for (size_t t = 0; t < CAS_COUNT(tables); t++) {
                for (size_t i = 0; i < tables[t]->count; i++) {
                        if (is_wanted(&options, &tables[t]->list[i]) &&
                            !(options.stop && a.all_failures))
                                enumerate(&a, &tables[t]->list[i]);
                }
        }
        (void)printf(
                "%zu operations, %zu points, %zu states, %zu of them distinct, %zu faults (%zu "
                "ended the process by an assertion of RocksDB), %u failures\n",
                a.operations, a.all_points, a.all_states, a.all_tried, a.all_faults, a.all_asserted,
                a.all_failures);
        recorder_free(a.recorder);
        scratch_free(a.dir);
        free(a.base);
        free(a.work);
        free(a.store);
        return a.operations == 0 || a.all_failures > 0;
}
