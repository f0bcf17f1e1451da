/* SPDX-License-Identifier: Apache-2.0 */
/* lamina serve: owns the store, and serves it as a registry. */
#include <sys/stat.h>
#include <stdio.h>

#include "tools/check_cdn.h"
#include "tools/cli.h"
#include "tools/config.h"
#include "tools/owner.h"
#include "tools/paths.h"

#define LISTEN_DEFAULT "127.0.0.1:5000"
#define BACKGROUND_IDLE_S 60

struct serve_args {
        const char *listen;
        const char *config;
        bool no_registry;
        bool upgrade;
        uint64_t ready_fd;
        struct check_cdn_args check;
};

static const struct cli_option options[] = {
        {"listen", 'l', CLI_STRING, offsetof(struct serve_args, listen), "ADDR:PORT",
         "where the registry listens; port 0: any; default: " LISTEN_DEFAULT},
        {"config", 'c', CLI_STRING, offsetof(struct serve_args, config), "FILE",
         "read settings from an INI file; options have precedence"},
        {"no-registry", 0, CLI_FLAG, offsetof(struct serve_args, no_registry), NULL,
         "only own the store, for mounts and other commands"},
        {"upgrade", 0, CLI_FLAG, offsetof(struct serve_args, upgrade), NULL,
         "take the place of the owner that runs, and let this program serve its mounts"},
        {"ready-fd", 0, CLI_NUMBER, offsetof(struct serve_args, ready_fd), "FD",
         "used by other commands to start an owner in the background, which ends by itself when it "
         "has been idle for a minute"},
        {"check-cdn", 0, CLI_STRING, offsetof(struct serve_args, check.url), "URL",
         "serve nothing: test the cache or proxy in front of the registry at URL, and say what is "
         "wrong"},
        {"repo", 0, CLI_STRING, offsetof(struct serve_args, check.repo), "NAME",
         "with --check-cdn: the repository that the test pushes to; default: a new one below "
         "lamina-check/"},
        {"user", 0, CLI_STRING, offsetof(struct serve_args, check.user), "NAME",
         "with --check-cdn: who asks"},
        {"password-file", 0, CLI_STRING, offsetof(struct serve_args, check.password_file), "FILE",
         "with --check-cdn: the password of --user"},
        {"upload-size", 0, CLI_STRING, offsetof(struct serve_args, check.upload_size), "SIZE",
         "with --check-cdn: how much is uploaded in one request; default: 128M"},
        {"insecure", 0, CLI_FLAG, offsetof(struct serve_args, check.insecure), NULL,
         "with --check-cdn: certificates are not checked"},
        {0},
};

static struct cas_caretaker_config care_of(const struct config *c)
{
        return (struct cas_caretaker_config){
                .gc_every_s = (unsigned)c->gc_every_s,
                .gc = {.grace_s = c->gc_grace_s,
                       .duty_percent = c->gc_share_percent,
                       .live_percent_min = c->gc_live_percent},
                .scrub_every_s = (unsigned)c->scrub_every_s,
                .scrub = {.bytes_per_s = c->scrub_rate_bytes,
                          .duty_percent = c->scrub_share_percent,
                          .repair = c->scrub_repair},
        };
}

static int run(const struct cli *cli, void *args)
{
        const struct serve_args *a = args;
        if (a->check.url)
                return check_cdn_run(cli, &a->check);
        struct cas_err err = CAS_ERR_INIT;
        struct config config;
        config_init(&config);
        cas_cleanup_free char *store = NULL;
        int rc = a->config ? config_read(a->config, &config, &err) : 0;
        if (rc == 0)
                rc = path_store(cli->store_option ? cli->store_option : config.store_path, &store,
                                &err);
        if (rc == 0) {
                const char *listen = a->listen ? a->listen : LISTEN_DEFAULT;
                if (a->listen || !config.registry.listen) {
                        free(config.registry.listen);
                        config.registry.listen = cas_xstrdup(listen);
                }
                bool background = a->ready_fd != 0;
                if (background)
                        (void)umask(077); /* whoever starts it: lamina fs has none */
                struct owner_config owner = {
                        .store_path = store,
                        .store_threads = config.store_threads,
                        .flat_trees = config.flat_trees,
                        .confine = config.confine,
                        .regenerations = config.regenerations,
                        .blob_cache_bytes = config.blob_cache_bytes,
                        .condense_share_percent =
                                config.condense && !background ? config.condense_share_percent : 0,
                        .condense_cold = config.condense_cold,
                        .care = background ? (struct cas_caretaker_config){0} : care_of(&config),
                        .learn_ms = config.learn_s * 1000,
                        .source_wait_ms = config.source_wait_s * 1000,
                        .registry = a->no_registry ? NULL : &config.registry,
                        .lock_wait_ms = background ? 0 : config.lock_wait_s * 1000,
                        .upgrade = a->upgrade,
                        .idle_s = background ? BACKGROUND_IDLE_S : 0,
                        .ready_fd = background ? (int)a->ready_fd : -1,
                };
                rc = owner_run(&owner, &err);
        }
        config_release(&config);
        return rc < 0 ? cli_report(cli->command->name, &err) : CLI_OK;
}

const struct cli_command cmd_serve = {
        .name = "serve",
        .synopsis = "",
        .summary = "own the store and serve it as a registry",
        .description =
                "Owns the store until it is ended by SIGTERM or SIGINT: other commands then work "
                "through it, mounts ask it for content, and it serves the images over HTTP by the "
                "OCI distribution specification. Mounts go on while it is away, and are served "
                "again by its successor. With --upgrade it takes the place of the owner that runs, "
                "and the processes of the mounts are replaced by this program, too, while what "
                "uses them waits for a moment. It logs on stderr; LAMINA_LOG=error, warn, info or "
                "debug "
                "says how much.\n\n"
                "The file of --config has sections and keys:\n\n"
                "[store] path (absolute), threads (0: one per CPU), lock_wait_s (how long to wait "
                "for another owner to end, 30), trees (shared: images over the same layers share "
                "their "
                "trees; flat: one tree an image), blob_cache (bytes, K, M, G or T, of copies of "
                "condensed blobs that are kept for pulls, 1G), regenerations (of condensed blobs "
                "at a time, 0: two per CPU; beyond it clients are told to come again)\n\n"
                "[mount] source_wait_s (how long readers of a lazy mount wait for a lamina that is "
                "away, 20), learn_s (for how long after a mount it is noted what is read, 30)\n\n"
                "[decode] confine (auto, require or off: layers are decoded by processes of their "
                "own that can do nothing else, see spec/security.md; with require nothing is "
                "decoded where that cannot be, with auto it is decoded in this process then)\n\n"
                "[condense] background (yes or no: keep recipes in place of blobs, see "
                "lamina-condense(1)), share (percent of one CPU that it may take, 50), codec "
                "(default or cold)\n\n"
                "[gc] every (from the end of a collection to the next, 10m; 0: none in the "
                "background), grace (what nothing needs stays for that long, 24h: longer than a "
                "push "
                "takes), share (percent of the time that it works, 25), live (packs of which fewer "
                "percent are in use are rewritten, 50)\n\n"
                "[scrub] every (from the end of a pass to the next, 7d; 0: none in the "
                "background), "
                "rate (bytes read in a second at most, 32M; 0: no limit), share (percent of the "
                "time "
                "that it works, 25), repair (yes or no: put damage right from other copies)\n\n"
                "[registry] listen (ADDR:PORT), threads (0: one per CPU), trusted_proxies "
                "(networks "
                "such as 10.0.0.0/8 or ::1, or the word unix: what their X-Forwarded-For and "
                "X-Forwarded-Proto say is believed), connections (at most, 16384; idle ones are "
                "closed from 80 percent of it on), idle (120s: a connection without a request is "
                "closed), header_time (30s: from a request's first line to the end of its "
                "headers), "
                "rate_min (512: bytes a second that bodies and answers must keep up after that "
                "time)\n\n"
                "[immutable NAME] repositories and tags (patterns separated by spaces: * is any "
                "text without a slash, ** any text; absent: all): such tags are set once, and "
                "neither moved nor deleted by clients\n\n"
                "[tls] cert and key (PEM files: the server's certificate with its chain, and its "
                "key), client_ca (certificates of the authorities that sign those of clients, who "
                "are then asked for one), client_required (yes: connections without one are "
                "refused; no). SIGHUP reads the files again; no connection is dropped\n\n"
                "[access] who may use the registry; without it and without rules everybody may do "
                "everything: htpasswd (a file of users with bcrypt hashes, as htpasswd -B makes "
                "it), "
                "challenge (bearer: clients get tokens of our own for their passwords; basic), "
                "certificates (yes: the common name of a client's certificate is a user; no), "
                "realm "
                "and service (what challenges say; the address that gives tokens, lamina), audit "
                "(changes, all or off: what is logged of who did what), token_key (private key for "
                "tokens in PEM; one in the store is made), token_lifetime (5m), refresh_lifetime "
                "(90d). With token_issuer, tokens are somebody else's: token_keys (their keys: PEM "
                "or a JWK Set) or token_keys_url with token_keys_ca. SIGHUP reads the files again, "
                "and so does a change of them\n\n"
                "[rule NAME] repositories (patterns: * is any text without a slash, ** any text, "
                "${user} who asks), users (names, @GROUP, * for all who have one, anonymous for "
                "everybody), actions and deny (pull, push, delete or all). For each action the "
                "first "
                "rule decides that matches repository and user; none: it is denied. Without any "
                "rule, every user may do everything\n\n"
                "[group NAME] users\n\n"
                "[limits] requests and pulls (of manifests; rates such as \"100/s per client burst "
                "200\" or \"1000/h per user\"), failed_logins (per client, 10/m burst 20)\n\n"
                "[quota NAME] repositories (patterns), bytes (that each of them may hold, such as "
                "10GiB), together (yes: that all of them may hold; with ${user} in the patterns, "
                "all that are one user's)\n\n"
                "[cache] what shared caches in front may keep of repositories that everybody may "
                "read: tag_seconds (manifests by tag, 5), list_seconds (5), stale_while_revalidate "
                "(60), stale_if_error (600), keys (yes: Surrogate-Key and Cache-Tag are sent; no). "
                "redirect (patterns of repositories whose blobs are served from addresses that all "
                "repositories share), redirect_private (no; yes: of private repositories, too, "
                "where the cache checks signatures itself), redirect_seconds (that an address is "
                "good for, 20m), redirect_networks and redirect_off_networks (of clients that are, "
                "or are not, sent there), canonical_host (such as https://cdn.example), key_file "
                "(what signs addresses, shared by the nodes of a registry: up to four lines of 64 "
                "hex digits, of which the first signs and all are taken)\n\n"
                "[purge NAME] a cache that is told of tags that moved and of what was deleted: "
                "url, "
                "method (PURGE), header (\"Name: value\", several times), body, wait_ms (that a "
                "push waits for it, 300). In all of them stand {key}, {repo}, {tag}, {digest} and "
                "{path} for what changed\n\n"
                "[operation] listen (ADDR:PORT of its own for /metrics, /healthz and /readyz; they "
                "are at the registry's address, too), metrics (who may read /metrics there: "
                "loopback, all or no), min_free (bytes, KiB, MiB, GiB or TiB of the disk below "
                "which /readyz says no, 256MiB), stats_every (that the index is walked for numbers "
                "of the store, 5m; 0: never), retention_every (that rules are applied, 1h; 0: "
                "never)\n\n"
                "[log] access (json, combined or off: a line for each request), file (absolute "
                "path, or stderr). SIGHUP opens the file again\n\n"
                "[webhook NAME] a program that is told of events by POST: url, actions (of push, "
                "pull, delete, mount; push and delete), blobs (no; yes: events of blobs, too), "
                "repositories (patterns; all), header (\"Name: value\", several times), secret "
                "(signs the body: X-Lamina-Signature-256), timeout (10s), queue (of events that "
                "wait, 16MiB; when it is full, new events are dropped). Events come in order and "
                "at least once\n\n"
                "[retention NAME] what is not kept: repositories and tags (patterns), keep (that "
                "many of the newest tags stay), max_age (7d: tags set longer ago), not_pulled_for "
                "(tags neither set nor pulled since): a tag goes when all that is given holds. "
                "untagged_after (manifests without a tag). Immutable tags stay. See "
                "lamina-retention(1)\n\n"
                "[web] enabled (yes: pages for browsers at /web/; no)\n\n"
                "[upstream HOST] another registry, whose repositories are served below a prefix, "
                "pulled "
                "through and kept: host (HOST[:PORT] that is asked; the section's name), prefix "
                "(the "
                "section's name; *: every repository that is below no other), user, password_file, "
                "auth_file, anonymous (no; else the auth files of podman and docker are looked "
                "at), ca "
                "(certificates to trust besides the system's), insecure, plain_http, tag_seconds "
                "(that "
                "a tag is not asked for again, 60), stale_seconds (that what is here is served "
                "while "
                "it cannot be asked, 7d), negative_seconds (that what it does not have is not "
                "asked "
                "for again, 10)\n\n"
                "With --check-cdn nothing is served: content is pushed through the cache at URL "
                "and "
                "pulled again, and what is wrong is told, with what to do about it. The exit "
                "status "
                "is 1 when something is wrong.",
        .examples = "lamina serve --listen 0.0.0.0:5000\n"
                    "skopeo copy --dest-tls-verify=false docker-archive:web.tar "
                    "docker://127.0.0.1:5000/web:1.0\n"
                    "lamina serve --check-cdn https://registry.example --user me --password-file "
                    "pw",
        .options = options,
        .args_bytes = sizeof(struct serve_args),
        .run = run,
};
