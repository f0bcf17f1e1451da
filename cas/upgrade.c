/* SPDX-License-Identifier: Apache-2.0 */
/* Bringing a store's format to this program's version, one version at a time. */
#include "cas/format_int.h"
#include "cas/maintain.h"
#include "cas/refs_int.h"
#include "cas/store_int.h"

/* A step finds a store of version `from`, locked, and opened as far as an earlier step has opened
 * it; and leaves everything of version from + 1 but the file `format`, so that it can be run again
 * after a crash. */
struct step {
        unsigned from;
        int (*run)(struct cas_store *s, const struct cas_store_config *config, struct cas_err *err);
};
/* Version 2 knows recipes: what it writes anew version 1 cannot read, but what is there stays as it
 * is. */
static int keep_all(struct cas_store *s CAS_UNUSED,
                    const struct cas_store_config *config CAS_UNUSED,
                    struct cas_err *err CAS_UNUSED)
{
        return 0;
}

/* Version 3 knows references. */
static int make_references(struct cas_store *s, const struct cas_store_config *config,
                           struct cas_err *err)
{
        int rc = cas_store_open_parts(s, config, err);
        return rc < 0 ? rc : cas_refs_rebuild(s, NULL, err);
}

static const struct step steps[] = {{1, keep_all}, {2, make_references}};

static int run_step(struct cas_store *s, const struct cas_store_config *config,
                    struct cas_format *format, struct cas_err *err)
{
        for (size_t i = 0; i < CAS_COUNT(steps); i++) {
                if (steps[i].from != format->version)
                        continue;
                int rc = steps[i].run(s, config, err);
                if (rc < 0)
                        return cas_err_wrap(err, "upgrade from version %u", format->version);
                format->version++;
                return cas_format_write(s->io, s->dirfd, format, err);
        }
        return cas_fail(err, CAS_E_UNSUPPORTED, "no way from format version %u to %u",
                        format->version, CAS_FORMAT_VERSION);
}

int cas_upgrade(const struct cas_store_config *config, unsigned *out_from, unsigned *out_to,
                struct cas_err *err)
{
        cas_cleanup_store struct cas_store *s = NULL;
        struct cas_store_config existing = *config;
        struct cas_format format;
        existing.must_exist = true;
        int rc = cas_store_open_bare(&existing, &s, err);
        if (rc == 0)
                rc = cas_format_read(s->io, s->dirfd, &format, err);
        if (rc < 0)
                return rc;
        memcpy(s->id, format.id, sizeof(s->id));
        *out_from = format.version;
        while (rc == 0 && format.version < CAS_FORMAT_VERSION)
                rc = run_step(s, &existing, &format, err);
        *out_to = format.version;
        return rc < 0 ? rc : cas_format_check(&format, err);
}
