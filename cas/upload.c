/* SPDX-License-Identifier: Apache-2.0 */
/* Upload sessions. One is two files of STORE/uploads: ID.data, the bytes, whose
 * length tells how far it is; and ID.repo, written first, with up to three lines:
 * the repository's name, who began it, and the digest or its algorithm.
 * What this process knows besides (who writes, the running digest) is only to
 * save work: it can be lost at any time.
 *
 * Where nodes share a store (cas/shared.h), these files are a cache of the
 * session, whose bytes are there before anybody is told that they were taken;
 * a node that does not know the session's version fetches them. A session that
 * is this node's alone says so by the version digit of its UUID. */
#include "cas/upload_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "cas/map.h"
#include "cas/names.h"
#include "cas/publish.h"
#include "cas/shared.h"
#include "cas/store_int.h"

#define UPLOAD_PATH_BYTES 64
#define READ_BYTES (1 * CAS_MIB)
/* Of ID.repo: three lines. */
#define NOTES_BYTES_MAX                                                                            \
        (CAS_REPO_NAME_BYTES_MAX + CAS_UPLOAD_OWNER_BYTES_MAX + CAS_DIGEST_TEXT_BYTES + 2)

/* What is remembered of a session while the store is open. */
struct upload_state {
        bool writing;
        bool synced;               /* its bytes; false as well where another process wrote them */
        bool named;                /* its names are synced: it survives a power cut */
        struct cas_hasher *hasher; /* of the first hashed_bytes; NULL: not known */
        uint64_t hashed_bytes;
        char version[CAS_SHARED_VERSION_BYTES]; /* of the shared session that the file has */
};

struct cas_upload {
        struct cas_store *store;
        char id[CAS_UPLOAD_ID_BYTES];
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        enum cas_digest_alg alg; /* of state->hasher */
        int fd;
        uint64_t size_bytes;
        uint64_t safe_bytes; /* of them, with all nodes; where the session is shared */
        bool shared; /* its file may be a blob's, too: a process has died between publishing it and
                      * ending the session. It must not be written to */
        bool over;   /* its file is gone, or not to be trusted: all that is left is to close it */
        struct upload_state *state; /* ours alone while state->writing */
};

static void data_path(const char *id, char out[UPLOAD_PATH_BYTES])
{
        (void)snprintf(out, UPLOAD_PATH_BYTES, CAS_DIR_UPLOADS "/%s.data", id);
}

static void repo_path(const char *id, char out[UPLOAD_PATH_BYTES])
{
        (void)snprintf(out, UPLOAD_PATH_BYTES, CAS_DIR_UPLOADS "/%s.repo", id);
}

/* Lower-case UUID text. */
static bool id_valid(const char *id)
{
        if (strlen(id) != CAS_UPLOAD_ID_BYTES - 1)
                return false;
        for (size_t i = 0; i < CAS_UPLOAD_ID_BYTES - 1; i++) {
                bool dash = i == 8 || i == 13 || i == 18 || i == 23;
                if (dash ? id[i] != '-' : !strchr("0123456789abcdef", id[i]))
                        return false;
        }
        return true;
}

#define ID_VERSION_AT 14
#define ID_HERE_ONLY '8'

/* The shared store that has the session; NULL: it is this node's alone. */
static struct cas_shared *shared_of(struct cas_store *s, const char *id)
{
        return id[ID_VERSION_AT] == ID_HERE_ONLY ? NULL : cas_store_shared(s);
}

static int new_id(char id[CAS_UPLOAD_ID_BYTES], struct cas_err *err)
{
        uint8_t r[16];
        if (getrandom(r, sizeof(r), 0) != (ssize_t)sizeof(r))
                return cas_fail_sys(err, errno, "random numbers");
        r[6] = (uint8_t)((r[6] & 0x0f) | 0x40);
        r[8] = (uint8_t)((r[8] & 0x3f) | 0x80);
        (void)snprintf(id, CAS_UPLOAD_ID_BYTES,
                       "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0],
                       r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12],
                       r[13], r[14], r[15]);
        return 0;
}

/* ---- what the store remembers ---- */

static void state_free(struct upload_state *state)
{
        cas_hasher_free(state->hasher);
        free(state);
}

static void free_state_value(void *arg CAS_UNUSED, const void *key CAS_UNUSED,
                             size_t key_len CAS_UNUSED, uint64_t value)
{
        struct upload_state *state = (struct upload_state *)(uintptr_t)value;
        cas_assert(!state->writing);
        state_free(state);
}

void cas_uploads_free(struct cas_store *s)
{
        cas_map_each(s->uploads, free_state_value, NULL);
        cas_map_free(cas_steal(&s->uploads));
}

/* The session's state, now ours; NULL when another writes. */
static struct upload_state *state_take(struct cas_store *s, const char *id)
{
        bool made;
        cas_mutex_lock(&s->uploads_mutex);
        uint64_t *slot = cas_map_put(s->uploads, id, strlen(id), &made);
        if (made)
                *slot = (uintptr_t)cas_xcalloc(1, sizeof(struct upload_state));
        struct upload_state *state = (struct upload_state *)(uintptr_t)*slot;
        bool mine = !state->writing;
        state->writing = true;
        cas_mutex_unlock(&s->uploads_mutex);
        return mine ? state : NULL;
}

/* Gives it back; forgets it when the session is over or nothing is known of it. */
static void state_give(struct cas_store *s, const char *id, struct upload_state *state, bool forget)
{
        cas_mutex_lock(&s->uploads_mutex);
        state->writing = false;
        if (forget || (!state->hasher && !state->version[0])) {
                bool there = cas_map_remove(s->uploads, id, strlen(id));
                cas_assert(there);
                state_free(state);
        }
        cas_mutex_unlock(&s->uploads_mutex);
}

static void state_forget_digest(struct upload_state *state)
{
        cas_hasher_free(state->hasher);
        state->hasher = NULL;
        state->hashed_bytes = 0;
}

/* ---- a session's life ---- */

/* What ID.repo holds. */
static int notes_write(const char *repo, const struct cas_upload_info *info, struct cas_buf *out,
                       struct cas_err *err)
{
        char digest[CAS_DIGEST_TEXT_BYTES] = "";
        for (const char *c = info->owner; *c; c++) {
                if ((unsigned char)*c < ' ' || *c == 0x7f)
                        return cas_fail(err, CAS_E_INVALID, "upload: not the name of anybody");
        }
        if (info->digest.alg != CAS_DIGEST_NONE)
                (void)cas_digest_text(&info->digest, digest);
        else if (info->alg != CAS_DIGEST_NONE)
                (void)snprintf(digest, sizeof(digest), "%s", cas_digest_alg_name(info->alg));
        cas_buf_append_str(out, repo);
        if (info->owner[0] || digest[0])
                cas_buf_printf(out, "\n%s\n%s", info->owner, digest);
        return 0;
}

/* The same back. What does not make sense is left empty: it only saves work. */
static void notes_read(char *text, char repo[CAS_REPO_NAME_BYTES_MAX + 1],
                       struct cas_upload_info *info)
{
        struct cas_err ignored = CAS_ERR_INIT;
        char *line = text;
        (void)snprintf(repo, CAS_REPO_NAME_BYTES_MAX + 1, "%s", strsep(&line, "\n"));
        if (line)
                (void)snprintf(info->owner, sizeof(info->owner), "%s", strsep(&line, "\n"));
        if (line && cas_digest_parse(line, &info->digest, &ignored) == 0)
                info->alg = info->digest.alg;
        else if (line)
                info->alg = cas_digest_alg_find(line);
}

int cas_upload_create(struct cas_store *s, const char *repo, char id[CAS_UPLOAD_ID_BYTES],
                      struct cas_err *err)
{
        return cas_upload_begin(s, repo, &(struct cas_upload_info){0}, id, err);
}

/* The name goes first: a session without data is none. */
static int remove_files(struct cas_store *s, const char *id, struct cas_err *err)
{
        char path[UPLOAD_PATH_BYTES];
        data_path(id, path);
        int rc = cas_io_unlink(s->io, s->dirfd, path, err);
        if (rc < 0)
                return rc;
        repo_path(id, path);
        return cas_io_unlink(s->io, s->dirfd, path, err);
}

/* Nothing is synced: a session is worth nothing until bytes are (cas_upload_sync). excl: O_EXCL, or
 * 0: files that are there are emptied. */
static int make_files(struct cas_store *s, const char *repo, const struct cas_upload_info *info,
                      const char *id, int excl, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf notes = CAS_BUF_INIT;
        char path[UPLOAD_PATH_BYTES];
        int rc = notes_write(repo, info, &notes, err);
        if (rc < 0)
                return rc;
        repo_path(id, path);
        int fd = -1;
        rc = cas_io_open(s->io, s->dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | excl, 0600, &fd,
                         err);
        if (rc < 0)
                return rc;
        rc = cas_io_pwrite_all(s->io, fd, notes.data, notes.len_bytes, 0, path, err);
        (void)s->io->ops->close(s->io->ctx, fd);
        if (rc < 0)
                return rc;
        data_path(id, path);
        rc = cas_io_open(s->io, s->dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | excl, 0600, &fd,
                         err);
        if (rc < 0)
                return rc;
        (void)s->io->ops->close(s->io->ctx, fd);
        return 0;
}

static void state_note_version(struct cas_store *s, const char *id, const char *version)
{
        struct upload_state *state = state_take(s, id);
        if (!state)
                return; /* who writes knows better */
        (void)snprintf(state->version, sizeof(state->version), "%s", version);
        state_give(s, id, state, false);
}

static int begin_shared(struct cas_store *s, const char *repo, const struct cas_upload_info *info,
                        const char *id, struct cas_err *err)
{
        struct cas_shared *sh = cas_store_shared(s);
        struct cas_shared_session session = {.repo = repo, .id = id};
        struct cas_err ignored = CAS_ERR_INIT;
        int rc = sh->ops->upload_begin(sh, &session, info, err);
        if (rc == 0)
                state_note_version(s, id, session.version);
        else
                (void)!remove_files(s, id, &ignored);
        return rc;
}

int cas_upload_begin(struct cas_store *s, const char *repo, const struct cas_upload_info *info,
                     char id[CAS_UPLOAD_ID_BYTES], struct cas_err *err)
{
        if (!cas_repo_name_valid(repo))
                return cas_fail(err, CAS_E_INVALID, "invalid repository name %.255s", repo);
        int rc = new_id(id, err);
        if (rc == 0 && info->here_only)
                id[ID_VERSION_AT] = ID_HERE_ONLY;
        if (rc == 0)
                rc = make_files(s, repo, info, id, O_EXCL, err);
        if (rc == 0 && shared_of(s, id))
                rc = begin_shared(s, repo, info, id, err);
        return rc;
}

static void upload_free(struct cas_upload *u, bool forget)
{
        if (u->fd >= 0)
                (void)u->store->io->ops->close(u->store->io->ctx, u->fd);
        state_give(u->store, u->id, u->state, forget);
        free(u);
}

static int notes_load(struct cas_store *s, const char *id, char repo[CAS_REPO_NAME_BYTES_MAX + 1],
                      struct cas_upload_info *info, struct cas_err *err)
{
        char path[UPLOAD_PATH_BYTES];
        cas_cleanup_buf struct cas_buf notes = CAS_BUF_INIT;
        repo_path(id, path);
        int rc = cas_io_read_file(s->io, s->dirfd, path, NOTES_BYTES_MAX, &notes, err);
        if (rc < 0)
                return rc;
        cas_cleanup_free char *text = cas_xstrdup(cas_buf_str(&notes));
        *info = (struct cas_upload_info){0};
        memcpy(info->id, id, sizeof(info->id));
        notes_read(text, repo, info);
        return 0;
}

struct fetch {
        struct cas_store *s;
        const char *path;
        int fd;
        uint64_t at;
};

static int fetch_piece(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct fetch *f = arg;
        int rc = cas_io_pwrite_all(f->s->io, f->fd, data, len, f->at, f->path, err);
        f->at += len;
        return rc;
}

/* The session as the nodes share it, made anew in this node's files. */
static int fetch_shared(struct cas_upload *u, const struct cas_shared_session *session,
                        const struct cas_upload_info *info, struct cas_err *err)
{
        struct cas_store *s = u->store;
        struct cas_shared *sh = cas_store_shared(s);
        char path[UPLOAD_PATH_BYTES];
        struct fetch f = {.s = s, .path = path, .fd = -1};
        state_forget_digest(u->state);
        u->state->synced = u->state->named = false;
        int rc = remove_files(s, u->id, err); /* the file may be a blob's */
        if (rc == 0)
                rc = make_files(s, session->repo, info, u->id, O_EXCL, err);
        data_path(u->id, path);
        if (rc == 0)
                rc = cas_io_open(s->io, s->dirfd, path, O_WRONLY, 0, &f.fd, err);
        if (rc < 0)
                return rc;
        rc = sh->ops->upload_read(sh, session, fetch_piece, &f, err);
        (void)s->io->ops->close(s->io->ctx, f.fd);
        if (rc == 0 && f.at != session->size_bytes)
                rc = cas_fail(err, CAS_E_CORRUPT, "upload %s: %llu bytes, %llu expected", u->id,
                              (unsigned long long)f.at, (unsigned long long)session->size_bytes);
        return rc;
}

/* This node's files are the session's, as far as that has come. */
static int open_shared(struct cas_upload *u, const char *repo, struct cas_err *err)
{
        struct cas_shared *sh = cas_store_shared(u->store);
        struct cas_shared_session session = {.repo = repo, .id = u->id};
        struct cas_upload_info info = {0};
        char path[UPLOAD_PATH_BYTES];
        struct stat st;
        struct cas_err ignored = CAS_ERR_INIT;
        int rc = sh->ops->upload_load(sh, &session, &info, err);
        if (rc == -CAS_E_NOTFOUND) /* it has ended on another node */
                (void)!remove_files(u->store, u->id, &ignored);
        if (rc < 0)
                return rc;
        data_path(u->id, path);
        u->safe_bytes = session.size_bytes;
        const struct cas_io *io = u->store->io;
        if (strcmp(u->state->version, session.version) == 0 &&
            io->ops->fstatat(io->ctx, u->store->dirfd, path, &st, 0) == 0 &&
            (uint64_t)st.st_size >= session.size_bytes)
                return 0;
        u->state->version[0] = '\0';
        rc = fetch_shared(u, &session, &info, err);
        if (rc == 0)
                (void)snprintf(u->state->version, sizeof(u->state->version), "%s", session.version);
        return rc;
}

static int open_files(struct cas_upload *u, const char *repo, struct cas_err *err)
{
        struct cas_store *s = u->store;
        struct cas_upload_info info;
        char path[UPLOAD_PATH_BYTES], owner[CAS_REPO_NAME_BYTES_MAX + 1];
        int rc = shared_of(s, u->id) ? open_shared(u, repo, err) : 0;
        if (rc == 0)
                rc = notes_load(s, u->id, owner, &info, err);
        if (rc == 0 && strcmp(owner, repo) != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "of another repository");
        if (rc < 0)
                return rc;
        u->alg = info.alg == CAS_DIGEST_NONE ? CAS_DIGEST_SHA256 : info.alg;
        (void)snprintf(u->repo, sizeof(u->repo), "%s", repo);
        data_path(u->id, path);
        rc = cas_io_open(s->io, s->dirfd, path, O_RDWR, 0, &u->fd, err);
        if (rc < 0)
                return rc;
        struct stat st;
        if (s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, 0) != 0)
                return cas_fail_sys(err, errno, "stat %s", path);
        u->size_bytes = (uint64_t)st.st_size;
        u->shared = st.st_nlink > 1;
        return 0;
}

int cas_upload_open(struct cas_store *s, const char *repo, const char *id, struct cas_upload **out,
                    struct cas_err *err)
{
        if (!id_valid(id))
                return cas_fail(err, CAS_E_NOTFOUND, "no such upload");
        struct upload_state *state = state_take(s, id);
        if (!state)
                return cas_fail(err, CAS_E_BUSY, "upload %s has another writer", id);
        struct cas_upload *u = cas_xcalloc(1, sizeof(*u));
        *u = (struct cas_upload){.store = s, .fd = -1, .state = state};
        memcpy(u->id, id, sizeof(u->id));
        struct cas_err miss = CAS_ERR_INIT;
        int rc = open_files(u, repo, &miss);
        if (rc < 0) {
                upload_free(u, rc == -CAS_E_NOTFOUND && u->repo[0]);
                if (rc == -CAS_E_NOTFOUND)
                        return cas_fail(err, CAS_E_NOTFOUND, "no upload %s in repository %s", id,
                                        repo);
                *err = miss;
                return rc;
        }
        if (state->hashed_bytes != u->size_bytes)
                state_forget_digest(state);
        *out = u;
        return 0;
}

uint64_t cas_upload_bytes(const struct cas_upload *u)
{
        return u->size_bytes;
}

static int fail_over(const struct cas_upload *u, struct cas_err *err)
{
        return cas_fail(err, CAS_E_NOTFOUND, "upload %s is over", u->id);
}

static int copy_bytes(struct cas_upload *u, int to, const char *path, struct cas_err *err)
{
        const struct cas_io *io = u->store->io;
        cas_cleanup_free uint8_t *buf = cas_xmalloc(READ_BYTES);
        for (uint64_t at = 0; at < u->size_bytes;) {
                size_t len = cas_min_u64(READ_BYTES, u->size_bytes - at);
                int rc = cas_io_pread_exact(io, u->fd, buf, len, at, u->id, err);
                if (rc == 0)
                        rc = cas_io_pwrite_all(io, to, buf, len, at, path, err);
                if (rc < 0)
                        return rc;
                at += len;
        }
        return cas_io_fsync(io, to, path, err);
}

/* Makes the file the session's alone, by a copy if need be. */
static int unshare_file(struct cas_upload *u, struct cas_err *err)
{
        struct cas_store *s = u->store;
        char path[UPLOAD_PATH_BYTES], copy[CAS_TEMPORARY_PATH_BYTES];
        cas_cleanup_fd int fd = -1;
        if (!u->shared)
                return 0;
        data_path(u->id, path);
        int rc = cas_temporary_path(copy, err);
        if (rc == 0)
                rc = cas_io_open(s->io, s->dirfd, copy, O_RDWR | O_CREAT | O_EXCL, 0600, &fd, err);
        if (rc < 0)
                return rc;
        rc = copy_bytes(u, fd, copy, err);
        if (rc == 0)
                rc = cas_io_rename(s->io, s->dirfd, copy, s->dirfd, path, err);
        if (rc < 0) {
                (void)s->io->ops->unlinkat(s->io->ctx, s->dirfd, copy, 0);
                return rc;
        }
        (void)s->io->ops->close(s->io->ctx, u->fd);
        u->fd = cas_steal_fd(&fd);
        u->shared = false;
        return cas_io_sync_dir(s->io, s->dirfd, CAS_DIR_UPLOADS, err);
}

int cas_upload_append(struct cas_upload *u, const void *data, size_t len, struct cas_err *err)
{
        struct upload_state *state = u->state;
        if (len > CAS_UPLOAD_BYTES_MAX - u->size_bytes)
                return cas_fail(err, CAS_E_LIMIT, "upload: more than %llu bytes",
                                (unsigned long long)CAS_UPLOAD_BYTES_MAX);
        if (u->over)
                return fail_over(u, err);
        int rc = len > 0 ? unshare_file(u, err) : 0;
        if (rc == 0)
                rc = cas_store_own_room(u->store, len, err);
        if (rc < 0)
                return rc;
        state->synced = false;
        rc = cas_io_pwrite_all(u->store->io, u->fd, data, len, u->size_bytes, u->id, err);
        if (rc < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                if (cas_io_ftruncate(u->store->io, u->fd, u->size_bytes, u->id, &ignored) < 0)
                        state_forget_digest(state); /* the file may be longer than what is known */
                return rc;
        }
        if (u->size_bytes == 0 && !state->hasher)
                state->hasher = cas_hasher_new(u->alg);
        if (state->hasher) {
                cas_hasher_update(state->hasher, data, len);
                state->hashed_bytes += len;
        }
        u->size_bytes += len;
        return 0;
}

int cas_upload_reader(struct cas_upload *u, int *out_fd, struct cas_err *err)
{
        char path[UPLOAD_PATH_BYTES];
        if (u->over)
                return fail_over(u, err);
        int rc = unshare_file(u, err); /* what is appended later must come to this file */
        if (rc < 0)
                return rc;
        data_path(u->id, path);
        return cas_io_open(u->store->io, u->store->dirfd, path, O_RDONLY, 0, out_fd, err);
}

int cas_upload_truncate(struct cas_upload *u, uint64_t bytes, struct cas_err *err)
{
        if (bytes > u->size_bytes)
                return cas_fail(err, CAS_E_INVALID, "upload: only %llu bytes long",
                                (unsigned long long)u->size_bytes);
        if (bytes == u->size_bytes || u->over)
                return 0;
        int rc = unshare_file(u, err);
        if (rc < 0)
                return rc;
        u->state->synced = false;
        state_forget_digest(u->state);
        rc = cas_io_ftruncate(u->store->io, u->fd, bytes, u->id, err);
        if (rc == 0)
                u->size_bytes = bytes;
        return rc;
}

/* What is left of the session, if it cannot be removed, expires. */
static void end_session(struct cas_upload *u)
{
        struct cas_err ignored = CAS_ERR_INIT;
        u->over = true;
        (void)!remove_files(u->store, u->id, &ignored);
}

/* After a failed sync the kernel may take the pages for clean, and a later sync that succeeds
 * would prove nothing: the session is over. */
static int sync_data(struct cas_upload *u, struct cas_err *err)
{
        if (u->state->synced || u->over)
                return 0;
        int rc = cas_io_fsync(u->store->io, u->fd, u->id, err);
        if (rc == 0)
                u->state->synced = true;
        else
                end_session(u);
        return rc;
}

/* The file that says whose session it is, and the directory. */
static int sync_names(struct cas_upload *u, struct cas_err *err)
{
        struct cas_store *s = u->store;
        char path[UPLOAD_PATH_BYTES];
        int fd = -1;
        repo_path(u->id, path);
        int rc = cas_io_open(s->io, s->dirfd, path, O_RDONLY, 0, &fd, err);
        if (rc == 0) {
                rc = cas_io_fsync(s->io, fd, path, err);
                (void)s->io->ops->close(s->io->ctx, fd);
        }
        if (rc == 0)
                rc = cas_io_sync_dir(s->io, s->dirfd, CAS_DIR_UPLOADS, err);
        u->state->named = rc == 0;
        if (rc < 0)
                end_session(u);
        return rc;
}

/* All bytes are with all nodes; or, with a digest, they are that blob. After an error this node's
 * files count for nothing: it may have had effect. */
static int sync_shared(struct cas_upload *u, const struct cas_digest *finish, struct cas_err *err)
{
        struct cas_shared *sh = cas_store_shared(u->store);
        struct cas_shared_session session = {
                .repo = u->repo, .id = u->id, .size_bytes = u->safe_bytes};
        memcpy(session.version, u->state->version, sizeof(session.version));
        u->state->version[0] = '\0';
        int rc = finish ? sh->ops->upload_finish(sh, &session, u->fd, u->size_bytes, finish, err)
                        : sh->ops->upload_append(sh, &session, u->fd, u->size_bytes, err);
        if (rc < 0)
                return rc;
        memcpy(u->state->version, session.version, sizeof(session.version));
        u->safe_bytes = u->size_bytes;
        return 0;
}

int cas_upload_sync(struct cas_upload *u, struct cas_err *err)
{
        int rc = sync_data(u, err);
        if (rc == 0 && !u->over && !u->state->named)
                rc = sync_names(u, err);
        if (rc == 0 && !u->over && shared_of(u->store, u->id) && u->size_bytes > u->safe_bytes)
                rc = sync_shared(u, NULL, err);
        return rc;
}

void cas_upload_close(struct cas_upload *u)
{
        if (!u)
                return;
        struct cas_err ignored = CAS_ERR_INIT;
        (void)!sync_data(u, &ignored);
        upload_free(u, u->over);
}

/* ---- finishing ---- */

static int hash_file(struct cas_upload *u, enum cas_digest_alg alg, struct cas_digest *out,
                     struct cas_err *err)
{
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(alg);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(READ_BYTES);
        for (uint64_t at = 0; at < u->size_bytes;) {
                size_t len = cas_min_u64(READ_BYTES, u->size_bytes - at);
                int rc = cas_io_pread_exact(u->store->io, u->fd, buf, len, at, u->id, err);
                if (rc < 0)
                        return rc;
                cas_hasher_update(hasher, buf, len);
                at += len;
        }
        cas_hasher_final(hasher, out);
        return 0;
}

static int verify(struct cas_upload *u, const struct cas_digest *expected, struct cas_err *err)
{
        struct cas_digest got;
        if (expected->alg == u->alg && u->state->hasher &&
            u->state->hashed_bytes == u->size_bytes) {
                cas_hasher_peek(u->state->hasher, &got);
        } else {
                int rc = hash_file(u, expected->alg, &got, err);
                if (rc < 0)
                        return rc;
        }
        char want_text[CAS_DIGEST_TEXT_BYTES], got_text[CAS_DIGEST_TEXT_BYTES];
        if (!cas_digest_equal(&got, expected))
                return cas_fail(err, CAS_E_INVALID, "upload: digest is %s, %s expected",
                                cas_digest_text(&got, got_text),
                                cas_digest_text(expected, want_text));
        return 0;
}

static int publish(struct cas_upload *u, const struct cas_digest *digest, struct cas_err *err)
{
        char name[UPLOAD_PATH_BYTES];
        (void)snprintf(name, sizeof(name), "%s.data", u->id);
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_publish_begin(u->store, &p, err);
        if (rc == 0)
                cas_publish_renew_links(p);
        if (rc == 0 && !shared_of(u->store, u->id))
                cas_publish_learned(p);
        if (rc == 0)
                rc = cas_publish_blob_adopt(p, name, digest, u->size_bytes, err);
        if (rc == 0)
                rc = cas_publish_blob_link(p, u->repo, digest, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

/* What is left of it, if it cannot be removed, is collected. */
static void end_shared(struct cas_upload *u)
{
        struct cas_shared *sh = shared_of(u->store, u->id);
        const struct cas_shared_session session = {.repo = u->repo, .id = u->id};
        struct cas_err ignored = CAS_ERR_INIT;
        if (sh)
                (void)!sh->ops->upload_end(sh, &session, &ignored);
}

int cas_upload_finish(struct cas_upload *u, const struct cas_digest *expected, struct cas_err *err)
{
        if (u->over)
                return fail_over(u, err);
        int rc = verify(u, expected, err);
        if (rc == 0)
                rc = sync_data(u, err); /* the session ends: its names need not last */
        if (rc == 0 && shared_of(u->store, u->id))
                rc = sync_shared(u, expected, err);
        if (rc < 0)
                return rc;
        rc = publish(u, expected, err);
        if (rc == 0)
                end_shared(u);
        end_session(u); /* the file may be a blob's, however that ended */
        if (rc == 0)
                upload_free(u, true);
        return rc;
}

int cas_upload_cancel(struct cas_upload *u, struct cas_err *err)
{
        int rc = remove_files(u->store, u->id, err);
        if (rc < 0)
                return rc;
        end_shared(u);
        upload_free(u, true);
        return 0;
}

/* ---- all of them ---- */

/* The session whose data file this is; *mine false: it is none of the repository's, or over. */
static int look_at(struct cas_store *s, const char *repo, const char *name,
                   struct cas_upload_info *info, bool *mine, struct cas_err *err)
{
        char id[CAS_UPLOAD_ID_BYTES], path[UPLOAD_PATH_BYTES], owner[CAS_REPO_NAME_BYTES_MAX + 1];
        struct cas_err miss = CAS_ERR_INIT;
        struct stat st;
        *mine = false;
        (void)snprintf(id, sizeof(id), "%.36s", name);
        if (!id_valid(id) || strcmp(name + strlen(id), ".data") != 0)
                return 0;
        int rc = notes_load(s, id, owner, info, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        data_path(id, path);
        if (rc < 0 || strcmp(owner, repo) != 0 ||
            s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, 0) != 0)
                return 0;
        info->size_bytes = (uint64_t)st.st_size;
        info->touched_unix_s = (uint64_t)st.st_mtime;
        *mine = true;
        return 0;
}

static int open_directory(struct cas_store *s, DIR **out, struct cas_err *err)
{
        int fd = openat(s->dirfd, CAS_DIR_UPLOADS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", CAS_DIR_UPLOADS);
        *out = fdopendir(fd);
        cas_assert(*out != NULL);
        return 0;
}

int cas_upload_each(struct cas_store *s, const char *repo,
                    bool (*fn)(void *arg, const struct cas_upload_info *info), void *arg,
                    struct cas_err *err)
{
        struct cas_upload_info info;
        struct cas_shared *sh = cas_store_shared(s);
        DIR *dir;
        if (sh)
                return sh->ops->upload_each(sh, repo, fn, arg, err);
        int rc = open_directory(s, &dir, err);
        if (rc < 0)
                return rc;
        bool mine, more = true;
        for (struct dirent *e = readdir(dir); e && rc == 0 && more; e = readdir(dir)) {
                rc = look_at(s, repo, e->d_name, &info, &mine, err);
                if (rc == 0 && mine)
                        more = fn(arg, &info);
        }
        (void)closedir(dir);
        return rc;
}

/* Removes one file's session when it is old and nobody writes it. */
static int expire_one(struct cas_store *s, const char *name, time_t before, uint64_t *count,
                      struct cas_err *err)
{
        char id[CAS_UPLOAD_ID_BYTES], path[UPLOAD_PATH_BYTES];
        struct stat st;
        (void)snprintf(id, sizeof(id), "%.36s", name);
        const char *suffix = name + strlen(id);
        bool data = strcmp(suffix, ".data") == 0;
        if (!id_valid(id) || (!data && strcmp(suffix, ".repo") != 0))
                return 0;
        data_path(id, path);
        bool has_data = s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, 0) == 0;
        if (has_data != data)
                return 0; /* the session is looked at by its data file */
        if (!has_data) {
                repo_path(id, path);
                if (s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, 0) != 0)
                        return 0;
        }
        struct upload_state *state = st.st_mtime < before ? state_take(s, id) : NULL;
        if (!state)
                return 0;
        /* It may have had a writer since. */
        bool old = s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, 0) == 0 &&
                   st.st_mtime < before;
        int rc = old ? remove_files(s, id, err) : 0;
        state_give(s, id, state, old);
        if (old && rc == 0)
                (*count)++;
        return rc;
}

int cas_upload_expire(struct cas_store *s, uint64_t age_s, uint64_t *out_count, struct cas_err *err)
{
        *out_count = 0;
        DIR *dir;
        int rc = open_directory(s, &dir, err);
        if (rc < 0)
                return rc;
        time_t before = time(NULL) - (time_t)cas_min_u64(age_s, INT32_MAX);
        for (struct dirent *e = readdir(dir); e && rc == 0; e = readdir(dir))
                rc = expire_one(s, e->d_name, before, out_count, err);
        (void)closedir(dir);
        return rc;
}
