/* SPDX-License-Identifier: Apache-2.0 */
/* The tiers of a store, as configured: STORE/tiers (spec/tiering.md) tells which devices and
 * buckets there are. Values and their text; nothing here looks at the devices. */
#ifndef TIERING_TIER_H
#define TIERING_TIER_H

#include "cas/backend.h"
#include "tiering/s3.h"

#define TIER_NAME_BYTES 32 /* letters, digits, '-', '_', '.'; with NUL */
#define TIERS_MAX 16
#define TIER_LIST_BYTES_MAX (64 * 1024)

enum tier_class { TIER_NVME, TIER_SSD, TIER_HDD, TIER_REMOTE }; /* from fast to slow */
struct tier_config {
        uint32_t id; /* 0: the store's own directory */
        char name[TIER_NAME_BYTES];
        enum tier_class class;
        char *where;             /* absolute directory, or s3://BUCKET/PREFIX; owned; NULL of 0 */
        uint64_t capacity_bytes; /* of all that is counted there; 0: as the file system has */
        unsigned high_percent, low_percent; /* of the capacity: the mover begins, and ends */
        uint8_t density;                    /* enum cas_pack_density of home copies */
        uint64_t cache_bytes;  /* of them, for copies of blocks of slower tiers; 0: none */
        uint64_t bytes_per_s;  /* of the mover there; 0: no bound */
        uint64_t cool_after_s; /* packs not read for so long sink; 0: only when room is wanted */
        bool leaving;          /* nothing new goes there; being evacuated */
        struct s3_config *s3;  /* of a remote one; owned, with its strings */
};
struct tier_list {
        struct tier_config tiers[TIERS_MAX]; /* by id; tier 0 is always there, first */
        size_t count;
        uint32_t next_id; /* of the next that is added: above all that there ever were */
        bool paused;      /* the mover */
};

const char *tier_class_name(enum tier_class class);
bool tier_class_parse(const char *text, enum tier_class *out);
const char *tier_density_name(uint8_t density);
bool tier_density_parse(const char *text, uint8_t *out);
bool tier_name_is_valid(const char *name);

/* A configuration of a new tier with the defaults of its class. */
void tier_config_init(struct tier_config *c, enum tier_class class);
/* A deep copy. */
void tier_config_copy(struct tier_config *to, const struct tier_config *from);
void tier_config_release(struct tier_config *c);
/* Sets one key of the table in spec/tiering.md from text. Errors: INVALID (not such a key, or a bad
 * value; says what it takes). */
int tier_config_set(struct tier_config *c, const char *key, const char *value,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Whether what is set fits together. Errors: INVALID. */
int tier_config_check(const struct tier_config *c, struct cas_err *err) CAS_MUST_CHECK;

/* One tier: the store's own directory. */
void tier_list_init(struct tier_list *l);
void tier_list_release(struct tier_list *l);
struct tier_config *tier_list_find(struct tier_list *l, const char *name); /* or NULL */
/* Any text is safe. l need not be initialised; it is on success. Errors: INVALID (which line, and
 * what is wrong). */
int tier_list_parse(const char *text, size_t len, struct tier_list *l,
                    struct cas_err *err) CAS_MUST_CHECK;
void tier_list_format(const struct tier_list *l, struct cas_buf *out);
/* STORE/tiers; a list of one tier and *there false when there is no such file. */
int tier_list_read(int store_dirfd, struct tier_list *l, bool *there,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Replaces it; durable on return. */
int tier_list_write(int store_dirfd, const struct tier_list *l, struct cas_err *err) CAS_MUST_CHECK;

#endif
