/* SPDX-License-Identifier: Apache-2.0 */
/* HTML as text: everything that is not of this program is escaped. No state. */
#ifndef REG_WEBHTML_H
#define REG_WEBHTML_H

#include "cas/buf.h"

/* Text between tags, or in an attribute between quotes. */
void reg_html_text(struct cas_buf *out, const char *text);
/* A value in the query of an address in an attribute. */
void reg_html_query(struct cas_buf *out, const char *value);
/* "12.3 MiB". */
void reg_html_bytes(struct cas_buf *out, uint64_t bytes);
/* "3 hours ago", with the time itself when it is pointed at; a dash for 0. */
void reg_html_ago(struct cas_buf *out, uint64_t unix_s, uint64_t now_s);
/* The beginning of a digest, with the whole when it is pointed at. */
void reg_html_digest(struct cas_buf *out, const char *digest);

/* From the doctype to the place where the page's own content begins. user "": may sign in;
 * NULL: need not. */
void reg_html_begin(struct cas_buf *out, const char *title, const char *user);
void reg_html_end(struct cas_buf *out);

/* A bar of the picture of sizes; parts lie side by side, each named by a class of the style. */
struct reg_html_part {
        const char *class_name, *label;
        uint64_t bytes;
};
struct reg_html_bar {
        const char *label;
        size_t count;
        struct reg_html_part parts[4];
};
/* Bars of one scale, as inline SVG with a legend. */
void reg_html_bars(struct cas_buf *out, const struct reg_html_bar *bars, size_t count);

extern const char reg_web_style[];

#endif
