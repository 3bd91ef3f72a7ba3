/* Markdown and code as HTML: what it becomes, what it may not become, and that it ends in time. */
#include "htmlcheck.h"
#include "markup/markup.h"
#include "testlib.h"

static nib_buf made;

static const char *html(const char *text) {
    nib_buf_clear(&made);
    nib_buf_puts(&made, "");
    nib_markdown(text, strlen(text), &made);
    const char *wrong = html_wrong(made.data, html_of_markdown);
    if (wrong) fail_msg("%s\nof: %s\nin: %s", wrong, text, made.data);
    return made.data;
}

static void has(const char *text, const char *part) {
    if (!strstr(html(text), part)) fail_msg("%s\nbecame: %s\nwithout: %s", text, made.data, part);
}
static void lacks(const char *text, const char *part) {
    if (strcasestr(html(text), part)) fail_msg("%s\nbecame: %s\nwith: %s", text, made.data, part);
}

static void test_forms(void **state) {
    (void)state;
    static const struct {
        const char *text, *html;
    } cases[] = {
        {"Hello *you* and **you**", "<p>Hello <em>you</em> and <strong>you</strong></p>\n"},
        {"# One\n## Two", "<h3>One</h3>\n<h4>Two</h4>\n"},
        {"###### Six", "<h6>Six</h6>\n"},
        {"- a\n- b", "<ul><li>a</li>\n<li>b</li>\n</ul>\n"},
        {"3. a\n4. b", "<ol start=\"3\">\n<li>a</li>\n<li>b</li>\n</ol>\n"},
        {"> q", "<blockquote><p>q</p>\n</blockquote>\n"},
        {"a `<b>` c", "<p>a <code>&lt;b&gt;</code> c</p>\n"},
        {"a\nb", "<p>a\nb</p>\n"},
        {"a  \nb", "<p>a<br>\nb</p>\n"},
        {"~~x~~", "<p><del>x</del></p>\n"},
        {"---", "<hr>\n"},
        {"", ""},
        {"1 < 2 & 3 > 2 \"q\" 'a'", "<p>1 &lt; 2 &amp; 3 &gt; 2 &quot;q&quot; &#39;a&#39;</p>\n"},
        {"&amp; &lt;b&gt; &#65; &#x42; &#0; &nosuch;",
         "<p>&amp; &lt;b&gt; A B \xef\xbf\xbd &amp;nosuch;</p>\n"},
        {"\xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80",
         "<p>\xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80</p>\n"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++)
        assert_string_equal(html(cases[i].text), cases[i].html);
    has("| a | b |\n|---|--:|\n| 1 | 2 |", "<th class=\"right\">b</th>");
    has("- [x] done\n- [ ] open", "<input type=\"checkbox\" disabled checked> done");
    has("see https://example.org/a?b=1&c=2 there",
        "<a href=\"https://example.org/a?b=1&amp;c=2\" rel=\"noopener noreferrer nofollow\" "
        "target=\"_blank\">https://example.org/a?b=1&amp;c=2</a>");
    has("[m](mailto:a@b.org)", "href=\"mailto:a@b.org\"");
    has("![a cat](https://x.org/cat.png)", ">a cat</a>");
    lacks("![a cat](https://x.org/cat.png)", "<img");
    has("```py\nx = 1\n```", "<figcaption><span>py</span>");
}

/* Cut off anywhere, it is still whole HTML: so it may be shown while it grows. */
static void test_growing(void **state) {
    (void)state;
    static const char text[] = "# T\n\nSome *text* with `code` and [a](https://b.c/d).\n\n"
                               "```c\nint main(void) { return \"x\"[0]; } /* c */\n```\n\n"
                               "1. one\n   - two\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n> q";
    for (size_t n = 0; n <= strlen(text); n++) {
        char part[sizeof text];
        snprintf(part, sizeof part, "%.*s", (int)n, text);
        html(part);
    }
    has("```c\nint x;", "<span class=\"k\">int</span> x;"); /* a fence that is still open */
}

static void test_harmless(void **state) {
    (void)state;
    static const char *const texts[] = {
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "a <b onclick='x'>c</b> <!-- d --> <?php e ?> <![CDATA[f]]>",
        "<div>\n\n*a*\n\n</div>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java\tscript:alert(1))",
        "[x](\x01javascript:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](javascript&colon;alert(1))",
        "[x](&#x6A&#x61;vascript:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "[x](vbscript:msgbox)",
        "[x](file:///etc/passwd)",
        "[x](//evil.example)",
        "[x](/ui/delete/1)",
        "[x](https:\\\\evil.example)",
        "[x](https://a\"onclick=\"alert(1))",
        "[x](<https://a\" onclick=\"alert(1)>)",
        "[x](https://a 'title\" onclick=\"y')",
        "<javascript:alert(1)>",
        "[x]\n\n[x]: javascript:alert(1)",
        "![x](javascript:alert(1))",
        "![x\" onerror=\"y](https://a/b)",
        "[![i](https://a/b)](https://c/d)",
        "[a [b](https://c) d](https://e)",
        "```\"><script>alert(1)</script>\nx\n```",
        "```c\" onclick=\"x\n</code></pre><script>\n```",
        "    </pre><script>alert(1)</script>",
        "|<script>|\n|---|\n|</td><script>|",
        "`</code><script>`",
        "*<b>*",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "&#60;script&#62;",
        "[x](https://a/&quot;&gt;&lt;script&gt;)",
        "<a href=\"https://x\" style=\"position:fixed\">y</a>",
        "\xff\xfe<script>\xc0\xbc",
        "<plaintext><textarea><style>@import 'x'",
        "</article></main></body>",
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(texts); i++) {
        lacks(texts[i], "<script");
        lacks(texts[i], "href=\"javascript");
        lacks(texts[i], "<img");
        lacks(texts[i], "href=\"/");
    }
    lacks("[x](/ui/delete/1)", "<a");
    lacks("[x](javascript:y)", "<a");
    has("[x](javascript:y)", "<p>x</p>");
    has("[x](HTTPS://OK.example)", "href=\"HTTPS://OK.example\"");
}

/* Texts that make slow parsers slow. */
static void test_in_time(void **state) {
    (void)state;
    static const char *const units[] = {
        "[",    "![",  "*a_ ", "> ", "- ",    "`",  "|",  "a](b)",   "<",        "&",  "**a ",
        "[a](", "1. ", "\\",   "~~", "```\n", "|-", "# ", "  - a\n", "https://", "[^", "_a *b "};
    size_t n = test_quick() ? 20000 : NIB_MARKDOWN_MAX;
    char *text = nib_alloc(n + 1);
    for (size_t u = 0; u < NIB_ARRAY_LEN(units); u++) {
        size_t len = strlen(units[u]), at = 0;
        while (at + len <= n) {
            memcpy(text + at, units[u], len);
            at += len;
        }
        double start = nib_now();
        nib_buf b = {0};
        nib_markdown(text, at, &b);
        double took = nib_now() - start;
        if (!test_quick() && took > 5) fail_msg("'%s' repeated took %.1f s", units[u], took);
        const char *wrong = html_wrong(b.data, html_of_markdown);
        if (wrong) fail_msg("%s of '%s' repeated", wrong, units[u]);
        nib_buf_free(&b);
    }
    nib_free(text);
    /* a table that is wide at its head and long below */
    nib_buf b = {0}, t = {0};
    for (int i = 0; i < 20000; i++) nib_buf_puts(&t, "|a");
    nib_buf_puts(&t, "|\n");
    for (int i = 0; i < 20000; i++) nib_buf_puts(&t, "|---");
    nib_buf_puts(&t, "|\n");
    for (int i = 0; i < 20000; i++) nib_buf_puts(&t, "|\n");
    nib_markdown(t.data, t.len, &b);
    assert_true(b.len < 65 * t.len + 4096);
    nib_buf_free(&b);
    nib_buf_free(&t);
    /* too long: plain, but all of it */
    char *big = nib_alloc(NIB_MARKDOWN_MAX + 2);
    memset(big, '<', NIB_MARKDOWN_MAX + 1);
    big[NIB_MARKDOWN_MAX + 1] = 0;
    assert_true(strlen(html(big)) > 4 * (size_t)NIB_MARKDOWN_MAX);
    nib_free(big);
}

static const char *code(const char *lang, const char *text) {
    nib_buf_clear(&made);
    nib_highlight(nib_str_c(lang), text, strlen(text), &made);
    assert_null(html_wrong(made.data, " span "));
    return made.data;
}

static void test_code(void **state) {
    (void)state;
    assert_string_equal(code("c", "int f(void) { return 0x1f; } // a < b"),
                        "<span class=\"k\">int</span> <span class=\"f\">f</span>("
                        "<span class=\"k\">void</span>) { <span class=\"k\">return</span> "
                        "<span class=\"n\">0x1f</span>; } <span class=\"c\">// a &lt; b</span>");
    assert_string_equal(code("Python", "x = \"\"\"a\nb\"\"\" # c"),
                        "x = <span class=\"s\">&quot;&quot;&quot;a\nb&quot;&quot;&quot;</span> "
                        "<span class=\"c\"># c</span>");
    assert_string_equal(code("sh", "echo $#a 'it' # no"),
                        "<span class=\"k\">echo</span> $#a <span class=\"s\">&#39;it&#39;</span> "
                        "<span class=\"c\"># no</span>");
    assert_string_equal(code("html", "it's <a href=\"x\">t</a><!-- > -->"),
                        "it&#39;s &lt;<span class=\"k\">a</span> href=<span class=\"s\">"
                        "&quot;x&quot;</span>&gt;t&lt;/<span class=\"k\">a</span>&gt;"
                        "<span class=\"c\">&lt;!-- &gt; --&gt;</span>");
    assert_string_equal(code("json", "{\"a\": [1, true]}"),
                        "{<span class=\"s\">&quot;a&quot;</span>: [<span class=\"n\">1</span>, "
                        "<span class=\"k\">true</span>]}");
    assert_string_equal(code("klingon", "int <b>"), "int &lt;b&gt;");
    assert_string_equal(code("", "\"open"), "&quot;open");
    assert_string_equal(code("js", "`a\nb"), "<span class=\"s\">`a\nb</span>");
    assert_string_equal(code("c", "\"a\\"), "<span class=\"s\">&quot;a\\</span>");
    assert_string_equal(code("c", "/*"), "<span class=\"c\">/*</span>");
    assert_string_equal(code("c", "/*/"), "<span class=\"c\">/*/</span>");
}

static void test_format(void **state) {
    (void)state;
    nib_buf_clear(&made);
    assert_true(nib_html(&made, "<a title=\"%s\">%d %lld %zu %.1f %% %s</a>", "\"><", 1, 2LL,
                         (size_t)3, 4.25, "&"));
    assert_string_equal(made.data, "<a title=\"&quot;&gt;&lt;\">1 2 3 4.2 % &amp;</a>");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),    cmocka_unit_test(test_growing),
        cmocka_unit_test(test_harmless), cmocka_unit_test(test_in_time),
        cmocka_unit_test(test_code),     cmocka_unit_test(test_format),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    nib_buf_free(&made);
    return failed;
}
