/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of blobs that no repository is part of, so that a cache keeps one
 * copy for all: "/cas/sha256/ab/HEX?e=EXPIRY&s=SIGNATURE". The signature grants
 * that one digest until the expiry, to whoever has it (spec/registry-cache.md).
 *
 * Thread-safe. */
#ifndef REG_ADDRESS_H
#define REG_ADDRESS_H

#include "cas/digest.h"
#include "cas/store.h"
#include "registry/http_uri.h"

#define REG_ADDRESS_KEYS_MAX 4 /* the first signs, all are taken: for rotation */
#define REG_ADDRESS_KEY_BYTES 32
#define REG_ADDRESS_BYTES_MAX 256

struct reg_address_keys;
/* The keys of the file; path NULL: of the store, where they are made when there are none.
 * Errors: INVALID (not lines of 64 hex digits), NOTFOUND, DENIED, IO. */
int reg_address_keys_open(struct cas_store *s, const char *path, struct reg_address_keys **out,
                          struct cas_err *err) CAS_MUST_CHECK;
void reg_address_keys_free(struct reg_address_keys *k); /* NULL is nothing */
/* Reads the file again; the former keys stay in force when it cannot be read. */
int reg_address_keys_reload(struct reg_address_keys *k, struct cas_err *err) CAS_MUST_CHECK;

/* Good for at least valid_s seconds from now_s on, and at most twice as long: the expiry is rounded
 * up, so that addresses made in the same period are the same. */
void reg_address_make(struct reg_address_keys *k, const struct cas_digest *digest, uint64_t now_s,
                      uint64_t valid_s, char out[REG_ADDRESS_BYTES_MAX]);
/* Whether the path is one of these, with a signature or without. Errors: NOTFOUND. */
int reg_address_parse(const struct reg_uri *uri, struct cas_digest *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Whether the query grants the digest. Errors: DENIED (the message says why). */
int reg_address_check(struct reg_address_keys *k, const struct reg_uri *uri,
                      const struct cas_digest *digest, uint64_t now_s,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
