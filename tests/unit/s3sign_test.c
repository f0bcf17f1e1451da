/* SPDX-License-Identifier: Apache-2.0 */
/* AWS Signature Version 4 by the examples that AWS has published: those of S3's reference, and one
 * of the general test suite. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tiering/s3sign_int.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define HOST                                                                                       \
        {                                                                                          \
                "host", "examplebucket.s3.amazonaws.com"                                           \
        }

static const struct s3_signing example = {.path = "/",
                                          .payload = EMPTY,
                                          .time = "20130524T000000Z",
                                          .region = "us-east-1",
                                          .service = "s3",
                                          .key_id = "AKIAIOSFODNN7EXAMPLE",
                                          .secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"};

static void check(const struct s3_signing *g, const char *canonical, const char *to_sign,
                  const char *signature)
{
        cas_cleanup_buf struct cas_buf request = CAS_BUF_INIT, text = CAS_BUF_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        s3_canonical_request(g, &request);
        if (canonical)
                assert_string_equal(cas_buf_str(&request), canonical);
        s3_string_to_sign(g, cas_buf_str(&request), &text);
        if (to_sign)
                assert_string_equal(cas_buf_str(&text), to_sign);
        s3_signature(g, cas_buf_str(&text), hex);
        assert_string_equal(hex, signature);
}

static void gets_an_object(void **state CAS_UNUSED)
{
        const struct s3_pair headers[] = {{"x-amz-date", "20130524T000000Z"},
                                          {"range", "bytes=0-9"},
                                          {"x-amz-content-sha256", EMPTY},
                                          HOST};
        struct s3_signing g = example;
        g.method = "GET";
        g.path = "/test.txt";
        g.headers = headers;
        g.header_count = CAS_COUNT(headers);
        check(&g,
              "GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-9\n"
              "x-amz-content-sha256:" EMPTY "\nx-amz-date:20130524T000000Z\n\n"
              "host;range;x-amz-content-sha256;x-amz-date\n" EMPTY,
              "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n"
              "7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972",
              "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        s3_authorization(&g, &text);
        assert_string_equal(
                cas_buf_str(&text),
                "AWS4-HMAC-SHA256 "
                "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
                "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
                "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

static void puts_an_object(void **state CAS_UNUSED)
{
        const char *digest = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        const struct s3_pair headers[] = {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                          HOST,
                                          {"x-amz-content-sha256", digest},
                                          {"x-amz-date", "20130524T000000Z"},
                                          {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
        cas_cleanup_buf struct cas_buf path = CAS_BUF_INIT;
        s3_encode("/test$file.text", true, &path);
        struct s3_signing g = example;
        g.method = "PUT";
        g.path = cas_buf_str(&path);
        g.headers = headers;
        g.header_count = CAS_COUNT(headers);
        g.payload = digest;
        check(&g, NULL,
              "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n"
              "9e0e90d9c76de8fa5b200d8c849cd5b8dc7a3be3951ddb7f6a76b4158342019d",
              "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

static void asks_the_bucket(void **state CAS_UNUSED)
{
        const struct s3_pair headers[] = {
                HOST, {"x-amz-content-sha256", EMPTY}, {"x-amz-date", "20130524T000000Z"}};
        const struct s3_pair lifecycle[] = {{"lifecycle", ""}};
        const struct s3_pair list[] = {{"prefix", "J"}, {"max-keys", "2"}};
        struct s3_signing g = example;
        g.method = "GET";
        g.headers = headers;
        g.header_count = CAS_COUNT(headers);
        g.query = lifecycle;
        g.query_count = 1;
        check(&g, NULL, NULL, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        g.query = list;
        g.query_count = 2;
        check(&g, NULL, NULL, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void signs_addresses(void **state CAS_UNUSED)
{
        const struct s3_pair headers[] = {HOST};
        struct s3_signing g = example;
        g.method = "GET";
        g.path = "/test.txt";
        g.headers = headers;
        g.header_count = 1;
        g.payload = S3_UNSIGNED_PAYLOAD;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        s3_presigned_query(&g, NULL, 86400, &text);
        assert_string_equal(
                cas_buf_str(&text),
                "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%"
                "2F"
                "us-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&"
                "X-Amz-SignedHeaders=host&X-Amz-Signature="
                "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
}

/* get-vanilla and get-vanilla-query-order-key-case of the general suite. */
static void fits_the_general_suite(void **state CAS_UNUSED)
{
        const struct s3_pair headers[] = {{"x-amz-date", "20150830T123600Z"},
                                          {"host", "example.amazonaws.com"}};
        const struct s3_pair query[] = {{"Param2", "value2"}, {"Param1", "value1"}};
        struct s3_signing g = {.method = "GET",
                               .path = "/",
                               .headers = headers,
                               .header_count = 2,
                               .payload = EMPTY,
                               .time = "20150830T123600Z",
                               .region = "us-east-1",
                               .service = "service",
                               .key_id = "AKIDEXAMPLE",
                               .secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"};
        check(&g, NULL,
              "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/service/aws4_request\n"
              "bb579772317eb040ac9ed261061d46c1f17a8133879d6129b6e1c25292927e63",
              "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
        g.query = query;
        g.query_count = 2;
        check(&g, NULL, NULL, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
}

static void trims_headers(void **state CAS_UNUSED)
{
        const struct s3_pair headers[] = {{"my-header2", "  \"a   b \tc\"  "},
                                          {"my-header1", " a "}};
        struct s3_signing g = example;
        g.method = "GET";
        g.headers = headers;
        g.header_count = 2;
        cas_cleanup_buf struct cas_buf request = CAS_BUF_INIT;
        s3_canonical_request(&g, &request);
        assert_string_equal(
                cas_buf_str(&request),
                "GET\n/\n\nmy-header1:a\nmy-header2:\"a b c\"\n\nmy-header1;my-header2\n" EMPTY);
}

static void encodes(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        s3_encode("a/b c+d%~\xc3\xbc", true, &text);
        assert_string_equal(cas_buf_str(&text), "a/b%20c%2Bd%25~%C3%BC");
        assert_true(s3_decode((char *)text.data));
        assert_string_equal(cas_buf_str(&text), "a/b c+d%~\xc3\xbc");
        cas_buf_clear(&text);
        s3_encode("a/b", false, &text);
        assert_string_equal(cas_buf_str(&text), "a%2Fb");
        static const char *const bad[] = {"%", "%2", "a%zz", "%00", "x%4"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                cas_cleanup_free char *copy = cas_xstrdup(bad[i]);
                assert_false(s3_decode(copy));
        }
        char time_text[S3_TIME_BYTES];
        s3_time_text(1369353600, time_text);
        assert_string_equal(time_text, "20130524T000000Z");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(gets_an_object),
                cmocka_unit_test(puts_an_object),
                cmocka_unit_test(asks_the_bucket),
                cmocka_unit_test(signs_addresses),
                cmocka_unit_test(fits_the_general_suite),
                cmocka_unit_test(trims_headers),
                cmocka_unit_test(encodes),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
