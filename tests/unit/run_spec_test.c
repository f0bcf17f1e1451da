/* SPDX-License-Identifier: Apache-2.0 */
/* What is run in a sandbox: users by the image's files, paths that stay in the image, commands and
 * environment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "cas/removetree.h"
#include "tools/run_spec.h"

static char root[128];

static void write_file(const char *path, const char *text)
{
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", root, path);
        FILE *f = fopen(full, "w");
        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        assert_int_equal(fclose(f), 0);
}

static void make_link(const char *target, const char *path)
{
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", root, path);
        assert_int_equal(symlink(target, full), 0);
}

static void make_dir(const char *path)
{
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", root, path);
        assert_int_equal(mkdir(full, 0755), 0);
}

static int setup(void **state)
{
        (void)state;
        const char *tmp = getenv("TMPDIR");
        snprintf(root, sizeof(root), "%.90s/run-spec-XXXXXX", tmp ? tmp : "/tmp");
        assert_non_null(mkdtemp(root));
        make_dir("etc");
        write_file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
                                 "broken line\n"
                                 "evil:x:99999999999999999999:1::/:\n"
                                 "app:x:101:102:An app:/srv/app:/bin/sh\n"
                                 "nohome:x:103:103::relative:\n"
                                 "last:x:104:104");
        write_file("etc/group", "root:x:0:\nextra:x:777:root,app\nother:x:778:application,ap\n"
                                "again:x:102:app\n");
        return 0;
}

static int teardown(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        return cas_remove_tree(root, &err);
}

static void users_are_found_by_name(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct run_user u;
        assert_int_equal(run_user_find(root, "app", &u, &err), 0);
        assert_int_equal(u.uid, 101);
        assert_int_equal(u.gid, 102);
        assert_string_equal(u.home, "/srv/app");
        assert_int_equal(u.group_count, 2); /* its own, and extra; not those that only look alike */
        assert_int_equal(u.groups[0], 102);
        assert_int_equal(u.groups[1], 777);
        run_user_release(&u);
        assert_int_equal(run_user_find(root, "last", &u, &err), 0);
        assert_int_equal(u.uid, 104);
        run_user_release(&u);
        assert_int_equal(run_user_find(root, "nohome", &u, &err), 0);
        assert_string_equal(u.home, "/");
        run_user_release(&u);
}

static void users_are_found_by_number(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct run_user u;
        assert_int_equal(run_user_find(root, "101", &u, &err), 0);
        assert_int_equal(u.gid, 102);
        assert_string_equal(u.home, "/srv/app");
        run_user_release(&u);
        assert_int_equal(run_user_find(root, "5000", &u, &err), 0);
        assert_int_equal(u.uid, 5000);
        assert_int_equal(u.gid, 0);
        run_user_release(&u);
        assert_int_equal(run_user_find(root, "app:778", &u, &err), 0);
        assert_int_equal(u.gid, 778);
        assert_int_equal(u.group_count, 1);
        run_user_release(&u);
        assert_int_equal(run_user_find(root, "", &u, &err), 0);
        assert_int_equal(u.uid, 0);
        run_user_release(&u);
}

static void unknown_users_are_refused(void **state)
{
        (void)state;
        static const char *const bad[] = {"nobody",     "app:nogroup",          "evil",       "-1",
                                          "4294967295", "99999999999999999999", "broken line"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct run_user u;
                assert_int_equal(run_user_find(root, bad[i], &u, &err), -CAS_E_INVALID);
        }
}

static void account_files_cannot_lead_out(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct run_user u;
        cas_cleanup_free char *passwd = cas_xasprintf("%s/etc/passwd", root);
        assert_int_equal(unlink(passwd), 0);
        make_link("../../../../../../../etc/passwd", "etc/passwd"); /* itself, seen from inside */
        assert_true(run_user_find(root, "root", &u, &err) < 0);
        assert_int_equal(unlink(passwd), 0);
        assert_int_equal(mkfifo(passwd, 0600), 0);
        assert_true(run_user_find(root, "root", &u, &err) < 0); /* and does not hang */
        assert_int_equal(unlink(passwd), 0);
        assert_int_equal(run_user_find(root, "root", &u, &err), -CAS_E_INVALID);
}

static void resolves(const char *path, const char *wanted)
{
        struct cas_err err = CAS_ERR_INIT;
        char *got = NULL;
        assert_int_equal(run_path_resolve(root, path, &got, &err), 0);
        assert_string_equal(got, wanted);
        free(got);
}

static void paths_stay_in_the_image(void **state)
{
        (void)state;
        make_dir("run");
        make_dir("var");
        make_link("/run", "var/run");
        make_link("../../../../../..", "up");
        make_link("../run/stub.conf", "etc/resolv.conf");
        resolves("/", "/");
        resolves("/etc/passwd", "/etc/passwd");
        resolves("//etc/./x/../passwd", "/etc/passwd");
        resolves("/var/run/docker.sock", "/run/docker.sock");
        resolves("/up/etc/passwd", "/etc/passwd");
        resolves("/../../etc", "/etc");
        resolves("/not/there/yet", "/not/there/yet");
        /* Links to what is not there are no end: nothing is made through them. */
        make_link("../../oldroot/outside", "etc/dangling");
        make_link("/etc/dangling/more", "chain");
        resolves("/etc/resolv.conf", "/run/stub.conf");
        resolves("/etc/dangling", "/oldroot/outside");
        resolves("/chain/file", "/oldroot/outside/more/file");
        make_link("round", "round");
        struct cas_err err = CAS_ERR_INIT;
        char *got = NULL;
        assert_true(run_path_resolve(root, "/round/file", &got, &err) < 0);
}

static json_t *config(void)
{
        return json_pack("{s:s, s:s, s:[s, s], s:[s], s:[s, s]}", "user", "app", "workingDir",
                         "/srv", "env", "A=1", "HOME=/of/image", "entrypoint", "/bin/app", "cmd",
                         "--serve", "now");
}

static const char *env_get(const struct run_spec *s, const char *key)
{
        size_t len = strlen(key);
        const char *found = NULL;
        for (char **e = s->env; *e; e++) {
                if (strncmp(*e, key, len) == 0 && (*e)[len] == '=') {
                        assert_null(found); /* once */
                        found = *e + len + 1;
                }
        }
        return found;
}

static void images_say_what_is_run(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        json_t *c = config();
        struct run_spec s;
        struct run_request r = {.root = root, .config = c};
        assert_int_equal(run_spec_make(&r, &s, &err), 0);
        assert_string_equal(s.argv[0], "/bin/app");
        assert_string_equal(s.argv[1], "--serve");
        assert_string_equal(s.argv[2], "now");
        assert_null(s.argv[3]);
        assert_int_equal(s.uid, 101);
        assert_string_equal(s.workdir, "/srv");
        assert_string_equal(env_get(&s, "A"), "1");
        assert_string_equal(env_get(&s, "HOME"), "/of/image");
        assert_non_null(env_get(&s, "PATH"));
        assert_int_equal(s.bind_count, 0); /* no network, no resolv.conf */
        run_spec_release(&s);
        json_decref(c);
}

static void options_have_precedence(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        json_t *c = config();
        static const char *const words[] = {"x"}, *const env[] = {"A=2", "B=3", "NOT_SET_HERE"};
        struct run_request r = {.root = root,
                                .config = c,
                                .user = "7:8",
                                .workdir = "/etc",
                                .words = words,
                                .word_count = 1,
                                .env = env,
                                .env_count = 3};
        struct run_spec s;
        assert_int_equal(run_spec_make(&r, &s, &err), 0);
        assert_string_equal(s.argv[0], "/bin/app"); /* the entrypoint stays */
        assert_string_equal(s.argv[1], "x");
        assert_null(s.argv[2]);
        assert_int_equal(s.uid, 7);
        assert_int_equal(s.gid, 8);
        assert_string_equal(s.workdir, "/etc");
        assert_string_equal(env_get(&s, "A"), "2");
        assert_string_equal(env_get(&s, "B"), "3");
        assert_null(env_get(&s, "NOT_SET_HERE"));
        run_spec_release(&s);
        r.entrypoint = "";
        assert_int_equal(run_spec_make(&r, &s, &err), 0);
        assert_string_equal(s.argv[0], "x");
        run_spec_release(&s);
        r.word_count = 0; /* no entrypoint and no words: nothing to run */
        assert_int_equal(run_spec_make(&r, &s, &err), -CAS_E_INVALID);
        json_decref(c);
}

static void bad_binds_are_refused(void **state)
{
        (void)state;
        static const char *const bad[] = {
                "", ":", "/etc", "/etc:relative", "/etc:/x:sideways", ":/x", "/surely/not/here:/x"};
        json_t *c = config();
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct run_spec s;
                struct run_request r = {
                        .root = root, .config = c, .binds = &bad[i], .bind_count = 1};
                assert_true(run_spec_make(&r, &s, &err) < 0);
        }
        json_decref(c);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(users_are_found_by_name, setup, teardown),
                cmocka_unit_test_setup_teardown(users_are_found_by_number, setup, teardown),
                cmocka_unit_test_setup_teardown(unknown_users_are_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(account_files_cannot_lead_out, setup, teardown),
                cmocka_unit_test_setup_teardown(paths_stay_in_the_image, setup, teardown),
                cmocka_unit_test_setup_teardown(images_say_what_is_run, setup, teardown),
                cmocka_unit_test_setup_teardown(options_have_precedence, setup, teardown),
                cmocka_unit_test_setup_teardown(bad_binds_are_refused, setup, teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
