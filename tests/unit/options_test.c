/* SPDX-License-Identifier: Apache-2.0 */
/* Options by table, and the configuration file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tools/config.h"
#include "tools/options.h"

struct args {
        bool flag;
        const char *text;
        struct cli_list list;
        uint64_t number;
};
static const struct cli_option table[] = {
        {"flag", 'f', CLI_FLAG, offsetof(struct args, flag), NULL, ""},
        {"text", 't', CLI_STRING, offsetof(struct args, text), "TEXT", ""},
        {"list", 0, CLI_LIST, offsetof(struct args, list), "ITEM", ""},
        {"number", 'n', CLI_NUMBER, offsetof(struct args, number), "N", ""},
        {0},
};

#define ARGV_MAX 12
static int parse(struct args *a, bool stop, const char *const *words, int *first, char **argv,
                 struct cas_err *err)
{
        int argc = 0;
        *a = (struct args){0};
        argv[argc++] = (char *)(uintptr_t) "program";
        for (; *words; words++)
                argv[argc++] = (char *)(uintptr_t)*words;
        argv[argc] = NULL;
        struct cli_option_set sets[] = {{table, a}, {NULL, NULL}};
        return cli_options_parse(sets, 2, argc, argv, stop, first, err);
}

static void options_fill_their_fields(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct args a;
        char *argv[ARGV_MAX];
        int first;
        const char *const words[] = {"one", "-f",  "--text=x", "--list", "p",
                                     "two", "-n7", "--list",   "q",      NULL};
        assert_int_equal(parse(&a, false, words, &first, argv, &err), 0);
        assert_true(a.flag);
        assert_string_equal(a.text, "x");
        assert_int_equal(a.list.count, 2);
        assert_string_equal(a.list.items[1], "q");
        assert_int_equal(a.number, 7);
        assert_string_equal(argv[first], "one"); /* operands have moved to the end */
        assert_string_equal(argv[first + 1], "two");
        assert_null(argv[first + 2]);
        cli_list_release(&a.list);
}

static void parsing_can_stop_at_the_first_operand(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct args a;
        char *argv[ARGV_MAX];
        int first;
        const char *const words[] = {"-f", "command", "--text", "x", NULL};
        assert_int_equal(parse(&a, true, words, &first, argv, &err), 0);
        assert_true(a.flag);
        assert_null(a.text);
        assert_int_equal(first, 2);
}

static void refused(const char *one, const char *two, const char *named)
{
        struct cas_err err = CAS_ERR_INIT;
        struct args a;
        char *argv[ARGV_MAX];
        int first;
        const char *const words[] = {one, two, NULL};
        assert_int_equal(parse(&a, false, words, &first, argv, &err), -CAS_E_INVALID);
        assert_non_null(strstr(err.msg, named));
        cli_list_release(&a.list);
}

static void mistakes_are_named(void **state)
{
        (void)state;
        refused("--unknown", NULL, "--unknown");
        refused("-x", NULL, "-x");
        refused("--text", NULL, "--text");
        refused("-t", NULL, "-t");
        refused("--flag=yes", NULL, "--flag=yes");
        refused("--number", "seven", "seven");
        refused("--number", "-1", "-1");
        refused("--number", "", "number");
        refused("--number", "99999999999999999999999", "number");
}

static int config_of(const char *text, struct config *c, struct cas_err *err)
{
        char path[] = "/tmp/lamina-config-XXXXXX";
        int fd = mkstemp(path);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        assert_int_equal(close(fd), 0);
        config_init(c);
        int rc = config_read(path, c, err);
        assert_int_equal(unlink(path), 0);
        return rc;
}

static void configuration_is_read(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct config c;
        assert_int_equal(config_of("; a comment\n[store]\npath = /srv/lamina\nthreads = 3\n"
                                   "[registry]\nlisten = [::1]:5000\n",
                                   &c, &err),
                         0);
        assert_string_equal(c.store_path, "/srv/lamina");
        assert_int_equal(c.store_threads, 3);
        assert_string_equal(c.registry.listen, "[::1]:5000");
        assert_int_equal(c.lock_wait_s, 30);
        config_release(&c);
}

/* What people are given to begin from. */
static void the_example_is_read(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct config c;
        config_init(&c);
        if (config_read("tools/conf/lamina.conf", &c, &err) < 0)
                fail_msg("%s", err.msg);
        assert_string_equal(c.registry.listen, "0.0.0.0:443");
        config_release(&c);
}

static void wrong_configuration_is_refused(void **state)
{
        (void)state;
        static const struct {
                const char *text, *named;
        } bad[] = {
                {"[store]\npath = relative\n", "line 2"},
                {"[store]\nthreads = many\n", "store.threads"},
                {"[store]\nthreads = 100000\n", "store.threads"},
                {"[store]\n\ncolour = blue\n", "line 3"},
                {"[kitchen]\nsink = 1\n", "kitchen.sink"},
                {"[registry]\nlisten =\n", "[registry] listen"},
                {"[registry]\ncolour = blue\n", "[registry] colour: no such setting"},
                {"[tls]\ncolour = blue\n", "[tls] colour"},
                {"[registry\n", "line 1"},
        };
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct config c;
                assert_int_equal(config_of(bad[i].text, &c, &err), -CAS_E_INVALID);
                assert_non_null(strstr(err.msg, bad[i].named));
                config_release(&c);
        }
        struct cas_err err = CAS_ERR_INIT;
        struct config c;
        config_init(&c);
        assert_int_equal(config_read("/surely/not/here", &c, &err), -CAS_E_NOTFOUND);
        config_release(&c);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(options_fill_their_fields),
                cmocka_unit_test(parsing_can_stop_at_the_first_operand),
                cmocka_unit_test(mistakes_are_named),
                cmocka_unit_test(configuration_is_read),
                cmocka_unit_test(the_example_is_read),
                cmocka_unit_test(wrong_configuration_is_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
