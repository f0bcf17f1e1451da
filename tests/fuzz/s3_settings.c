/* SPDX-License-Identifier: Apache-2.0 */
/* What says who and where an S3 store is, of whatever bytes: shared files, answers of metadata
 * services, endpoints, percent-encoding. */
#include "tiering/s3_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_secret(const struct s3_secret *s)
{
        cas_assert(*s->key_id && *s->secret);
        cas_assert(!strpbrk(s->key_id, " /\r\n") && !strpbrk(s->secret, " \r\n"));
        cas_assert(!s->token || !strpbrk(s->token, " \r\n"));
}

static void check_place(char *text)
{
        char bucket[] = "bucket";
        struct cas_err err = CAS_ERR_INIT;
        for (int path_style = 0; path_style < 2; path_style++) {
                struct s3_place place;
                struct s3_config config = {
                        .endpoint = text, .bucket = bucket, .path_style = path_style != 0};
                if (s3_place_init(&config, &place, &err) < 0)
                        continue;
                cas_assert(strncmp(place.origin, "http", 4) == 0);
                cas_assert(!strpbrk(place.host, "/@ \r\n?#"));
                s3_place_release(&place);
        }
        struct s3_place place;
        const struct s3_config named = {.bucket = text, .region = text, .path_style = true};
        if (s3_place_init(&named, &place, &err) == 0) {
                cas_assert(!strpbrk(place.base_path + 1, "/?# \r\n"));
                s3_place_release(&place);
        }
}

static void check_encoding(const char *text)
{
        cas_cleanup_buf struct cas_buf encoded = CAS_BUF_INIT;
        s3_encode(text, false, &encoded);
        cas_assert(!encoded.data || s3_decode((char *)encoded.data));
        cas_assert(strcmp(cas_buf_str(&encoded), text) == 0);
        cas_cleanup_free char *copy = cas_xstrdup(text);
        if (s3_decode(copy))
                cas_assert(strlen(copy) <= strlen(text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *text = cas_xstrndup((const char *)data, size);
        for (int config_file = 0; config_file < 2; config_file++) {
                s3_cleanup_secret struct s3_secret s = {0};
                if (s3_profile_parse(data, size, "default", config_file != 0, &s, &err) == 0)
                        check_secret(&s);
        }
        s3_cleanup_secret struct s3_secret s = {0};
        if (s3_metadata_parse(data, size, &s, &err) == 0)
                check_secret(&s);
        (void)s3_metadata_url_allowed(text);
        check_place(text);
        check_encoding(text);
        return 0;
}
