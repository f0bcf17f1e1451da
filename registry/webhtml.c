/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/webhtml.h"

#include <stdio.h>
#include <time.h>

void reg_html_text(struct cas_buf *out, const char *text)
{
        for (const char *c = text; *c; c++) {
                switch (*c) {
                case '&':
                        cas_buf_append_str(out, "&amp;");
                        break;
                case '<':
                        cas_buf_append_str(out, "&lt;");
                        break;
                case '>':
                        cas_buf_append_str(out, "&gt;");
                        break;
                case '"':
                        cas_buf_append_str(out, "&quot;");
                        break;
                case '\'':
                        cas_buf_append_str(out, "&#39;");
                        break;
                default: /* control characters are none of HTML's */
                        cas_buf_append_byte(out, (unsigned char)*c < ' ' ? ' ' : (uint8_t)*c);
                }
        }
}

void reg_html_query(struct cas_buf *out, const char *value)
{
        for (const char *c = value; *c; c++) {
                bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                             (*c >= '0' && *c <= '9') || strchr("-._~/", *c);
                if (plain)
                        cas_buf_append_byte(out, (uint8_t)*c);
                else
                        cas_buf_printf(out, "%%%02X", (unsigned char)*c);
        }
}

void reg_html_bytes(struct cas_buf *out, uint64_t bytes)
{
        static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
        double n = (double)bytes;
        size_t unit = 0;
        for (; n >= 1024 && unit < CAS_COUNT(units) - 1; unit++)
                n /= 1024;
        cas_buf_printf(out, n < 10 && unit > 0 ? "%.1f&nbsp;%s" : "%.0f&nbsp;%s", n, units[unit]);
}

void reg_html_ago(struct cas_buf *out, uint64_t unix_s, uint64_t now_s)
{
        static const struct {
                uint64_t s;
                const char *name;
        } units[] = {{86400 * 365, "year"},
                     {86400 * 30, "month"},
                     {86400, "day"},
                     {3600, "hour"},
                     {60, "minute"}};
        time_t at = (time_t)unix_s;
        struct tm t;
        char text[32];
        if (unix_s == 0 || !gmtime_r(&at, &t) ||
            strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", &t) == 0) {
                cas_buf_append_str(out, "&ndash;");
                return;
        }
        uint64_t age = now_s > unix_s ? now_s - unix_s : 0;
        cas_buf_printf(out, "<time title=\"%s\">", text);
        size_t i = 0;
        while (i < CAS_COUNT(units) && age < units[i].s)
                i++;
        if (i == CAS_COUNT(units))
                cas_buf_append_str(out, "just now");
        else
                cas_buf_printf(out, "%llu&nbsp;%s%s&nbsp;ago",
                               (unsigned long long)(age / units[i].s), units[i].name,
                               age / units[i].s == 1 ? "" : "s");
        cas_buf_append_str(out, "</time>");
}

void reg_html_digest(struct cas_buf *out, const char *digest)
{
        cas_buf_append_str(out, "<code title=\"");
        reg_html_text(out, digest);
        cas_buf_append_str(out, "\">");
        const char *hex = strchr(digest, ':');
        cas_buf_printf(out, "%.12s</code>", hex ? hex + 1 : digest);
}

void reg_html_begin(struct cas_buf *out, const char *title, const char *user)
{
        cas_buf_append_str(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                                "<meta name=\"viewport\" content=\"width=device-width\">"
                                "<meta name=\"color-scheme\" content=\"light dark\"><title>");
        reg_html_text(out, title);
        cas_buf_append_str(out, "</title><link rel=\"stylesheet\" href=\"/web/style.css\"></head>\n"
                                "<body><header><a class=\"home\" href=\"/web/\"><svg width=\"20\" "
                                "height=\"20\" viewBox=\"0 0 20 20\" aria-hidden=\"true\">"
                                "<path class=\"a\" d=\"M10 2 19 6.5 10 11 1 6.5z\"/>"
                                "<path class=\"b\" d=\"M1 10l9 4.5 9-4.5v1.8L10 16.3 1 11.8z\"/>"
                                "<path class=\"c\" d=\"M1 13.6l9 4.5 9-4.5v1.6L10 19.7 1 15.2z\"/>"
                                "</svg>lamina</a><span class=\"who\">");
        if (user && user[0])
                reg_html_text(out, user);
        else if (user)
                cas_buf_append_str(out, "<a href=\"/web/login\">sign in</a>");
        cas_buf_append_str(out, "</span></header>\n<main>\n");
}

void reg_html_end(struct cas_buf *out)
{
        cas_buf_append_str(out, "</main></body></html>\n");
}

#define PICTURE_WIDTH 1000
#define BAR_HEIGHT 26

void reg_html_bars(struct cas_buf *out, const struct reg_html_bar *bars, size_t count)
{
        uint64_t max = 1;
        for (size_t i = 0; i < count; i++) {
                uint64_t sum = 0;
                for (size_t p = 0; p < bars[i].count; p++)
                        sum += bars[i].parts[p].bytes;
                max = cas_max_u64(max, sum);
        }
        cas_buf_append_str(out, "<div class=\"bars\">");
        for (size_t i = 0; i < count; i++) {
                uint64_t sum = 0;
                double x = 0;
                for (size_t p = 0; p < bars[i].count; p++)
                        sum += bars[i].parts[p].bytes;
                cas_buf_append_str(out, "<p><span>");
                reg_html_text(out, bars[i].label);
                cas_buf_append_str(out, "</span><b>");
                reg_html_bytes(out, sum);
                cas_buf_printf(out,
                               "</b></p><svg viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" "
                               "role=\"img\">",
                               PICTURE_WIDTH, BAR_HEIGHT);
                for (size_t p = 0; p < bars[i].count; p++) {
                        double w = (double)bars[i].parts[p].bytes / (double)max * PICTURE_WIDTH;
                        cas_buf_printf(out,
                                       "<rect class=\"%s\" x=\"%.1f\" y=\"0\" width=\"%.1f\" "
                                       "height=\"%d\"><title>",
                                       bars[i].parts[p].class_name, x, w, BAR_HEIGHT);
                        reg_html_text(out, bars[i].parts[p].label);
                        cas_buf_append_str(out, "</title></rect>");
                        x += w;
                }
                cas_buf_append_str(out, "</svg><p class=\"legend\">");
                for (size_t p = 0; p < bars[i].count && bars[i].count > 1; p++) {
                        if (bars[i].parts[p].bytes == 0)
                                continue;
                        cas_buf_printf(out, "<span><i class=\"%s\"></i>",
                                       bars[i].parts[p].class_name);
                        reg_html_text(out, bars[i].parts[p].label);
                        cas_buf_append_byte(out, ' ');
                        reg_html_bytes(out, bars[i].parts[p].bytes);
                        cas_buf_append_str(out, "</span>");
                }
                cas_buf_append_str(out, "</p>");
        }
        cas_buf_append_str(out, "</div>\n");
}

const char reg_web_style[] =
        ":root{--bg:#fbfaf8;--card:#fff;--text:#1d2430;--dim:#667085;--line:#e4e1da;--link:#0b5cad;"
        "--a:#0b5cad;--b:#3f9c8f;--c:#d9a23b;--grey:#b9bfca}"
        "@media(prefers-color-scheme:dark){:root{--bg:#14171c;--card:#1c2027;--text:#e6e8ec;"
        "--dim:#98a1b0;--line:#2d333d;--link:#7db8f0;--a:#5a9fe0;--b:#4fb3a5;--c:#d9a84a;"
        "--grey:#545c69}}"
        "*{box-sizing:border-box}"
        "body{margin:0;background:var(--bg);color:var(--text);"
        "font:16px/1.5 system-ui,-apple-system,Segoe UI,Roboto,sans-serif}"
        "header,main{max-width:64rem;margin:0 auto;padding:0 1rem}"
        "header{display:flex;justify-content:space-between;align-items:center;padding-top:1rem;"
        "padding-bottom:1rem}"
        "a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}"
        ".home{display:flex;gap:.5rem;align-items:center;font-weight:650;font-size:1.15rem;"
        "color:var(--text)}"
        ".who{color:var(--dim);font-size:.9rem}"
        "svg .a,rect.a{fill:var(--a)}svg .b,rect.b{fill:var(--b)}svg .c,rect.c{fill:var(--c)}"
        "rect.grey{fill:var(--grey)}"
        "i.a{background:var(--a)}i.b{background:var(--b)}i.c{background:var(--c)}"
        "i.grey{background:var(--grey)}"
        "h1{font-size:1.45rem;line-height:1.25;margin:.3rem 0 1rem;overflow-wrap:anywhere;"
        "font-weight:650}"
        "h2{font-size:1.05rem;margin:0 0 .6rem;font-weight:650}"
        ".card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;"
        "padding:1rem;margin:0 0 1rem}"
        "table{width:100%;border-collapse:collapse}"
        "th{font-weight:500;color:var(--dim);font-size:.85rem;text-align:left}"
        "th,td{padding:.45rem .5rem .45rem 0;border-bottom:1px solid var(--line);"
        "vertical-align:top}"
        "tr:last-child td{border-bottom:0}"
        ".n{text-align:right;font-variant-numeric:tabular-nums;padding-right:0}"
        "td.name{overflow-wrap:anywhere}"
        "code,pre{font:.88em/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}"
        "pre{margin:0;padding:.7rem .8rem;border-radius:.4rem;background:var(--bg);"
        "border:1px solid var(--line);overflow-x:auto}"
        ".dim{color:var(--dim)}.small{font-size:.88rem}"
        ".tag{display:inline-block;padding:0 .5rem;border-radius:1rem;font-size:.8rem;"
        "border:1px solid var(--line);color:var(--dim);white-space:nowrap}"
        ".tag.a{color:var(--a);border-color:var(--a)}.tag.b{color:var(--b);border-color:var(--b)}"
        "form{display:flex;gap:.5rem;margin:0 0 1rem}"
        "input{flex:1;min-width:0;font:inherit;padding:.5rem .7rem;border-radius:.4rem;"
        "border:1px solid var(--line);background:var(--card);color:var(--text)}"
        "button{font:inherit;padding:.5rem 1rem;border-radius:.4rem;border:1px solid var(--a);"
        "background:var(--a);color:#fff}"
        "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0}"
        "dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}"
        ".bars p{display:flex;justify-content:space-between;margin:.5rem 0 .2rem;gap:1rem}"
        ".bars svg{display:block;width:100%;height:1.3rem;border-radius:.3rem;"
        "background:var(--bg)}"
        ".bars .legend{justify-content:flex-start;flex-wrap:wrap;color:var(--dim);"
        "font-size:.85rem;margin:.25rem 0 0;gap:.2rem 1rem}"
        ".legend i{display:inline-block;width:.7rem;height:.7rem;border-radius:.2rem;"
        "margin-right:.35rem}"
        ".more{text-align:center}"
        "@media(max-width:40rem){.wide{display:none}body{font-size:15px}}";
