/* SPDX-License-Identifier: Apache-2.0 */
/* Several ranges of one content as a multipart/byteranges body (RFC 9110): a
 * part for each range, in the order asked, none merged or left out, of a length
 * that is known before. */
#ifndef REG_PARTS_H
#define REG_PARTS_H

#include "cas/blobstream.h"
#include "registry/http.h"
#include "registry/range.h"

struct reg_parts;
/* Takes stream and list. The stream was opened over all ranges, reg_parts_window. media_type is
 * copied. */
struct reg_parts *reg_parts_new(struct cas_blob_stream *stream, struct reg_range *list,
                                size_t count, uint64_t content_bytes, const char *media_type);
/* What the ranges cover. count > 0. */
struct reg_range reg_parts_window(const struct reg_range *list, size_t count);
/* Answers 206 with all of it. Takes p. */
void reg_parts_reply(struct reg_parts *p, struct reg_http_req *req);

#endif
