/* SPDX-License-Identifier: Apache-2.0 */
/* What stores answer in XML, and what nobody should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tiering/s3xml_int.h"

#define HEAD "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
#define NS " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""

static int page_of(const char *text, struct s3_page *out, struct cas_err *err)
{
        return s3_xml_page(text, strlen(text), out, err);
}

static void reads_errors(void **state CAS_UNUSED)
{
        static const char text[] = HEAD "<Error><Code>NoSuchKey</Code><Message>none \x7f&#10;here"
                                        "</Message><Region>eu-1</Region></Error>";
        struct s3_problem p;
        s3_xml_problem(text, strlen(text), &p);
        assert_string_equal(p.code, "NoSuchKey");
        assert_string_equal(p.message, "none ??here");
        assert_string_equal(p.region, "eu-1");
        assert_true(s3_xml_is_problem(text, strlen(text)));
        static const char *const none[] = {"", "<html><body>502</body></html>", "<Error><Code>x",
                                           "<Other><Code>x</Code></Other>"};
        for (size_t i = 0; i < CAS_COUNT(none); i++) {
                s3_xml_problem(none[i], strlen(none[i]), &p);
                assert_string_equal(p.code, "");
        }
        s3_xml_problem(NULL, 0, &p);
        assert_string_equal(p.code, "");
}

static void reads_lists(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        s3_cleanup_page struct s3_page page = {0};
        assert_int_equal(
                page_of(HEAD "<ListBucketResult" NS "><IsTruncated>true</IsTruncated>"
                             "<NextContinuationToken>a+b/=</NextContinuationToken>"
                             "<Contents><Key>b+c%2Bd</Key><LastModified>2026-11-21T20:00:00.000Z"
                             "</LastModified><ETag>&quot;e&quot;</ETag><Size>12</Size>"
                             "<Owner><ID>x</ID></Owner></Contents>"
                             "<CommonPrefixes><Prefix>a%2F</Prefix></CommonPrefixes>"
                             "<EncodingType>url</EncodingType></ListBucketResult>",
                        &page, &err),
                0);
        assert_int_equal(page.count, 2);
        assert_string_equal(page.items[0].key, "a/");
        assert_true(page.items[0].is_prefix);
        assert_string_equal(page.items[1].key, "b c+d");
        assert_string_equal(page.items[1].object.etag, "\"e\"");
        assert_int_equal(page.items[1].object.size_bytes, 12);
        assert_int_equal(page.items[1].object.modified_unix_s, 1795291200);
        assert_true(page.truncated);
        assert_string_equal(page.token, "a+b/=");
}

static void refuses_lists(void **state CAS_UNUSED)
{
        static const char *const bad[] = {
                "",
                "no XML",
                "<ListBucketResult>",
                "<Other/>",
                "<ListBucketResult><Contents></Contents></ListBucketResult>",
                "<ListBucketResult><Contents><Key>k</Key><Size>-1</Size></Contents>"
                "</ListBucketResult>",
                "<ListBucketResult><Contents><Key>k</Key><Size>9999999999999999999</Size></"
                "Contents>"
                "</ListBucketResult>",
                "<ListBucketResult><Contents><Key>k</Key><LastModified>x</LastModified></Contents>"
                "</ListBucketResult>",
                "<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>%zz</Key>"
                "</Contents></ListBucketResult>",
                "<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>%00</Key>"
                "</Contents></ListBucketResult>",
                "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><ListBucketResult><Contents><Key>&a;</Key>"
                "</Contents></ListBucketResult>",
                "<!DOCTYPE x SYSTEM \"file:///etc/passwd\"><ListBucketResult/>",
                "<ListBucketResult><a><a><a><a><a><a><a><a/></a></a></a></a></a></a></a>"
                "</ListBucketResult>",
        };
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                s3_cleanup_page struct s3_page page = {0};
                if (page_of(bad[i], &page, &err) == 0)
                        fail_msg("taken: %s", bad[i]);
                assert_true(err.code == CAS_E_CORRUPT || err.code == CAS_E_LIMIT);
                assert_null(page.items);
        }
}

static void bounds_texts(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        s3_cleanup_page struct s3_page page = {0};
        cas_buf_append_str(&text, "<ListBucketResult><Contents><Key>");
        for (size_t i = 0; i <= S3_XML_TEXT_BYTES_MAX; i++)
                cas_buf_append_byte(&text, 'k');
        cas_buf_append_str(&text, "</Key></Contents></ListBucketResult>");
        assert_int_equal(s3_xml_page(text.data, text.len_bytes, &page, &err), -CAS_E_LIMIT);
        cas_buf_clear(&text);
        cas_buf_append_str(&text, "<ListBucketResult>");
        for (size_t i = 0; i <= S3_LISTED_MAX; i++)
                cas_buf_append_str(&text, "<Contents><Key>k</Key></Contents>");
        cas_buf_append_str(&text, "</ListBucketResult>");
        assert_int_equal(s3_xml_page(text.data, text.len_bytes, &page, &err), -CAS_E_LIMIT);
}

static void reads_uploads(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        s3_cleanup_uploads struct s3_uploads u = {0};
        static const char text[] =
                "<ListMultipartUploadsResult" NS "><EncodingType>url</EncodingType>"
                "<IsTruncated>true</IsTruncated><NextKeyMarker>a%20b</NextKeyMarker>"
                "<NextUploadIdMarker>id%20</NextUploadIdMarker>"
                "<Upload><Key>a%20b</Key><UploadId>id%20</UploadId>"
                "<Initiated>2026-11-21T20:00:00Z</Initiated></Upload></ListMultipartUploadsResult>";
        assert_int_equal(s3_xml_uploads(text, strlen(text), &u, &err), 0);
        assert_int_equal(u.count, 1);
        assert_string_equal(u.items[0].key, "a b");
        assert_string_equal(u.items[0].id, "id%20");
        assert_int_equal(u.items[0].begun_unix_s, 1795291200);
        assert_true(u.truncated);
        assert_string_equal(u.key_marker, "a b");
        assert_string_equal(u.id_marker, "id%20");
        static const char bad[] = "<ListMultipartUploadsResult><Upload><Key>a</Key></Upload>"
                                  "</ListMultipartUploadsResult>";
        s3_cleanup_uploads struct s3_uploads none = {0};
        assert_int_equal(s3_xml_uploads(bad, strlen(bad), &none, &err), -CAS_E_CORRUPT);
        assert_int_equal(s3_xml_uploads("<x/>", 4, &none, &err), -CAS_E_CORRUPT);
}

static void reads_single_values(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *id = NULL;
        static const char begun[] = "<InitiateMultipartUploadResult><UploadId>u&amp;v</UploadId>"
                                    "</InitiateMultipartUploadResult>";
        static const char ended[] = "<CompleteMultipartUploadResult><ETag></ETag>"
                                    "</CompleteMultipartUploadResult>";
        static const char none[] = "<InitiateMultipartUploadResult><UploadId/>"
                                   "</InitiateMultipartUploadResult>";
        assert_int_equal(s3_xml_upload_id(begun, strlen(begun), &id, &err), 0);
        assert_string_equal(id, "u&v");
        cas_cleanup_free char *other = NULL;
        assert_int_equal(s3_xml_upload_id(none, strlen(none), &other, &err), -CAS_E_CORRUPT);
        assert_int_equal(s3_xml_upload_id(ended, strlen(ended), &other, &err), -CAS_E_CORRUPT);
        assert_int_equal(s3_xml_completed(ended, strlen(ended), &err), 0);
        assert_int_equal(s3_xml_completed(begun, strlen(begun), &err), -CAS_E_CORRUPT);
}

static void reads_times(void **state CAS_UNUSED)
{
        int64_t t;
        assert_true(s3_time_parse("2026-11-21T20:00:00Z", &t));
        assert_int_equal(t, 1795291200);
        assert_true(s3_time_parse("2026-11-21T20:00:00.123456Z", &t));
        static const char *const bad[] = {"",
                                          "2026-11-21",
                                          "2026-11-21T20:00:00",
                                          "x",
                                          "2026-11-21T20:00:00+01:00",
                                          "1960-01-01T00:00:00Z"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_false(s3_time_parse(bad[i], &t));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(reads_errors),  cmocka_unit_test(reads_lists),
                cmocka_unit_test(refuses_lists), cmocka_unit_test(bounds_texts),
                cmocka_unit_test(reads_uploads), cmocka_unit_test(reads_single_values),
                cmocka_unit_test(reads_times),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
