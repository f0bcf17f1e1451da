/* SPDX-License-Identifier: Apache-2.0 */
/* What caches are told and what comes through them: targets of shared addresses, lists of networks,
 * settings. The input is lines: a target, a list of networks, an address, a key of a setting, its
 * value. */
#include <stdio.h>
#include <stdlib.h>

#include "registry/address.h"
#include "registry/cache_config.h"
#include "registry/purge_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW UINT64_C(1800000000)

/* Of one key of zeros, whose signatures nobody finds by chance. */
static struct reg_address_keys *keys(void)
{
        static struct reg_address_keys *made;
        char path[] = "/tmp/lamina-fuzz-XXXXXX";
        struct cas_err err = CAS_ERR_INIT;
        if (made)
                return made;
        int fd = mkstemp(path);
        cas_assert(fd >= 0);
        cas_assert(dprintf(fd, "%064d\n", 0) == 65);
        cas_assert(reg_address_keys_open(NULL, path, &made, &err) == 0);
        (void)close(fd);
        (void)unlink(path);
        return made;
}

/* An address is good when it is what would be given out, and never otherwise. */
static void check_target(const char *target)
{
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_uri struct reg_uri uri = {0}, own = {0};
        struct cas_digest digest, again;
        char address[REG_ADDRESS_BYTES_MAX];
        if (reg_uri_parse(target, &uri, &err) < 0 || reg_address_parse(&uri, &digest, &err) < 0)
                return;
        reg_address_make(keys(), &digest, NOW, 60, address);
        cas_assert(reg_uri_parse(address, &own, &err) == 0);
        cas_assert(reg_address_parse(&own, &again, &err) == 0);
        cas_assert(cas_digest_equal(&digest, &again));
        cas_assert(reg_address_check(keys(), &own, &digest, NOW, &err) == 0);
        const char *mine = reg_uri_param(&own, "s"), *theirs = reg_uri_param(&uri, "s");
        bool same = theirs && strcmp(mine, theirs) == 0;
        cas_assert(same || reg_address_check(keys(), &uri, &digest, NOW, &err) < 0);
}

static void check_networks(const char *list, const char *address)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_networks n = {0};
        struct in6_addr ip;
        unsigned bits;
        bool good = reg_networks_add(&n, list, &err) == 0;
        cas_assert(good == (n.count > 0));
        for (size_t i = 0; i < n.count; i++) {
                cas_assert(n.list[i].bits <= 128);
                cas_assert(reg_networks_have(&n, &n.list[i].address));
        }
        bool in = reg_networks_have_text(&n, address);
        cas_assert(!in || reg_ip_parse(address, &ip, &bits));
        reg_networks_release(&n);
}

static void check_setting(const struct reg_config_area *area, const char *name, const char *key,
                          const char *value)
{
        struct cas_err err = CAS_ERR_INIT;
        void *settings = NULL;
        for (unsigned i = 0; i < 2; i++)
                (void)!area->set(&settings, name, key, value, &err);
        if (settings)
                area->release(settings);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        cas_cleanup_free char *text = cas_xstrndup((const char *)data, size);
        const char *lines[5] = {"", "", "", "", ""};
        char *at = text;
        for (size_t i = 0; i < CAS_COUNT(lines) && at; i++)
                lines[i] = strsep(&at, "\n");
        check_target(lines[0]);
        check_networks(lines[1], lines[2]);
        check_setting(&reg_cache_area, "", lines[3], lines[4]);
        check_setting(&reg_purge_area, "edge", lines[3], lines[4]);
        return 0;
}
