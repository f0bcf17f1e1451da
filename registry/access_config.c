/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/access_config.h"

#include <stdio.h>

#include "registry/repo_pattern.h"

#define SEPARATORS " \t,"
#define BLANKS " \t"
#define SECTIONS_MAX 4096
#define RATE_COUNT_MAX 1000000000
#define TOKEN_LIFETIME_S_MIN 60 /* clients expect as much */
#define TOKEN_LIFETIME_S_MAX 86400
#define REFRESH_LIFETIME_S_MAX (UINT64_C(10) * 365 * 86400)

/* ---- lists ---- */

static void words_release(struct reg_words *w)
{
        for (size_t i = 0; i < w->count; i++)
                free(w->items[i]);
        free(w->items);
        *w = (struct reg_words){0};
}

/* Takes the next word of *at; "" at the end. */
static size_t word_next(const char **at)
{
        *at += strspn(*at, SEPARATORS);
        return strcspn(*at, SEPARATORS);
}

/* Adds the words of a line: a key may be given on several lines. */
static int words_add(struct reg_words *w, const char *text,
                     int (*check)(const char *word, struct cas_err *err), struct cas_err *err)
{
        size_t before = w->count, len;
        for (; (len = word_next(&text)) > 0; text += len) {
                if (w->count == REG_WORDS_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "more than %d words", REG_WORDS_MAX);
                cas_cleanup_free char *word = cas_xstrndup(text, len);
                int rc = check(word, err);
                if (rc < 0)
                        return rc;
                w->items = cas_xrealloc(w->items, (w->count + 1) * sizeof(*w->items));
                w->items[w->count++] = cas_steal(&word);
        }
        if (w->count == before)
                return cas_fail(err, CAS_E_INVALID, "a value is missing");
        return 0;
}

static int check_user(const char *word, struct cas_err *err)
{
        if (strlen(word) > REG_USER_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "too long for a user: %.64s", word);
        return 0;
}

static int check_member(const char *word, struct cas_err *err)
{
        if (word[0] == '@' || strcmp(word, "*") == 0 || strcmp(word, "anonymous") == 0)
                return cas_fail(err, CAS_E_INVALID, "not a user: %.64s", word);
        return check_user(word, err);
}

static int check_pattern(const char *word, struct cas_err *err)
{
        struct reg_repo_pattern pattern;
        int rc = reg_repo_pattern_init(&pattern, word, err);
        if (rc == 0)
                reg_repo_pattern_release(&pattern);
        return rc;
}

int reg_actions_parse(const char *text, unsigned *out, struct cas_err *err)
{
        static const struct {
                const char *word;
                unsigned actions;
        } known[] = {
                {"pull", REG_ACTION_PULL},
                {"push", REG_ACTION_PUSH},
                {"delete", REG_ACTION_DELETE},
                {"all", REG_ACTION_PULL | REG_ACTION_PUSH | REG_ACTION_DELETE},
        };
        size_t len;
        unsigned actions = 0;
        for (; (len = word_next(&text)) > 0; text += len) {
                size_t i = 0;
                while (i < CAS_COUNT(known) &&
                       (strlen(known[i].word) != len || memcmp(text, known[i].word, len) != 0))
                        i++;
                if (i == CAS_COUNT(known))
                        return cas_fail(err, CAS_E_INVALID,
                                        "neither pull, push, delete nor all: %.64s", text);
                actions |= known[i].actions;
        }
        if (!actions)
                return cas_fail(err, CAS_E_INVALID, "a value is missing");
        *out = actions;
        return 0;
}

/* ---- [access] ---- */

static int url_set(const char *value, char **out, struct cas_err *err)
{
        bool good = strncmp(value, "http://", 7) == 0 || strncmp(value, "https://", 8) == 0;
        if (!good || strpbrk(value, " \t\"\\<>"))
                return cas_fail(err, CAS_E_INVALID, "not a URL: %.200s", value);
        return reg_config_text(value, out, err);
}

/* A text that is put in quotes in a header. */
static int quotable_set(const char *value, char **out, struct cas_err *err)
{
        if (strlen(value) > 512 || strpbrk(value, "\"\\"))
                return cas_fail(err, CAS_E_INVALID, "too long, or with quotes: %.64s", value);
        return reg_config_text(value, out, err);
}

static int challenge_set(const char *value, bool *out_basic, struct cas_err *err)
{
        *out_basic = strcmp(value, "basic") == 0;
        if (*out_basic || strcmp(value, "bearer") == 0)
                return 0;
        return cas_fail(err, CAS_E_INVALID, "neither basic nor bearer: %.64s", value);
}

static int audit_set(const char *value, enum reg_audit *out, struct cas_err *err)
{
        static const char *const words[] = {
                [REG_AUDIT_CHANGES] = "changes", [REG_AUDIT_ALL] = "all", [REG_AUDIT_OFF] = "off"};
        for (size_t i = 0; i < CAS_COUNT(words); i++) {
                if (strcmp(value, words[i]) == 0) {
                        *out = (enum reg_audit)i;
                        return 0;
                }
        }
        return cas_fail(err, CAS_E_INVALID, "neither changes, all nor off: %.64s", value);
}

static int lifetime_set(const char *value, uint64_t max_s, uint64_t *out, struct cas_err *err)
{
        uint64_t seconds;
        int rc = reg_config_seconds(value, &seconds, err);
        if (rc < 0)
                return rc;
        if (seconds < TOKEN_LIFETIME_S_MIN || seconds > max_s)
                return cas_fail(err, CAS_E_INVALID, "not between %d and %llu seconds: %.64s",
                                TOKEN_LIFETIME_S_MIN, (unsigned long long)max_s, value);
        *out = seconds;
        return 0;
}

static int access_set(void **area, const char *name, const char *key, const char *value,
                      struct cas_err *err)
{
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_access_settings));
        struct reg_access_settings *s = *area;
        if (name[0])
                return cas_fail(err, CAS_E_INVALID, "the section has no name: [access]");
        if (strcmp(key, "htpasswd") == 0)
                return reg_config_text(value, &s->htpasswd, err);
        if (strcmp(key, "challenge") == 0)
                return challenge_set(value, &s->basic, err);
        if (strcmp(key, "realm") == 0)
                return quotable_set(value, &s->realm, err);
        if (strcmp(key, "service") == 0)
                return quotable_set(value, &s->service, err);
        if (strcmp(key, "certificates") == 0)
                return reg_config_switch(value, &s->certificates, err);
        if (strcmp(key, "audit") == 0)
                return audit_set(value, &s->audit, err);
        if (strcmp(key, "token_key") == 0)
                return reg_config_text(value, &s->token_key, err);
        if (strcmp(key, "token_lifetime") == 0)
                return lifetime_set(value, TOKEN_LIFETIME_S_MAX, &s->token_lifetime_s, err);
        if (strcmp(key, "refresh_lifetime") == 0)
                return lifetime_set(value, REFRESH_LIFETIME_S_MAX, &s->refresh_lifetime_s, err);
        if (strcmp(key, "token_issuer") == 0)
                return quotable_set(value, &s->issuer, err);
        if (strcmp(key, "token_keys") == 0)
                return reg_config_text(value, &s->token_keys, err);
        if (strcmp(key, "token_keys_url") == 0)
                return url_set(value, &s->token_keys_url, err);
        if (strcmp(key, "token_keys_ca") == 0)
                return reg_config_text(value, &s->token_keys_ca, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void access_settings_free(void *area)
{
        struct reg_access_settings *s = area;
        char *texts[] = {s->htpasswd,  s->realm,      s->service,        s->issuer,
                         s->token_key, s->token_keys, s->token_keys_url, s->token_keys_ca};
        for (size_t i = 0; i < CAS_COUNT(texts); i++)
                free(texts[i]);
        free(s);
}

/* ---- sections with names ---- */

/* Of a list of sections, which are structs that start with their name: the one of this name, made
 * when it is not there. NULL: failed. */
static void *section_of(void **items, size_t *count, size_t size, const char *name,
                        struct cas_err *err)
{
        if (!name[0]) {
                (void)cas_fail(err, CAS_E_INVALID, "the section needs a name");
                return NULL;
        }
        for (size_t i = 0; i < *count; i++) {
                void *item = (char *)*items + i * size;
                if (strcmp(*(char **)item, name) == 0)
                        return item;
        }
        if (*count == SECTIONS_MAX) {
                (void)cas_fail(err, CAS_E_LIMIT, "more than %d sections", SECTIONS_MAX);
                return NULL;
        }
        *items = cas_xrealloc(*items, (*count + 1) * size);
        void *item = (char *)*items + (*count)++ * size;
        memset(item, 0, size);
        *(char **)item = cas_xstrdup(name);
        return item;
}

static int rule_set(void **area, const char *name, const char *key, const char *value,
                    struct cas_err *err)
{
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_access_rules));
        struct reg_access_rules *rules = *area;
        struct reg_access_rule *rule =
                section_of((void **)&rules->items, &rules->count, sizeof(*rule), name, err);
        if (!rule)
                return -(int)err->code;
        if (strcmp(key, "repositories") == 0)
                return words_add(&rule->repositories, value, check_pattern, err);
        if (strcmp(key, "users") == 0)
                return words_add(&rule->users, value, check_user, err);
        if (strcmp(key, "actions") == 0)
                return reg_actions_parse(value, &rule->allow, err);
        if (strcmp(key, "deny") == 0)
                return reg_actions_parse(value, &rule->deny, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void rules_free(void *area)
{
        struct reg_access_rules *rules = area;
        for (size_t i = 0; i < rules->count; i++) {
                free(rules->items[i].name);
                words_release(&rules->items[i].repositories);
                words_release(&rules->items[i].users);
        }
        free(rules->items);
        free(rules);
}

static int group_set(void **area, const char *name, const char *key, const char *value,
                     struct cas_err *err)
{
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_access_groups));
        struct reg_access_groups *groups = *area;
        struct reg_access_group *group =
                section_of((void **)&groups->items, &groups->count, sizeof(*group), name, err);
        if (!group)
                return -(int)err->code;
        if (strcmp(key, "users") == 0)
                return words_add(&group->users, value, check_member, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void groups_free(void *area)
{
        struct reg_access_groups *groups = area;
        for (size_t i = 0; i < groups->count; i++) {
                free(groups->items[i].name);
                words_release(&groups->items[i].users);
        }
        free(groups->items);
        free(groups);
}

static int quota_set(void **area, const char *name, const char *key, const char *value,
                     struct cas_err *err)
{
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_access_quotas));
        struct reg_access_quotas *quotas = *area;
        struct reg_access_quota *quota =
                section_of((void **)&quotas->items, &quotas->count, sizeof(*quota), name, err);
        if (!quota)
                return -(int)err->code;
        if (strcmp(key, "repositories") == 0)
                return words_add(&quota->repositories, value, check_pattern, err);
        if (strcmp(key, "bytes") == 0)
                return reg_config_bytes(value, &quota->bytes, err);
        if (strcmp(key, "together") == 0)
                return reg_config_switch(value, &quota->together, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void quotas_free(void *area)
{
        struct reg_access_quotas *quotas = area;
        for (size_t i = 0; i < quotas->count; i++) {
                free(quotas->items[i].name);
                words_release(&quotas->items[i].repositories);
        }
        free(quotas->items);
        free(quotas);
}

/* ---- [limits] ---- */

/* Takes a word off *text. */
static bool skip_word(const char **text, const char *word)
{
        *text += strspn(*text, BLANKS);
        size_t len = strcspn(*text, BLANKS);
        if (len != strlen(word) || memcmp(*text, word, len) != 0)
                return false;
        *text += len;
        return true;
}

/* A number from 1 up to RATE_COUNT_MAX. */
static bool take_count(const char **text, uint64_t *out)
{
        *text += strspn(*text, BLANKS);
        size_t digits = strspn(*text, "0123456789");
        if (digits == 0 || digits > 10)
                return false;
        *out = strtoull(*text, NULL, 10);
        *text += digits;
        return *out > 0 && *out <= RATE_COUNT_MAX;
}

static bool take_period(const char **text, uint64_t *out_s)
{
        static const struct {
                char unit;
                uint64_t seconds;
        } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
        for (size_t i = 0; i < CAS_COUNT(units); i++) {
                if ((*text)[0] == '/' && (*text)[1] == units[i].unit) {
                        *out_s = units[i].seconds;
                        *text += 2;
                        return true;
                }
        }
        return false;
}

int reg_rate_parse(const char *text, struct reg_rate *out, struct cas_err *err)
{
        const char *at = text;
        struct reg_rate rate = {0};
        bool good = take_count(&at, &rate.count) && take_period(&at, &rate.period_s);
        rate.burst = rate.count;
        if (good && skip_word(&at, "per")) {
                rate.per_user = skip_word(&at, "user");
                good = rate.per_user || skip_word(&at, "client");
        }
        if (good && skip_word(&at, "burst"))
                good = take_count(&at, &rate.burst);
        if (!good || at[strspn(at, BLANKS)])
                return cas_fail(err, CAS_E_INVALID,
                                "not a rate such as \"100/s per client burst 200\": %.64s", text);
        *out = rate;
        return 0;
}

static int rate_add(struct reg_rate *rates, size_t *count, const char *value, struct cas_err *err)
{
        if (*count == REG_RATES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d of them", REG_RATES_MAX);
        int rc = reg_rate_parse(value, &rates[*count], err);
        if (rc == 0)
                (*count)++;
        return rc;
}

static int limits_set(void **area, const char *name, const char *key, const char *value,
                      struct cas_err *err)
{
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_access_limits));
        struct reg_access_limits *limits = *area;
        if (name[0])
                return cas_fail(err, CAS_E_INVALID, "the section has no name: [limits]");
        if (strcmp(key, "requests") == 0)
                return rate_add(limits->requests, &limits->request_count, value, err);
        if (strcmp(key, "pulls") == 0)
                return rate_add(limits->pulls, &limits->pull_count, value, err);
        if (strcmp(key, "failed_logins") != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
        int rc = reg_rate_parse(value, &limits->failed_logins, err);
        if (rc == 0 && limits->failed_logins.per_user)
                return cas_fail(err, CAS_E_INVALID, "failed logins are counted per client");
        return rc;
}

static void limits_free(void *area)
{
        free(area);
}

/* ---- all of it ---- */

const struct reg_config_area reg_access_area = {"access", access_set, access_settings_free};
const struct reg_config_area reg_rule_area = {"rule", rule_set, rules_free};
const struct reg_config_area reg_group_area = {"group", group_set, groups_free};
const struct reg_config_area reg_limits_area = {"limits", limits_set, limits_free};
const struct reg_config_area reg_quota_area = {"quota", quota_set, quotas_free};

bool reg_access_configured(const struct reg_config *c, struct cas_store *store,
                           struct reg_access_config *out)
{
        *out = (struct reg_access_config){
                .settings = reg_config_area(c, reg_access_area.word),
                .rules = reg_config_area(c, reg_rule_area.word),
                .groups = reg_config_area(c, reg_group_area.word),
                .limits = reg_config_area(c, reg_limits_area.word),
                .quotas = reg_config_area(c, reg_quota_area.word),
                .store = store,
        };
        return out->settings || out->rules || out->groups || out->limits || out->quotas;
}
