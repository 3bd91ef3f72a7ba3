/* Templates by strangers: each tries to use up something, and must end in one clear error, soon,
 * without much memory. Then: every allocation may fail, and ordinary work is fast. */
#include <jansson.h>
#include <pthread.h>
#include <time.h>
#include "chat/chat.h"
#include "testlib.h"

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static nib_status render(const char *template, size_t n, const json_t *vars,
                         const nib_render_options *o, nib_rendered *r, nib_error *e) {
    nib_template *t;
    nib_status s = nib_template_parse(&t, template, n, e);
    if (s != NIB_OK) return s;
    s = nib_template_render(t, vars, o, r, e);
    nib_template_free(t);
    return s;
}

/* ---- sources that are too much to parse ---- */

static const struct {
    const char *before, *repeated, *after;
    int times;
    const char *error;
} deep[] = {
    {"{{ ", "(", "", 10000, "brackets nested deeper than 100 levels"},
    {"{{ ", "[", "", 10000, "brackets nested deeper than 100 levels"},
    {"", "{% if 1 %}", "", 10000, "nested deeper than 100 levels"},
    {"", "{% for x in y %}", "", 10000, "nested deeper than 100 levels"},
    {"{{ ", "not ", "1 }}", 10000, "nested deeper than 100 levels"},
    {"{{ ", "-", "1 }}", 10000, "nested deeper than 100 levels"},
    {"{{ ", "1 if 1 else ", "1 }}", 10000, "nested deeper than 100 levels"},
    {"{{ a", ".b", " }}", 10000, "expression nested deeper than 500 operations"},
    {"{{ a", "|upper", " }}", 10000, "expression nested deeper than 500 operations"},
    {"{{ 1", " + 1", " }}", 10000, "expression nested deeper than 500 operations"},
    {"{{ a", "()", " }}", 10000, "expression nested deeper than 500 operations"},
    {"", "x", "", 1 << 20, NULL}, /* as long as a template may be */
    {"x", "x", "", 1 << 20, "the template has 1048577 bytes; at most 1048576 are read"},
    {"{{ 1", " ~ 1", " }}", 10000, NULL},
    {"{{ 1", " < 1", " }}", 10000, NULL},
    {"{% if 0 %}", "{% elif 0 %}", "{% endif %}", 10000, NULL},
    {"{{ [", "1,", "]|length }}", 100000, NULL},
    {"", "{% set a = 1 %}", "", 10000, NULL},
    {"{% raw %}", "{% endraw", "", 10000,
     "expected {% endraw %} to close a raw block, found the end"},
    {"", "{#", "", 10000, "expected #} to close a comment, found the end"},
    {"{{ '", "\\\\", "\\' }}", 10000, "expected ' to close a string, found the end"},
    {"{{ ", "9", " }}", 10000, NULL},
    {"", " \n", "{%- if 1 %}{% endif %}", 100000, NULL},
};

static void deep_sources_are_refused(void **state) {
    (void)state;
    json_t *vars = json_object();
    for (size_t i = 0; i < NIB_ARRAY_LEN(deep); i++) {
        nib_buf src = {0};
        nib_rendered r = {0};
        nib_error e = {0};
        nib_buf_puts(&src, deep[i].before);
        for (int k = 0; k < deep[i].times; k++) nib_buf_puts(&src, deep[i].repeated);
        nib_buf_puts(&src, deep[i].after);
        double start = cpu_seconds();
        nib_status s = render(src.data, src.len, vars, NULL, &r, &e);
        assert_true(cpu_seconds() - start < 3);
        if (!deep[i].error)
            test_ok(s, &e);
        else if (s == NIB_OK || !strstr(e.message, deep[i].error))
            fail_msg("source %zu: %s", i, e.message);
        nib_rendered_free(&r);
        nib_buf_free(&src);
    }
    json_decref(vars);
}

/* ---- templates that run away ---- */

#define TWICE(what)                                                                                \
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"  \
    "{% set ns.b = [ns.b, ns.b] %}{% endfor %}" what
#define NESTED(what)                                                                               \
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(50000) %}{% set ns.a = [ns.a] %}"     \
    "{% set ns.b = [ns.b] %}{% endfor %}" what
#define AGAIN(what) "{% for i in range(100000) %}{% set x = " what " %}{% endfor %}"

static const struct {
    const char *template, *error;
} wild[] = {
    /* recursion */
    {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper than 1000 levels"},
    {"{% macro m(n) %}{{ caller() }}{% call m(n + 1) %}{{ n }}{% endcall %}{% endmacro %}{% call "
     "m(0) %}{% endcall %}",
     "nested deeper than 1000 levels"},
    {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested deeper than 1000 levels"},
    {"{% set ns = namespace(s=[1]) %}{% for i in range(5000) %}{% set ns.s = ns.s|map('string') "
     "%}{% endfor %}{{ ns.s|list }}",
     "nested deeper than 1000 levels"},
    /* time */
    {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
     "more than 20000000 steps"},
    {AGAIN("big.upper()"), "steps"},
    {AGAIN("big.split()"), "steps"},
    {AGAIN("big.strip(big)"), "steps"},
    {AGAIN("big|wordcount"), "steps"},
    {AGAIN("big.find('x')"), "steps"},
    {AGAIN("'x' in big"), "steps"},
    {AGAIN("big == big ~ i"), "memory"},
    {AGAIN("big|title"), "steps"},
    {AGAIN("big[i]"), "steps"},
    {AGAIN("list|sort"), "steps"},
    {AGAIN("list|join"), "steps"},
    {AGAIN("list is in list"), "steps"},
    {AGAIN("big.isalpha()"), "steps"},
    {AGAIN("{big: 1}"), "steps"},
    {AGAIN("big|urlencode"), "steps"},
    {AGAIN("big.splitlines()"), "steps"},
    {"{{ ('a' * 1000000).rfind('a' * 500000 ~ 'b') }}", NULL},
    {"{{ ('a' * 1000000).count('a' * 500000 ~ 'b') }}", NULL},
    {"{{ ('a' * 1000000).strip('a')|length }}", NULL},
    {TWICE("{{ ns.a }}"), "steps"},
    {TWICE("{{ ns.a|tojson }}"), "steps"},
    {TWICE("{{ ns.a == ns.b }}"), "steps"},
    {TWICE("{{ ns.a < ns.b }}"), "steps"},
    {"{% set ns = namespace(a=(1,)) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}{% "
     "endfor %}{{ {ns.a: 1} }}",
     "steps"},
    /* depth of values */
    {NESTED("{{ ns.a }}"), "a value nested deeper than 200 levels"},
    {NESTED("{{ ns.a|tojson }}"), "a value nested deeper than 200 levels"},
    {NESTED("{{ ns.a == ns.b }}"), "a value nested deeper than 200 levels"},
    {NESTED("{{ ns.a < ns.b }}"), "a value nested deeper than 200 levels"},
    {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
     "a value nested deeper than 200 levels"},
    /* memory and text */
    {"{{ 'ab' * 1000000000 }}", "over the limit"},
    {"{{ 'a' * 9223372036854775807 }}", "over the limit"},
    {"{{ [1] * 1000000000 }}", "over the limit"},
    {"{{ '%1000000000d' % 1 }}", "over the limit"},
    {"{{ '%*d' % (9223372036854775807, 1) }}", "over the limit"},
    {"{{ '%.1000000000f' % 1 }}", "over the limit"},
    {"{{ '{:1000000000}'.format(1) }}", "over the limit"},
    {"{{ 'x'.center(1000000000) }}", "over the limit"},
    {"{{ 'x'.zfill(9223372036854775807) }}", "over the limit"},
    {"{{ '\t'.expandtabs(1000000000) }}", "over the limit"},
    {"{{ 'x'|indent(1000000000, true) }}", "over the limit"},
    {"{{ [[1]]|tojson(indent=1000000000) }}", "over the limit"},
    {"{{ [1]|batch(1000000000, 0)|list }}", "over the limit"},
    {"{{ [1]|slice(1000000000)|list }}", "over the limit"},
    {"{{ range(1000000000) }}", "a range of more than 100000 items"},
    {"{{ range(-9223372036854775807, 9223372036854775807) }}", "a range of more than 100000 items"},
    {"{{ ('a' * 1000000).replace('a', 'b' * 1000) }}", "over the limit"},
    {"{% set ns = namespace(s='abcdefgh') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% "
     "endfor %}",
     "memory"},
    {"{{ 'a' * 17000000 }}", "more than 16777216 bytes of text"},
    {"{% for i in range(100000) %}{{ big }}{% endfor %}", "more than 16777216 bytes of text"},
    /* numbers */
    {"{{ 2 ** 64 }}", "more than 64 bits"},
    {"{{ 9223372036854775807 + 1 }}", "more than 64 bits"},
    {"{{ (-9223372036854775807 - 1) // -1 }}", "more than 64 bits"},
    {"{{ (-9223372036854775807 - 1)|abs }}", "more than 64 bits"},
    {"{{ -(-9223372036854775807 - 1) }}", "more than 64 bits"},
    {"{{ 99999999999999999999 + 1 }}", "more than 64 bits"},
    {"{{ 2 ** 1000000000000 }}", "more than 64 bits"},
    {"{{ (-9223372036854775807 - 1) % -1 }}", NULL},
    {"{{ 'abc'[::-9223372036854775807 - 1] }}{{ "
     "'abc'[9223372036854775807:-9223372036854775807:-9223372036854775807] }}",
     NULL},
    {"{{ 1.5|round(1000000000) }}{{ 1|round(-1000000000) }}{{ 1e308|round(300) }}", NULL},
    {"{{ '%c' % 1114112 }}", "%c requires int or char"},
    {"{{ '{:c}'.format(-1) }}", "%c requires int or char"},
};

static void wild_templates_end(void **state) {
    (void)state;
    nib_buf big = {0};
    json_t *list = json_array(), *vars = json_object();
    for (int i = 0; i < 300000; i++) nib_buf_puts(&big, "é");
    for (int i = 0; i < 50000; i++) json_array_append_new(list, json_integer(i));
    json_object_set_new(vars, "big", json_stringn(big.data, big.len));
    json_object_set_new(vars, "list", list);
    double slowest = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(wild); i++) {
        nib_rendered r = {0};
        nib_error e = {0};
        double start = cpu_seconds();
        nib_status s = render(wild[i].template, strlen(wild[i].template), vars, NULL, &r, &e);
        double took = cpu_seconds() - start;
        slowest = NIB_MAX(slowest, took);
        if (took > 20) fail_msg("%s: %.1f s", wild[i].template, took);
        if (!wild[i].error)
            test_ok(s, &e);
        else if (s == NIB_OK || !strstr(e.message, wild[i].error))
            fail_msg("%s: %s, expected '%s'", wild[i].template,
                     s == NIB_OK ? "rendered" : e.message, wild[i].error);
        nib_rendered_free(&r);
    }
    print_message("hostile templates: %zu end, the slowest after %.2f s\n", NIB_ARRAY_LEN(wild),
                  slowest);
    nib_buf_free(&big);
    json_decref(vars);
}

/* The deepest recursion must fit the stack that chat.h names. */
static void *recurse(void *arg) {
    nib_rendered r = {0};
    nib_error e;
    json_t *vars = json_object();
    static char chain[6000]; /* filters on filters, whose innermost calls the macro again */
    strcpy(chain, "{% macro m() %}{% filter default(m())");
    for (int i = 0; i < 490; i++) strcat(chain, "|e");
    strcat(chain, " %}{% endfilter %}{% endmacro %}{{ m() }}");
    const char *const templates[] = {
        chain,
        "{% macro m() %}{% if 1 %}{% for x in [1] %}{{ 'a' ~ (1 + m()|length) }}{% endfor %}{% "
        "endif %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ [1]|map('default', m())|list }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% set x %}{% filter upper %}{{ m() }}{% endfilter %}{% endset %}{% "
        "endmacro %}{{ m() }}",
    };
    int *n_ok = arg;
    for (size_t i = 0; i < NIB_ARRAY_LEN(templates); i++)
        *n_ok += render(templates[i], strlen(templates[i]), vars, NULL, &r, &e) == NIB_ERR_LIMIT;
    json_decref(vars);
    return NULL;
}

static void recursion_fits_a_small_stack(void **state) {
    (void)state;
    pthread_attr_t attr;
    pthread_t thread;
    int n_ok = 0;
    pthread_attr_init(&attr);
    assert_int_equal(pthread_attr_setstacksize(&attr, 1 << 20), 0);
    assert_int_equal(pthread_create(&thread, &attr, recurse, &n_ok), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
    assert_int_equal(n_ok, 4);
}

static void callers_set_lower_limits(void **state) {
    (void)state;
    json_t *vars = json_object();
    nib_rendered r;
    nib_error e;
    nib_render_options few = {.max_steps = 100}, small = {.max_output = 10};
    const char *loop = "{% for i in range(50) %}{{ i }}{% endfor %}";
    assert_int_equal(render(loop, strlen(loop), vars, &few, &r, &e), NIB_ERR_LIMIT);
    assert_int_equal(render("0123456789", 10, vars, &small, &r, &e), NIB_OK);
    nib_rendered_free(&r);
    assert_int_equal(render("0123456789a", 11, vars, &small, &r, &e), NIB_ERR_LIMIT);
    assert_int_equal(render("\xff", 1, vars, NULL, &r, &e), NIB_ERR_TEMPLATE);
    json_t *list = json_array();
    assert_int_equal(render("x", 1, list, NULL, &r, &e), NIB_ERR_ARGUMENT);
    json_decref(list);
    json_decref(vars);
}

/* ---- every allocation may fail ---- */

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *template =
        "{% macro m(a, b=1) %}{{ a|tojson }}{{ varargs }}{% endmacro %}{% set ns = namespace(s='') "
        "%}"
        "{% for x in messages|selectattr('role')|list %}{% set ns.s = ns.s ~ x.content.split(' "
        "')|join('-') %}"
        "{{ m(x, 2, *[3]) }}{{ '%5s|{}'.format(x.role) % loop.index }}{% endfor %}{{ ns.s|upper }}";
    nib_error e;
    json_t *vars;
    const char *text =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"some words to split\"}]}";
    test_ok(nib_json_parse(text, strlen(text), &vars, &e), &e);
    long n = 1;
    for (nib_status s = NIB_ERR_NOMEM; s != NIB_OK; n++) {
        nib_rendered r = {0};
        e = (nib_error){0};
        nib_alloc_fail_after(n);
        s = render(template, strlen(template), vars, NULL, &r, &e);
        nib_alloc_fail_after(0);
        if (s != NIB_OK && s != NIB_ERR_NOMEM && s != NIB_ERR_LIMIT)
            fail_msg("allocation %ld: %s", n, e.message);
        nib_rendered_free(&r);
        assert_true(n < 1000);
    }
    assert_true(n > 5);
    json_decref(vars);
}

/* ---- speed ---- */

static const char chatml[] =
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content|trim + "
    "'<|im_end|>\n' }}{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% "
    "endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/* Seconds of processor time to parse and render a conversation. */
static double time_of(const char *template, size_t n_messages, size_t n_bytes) {
    json_t *messages = json_array(), *vars = json_object();
    nib_buf content = {0};
    while (content.len < n_bytes) nib_buf_puts(&content, "some words of Größe\n");
    for (size_t i = 0; i < n_messages; i++)
        json_array_append_new(
            messages,
            json_pack("{s:s, s:s}", "role", i % 2 ? "assistant" : "user", "content", content.data));
    json_object_set_new(vars, "messages", messages);
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        nib_rendered r;
        nib_error e;
        double start = cpu_seconds();
        test_ok(render(template, strlen(template), vars, NULL, &r, &e), &e);
        best = NIB_MIN(best, cpu_seconds() - start);
        assert_true(r.text.len >= n_messages * n_bytes);
        nib_rendered_free(&r);
    }
    nib_buf_free(&content);
    json_decref(vars);
    return best;
}

static void ordinary_work_is_fast(void **state) {
    (void)state;
    double turns = time_of(chatml, 50, 400), long_one = time_of(chatml, 1, 1 << 20);
    const char *handling = "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = "
                           "ns.s + m.content|trim + '<|end|>' %}"
                           "{{ m.content|tojson }}{{ m.content.upper().replace('a', 'bb')[10:] "
                           "}}{% endfor %}{{ ns.s }}";
    double handled = time_of(handling, 1, 1 << 20), many = time_of(handling, 500, 2000);
    print_message("50 messages: %.2f ms; one of 1 MiB: %.1f ms; handled in every way: %.1f ms; 500 "
                  "of 2 KB: %.1f ms\n",
                  turns * 1e3, long_one * 1e3, handled * 1e3, many * 1e3);
    assert_true(turns < 0.05); /* ten times what is aimed at: this runs under sanitizers too */
    assert_true(long_one < 0.5);
    assert_true(handled < 2 && many < 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deep_sources_are_refused),     cmocka_unit_test(wild_templates_end),
        cmocka_unit_test(recursion_fits_a_small_stack), cmocka_unit_test(callers_set_lower_limits),
        cmocka_unit_test(every_allocation_may_fail),    cmocka_unit_test(ordinary_work_is_fast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
