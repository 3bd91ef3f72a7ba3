/* The text-handling half of the chat room: sentences, stops, clean-up, autocorrect, thinking.
 * Tables of cases, and properties over random text: any chunking gives the same, cleaning twice is
 * cleaning once. */
#include <stdlib.h>
#include <time.h>
#include "chat/chat.h"
#include "testlib.h"

/* ---- random text made of what the rules look at ---- */

static const char *const bits[] = {" ",
                                   "  ",
                                   "    ",
                                   "\n",
                                   "\n\n",
                                   "\t",
                                   ".",
                                   "..",
                                   "...",
                                   "!",
                                   "?",
                                   "!!",
                                   "?!",
                                   ",",
                                   ",,",
                                   ";",
                                   ":",
                                   "::",
                                   "`",
                                   "``",
                                   "```",
                                   "~~~",
                                   "```c\n",
                                   "\n```\n",
                                   "|",
                                   "\n| a ",
                                   "-",
                                   "---",
                                   "\n- ",
                                   "\n1. ",
                                   "\n> ",
                                   "## ",
                                   "***",
                                   "*",
                                   "_",
                                   "#",
                                   "'",
                                   "\"",
                                   "(",
                                   ")",
                                   "[",
                                   "]",
                                   "word",
                                   "Word",
                                   "don't",
                                   "U.S.",
                                   "e.g.",
                                   "Dr.",
                                   "I",
                                   "3.14",
                                   "1...3",
                                   "etc.",
                                   "http://x.com/a..b?c!!",
                                   "www.x.org",
                                   "a@b.de",
                                   "../..",
                                   "C:\\..",
                                   ":)",
                                   "\xc3\xa9",
                                   "\xe2\x80\xa6",
                                   "\xe3\x80\x82",
                                   "\xf0\x9f\x99\x82",
                                   "\xe2\x80\x9d",
                                   "\xff",
                                   "\xc2\xa0",
                                   "x",
                                   "A",
                                   "\r\n",
                                   "\\",
                                   "/",
                                   "std::v"};

static size_t random_text(nib_rng *r, char *p, size_t max, int n_bits) {
    size_t n = 0;
    for (int i = 0; i < n_bits; i++) {
        const char *s = bits[nib_rng_u64(r) % NIB_ARRAY_LEN(bits)];
        size_t k = strlen(s);
        if (n + k >= max) break;
        memcpy(p + n, s, k);
        n += k;
    }
    p[n] = 0;
    return n;
}

/* ---- sentences ---- */

static void sentences_end_where_people_end_them(void **state) {
    (void)state;
    /* '|' marks each end. */
    static const char *const cases[] = {
        "",
        "no end",
        "One.|",
        "One.| Two!| Three?|",
        "One, two; three: four",
        "One,\ntwo\n\nthree",
        "It is 3.14.|",
        "See example.com.| Next.|",
        "Version 1.2.3 is out.|",
        "a.b.c",
        "file.txt is here.|",
        "Dr. Smith met Mrs. Jones.| They left.|",
        "Use e.g. this one.| Or i.e. that.|",
        "Cats, dogs, etc. are here.|",
        "Cats, dogs, etc.| They are here.|",
        "Cats, dogs, etc.|",
        "At 5 p.m. we go.|",
        "At 5 p.m.| We go.|",
        "The U.S. Army.|",
        "In the U.S.A.|",
        "J. R. Smith.|",
        "So did I.| Then we left.|",
        "Acme Inc. sells it.|",
        "No. 5 is alive.|",
        "I said no.| Then left.|",
        "See p. 12 and pp. 13-14.|",
        "Jan. 5 was cold.|",
        "Wait... what?|",
        "Wait...| What?|",
        "Well... I think so.|",
        "Well... I'm here.|",
        "Well...| In time.|",
        "Hm...|",
        "Wait\xe2\x80\xa6 what?|",
        "Really?!| Yes!!!| No.|",
        "\"Stop!\" he said.| He ran.|",
        "\"Stop!\"| He ran.|",
        "\"Stop.\"|",
        "He said (quietly.)| Then left.|",
        "**Bold.**| Next.|",
        "\xe2\x80\x9cNo.\xe2\x80\x9d|",
        "1. First\n2. Second",
        "1. First.|\n2. Second.|",
        "It was 1999.| Then 2000.|",
        "a. one\nb. two",
        "\xe4\xbd\xa0\xe5\xa5\xbd\xe3\x80\x82|\xe5\x86\x8d\xe8\xa7\x81\xef\xbc\x81|",
        "\xe3\x80\x8c\xe4\xbd\xa0\xe3\x80\x82\xe3\x80\x8d|\xe5\xa5\xbd",
        "\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7\xd8\x9f|",
        "\xe0\xa4\x95\xe0\xa5\xa4|",
        "```\na. B. C.\n```\nDone.|",
        "~~~\nNot this. Nor this.",
        "```\nopen. Not. These.",
        "What's up?|\nNothing.|",
        "?| what",
        "end.|\n\n",
        "...|",
        "... and so on.|",
        ".gitignore is a file.|",
        "A?B is no end",
        "Yahoo!| is",
        "Hello.world",
        "3.|",
        "U.S.|\nNext.|",
    };
    long n_checked = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        char text[256];
        size_t ends[32], n = 0;
        int n_ends = 0;
        const char *c = cases[i];
        for (; *c; c++)
            if (*c == '|')
                ends[n_ends++] = n;
            else
                text[n++] = *c;
        text[n] = 0;
        if (nib_sentence_count(text, n) != n_ends)
            fail_msg("\"%s\": %d ends, expected %d", text, nib_sentence_count(text, n), n_ends);
        for (int k = 0; k < n_ends; k++)
            if (nib_sentence_end(text, n, k + 1) != ends[k])
                fail_msg("\"%s\": end %d at %zu, expected %zu", text, k + 1,
                         nib_sentence_end(text, n, k + 1), ends[k]);
        assert_true(nib_sentence_end(text, n, n_ends + 1) == SIZE_MAX);
        n_checked++;
    }
    print_message("sentences: %ld cases, 0 differ\n", n_checked);
}

/* ---- stops ---- */

/* Feeds text in chunks as a dialog does; returns what was shown and why it stopped. */
static const char *stream(const nib_stops *s, const char *text, size_t n, nib_rng *r, char *shown) {
    size_t at = 0, safe = 0;
    const char *why = NULL;
    while (!why) {
        size_t step = r ? 1 + nib_rng_u64(r) % 7 : n;
        at = at + step > n ? n : at + step;
        nib_stop_result x = nib_stops_check(s, text, at, safe, at == n);
        assert_true(x.safe >= safe && x.safe <= at); /* nothing shown is taken back */
        memcpy(shown + safe, text + safe, x.safe - safe);
        safe = x.safe;
        if (x.stopped) why = x.reason;
        if (at == n) break;
    }
    shown[safe] = 0;
    return why;
}

static void stops_cut_where_they_should(void **state) {
    (void)state;
    const char *const strings[] = {"User:", "\n\n", "</s>", "", "END", NULL};
    static const struct {
        int sentences;
        const char *text, *shown, *why;
    } cases[] = {
        {0, "Hello there", "Hello there", NULL},
        {0, "Hello\nUser: hi", "Hello\n", "stop"},
        {0, "Hello\nUse it", "Hello\nUse it", NULL},
        {0, "Hello\nUser", "Hello\nUser", NULL},
        {0, "a\n\nb", "a", "stop"},
        {0, "END", "", "stop"},
        {0, "</s", "</s", NULL},
        {0, "a</s>User:", "a", "stop"},
        {1, "One. Two.", "One.", "sentences"},
        {2, "One. Two. Three.", "One. Two.", "sentences"},
        {2, "One. Two.", "One. Two.", "sentences"},
        {2, "One.", "One.", NULL},
        {1, "Dr. Who is 3.5 years old. Yes.", "Dr. Who is 3.5 years old.", "sentences"},
        {1, "Wait... what? No.", "Wait... what?", "sentences"},
        {1, "Wait... What? No.", "Wait...", "sentences"},
        {1, "\"Stop!\" he said. Yes.", "\"Stop!\" he said.", "sentences"},
        {1, "\"Stop!\" He left.", "\"Stop!\"", "sentences"},
        {3, "One. Two. END Three.", "One. Two. ", "stop"},
        {1, "One.END", "One.", "stop"},
        {1, "One,\ntwo,\nthree. Four", "One,\ntwo,\nthree.", "sentences"},
    };
    nib_rng r = {.seed = 21};
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_stops s = {strings, cases[i].sentences};
        for (int k = 0; k < 50; k++) {
            char shown[256];
            const char *why =
                stream(&s, cases[i].text, strlen(cases[i].text), k ? &r : NULL, shown);
            assert_string_equal(shown, cases[i].shown);
            if (cases[i].why)
                assert_true(why && strcmp(why, cases[i].why) == 0);
            else
                assert_null(why);
        }
    }
}

static void stops_do_not_depend_on_chunks(void **state) {
    (void)state;
    const char *const strings[] = {"word.", "\n\n\n", "!!!", "a@b", "..\n", NULL};
    nib_rng r = {.seed = 22};
    long n_checked = 0, n_stopped = 0;
    for (int i = 0; i < 4000; i++) {
        char text[600], whole[600], shown[600];
        size_t n = random_text(&r, text, sizeof text, 40);
        n = nib_utf8_complete(text, n);
        nib_stops s = {i % 3 ? strings : NULL, i % 4};
        const char *why = stream(&s, text, n, NULL, whole);
        n_stopped += why != NULL;
        for (int k = 0; k < 8; k++) {
            /* Chunks end on characters, as the detokeniser gives them. */
            size_t at = 0, safe = 0;
            const char *w = NULL;
            while (!w) {
                at += 1 + nib_rng_u64(&r) % 9;
                if (at > n) at = n;
                while (at < n && ((unsigned char)text[at] & 0xc0) == 0x80) at++;
                nib_stop_result x = nib_stops_check(&s, text, at, safe, at == n);
                assert_true(x.safe >= safe);
                memcpy(shown + safe, text + safe, x.safe - safe);
                safe = x.safe;
                if (x.stopped) w = x.reason;
                if (at == n) break;
            }
            shown[safe] = 0;
            if (strcmp(shown, whole) != 0 || w != why)
                fail_msg("text <%s>: whole <%s> %s, chunks <%s> %s", text, whole, why ? why : "-",
                         shown, w ? w : "-");
            n_checked++;
        }
    }
    assert_true(n_stopped > 500);
    print_message("stops: %ld chunkings, 0 differ\n", n_checked);
}

/* ---- clean-up ---- */

static void clean(const char *text, size_t n, nib_buf *out) {
    nib_error e = {0};
    nib_buf_clear(out);
    test_ok(nib_text_cleanup(text, n, out, &e), &e);
}

static void cleanup_table(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"Hello  world", "Hello world"},
        {"Hello , world !", "Hello, world!"},
        {"What!!!! No???", "What! No?"},
        {"What?!?!?!", "What?!"},
        {"Yes !!", "Yes!"},
        {"Well,,, then;;", "Well, then;"},
        {"Wait...", "Wait..."},
        {"Wait......", "Wait..."},
        {"Wait.. what", "Wait. what"},
        {"Hello ... world", "Hello ... world"},
        {"Hi ! ! !", "Hi!"},
        {"end .  Next", "end. Next"},
        {"a , b ; c : d . e", "a, b; c: d. e"},
        {"(what ?)", "(what?)"},
        {"He said \"no !!\"", "He said \"no!\""},
        {"trailing   ", "trailing "},
        {"\xf0\x9f\x99\x82 !!!", "\xf0\x9f\x99\x82!"},
        {"caf\xc3\xa9  ok !", "caf\xc3\xa9 ok!"},
        {"- item  one !!\n- item two", "- item one!\n- item two"},
        {"1.  a  b", "1.  a b"},
        {"## Head  ing !", "## Head ing!"},
        {"text `a  b !!` more  text", "text `a  b !!` more text"},
        {"a ` b  c", "a ` b c"},
        {"``x ` y  z``  w", "``x ` y  z`` w"},
        {"see http://x.com/??  now !!", "see http://x.com/?? now!"},
        {"line one  \nline two", "line one  \nline two"},
        {"line one    \nline two", "line one  \nline two"},
        {"line\r\nnext  one\r\n", "line\r\nnext one\r\n"},
        {"ok!!\n\n\n\nmore", "ok!\n\n\n\nmore"},
    };
    static const char *const kept[] = {
        "don't 'quote' y'all '''x''' rock 'n' roll",
        "1...3 1..3 3.14 1,000,000 v1.2..3",
        ".NET and .gitignore",
        "a :) b ;) c :-( d :D e :P",
        "../.. and C:\\.. and cd ..",
        "std::vector ::x",
        "---",
        "***",
        "- - -",
        "===",
        "| a  |  b !! |\n|----|---|",
        "```c\nint  a ;  // !!\n```",
        "~~~\na  b !!\n~~~",
        "```\nopen  fence !!",
        "    indented  code !!",
        "\tx  y !!",
        "!!! note",
        "a--b -- c",
        "\xef\xbc\x81\xef\xbc\x81\xef\xbc\x81",
        "\xc2\xa0\xc2\xa0x",
        "http://x.com .",
        "www.x.com/a..b!!",
        "me@x.org",
        "a\tb\t\tc",
        "What?!",
        "![image](x.png) ![y](z)",
        "#!/bin/sh",
        "x != y",
        "  - nested",
        "**bold** *it* __u__ ~~s~~",
        "[a](../b) [c](d,e)",
        "> quote",
        "1) one",
        "...",
        "?",
        "!",
        "a...b",
        "[1..] [x..]",
        "f(a,b);",
        "\xe2\x80\xa6\xe2\x80\xa6",
    };
    nib_buf out = {0};
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        clean(cases[i][0], strlen(cases[i][0]), &out);
        assert_string_equal(out.data ? out.data : "", cases[i][1]);
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(kept); i++) {
        clean(kept[i], strlen(kept[i]), &out);
        assert_string_equal(out.data, kept[i]);
    }
    print_message("clean-up: %zu cases, 0 differ\n", NIB_ARRAY_LEN(cases) + NIB_ARRAY_LEN(kept));
    nib_buf_free(&out);
}

/* What clean-up may take away: spaces and ",.;!?". */
static size_t skeleton(const char *p, size_t n, char *out) {
    size_t m = 0;
    for (size_t i = 0; i < n; i++)
        if (!p[i] || !strchr(" ,.;!?", p[i])) out[m++] = p[i];
    return m;
}

static void cleanup_properties(void **state) {
    (void)state;
    nib_rng r = {.seed = 23};
    nib_buf once = {0}, twice = {0}, joined = {0}, grown = {0};
    long n_changed = 0, n_grown = 0, n_checked = 0;
    for (int i = 0; i < 60000; i++) {
        char text[600], a[600], b[600];
        size_t n = random_text(&r, text, sizeof text, 1 + (int)(nib_rng_u64(&r) % 24));
        clean(text, n, &once);
        const char *o = once.data ? once.data : "";
        n_changed += once.len != n;
        clean(o, once.len, &twice);
        if (once.len != twice.len || memcmp(o, twice.data ? twice.data : "", once.len) != 0)
            fail_msg("<%s> cleans to <%s>, that to <%s>", text, o, twice.data);
        size_t na = skeleton(text, n, a), nb = skeleton(o, once.len, b);
        if (na != nb || memcmp(a, b, na) != 0) fail_msg("<%s> became <%s>", text, o);
        /* Clean text is not changed by what comes behind it, unless its last line is not yet known
         * for prose: the beginning of a rule or of a fence. */
        const char *line = memrchr(o, '\n', once.len);
        size_t rest = once.len - (line ? (size_t)(line - o) : 0);
        line = line ? line : o;
        bool known = !memmem(line, rest, "```", 3) && !memmem(line, rest, "~~~", 3), word = false;
        for (size_t m = 0; m < rest; m++) word = word || (line[m] | 32) == 'a' || line[m] == '.';
        if (once.len && o[once.len - 1] != ' ' && known && word) {
            n_grown++;
            char more[300];
            size_t m = random_text(&r, more, sizeof more, 6);
            nib_buf_clear(&joined);
            nib_buf_put(&joined, o, once.len);
            nib_buf_put(&joined, more, m);
            clean(joined.data, joined.len, &grown);
            if (grown.len < once.len || memcmp(grown.data, o, once.len) != 0)
                fail_msg("<%s> with <%s> behind it became <%s>", o, more, grown.data);
        }
        n_checked++;
    }
    assert_true(n_changed > n_checked / 10);
    print_message(
        "clean-up: %ld random texts idempotent (%ld changed), %ld stable when they grow\n",
        n_checked, n_changed, n_grown);
    nib_buf_free(&once);
    nib_buf_free(&twice);
    nib_buf_free(&joined);
    nib_buf_free(&grown);
}

/* ---- autocorrect ---- */

static const char words[] =
    "# a small list\nthe 1000\nthen 50\nthey 60\nquick 20\nbrown 15\nfox 10\njumps 8\nover "
    "70\nlazy 5\n"
    "dog 30\nreceive 12\nbecause 90\nhouse 40\nhorse 35\nParis 7\ndon't 50\nand 900\nI 800\n"
    "hello 33\nworld 32\n\xc3\xa9t\xc3\xa9 9\nstra\xc3\x9f"
    "e 4\ncolour\ncolor 3\n3rd 4\nwas 500\nx-ray 4\n";

static nib_dictionary *small_dictionary(void) {
    nib_dictionary *d = NULL;
    nib_error e = {0};
    test_ok(nib_dictionary_from_text(&d, words, sizeof words - 1, &e), &e);
    return d;
}

static void autocorrect_table(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"teh quikc brwon fox jmups ovre the lzay dog.",
         "the quick brown fox jumps over the lazy dog."},
        {"Teh fox. Hte dog", "The fox. The dog"},
        {"I recieve it becuase", "I receive it because"},
        {"TEH DOG", "THE DOG"},
        {"(teh) \"becuase\", *teh*!", "(the) \"because\", *the*!"},
        {"hpuse", "house"},  /* one edit, not the horse */
        {"hourse", "house"}, /* one edit either way: the more frequent */
        {"\xc3\xa9te", "\xc3\xa9t\xc3\xa9"},
        {"and teh\nteh", "and the\nthe"},
        {"becausee \xe2\x80\x9cteh\xe2\x80\x9d", "because \xe2\x80\x9cthe\xe2\x80\x9d"},
        {"colur", "color"}, /* one edit either way: the one with a count */
    };
    static const char *const kept[] = {
        "the fox",
        "xyzzyqwert",
        "te fo",
        "Parsi was",
        "and Teh dog" /* a name */,
        "NASA and TEH",
        "teH and tEh",
        "teh2 t3h",
        "`teh` and ``teh``",
        "```\nteh\n```",
        "    teh code",
        "http://teh.com",
        "me@teh.org",
        "teh_x x/teh teh.txt teh-teh",
        "dont't",
        "don't",
        "paris",
        "#teh $teh @teh",
        "teh`x`",
        "\xf0\x9f\x99\x82 \xff",
        "| teh |",
        "prais",
    };
    nib_dictionary *d = small_dictionary();
    nib_buf out = {0};
    nib_error e = {0};
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_buf_clear(&out);
        test_ok(nib_autocorrect(d, cases[i][0], strlen(cases[i][0]), &out, &e), &e);
        assert_string_equal(out.data, cases[i][1]);
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(kept); i++) {
        nib_buf_clear(&out);
        test_ok(nib_autocorrect(d, kept[i], strlen(kept[i]), &out, &e), &e);
        assert_string_equal(out.data, kept[i]);
    }
    print_message("autocorrect: %zu cases, 0 differ\n", NIB_ARRAY_LEN(cases) + NIB_ARRAY_LEN(kept));
    nib_buf_free(&out);
    nib_dictionary_free(d);
}

/* The search over ranges must find what trying every word finds. */
static void autocorrect_equals_trying_every_word(void **state) {
    (void)state;
    enum { N = 3000 };
    static char list[N][12];
    nib_buf text = {0}, out = {0};
    nib_rng r = {.seed = 24};
    for (int i = 0; i < N; i++) {
        size_t n = 3 + nib_rng_u64(&r) % 7;
        for (size_t k = 0; k < n; k++) list[i][k] = (char)('a' + nib_rng_u64(&r) % 5);
        nib_buf_printf(&text, "%s %d\n", list[i],
                       1 + i); /* duplicates add up: counts stay distinct enough */
    }
    nib_dictionary *d = NULL;
    nib_error e = {0};
    test_ok(nib_dictionary_from_text(&d, text.data, text.len, &e), &e);
    long n_checked = 0, n_fixed = 0;
    for (int i = 0; i < 3000; i++) {
        char w[16] = {0};
        size_t n = 3 + nib_rng_u64(&r) % 8;
        for (size_t k = 0; k < n; k++) w[k] = (char)('a' + nib_rng_u64(&r) % 6);
        size_t limit = n >= 5 ? 2 : 1, best = limit + 1;
        for (int k = 0; k < N; k++) {
            size_t dist = nib_str_distance(nib_str_c(w), nib_str_c(list[k]), best + 1);
            if (dist < best) best = dist;
        }
        nib_buf_clear(&out);
        test_ok(nib_autocorrect(d, w, n, &out, &e), &e);
        size_t got = nib_str_distance(nib_str_c(w), nib_str_c(out.data), 9);
        if (best > limit) {
            assert_string_equal(out.data, w);
        } else {
            assert_int_equal(got, best);
            /* and the most frequent of those */
            long most = -1, mine = 0;
            for (int k = 0; k < N; k++) {
                if (nib_str_distance(nib_str_c(w), nib_str_c(list[k]), 4) != best) continue;
                long sum = 0;
                for (int m = 0; m < N; m++)
                    if (strcmp(list[m], list[k]) == 0) sum += 1 + m;
                most = NIB_MAX(most, sum);
                if (strcmp(list[k], out.data) == 0) mine = sum;
            }
            if (best > 0) assert_int_equal(mine, most);
            n_fixed += best > 0;
        }
        n_checked++;
    }
    print_message("autocorrect: %ld words as by trying all (%ld corrected)\n", n_checked, n_fixed);
    nib_dictionary_free(d);
    nib_buf_free(&text);
    nib_buf_free(&out);
}

static void dictionaries_are_checked(void **state) {
    (void)state;
    nib_dictionary *d = NULL;
    nib_error e = {0};
    assert_int_equal(nib_dictionary_from_text(&d, "", 0, &e), NIB_ERR_FORMAT);
    assert_int_equal(nib_dictionary_from_text(&d, "123\n# x\n", 8, &e), NIB_ERR_FORMAT);
    const char bad[] = "word\nother x7\n";
    assert_int_equal(nib_dictionary_from_text(&d, bad, sizeof bad - 1, &e), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, "line 2"));
    assert_int_equal(nib_dictionary_open(&d, "/nonexistent/words", &e), NIB_ERR_NOT_FOUND);
    assert_null(d);
    char path[256];
    snprintf(path, sizeof path, "%s/words", test_tmp());
    test_ok(nib_file_write(path, bad, sizeof bad - 1, &e), &e);
    assert_int_equal(nib_dictionary_open(&d, path, &e), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, path));
    test_ok(nib_file_write(path, words, sizeof words - 1, &e), &e);
    test_ok(nib_dictionary_open(&d, path, &e), &e);
    nib_dictionary_free(d);
    for (long n = 1; n < 5; n++) { /* every allocation may fail */
        d = NULL;
        nib_alloc_fail_after(n);
        nib_status s = nib_dictionary_from_text(&d, words, sizeof words - 1, &e);
        nib_alloc_fail_after(0);
        assert_int_equal(s, n <= 3 ? NIB_ERR_NOMEM : NIB_OK);
        nib_dictionary_free(d);
    }
}

/* ---- thinking ---- */

static void split(const char *text, size_t n, const size_t *cuts, size_t n_cuts, bool inside,
                  nib_buf *thought, nib_buf *answer) {
    nib_think_split s = {.inside = inside};
    nib_buf_clear(thought);
    nib_buf_clear(answer);
    nib_buf_puts(thought, "");
    nib_buf_puts(answer, "");
    size_t at = 0;
    for (size_t i = 0; i < n_cuts; i++) {
        assert_int_equal(nib_think_put(&s, text + at, cuts[i] - at, false, thought, answer),
                         NIB_OK);
        at = cuts[i];
    }
    assert_int_equal(nib_think_put(&s, text + at, n - at, true, thought, answer), NIB_OK);
    nib_think_free(&s);
}

static void thinking_table_in_every_chunking(void **state) {
    (void)state;
    static const struct {
        bool inside;
        const char *text, *thought, *answer;
    } cases[] = {
        {false, "", "", ""},
        {false, "Hello.", "", "Hello."},
        {false, "  Hello.", "", "  Hello."},
        {false, "<think>\nHm, so.\n</think>\n\nHello.", "Hm, so.", "Hello."},
        {false, "<think>\n\n</think>\n\nHello.", "", "Hello."},
        {false, "\n <think>a</think>b", "a", "b"},
        {true, "Hm.\n</think>\n\nHello.", "Hm.", "Hello."},
        {true, "Hm.[/THINK]Hello.", "Hm.", "Hello."},
        {false, "<thinking>a</think>b</thinking> c", "a</think>b", "c"},
        {false, "<reasoning>x</reasoning>y", "x", "y"},
        {false, "[THINK]x[/THINK]y", "x", "y"},
        {false, "<seed:think>x</seed:think>y", "x", "y"},
        {false,
         "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>y",
         "x", "y"},
        {false, "<|channel|>final<|message|>y<|return|>", "", "y"},
        {false, "<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>y<|END_RESPONSE|>", "x", "y"},
        {false, "<think>x</think>\n<response>y</response>", "x", "y"},
        {false, "<think>x</think> <think>z</think> y", "x\n\nz", "y"},
        {false, "The tag <think>is</think> kept.", "", "The tag <think>is</think> kept."},
        {false, "<think>never closed  ", "never closed", ""},
        {false, "<thin", "", "<thin"},
        {false, "<think", "", "<think"},
        {false, "<think>a</thin", "a</thin", ""},
        {false, "<think>a  </thin k", "a  </thin k", ""},
        {false, "<think>a</think>", "a", ""},
        {false, "<b>bold</b>", "", "<b>bold</b>"},
        {false, "<think>a < b </ c </t </think></think>d", "a < b </ c </t", "</think>d"},
        {false, "<|channel>thought\nx\n<channel|>y", "x", "y"},
    };
    nib_buf thought = {0}, answer = {0};
    long n_checked = 0;
    nib_rng r = {.seed = 25};
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        size_t n = strlen(cases[i].text), cuts[200];
        for (size_t k = 0; k <= n; k++)
            for (size_t m = k; m <= n; m++) { /* every two cuts */
                cuts[0] = k, cuts[1] = m;
                split(cases[i].text, n, cuts, 2, cases[i].inside, &thought, &answer);
                if (strcmp(thought.data, cases[i].thought) != 0 ||
                    strcmp(answer.data, cases[i].answer) != 0)
                    fail_msg("<%s> cut at %zu, %zu: thought <%s>, answer <%s>", cases[i].text, k, m,
                             thought.data, answer.data);
                n_checked++;
            }
        for (size_t k = 0; k < n; k++) cuts[k] = k + 1; /* byte by byte */
        split(cases[i].text, n, cuts, n, cases[i].inside, &thought, &answer);
        assert_string_equal(thought.data, cases[i].thought);
        assert_string_equal(answer.data, cases[i].answer);
    }
    static const char *const parts[] = {
        "<think>",    "</think>",    "<thin",       "k>",
        "</",         "think>",      " ",           "\n",
        "a",          "<",           "[THINK]",     "[/THINK]",
        "<response>", "</response>", "<|channel|>", "final<|message|>"};
    for (int i = 0; i < 20000; i++) { /* random sequences of tags and pieces of tags */
        char text[300] = "";
        int m = 1 + (int)(nib_rng_u64(&r) % 12);
        for (int k = 0; k < m; k++) strcat(text, parts[nib_rng_u64(&r) % NIB_ARRAY_LEN(parts)]);
        size_t n = strlen(text), cuts[300], n_cuts = 0;
        bool inside = nib_rng_u64(&r) % 2;
        split(text, n, NULL, 0, inside, &thought, &answer);
        char *t = strdup(thought.data), *a = strdup(answer.data);
        for (size_t k = 0; k < n; k += 1 + nib_rng_u64(&r) % 5) cuts[n_cuts++] = k;
        split(text, n, cuts, n_cuts, inside, &thought, &answer);
        if (strcmp(thought.data, t) != 0 || strcmp(answer.data, a) != 0)
            fail_msg("<%s>: whole <%s> <%s>, chunks <%s> <%s>", text, t, a, thought.data,
                     answer.data);
        free(t);
        free(a);
        n_checked++;
    }
    print_message("thinking: %ld chunkings, 0 differ\n", n_checked);
    nib_buf_free(&thought);
    nib_buf_free(&answer);
}

static void thinking_helpers(void **state) {
    (void)state;
    static const char *const open[] = {"<|im_start|>assistant\n<think>\n", "x<think>", "[THINK]",
                                       "a <seed:think> "};
    static const char *const closed[] = {"", "<|im_start|>assistant\n", "<think>\n\n</think>\n\n",
                                         "<think> go on", "<response>"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(open); i++)
        assert_true(nib_think_open(open[i], strlen(open[i])));
    for (size_t i = 0; i < NIB_ARRAY_LEN(closed); i++)
        assert_false(nib_think_open(closed[i], strlen(closed[i])));
    nib_think_split s = {.inside = true};
    assert_true(nib_str_eq_c(nib_think_closing(&s), "</think>"));
    nib_think_free(&s);
    nib_buf a = {0}, b = {0};
    assert_int_equal(nib_think_put(&s, "[THINK]x", 8, false, &a, &b), NIB_OK);
    assert_true(s.inside && nib_str_eq_c(nib_think_closing(&s), "[/THINK]"));
    nib_think_free(&s);
    nib_buf_free(&a);
    nib_buf_free(&b);
    assert_true(nib_think_spells(NIB_STR("<|channel|>")) && nib_think_spells(NIB_STR("[/THINK]")));
    assert_false(nib_think_spells(NIB_STR("<|im_end|>")) || nib_think_spells(NIB_STR("")));
    /* No opening tag may begin another: the shorter would always win. */
    static const char *const opens[] = {
#define NIB_THINK_TAG(what, open_, close_) open_,
#include "chat/thinking.def"
#undef NIB_THINK_TAG
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(opens); i++)
        for (size_t k = 0; k < NIB_ARRAY_LEN(opens); k++)
            assert_true(i == k || strncmp(opens[i], opens[k], strlen(opens[i])) != 0);
}

/* Nothing here may take more than linear time, whatever the text. */
/* Work that grows with the square of the text would take hours of processor time here, so a
 * generous bound tells; other programs on the machine do not count. */
static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void hostile_text_is_fast(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    static const char *const units[] = {
        "`",   "` `` ", ".", "! ", "a.",  "<think>", "\n",    "> ", "- ",           "@",
        "1. ", "a",     " ", "\\", "a@b", "http://", "```\n", "?!", "\xe3\x80\x82", "``` ` "};
    char *text = nib_alloc(N + 1);
    nib_dictionary *d = small_dictionary();
    nib_buf out = {0}, more = {0};
    nib_error e = {0};
    double worst = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(units); i++) {
        size_t k = strlen(units[i]), n = N / k * k;
        for (size_t at = 0; at < n; at += k) memcpy(text + at, units[i], k);
        double t = thread_seconds();
        nib_sentence_count(text, n);
        clean(text, n, &out);
        nib_buf_clear(&out);
        test_ok(nib_autocorrect(d, text, n, &out, &e), &e);
        nib_think_split s = {0};
        nib_buf_clear(&out);
        assert_int_equal(nib_think_put(&s, text, n, true, &more, &out), NIB_OK);
        nib_think_free(&s);
        t = thread_seconds() - t;
        worst = NIB_MAX(worst, t);
        if (t > 60 && !test_quick()) fail_msg("1 MiB of \"%s\" took %.1f s", units[i], t);
    }
    print_message("hostile text: 1 MiB of each of %zu patterns, slowest %.2f s\n",
                  NIB_ARRAY_LEN(units), worst);
    nib_free(text);
    nib_buf_free(&out);
    nib_buf_free(&more);
    nib_dictionary_free(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentences_end_where_people_end_them),
        cmocka_unit_test(stops_cut_where_they_should),
        cmocka_unit_test(stops_do_not_depend_on_chunks),
        cmocka_unit_test(cleanup_table),
        cmocka_unit_test(cleanup_properties),
        cmocka_unit_test(autocorrect_table),
        cmocka_unit_test(autocorrect_equals_trying_every_word),
        cmocka_unit_test(dictionaries_are_checked),
        cmocka_unit_test(thinking_table_in_every_chunking),
        cmocka_unit_test(thinking_helpers),
        cmocka_unit_test(hostile_text_is_fast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
