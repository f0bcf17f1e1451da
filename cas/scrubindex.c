/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of the index as files, and of records that no other step reads.
 *
 * A table file never changes. When it was found sound for the first time, its sum is noted in the
 * index; later its bytes must have that sum. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "cas/chain_int.h"
#include "cas/condemned_int.h"
#include "cas/dirwalk_int.h"
#include "cas/elsewhere_int.h"
#include "cas/format_int.h"
#include "cas/scrub_int.h"
#include "cas/sst_int.h"

static const char sum_prefix[] = "table-sum/";

#define FILE_NAME_BYTES 64
/* A record that is being written to a log is whole by then. */
#define LOG_SETTLES_NS (250 * 1000 * 1000)

/* ---- names of files ---- */

struct names {
        char (*list)[FILE_NAME_BYTES]; /* owned; sorted */
        size_t count, max;
};

static void names_add(struct names *names, const char *name)
{
        if (strlen(name) >= FILE_NAME_BYTES)
                return;
        if (names->count == names->max) {
                names->max = names->max ? 2 * names->max : 64;
                names->list = cas_xrealloc(names->list, names->max * sizeof(names->list[0]));
        }
        (void)snprintf(names->list[names->count++], FILE_NAME_BYTES, "%s", name);
}

static int by_name(const void *a, const void *b)
{
        return strcmp(a, b);
}

static void names_sort(struct names *names)
{
        if (names->count)
                qsort(names->list, names->count, sizeof(names->list[0]), by_name);
}

static bool names_has(const struct names *names, const char *name)
{
        return names->count > 0 &&
               bsearch(name, names->list, names->count, sizeof(names->list[0]), by_name) != NULL;
}

static int take_table(void *arg, const char *name, struct cas_err *err CAS_UNUSED)
{
        names_add(arg, name);
        return 0;
}

/* False, and the pass has failed, when they cannot be had. */
static bool list_tables(struct cas_scrub_run *run, struct names *out)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = cas_index_each_table(run->s->index, take_table, out, &err);
        names_sort(out);
        if (rc < 0)
                cas_scrub_fail(run, &err);
        return rc == 0;
}

/* ---- tables ---- */

struct table_look {
        struct cas_scrub_run *run;
        const char *name;
        bool sound; /* at the last look */
        uint8_t sum[CAS_TABLE_SUM_BYTES];
};

static void sum_key(const char *name, struct cas_record_key *out)
{
        out->len =
                (size_t)snprintf((char *)out->bytes, sizeof(out->bytes), "%s%s", sum_prefix, name);
}

/* Whether the table is in use still. */
static bool is_live(struct cas_scrub_run *run, const char *name)
{
        struct names names = {0};
        bool live = list_tables(run, &names) && names_has(&names, name);
        free(names.list);
        return live;
}

static int verify_table(struct table_look *t, struct cas_err *err)
{
        cas_cleanup_scrub_file struct cas_scrub_file *f = NULL;
        char path[sizeof(CAS_DIR_INDEX) + FILE_NAME_BYTES];
        struct stat st;
        (void)snprintf(path, sizeof(path), CAS_DIR_INDEX "/%s", t->name);
        int rc = cas_scrub_file_open(t->run, t->run->s->dirfd, path, &f, err);
        if (rc < 0)
                return rc;
        if (fstat(cas_scrub_file_fd(f), &st) != 0)
                return cas_fail_sys(err, errno, "stat %s", path);
        return cas_table_verify(cas_scrub_file_io(f), cas_scrub_file_fd(f), (uint64_t)st.st_size,
                                t->name, t->sum, err);
}

/* The sum that was noted is another one. */
static bool differs_from_note(const struct table_look *t)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_err err = CAS_ERR_INIT;
        sum_key(t->name, &key);
        return cas_index_peek(t->run->s->index, CAS_FAMILY_META, key.bytes, key.len, &value,
                              &err) == 0 &&
               (value.len_bytes != CAS_TABLE_SUM_BYTES ||
                memcmp(value.data, t->sum, CAS_TABLE_SUM_BYTES) != 0);
}

static void check_table(struct cas_look *look, void *arg)
{
        struct table_look *t = arg;
        struct cas_err err = CAS_ERR_INIT;
        t->sound = false;
        if (!cas_look_is_first(look) && !is_live(t->run, t->name))
                return;
        int rc = verify_table(t, &err);
        if (rc == -CAS_E_NOMEM)
                cas_scrub_fail(t->run, &err);
        else if (rc < 0)
                cas_look_found(look, CAS_FSCK_INDEX_TABLE, NULL, t->name, "%s", err.msg);
        else if (differs_from_note(t))
                cas_look_found(look, CAS_FSCK_INDEX_TABLE, NULL, t->name,
                               "its bytes are not those that were seen before");
        else
                t->sound = true;
}

static void forget_sum(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                       size_t value_len CAS_UNUSED)
{
        struct table_look *t = arg; /* whose name is not used */
        char name[FILE_NAME_BYTES] = "";
        const size_t prefix = sizeof(sum_prefix) - 1;
        memcpy(name, (const uint8_t *)key + prefix,
               cas_min_u64(key_len - prefix, sizeof(name) - 1));
        if (!is_live(t->run, name))
                cas_batch_del(t->run->notes, CAS_FAMILY_META, key, key_len);
}

/* The place: the name of the table that was checked last. */
void cas_scrub_tables(struct cas_scrub_run *run)
{
        struct names names = {0};
        struct cas_record_key *place = &run->place.key, key;
        bool good = list_tables(run, &names);
        for (size_t i = 0; good && i < names.count; i++) {
                struct table_look t = {.run = run, .name = names.list[i]};
                size_t len = strlen(t.name);
                if (place->len > 0 &&
                    memcmp(t.name, place->bytes, cas_min_u64(len, place->len)) <= 0)
                        continue;
                cas_scrub_look(run, check_table, &t);
                if (t.sound) {
                        sum_key(t.name, &key);
                        cas_batch_put(run->notes, CAS_FAMILY_META, key.bytes, key.len, t.sum,
                                      sizeof(t.sum));
                }
                memcpy(place->bytes, t.name, len);
                place->len = len;
                good = cas_scrub_goes_on(run);
        }
        free(names.list);
        struct table_look none = {.run = run};
        if (good)
                (void)cas_scrub_scan(run,
                                     &(struct cas_scan){.family = CAS_FAMILY_META,
                                                        .prefix = sum_prefix,
                                                        .prefix_len = sizeof(sum_prefix) - 1},
                                     forget_sum, &none);
}

/* ---- other files ---- */

struct log_look {
        struct cas_scrub_run *run;
        const char *path;
};

static void check_log(struct cas_look *look, void *arg)
{
        const struct log_look *l = arg;
        cas_cleanup_scrub_file struct cas_scrub_file *f = NULL;
        struct cas_err err = CAS_ERR_INIT;
        if (!cas_look_is_first(look))
                (void)clock_nanosleep(CLOCK_MONOTONIC, 0,
                                      &(struct timespec){.tv_nsec = LOG_SETTLES_NS}, NULL);
        int rc = cas_scrub_file_open(l->run, l->run->s->dirfd, l->path, &f, &err);
        if (rc == -CAS_E_NOTFOUND)
                return; /* not needed any more */
        if (rc == 0)
                rc = cas_log_verify(cas_scrub_file_io(f), cas_scrub_file_fd(f), l->path, &err);
        if (rc < 0)
                cas_look_found(look, CAS_FSCK_INDEX_LOG,
                               &(struct cas_damage){.kind = CAS_DAMAGE_INDEX_LOG}, l->path, "%s",
                               err.msg);
}

static bool ends_with(const char *name, const char *end)
{
        size_t len = strlen(name), end_len = strlen(end);
        return len > end_len && strcmp(name + len - end_len, end) == 0;
}

static int take_file(void *arg, const char *path, const char *name, struct cas_err *err CAS_UNUSED)
{
        struct cas_scrub_run *run = arg;
        if (ends_with(name, ".log") && cas_index_log_is_over(run->s->index, name))
                return 0;
        if (ends_with(name, ".log") || strncmp(name, "MANIFEST-", 9) == 0)
                cas_scrub_look(run, check_log, &(struct log_look){.run = run, .path = path});
        return 0;
}

/* `CURRENT` names the manifest that is in use: a line. */
static void check_current(struct cas_look *look, void *arg)
{
        struct cas_scrub_run *run = arg;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        char path[sizeof(CAS_DIR_INDEX) + FILE_NAME_BYTES];
        struct stat st;
        int rc = cas_io_read_file(run->s->io, run->s->dirfd, CAS_DIR_INDEX "/CURRENT",
                                  FILE_NAME_BYTES, &text, &err);
        bool good = rc == 0 && text.len_bytes > 1 && text.data[text.len_bytes - 1] == '\n';
        if (good) {
                text.data[text.len_bytes - 1] = '\0';
                (void)snprintf(path, sizeof(path), CAS_DIR_INDEX "/%s", cas_buf_str(&text));
                good = strncmp(cas_buf_str(&text), "MANIFEST-", 9) == 0 &&
                       fstatat(run->s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
        }
        if (!good)
                cas_look_found(look, CAS_FSCK_INDEX_LOG, NULL, CAS_DIR_INDEX "/CURRENT", "%s",
                               rc < 0 ? err.msg : "it names no file");
}

static void check_format(struct cas_look *look, void *arg)
{
        struct cas_scrub_run *run = arg;
        struct cas_err err = CAS_ERR_INIT;
        if (cas_format_verify(run->s->io, run->s->dirfd, run->s->id, &err) < 0)
                cas_look_found(look, CAS_FSCK_FORMAT_DAMAGED, NULL, CAS_FORMAT_PATH, "%s", err.msg);
}

void cas_scrub_index_files(struct cas_scrub_run *run)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_scrub_look(run, check_format, run);
        cas_scrub_look(run, check_current, run);
        if (cas_dir_each(run->s, CAS_DIR_INDEX, take_file, run, &err) < 0)
                cas_scrub_say(run, CAS_FSCK_INDEX_LOG, CAS_DIR_INDEX, "%s", err.msg);
}

/* ---- records ---- */

/* Kinds of notes of chains. */
#define CHAIN_STANDS 's'
#define CHAIN_UNFIT 'u'
#define CHAIN_KEY_BYTES 33

static bool is_chain(const struct cas_scrub_item *item)
{
        const uint8_t *key = item->key;
        struct cas_digest manifest;
        if (item->key_len != CHAIN_KEY_BYTES)
                return false;
        return key[0] == CHAIN_STANDS ? cas_chain_manifest(item->value, item->value_len, &manifest)
                                      : key[0] == CHAIN_UNFIT && item->value_len == 0;
}

static int decode_tag_times(const struct cas_scrub_item *item, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(item->value, item->value_len);
        struct cas_digest manifest;
        cas_cursor_digest(&c, &manifest);
        (void)cas_cursor_varint(&c);
        (void)cas_cursor_varint(&c);
        return cas_cursor_end(&c, "times of a tag", err);
}

static int decode_pack_dead(const struct cas_scrub_item *item, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(item->value, item->value_len);
        (void)cas_cursor_varint(&c);
        c.failed = c.failed || item->key_len != 8;
        return cas_cursor_end(&c, "dead bytes of a pack", err);
}

static int decode_record(const struct cas_scrub_item *item, struct cas_err *err)
{
        struct cas_lease lease;
        struct cas_digest manifest;
        struct cas_condemned condemned;
        bool good = true;
        if (item->family == CAS_FAMILY_CONDEMNED)
                return cas_condemned_decode(item->key, item->key_len, item->value, item->value_len,
                                            &condemned, err);
        if (item->family == CAS_FAMILY_PACK_DEAD)
                return decode_pack_dead(item, err);
        if (item->family == CAS_FAMILY_LEASES)
                return cas_lease_decode(item->key, item->key_len, item->value, item->value_len,
                                        &lease, err);
        if (item->family == CAS_FAMILY_TAG_TIMES)
                return decode_tag_times(item, err);
        if (item->family == CAS_FAMILY_CHAINS)
                good = is_chain(item);
        if (item->family == CAS_FAMILY_ORDERS)
                good = cas_order_manifest(item->key, item->key_len, item->value, item->value_len,
                                          &manifest);
        return good ? 0 : cas_fail(err, CAS_E_CORRUPT, "malformed");
}

static void check_record(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct cas_err err = CAS_ERR_INIT;
        if (decode_record(item, &err) < 0)
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, cas_family_name(item->family),
                               "%s", err.msg);
}

static void check_family(struct cas_scrub_run *run, enum cas_family family)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){
                                          .family = family, .check = check_record, .at_once = 256});
}

void cas_scrub_leases(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_LEASES);
}

void cas_scrub_chains(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_CHAINS);
}

void cas_scrub_orders(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_ORDERS);
}

void cas_scrub_tag_times(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_TAG_TIMES);
}

void cas_scrub_condemned(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_CONDEMNED);
}

void cas_scrub_pack_dead(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_PACK_DEAD);
}
