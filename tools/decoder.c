/* SPDX-License-Identifier: Apache-2.0 */
/* One thread feeds the process and takes what it says, whichever is possible: both pipes of this
 * side never block. The process is believed nothing (cas/decodeframe.h), is killed when it takes
 * CPU time without getting on, and is gone when a run ends, however it ends. */
#include "tools/decoder.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

#include "cas/decodeframe.h"
#include "cas/log.h"
#include "cas/mutex.h"
#include "tools/carried.h"
#include "tools/decoder/decoder_limits.h"

#define PIPE_BYTES (1024 * 1024)
#define INPUT_BYTES (256 * 1024)
#define LOOK_MS 1000 /* so often the CPU time is looked at when nothing moves */
#define END_MS 5000  /* so long a process that has closed its pipe may take to end */
#define END_STEP_MS 5
#define PROGRAM_FD 3

struct run {
        cas_source_fn source;
        void *source_arg;
        struct cas_decodeframe_reader *reader;
        pid_t pid;
        clockid_t clock;   /* of its CPU time */
        bool has_clock;    /* which may be refused */
        int in_fd, out_fd; /* its input (-1: it has all) and output */
        uint8_t *input;    /* INPUT_BYTES; what lies from input_at to input_len waits */
        size_t input_at, input_len;
        uint64_t moved_bytes;
        bool over_cpu; /* killed for that */
};

/* ---- the process ---- */

static int spawn(struct run *r, int program_fd, int child_in, int child_out, struct cas_err *err)
{
        static char name[] = "lamina-decoder";
        char *const argv[] = {name, NULL};
        char *const envp[] = {NULL};
        posix_spawn_file_actions_t files;
        posix_spawnattr_t attr;
        sigset_t none, usual;
        sigemptyset(&none);
        sigemptyset(&usual);
        sigaddset(&usual, SIGPIPE);
        int rc = posix_spawn_file_actions_init(&files);
        if (rc == 0 && (rc = posix_spawnattr_init(&attr)) != 0)
                (void)posix_spawn_file_actions_destroy(&files);
        if (rc != 0)
                return cas_fail_sys(err, rc, "start the decoder");
        /* The three come from numbers above PROGRAM_FD (run_open): none is overwritten. */
        rc = posix_spawn_file_actions_adddup2(&files, child_in, STDIN_FILENO);
        if (rc == 0)
                rc = posix_spawn_file_actions_adddup2(&files, child_out, STDOUT_FILENO);
        if (rc == 0)
                rc = posix_spawn_file_actions_adddup2(&files, program_fd, PROGRAM_FD);
        if (rc == 0)
                rc = posix_spawn_file_actions_addclosefrom_np(&files, PROGRAM_FD + 1);
        (void)posix_spawnattr_setsigmask(&attr, &none);
        (void)posix_spawnattr_setsigdefault(&attr, &usual);
        (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                      POSIX_SPAWN_SETSID);
        if (rc == 0)
                rc = posix_spawn(&r->pid, "/proc/self/fd/3", &files, &attr, argv, envp);
        (void)posix_spawnattr_destroy(&attr);
        (void)posix_spawn_file_actions_destroy(&files);
        return rc != 0 ? cas_fail_sys(err, rc, "start the decoder") : 0;
}

/* A copy above the numbers that the process has. */
static int move_up(int *fd)
{
        int up = fcntl(*fd, F_DUPFD_CLOEXEC, PROGRAM_FD + 1);
        if (up < 0)
                return -1;
        (void)close(*fd);
        *fd = up;
        return 0;
}

static int make_pipe(int *out_read, int *out_write, struct cas_err *err)
{
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        *out_read = ends[0];
        *out_write = ends[1];
        if (move_up(out_read) != 0 || move_up(out_write) != 0)
                return cas_fail_sys(err, errno, "pipe");
        (void)fcntl(*out_write, F_SETPIPE_SZ, PIPE_BYTES); /* as large as may be */
        return 0;
}

static int run_open(struct run *r, int program_fd, struct cas_err *err)
{
        cas_cleanup_fd int child_in = -1, child_out = -1, program = -1;
        program = fcntl(program_fd, F_DUPFD_CLOEXEC, PROGRAM_FD + 1);
        if (program < 0)
                return cas_fail_sys(err, errno, "start the decoder");
        if (make_pipe(&child_in, &r->in_fd, err) < 0 || make_pipe(&r->out_fd, &child_out, err) < 0)
                return -(int)err->code;
        if (fcntl(r->in_fd, F_SETFL, O_NONBLOCK) != 0 || fcntl(r->out_fd, F_SETFL, O_NONBLOCK) != 0)
                return cas_fail_sys(err, errno, "start the decoder");
        if (spawn(r, program, child_in, child_out, err) < 0)
                return -(int)err->code;
        r->has_clock = clock_getcpuclockid(r->pid, &r->clock) == 0;
        return 0;
}

/* Waits for its end; false when it does not come. */
static bool wait_for(struct run *r, int *status)
{
        for (unsigned waited_ms = 0; waited_ms < END_MS; waited_ms += END_STEP_MS) {
                pid_t pid = waitpid(r->pid, status, WNOHANG);
                if (pid == r->pid || (pid < 0 && errno != EINTR)) {
                        if (pid < 0)
                                *status = 0; /* who ignores SIGCHLD learns nothing */
                        r->pid = -1;
                        return true;
                }
                (void)nanosleep(&(struct timespec){.tv_nsec = END_STEP_MS * 1000000L}, NULL);
        }
        return false;
}

static void run_close(struct run *r)
{
        if (r->in_fd >= 0)
                (void)close(r->in_fd);
        if (r->out_fd >= 0)
                (void)close(r->out_fd);
        int status;
        if (r->pid > 0 && kill(r->pid, SIGKILL) == 0)
                (void)waitpid(r->pid, &status, 0);
        else if (r->pid > 0 && !wait_for(r, &status))
                cas_log(CAS_LOG_WARN, "decoder", "pid=%d end=refused", (int)r->pid);
        free(r->input);
        cas_decodeframe_reader_free(r->reader);
}
#define cleanup_run __attribute__((cleanup(run_close)))

/* ---- how it can end before it has said all ---- */

static int fail_killed(const struct run *r, int sig, struct cas_err *err)
{
        cas_log(CAS_LOG_WARN, "decoder", "end=signal signal=%d cpu_limit=%d", sig, r->over_cpu);
        if (r->over_cpu || sig == SIGXCPU)
                return cas_fail(err, CAS_E_LIMIT,
                                "the decoder took more CPU time than it may: %u s, and 1 s for "
                                "each %llu MiB",
                                DECODER_CPU_S_FREE,
                                (unsigned long long)(DECODER_CPU_BYTES_PER_S / CAS_MIB));
        switch (sig) {
        case SIGABRT:
                return cas_fail(err, CAS_E_LIMIT,
                                "the decoder gave up: more than its %llu MiB of memory, or a fault "
                                "of its own",
                                (unsigned long long)(DECODER_MEMORY_BYTES / CAS_MIB));
        case SIGSYS:
                return cas_fail(err, CAS_E_CORRUPT,
                                "the decoder tried what it may not (a system call), and was ended");
        case SIGKILL:
                return cas_fail(err, CAS_E_IO,
                                "the decoder was killed: by somebody, or for want of memory");
        default:
                return cas_fail(err, CAS_E_CORRUPT, "the decoder was ended by signal %d (%s)", sig,
                                strsignal(sig));
        }
}

static int fail_ended(struct run *r, struct cas_err *err)
{
        int status = 0;
        if (!wait_for(r, &status))
                return cas_fail(err, CAS_E_CORRUPT, "the decoder closed its pipe");
        if (WIFSIGNALED(status))
                return fail_killed(r, WTERMSIG(status), err);
        return cas_fail(err, CAS_E_IO, "the decoder ended before its layer (status %d)",
                        WEXITSTATUS(status));
}

/* Kills a process that takes CPU time without getting on. */
static void check_cpu(struct run *r)
{
        struct timespec used;
        if (!r->has_clock || r->over_cpu || clock_gettime(r->clock, &used) != 0)
                return;
        uint64_t may_s = DECODER_CPU_S_FREE + r->moved_bytes / DECODER_CPU_BYTES_PER_S;
        if ((uint64_t)used.tv_sec < may_s)
                return;
        r->over_cpu = true;
        (void)kill(r->pid, SIGKILL);
}

/* ---- feeding and taking ---- */

static bool is_ready(const struct run *r)
{
        uint32_t confined;
        return cas_decodeframe_reader_ready(r->reader, &confined) &&
               (confined & CAS_CONFINED_SECCOMP);
}

/* Gets more to give when all was given; may block as the source does. */
static int refill(struct run *r, struct cas_err *err)
{
        if (r->in_fd < 0 || r->input_at < r->input_len)
                return 0;
        r->input_at = r->input_len = 0;
        if (r->source(r->source_arg, r->input, INPUT_BYTES, &r->input_len, err) < 0)
                return -(int)err->code;
        if (r->input_len == 0)
                (void)close(cas_steal_fd(&r->in_fd));
        return 0;
}

static int feed(struct run *r, bool *moved, struct cas_err *err)
{
        if (refill(r, err) < 0)
                return -(int)err->code;
        if (r->in_fd < 0)
                return 0;
        ssize_t n = write(r->in_fd, r->input + r->input_at, r->input_len - r->input_at);
        if (n < 0 && errno != EAGAIN && errno != EINTR && errno != EPIPE)
                return cas_fail_sys(err, errno, "write to the decoder");
        if (n < 0)
                return 0; /* what a process that is gone had to say comes first */
        r->input_at += (size_t)n;
        r->moved_bytes += (uint64_t)n;
        *moved = true;
        return 0;
}

/* One read. */
static int take(struct run *r, bool *moved, struct cas_err *err)
{
        uint8_t *at;
        size_t room;
        cas_decodeframe_reader_room(r->reader, &at, &room);
        ssize_t n = read(r->out_fd, at, room);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n < 0)
                return cas_fail_sys(err, errno, "read from the decoder");
        if (n == 0)
                return fail_ended(r, err);
        r->moved_bytes += (uint64_t)n;
        *moved = true;
        return cas_decodeframe_reader_took(r->reader, (size_t)n, err);
}

static void wait_for_more(struct run *r)
{
        struct pollfd fds[2] = {{.fd = r->out_fd, .events = POLLIN},
                                {.fd = is_ready(r) ? r->in_fd : -1, .events = POLLOUT}};
        (void)poll(fds, CAS_COUNT(fds), LOOK_MS);
        check_cpu(r);
}

/* *out_confined is set when the process has said how it is confined. */
static int go_on(struct run *r, uint32_t *out_confined, struct cas_err *err)
{
        while (!cas_decodeframe_reader_ended(r->reader)) {
                bool moved = false;
                int rc = take(r, &moved, err);
                if (cas_decodeframe_reader_ready(r->reader, out_confined) && !is_ready(r))
                        return cas_fail(err, CAS_E_DENIED,
                                        "this system lets no process confine itself (seccomp)");
                if (rc == 0 && is_ready(r) && !cas_decodeframe_reader_ended(r->reader))
                        rc = feed(r, &moved, err);
                if (rc < 0)
                        return rc;
                if (!moved)
                        wait_for_more(r);
        }
        if (r->in_fd >= 0)
                return cas_fail(err, CAS_E_CORRUPT, "the decoder ended before its layer");
        return 0;
}

/* A process that is gone must not take this one along: SIGPIPE waits, and is forgotten. */
static void pipe_signal_hold(sigset_t *before)
{
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGPIPE);
        (void)pthread_sigmask(SIG_BLOCK, &set, before);
}

static void pipe_signal_let(const sigset_t *before)
{
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGPIPE);
        if (!sigismember(before, SIGPIPE))
                while (sigtimedwait(&set, NULL, &(struct timespec){0}) == SIGPIPE)
                        ;
        (void)pthread_sigmask(SIG_SETMASK, before, NULL);
}

int decoder_run(int program_fd, cas_source_fn source, void *source_arg,
                const struct cas_decode_sink *sink, struct cas_decode_result *out,
                uint32_t *out_confined, struct cas_err *err)
{
        cleanup_run struct run r = {
                .source = source, .source_arg = source_arg, .pid = -1, .in_fd = -1, .out_fd = -1};
        sigset_t before;
        r.reader = cas_decodeframe_reader_new(sink, out);
        r.input = cas_xmalloc(INPUT_BYTES);
        *out_confined = 0;
        if (run_open(&r, program_fd, err) < 0)
                return -(int)err->code;
        pipe_signal_hold(&before);
        int rc = go_on(&r, out_confined, err);
        pipe_signal_let(&before);
        return rc;
}

/* ---- the one of this process ---- */

extern const char decoder_blob_start[], decoder_blob_end[]; /* decoder_blob.S */

enum found { FOUND_UNKNOWN, FOUND_WORKS, FOUND_ABSENT };

static struct {
        struct cas_mutex mutex; /* "decoder"; guards the rest */
        bool decided;
        enum decoder_confine confine;
        int program_fd;
        enum found found;
} the_decoder = {.mutex = CAS_MUTEX_INIT("decoder"), .program_fd = -1};

/* *out_fd: borrowed for the life of the process. */
static int program_of_process(int *out_fd, struct cas_err *err)
{
        int rc = 0;
        cas_mutex_lock(&the_decoder.mutex);
        if (the_decoder.program_fd < 0)
                rc = carried_open("lamina-decoder", decoder_blob_start, decoder_blob_end,
                                  &the_decoder.program_fd, err);
        *out_fd = the_decoder.program_fd;
        cas_mutex_unlock(&the_decoder.mutex);
        return rc;
}

/* The first run tells whether processes can be confined here: what fails later fails. */
static enum found note_found(enum found now)
{
        cas_mutex_lock(&the_decoder.mutex);
        bool first = the_decoder.found == FOUND_UNKNOWN;
        if (first)
                the_decoder.found = now;
        now = the_decoder.found;
        cas_mutex_unlock(&the_decoder.mutex);
        if (first && now == FOUND_ABSENT)
                cas_log(CAS_LOG_WARN, "decoder", "confined=no");
        return now;
}

static int run_confined(void *ctx CAS_UNUSED, cas_source_fn source, void *source_arg,
                        const struct cas_decode_sink *sink, struct cas_decode_result *out,
                        struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        uint32_t confined = 0;
        int program_fd;
        bool require = the_decoder.confine == DECODER_REQUIRE;
        if (!require && note_found(FOUND_UNKNOWN) == FOUND_ABSENT)
                return cas_decode_run(source, source_arg, sink, out, err);
        int rc = program_of_process(&program_fd, &why);
        if (rc == 0)
                rc = decoder_run(program_fd, source, source_arg, sink, out, &confined, &why);
        if (confined & CAS_CONFINED_SECCOMP) {
                (void)note_found(FOUND_WORKS);
        } else if (rc < 0 && require) {
                return cas_fail(err, CAS_E_DENIED, "[decode] confine = require: %s", why.msg);
        } else if (rc < 0 && note_found(FOUND_ABSENT) == FOUND_ABSENT) {
                return cas_decode_run(source, source_arg, sink, out, err);
        }
        if (rc < 0)
                *err = why;
        return rc;
}

const struct cas_decoder *decoder_of(enum decoder_confine confine)
{
        static const struct cas_decoder decoder = {.run = run_confined};
        cas_mutex_lock(&the_decoder.mutex);
        if (!the_decoder.decided) {
                the_decoder.decided = true;
                the_decoder.confine = confine;
        }
        confine = the_decoder.confine;
        cas_mutex_unlock(&the_decoder.mutex);
        return confine == DECODER_OFF ? NULL : &decoder;
}
