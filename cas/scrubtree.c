/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of trees: files by their digest. */
#include <stdio.h>

#include "cas/scrub_int.h"
#include "cas/tree_int.h"

static void check_tree_file(struct cas_look *look, const struct cas_tree_record *rec)
{
        struct cas_scrub_run *run = cas_look_run(look);
        const struct cas_damage damage = {.kind = CAS_DAMAGE_TREE, .digest = rec->tree};
        struct cas_err bad = CAS_ERR_INIT;
        struct cas_digest got;
        uint64_t bytes;
        char path[CAS_TREE_PATH_BYTES], hex[CAS_DIGEST_TEXT_BYTES];
        cas_tree_relative_path(&rec->tree, path);
        int rc = cas_scrub_hash_file(run, run->s->dirfd, path, CAS_DIGEST_SHA256, &got, &bytes,
                                     &bad);
        if (rc == -CAS_E_NOTFOUND)
                cas_look_found(look, CAS_FSCK_TREE_MISSING, &damage, path, "%s", "");
        else if (rc < 0)
                cas_look_found(look, CAS_FSCK_TREE_DIGEST, &damage, path, "%s", bad.msg);
        else if (bytes != rec->size_bytes || !cas_digest_equal(&got, &rec->tree))
                cas_look_found(look, CAS_FSCK_TREE_DIGEST, &damage, path, "%llu bytes, SHA-256 %s",
                               (unsigned long long)bytes, cas_digest_hex(&got, hex));
}

static void check_tree(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct cas_tree_record rec;
        struct cas_err bad = CAS_ERR_INIT;
        if (cas_tree_record_decode(item->value, item->value_len, &rec, &bad) < 0) {
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, "trees", "%s", bad.msg);
                return;
        }
        for (size_t i = 0; i < rec.layer_count; i++)
                cas_look_pin_blob(look, &rec.layers[i]);
        check_tree_file(look, &rec);
        free(rec.layers);
}

void cas_scrub_trees(struct cas_scrub_run *run)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = CAS_FAMILY_TREES,
                                                             .check = check_tree,
                                                             .counter = &run->out->trees,
                                                             .at_once = 2});
}
