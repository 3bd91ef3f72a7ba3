/* What templates can say, feature by feature: a template over the variables below, and the text it
 * makes or the message it fails with. The texts are those of Jinja2 3.1 in the environment
 * transformers renders chat templates in (see the conformance suite's README); the messages are
 * ours. */
#include <jansson.h>
#include "chat/chat.h"
#include "testlib.h"

typedef struct jtest {
    const char *template, *text, *error; /* error: what stands behind "template line 1: " */
} jtest;

/* clang-format off */
static const char variables[] =
    "{\"s\": \"  Héllo, it's \\\"x\\\"\\n\","
    " \"u\": \"ßİΑΣ ﬁ\","
    " \"w\": \"a,b,,c\","
    " \"d\": {\"a\": 1, \"b\": {\"c\": [1, 2, {\"z\": null}]}, \"items\": 3},"
    " \"l\": [3, 1, 2],"
    " \"m\": [\"b\", \"A\", \"c\", \"a\"],"
    " \"neg\": -7,"
    " \"f\": 2.5,"
    " \"messages\": [{\"role\": \"user\", \"content\": \"hi <b>\"}, {\"role\": \"assistant\", \"content\": null, \"n\": [1, 2.5, true]}, {\"role\": \"tool\", \"content\": [{\"type\": \"text\", \"text\": \"Zé\"}]}]}";

static const jtest literals[] = {
    {"{{ 'a' \"b\" }}{{ 'it\\'s' }}{{ \"\\\"\" }}{{ 'a\\tb\\x41\\u00e9\\U0001F600\\101\\q' }}", "abit's\"a\tbAé😀A\\q", NULL},
    {"{{ 12 }} {{ 1_000 }} {{ 0x1F }} {{ 0o17 }} {{ 0b101 }} {{ 1.5 }} {{ 1e3 }} {{ 1E-2 }} {{ 100000000000000000000 }}", "12 1000 31 15 5 1.5 1000.0 0.01 100000000000000000000", NULL},
    {"{{ true }}{{ True }}{{ false }}{{ none }}{{ None }}{{ nope }}", "TrueTrueFalseNoneNone", NULL},
    {"{{ [1, 'a', [none]] }}{{ (1,) }}{{ () }}{{ (1) }}{{ 1, 2 }}{{ {'k': 'v', 1: none} }}{{ {} }}{{ [1, 2,] }}", "[1, 'a', [None]](1,)()1(1, 2){'k': 'v', 1: None}{}[1, 2]", NULL},
    {"{{ {1: 'a', 1.0: 'b', true: 'c'} }}{{ {(1, 2): 3}[(1, 2)] }}", "{1: 'c'}3", NULL},
    {"{{ {'a': {'b': 1}}}}", "{'a': {'b': 1}}", NULL},
    {"{{ 012 }}", NULL, "expected a number without leading zeros, found '012'"},
    {"{{ 'open }}", NULL, "expected ' to close a string, found the end"},
    {"{{ '\\x4' }}", NULL, "expected 2 hexadecimal digits of a character after \\x in a string"},
};

static const jtest arithmetic[] = {
    {"{{ 7 // 2 }} {{ -7 // 2 }} {{ neg % 3 }} {{ 5 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}", "3 -4 2 -1 3.5 3.0 1024 0.5 4 64", NULL},
    {"{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1.0 // 0.3 }} {{ 0.1 + 0.2 }} {{ 1 - 1.5 }} {{ true + true }} {{ -f }} {{ +l[0] }} {{ 2 - -1 }}", "3.0 0.5 3.0 0.30000000000000004 -0.5 2 -2.5 3 3", NULL},
    {"{{ 'ab' * 2 }}{{ 2 * [0] }}{{ 'a' * -1 }}{{ [1] + [2] }}{{ (1,) + (2,) }}{{ 'a' ~ 1 ~ none ~ 2.5 ~ [1] }}{{ nope ~ 'x' }}", "abab[0, 0][1, 2](1, 2)a1None2.5[1]x", NULL},
    {"{{ 1 / 0 }}", NULL, "division by zero"},
    {"{{ 1 % 0 }}", NULL, "division by zero"},
    {"{{ 1.5 // 0 }}", NULL, "division by zero"},
    {"{{ 'a' + 1 }}", NULL, "can only concatenate str (not \"int\") to str"},
    {"{{ 1 + 'a' }}", NULL, "unsupported operand type(s) for +: 'int' and 'str'"},
    {"{{ [1] + (2,) }}", NULL, "can only concatenate list (not \"tuple\") to list"},
    {"{{ nope + 1 }}", NULL, "'nope' is undefined"},
    {"{{ -'a' }}", NULL, "bad operand type for unary -: 'str'"},
};

static const jtest numbers_as_text[] = {
    {"{{ 1e15 }} {{ 1e16 }} {{ 123456789.125 }} {{ 1e-4 }} {{ 1e-5 }} {{ 100.0 }} {{ -0.0 }} {{ 5e-324 }} {{ 1.7976931348623157e308 }} {{ 1e400 }} {{ 1 / 3 }} {{ 1e23 }}", "1000000000000000.0 1e+16 123456789.125 0.0001 1e-05 100.0 -0.0 5e-324 1.7976931348623157e+308 inf 0.3333333333333333 1e+23", NULL},
};

static const jtest comparisons[] = {
    {"{{ 1 < 2 < 3 }} {{ 1 < 2 > 2 }} {{ 1 == 1.0 == true }} {{ 'a' < 'b' }} {{ 'é' > 'z' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }} {{ [] == () }}", "True False True True True True True False", NULL},
    {"{{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ none == false }} {{ '' != false }} {{ nope == nope2 }} {{ nope == none }} {{ 9007199254740993 == 9007199254740992.0 }}", "True False True True False False", NULL},
    {"{{ 'b' in 'abc' }} {{ '' in '' }} {{ 1 in [1.0] }} {{ 'a' in d }} {{ 3 not in range(3) }} {{ 'x' in nope }} {{ none in [none] }}", "True True True True True False True", NULL},
    {"{{ not 1 == 2 }} {{ 0 or 'x' }} {{ 1 and '' }} {{ not not l }} {{ 1 or nope.x }} {{ 'y' if f > 2 else 'n' }} {{ 'y' if 0 }}| {{ 1 if 0 else 2 if 0 else 3 }}", "True x  True 1 y | 3", NULL},
    {"{{ 1 < 'a' }}", NULL, "'<' not supported between instances of 'int' and 'str'"},
    {"{{ 1 in 5 }}", NULL, "argument of type 'int' is not iterable"},
    {"{{ 1 in 'abc' }}", NULL, "'in <string>' requires string as left operand, not int"},
    {"{{ nope < 1 }}", NULL, "'nope' is undefined"},
};

static const jtest lookups[] = {
    {"{{ d.a }}{{ d['a'] }}{{ d.b.c[2].z }}{{ d.items() }}{{ d['items'] }}{{ d['keys']() }}{{ l.0 }}{{ l[-1] }}{{ messages[0].role }}{{ 'héy'[1] }}{{ range(5)[2] }}", "11Nonedict_items([('a', 1), ('b', {'c': [1, 2, {'z': None}]}), ('items', 3)])3dict_keys(['a', 'b', 'items'])32useré2", NULL},
    {"{{ d.q }}|{{ d['q'] }}|{{ l[9] }}|{{ none.x }}|{{ d.b.zz is defined }}|{{ 'a'.zz }}|{{ l['x'] }}", "||||False||", NULL},
    {"{{ 'abcdef'[1:4] }} {{ 'abcdef'[::-2] }} {{ 'abcdef'[4:1:-1] }} {{ 'abcdef'[-3:] }} {{ 'abcdef'[:-3] }} {{ 'abcdef'[9:] }}| {{ 'Grüße'[2:4] }} {{ 'Grüße'[::-1] }} {{ l[1:] }} {{ l[::-1] }} {{ (1, 2, 3)[:2] }} {{ l[5:0:-1] }}", "bcd fdb edc def abc | üß eßürG [1, 2] [2, 1, 3] (1, 2) [2, 1]", NULL},
    {"{{ d.q.r }}", NULL, "'dict object' has no attribute 'q'"},
    {"{{ nope.x }}", NULL, "'nope' is undefined"},
    {"{{ l[::0] }}", NULL, "slice step cannot be zero"},
    {"{{ nope() }}", NULL, "'nope' is undefined"},
    {"{{ d() }}", NULL, "'dict' object is not callable"},
};

static const jtest string_methods[] = {
    {"[{{ s.strip() }}][{{ s.lstrip() }}][{{ s.rstrip() }}][{{ '##a#'.strip('#') }}][{{ 'xyaxy'.lstrip('yx') }}][{{ 'éaé'.rstrip('é') }}][{{ ' a '.strip('') }}]", "[Héllo, it's \"x\"][Héllo, it's \"x\"\n][  Héllo, it's \"x\"][a][axy][éa][ a ]", NULL},
    {"{{ u.upper() }}|{{ u.lower() }}|{{ u.title() }}|{{ u.capitalize() }}|{{ u.swapcase() }}|{{ u.casefold() }}|{{ \"it's\".title() }}", "SSİΑΣ FI|ßi̇ας ﬁ|Ssi̇ας Fi|Ssi̇ας ﬁ|SSi̇ας FI|ssi̇ασ fi|It'S", NULL},
    {"{{ w.split(',') }}{{ w.split(',', 1) }}{{ w.rsplit(',', 1) }}{{ ' a  b '.split() }}{{ ' a  b c'.split(none, 1) }}{{ ' a  b c '.rsplit(none, 1) }}{{ ''.split() }}{{ ''.split(',') }}", "['a', 'b', '', 'c']['a', 'b,,c']['a,b,', 'c']['a', 'b']['a', 'b c'][' a  b', 'c'][]['']", NULL},
    {"{{ w.partition(',') }}{{ w.rpartition(',') }}{{ w.partition('x') }}{{ w.rpartition('x') }}{{ 'a\\nb\\r\\nc\\n'.splitlines() }}{{ 'a\\nb'.splitlines(true) }}", "('a', ',', 'b,,c')('a,b,', ',', 'c')('a,b,,c', '', '')('', '', 'a,b,,c')['a', 'b', 'c']['a\\n', 'b']", NULL},
    {"{{ 'aaa'.replace('a', 'b', 2) }}{{ 'hé'.replace('', '-') }}{{ 'hello'.find('l') }}{{ 'hello'.rfind('l') }}{{ 'héllo'.find('l', 3) }}{{ 'x'.find('y') }}{{ 'hello'.count('l') }}{{ 'abc'.count('') }}{{ 'hello'.index('e') }}{{ 'hello'.rindex('l') }}", "bba-h-é-233-12413", NULL},
    {"{{ 'hello'.startswith('he') }}{{ 'hello'.startswith(('x', 'h')) }}{{ 'hello'.endswith('l', 0, 4) }}{{ 'a-b'.removeprefix('a') }}{{ 'a-b'.removesuffix('b') }}{{ '-'.join(m) }}", "TrueTrueTrue-ba-b-A-c-a", NULL},
    {"{{ 'x'.center(4) }}|{{ 'xy'.center(7, '*') }}|{{ 'x'.ljust(3) }}|{{ 'x'.rjust(3, 'é') }}|{{ '-5'.zfill(4) }}|{{ 'a\\tb'.expandtabs(4) }}", " x  |***xy**|x  |ééx|-005|a   b", NULL},
    {"{{ 'ab1'.isalnum() }}{{ 'ab'.isalpha() }}{{ '12'.isdigit() }}{{ '²'.isdigit() }}{{ '½'.isnumeric() }}{{ '١'.isdecimal() }}{{ ''.isascii() }}{{ 'AB 1'.isupper() }}{{ 'ab'.islower() }}{{ 'Ab Cd'.istitle() }}{{ ' '.isspace() }}{{ '\\n'.isprintable() }}", "TrueTrueTrueTrueTrueTrueTrueTrueTrueTrueTrueFalse", NULL},
    {"{{ 'abc'.index('x') }}", NULL, "substring not found"},
    {"{{ ','.join([1]) }}", NULL, "sequence item 0: expected str instance, int found"},
    {"{{ 'abc'.split('') }}", NULL, "empty separator"},
    {"{{ 'abc'.upper(1) }}", NULL, "upper() takes at most 0 argument(s), 1 given"},
    {"{{ 'abc'.replace('a') }}", NULL, "replace() missing required argument 'new'"},
    {"{{ 'abc'.startswith(1) }}", NULL, "startswith first arg must be str or a tuple of str, not int"},
};

static const jtest formatting[] = {
    {"{{ '%s %r %d|%5d|%-5d|%05d|%+d|%x|%#X|%o|%e|%.2f|%g|%%|%c|%5s|%.2s' % ('a', 'b', 1, 2, 3, 4, 5, 255, 255, 8, 1.5, 2.567, 0.0001, 'z', 'q', 'stu') }}", "a 'b' 1|    2|3    |00004|+5|ff|0XFF|10|1.500000e+00|2.57|0.0001|%|z|    q|st", NULL},
    {"{{ '%(a)s %(b)05.1f' % {'a': 1, 'b': 2} }}{{ '%*d' % (5, 3) }}{{ '%s' % none }}{{ '%s' % l }}{{ '%d' % 3.7 }}{{ '%.3d' % 5 }}", "1 002.0    3None[3, 1, 2]3005", NULL},
    {"{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}' .format('a', 'b') }} {{ '{a}{b!r}'.format(a=1, b='x') }} {{ '{0[a]}'.format(d) }} {{ '{0.a}'.format(d) }} {{ '{{}}'.format() }}", "1 a ba 1'x' 1 1 {}", NULL},
    {"{{ '{:>5}|{:<5}|{:^5}|{:*^5}|{:05d}|{:+}|{:,}|{:x}|{:#x}|{:b}|{:e}|{:.2f}|{:.1%}|{:10.3f}|{:.2}|{:{}}|{:,.2f}'.format('a', 'b', 'c', 'd', 5, 6, 1234567, 255, 255, 5, 1.5, 2.345, 0.123, 3.14159, 'abc', 'x', 4, 1234567.891) }}", "    a|b    |  c  |**d**|00005|+6|1,234,567|ff|0xff|101|1.500000e+00|2.35|12.3%|     3.142|ab|x   |1,234,567.89", NULL},
    {"{{ '%s-%d'|format('q', 5) }}{{ '%(x)s'|format(x=1) }}", "q-51", NULL},
    {"{{ '%s %s' % 'a' }}", NULL, "not enough arguments for format string"},
    {"{{ '%d' % 'a' }}", NULL, "%d format: a number is required, not str"},
    {"{{ 'x' % 1 }}", NULL, "not all arguments converted during string formatting"},
    {"{{ '%(a)s' % {'b': 1} }}", NULL, "format key 'a' not found"},
    {"{{ '{} {}'.format(1) }}", NULL, "Replacement index 1 out of range for positional args tuple"},
    {"{{ '{'.format() }}", NULL, "expected '}' before end of string"},
    {"{{ '{:d}'.format('a') }}", NULL, "unknown format code 'd' for object of type 'str'"},
};

static const jtest containers[] = {
    {"{{ d.get('a') }}{{ d.get('q') }}{{ d.get('q', 5) }}{{ d.keys() }}{{ d.keys()|list }}{{ d.b.values()|list }}{{ dict(a=1, b=2) }}{{ dict([('x', 1)]) }}{{ dict(d.b, y=2) }}{{ l.count(1) }}{{ l.index(2) }}{{ (1, 2).index(2) }}", "1None5dict_keys(['a', 'b', 'items'])['a', 'b', 'items'][[1, 2, {'z': None}]]{'a': 1, 'b': 2}{'x': 1}{'c': [1, 2, {'z': None}], 'y': 2}121", NULL},
    {"{{ range(4)|list }}{{ range(1, 9, 3)|list }}{{ range(3, 0, -1)|list }}{{ range(3) }}{{ l|length }}{{ 'é'|length }}{{ d|length }}{{ nope|length }}", "[0, 1, 2, 3][1, 4, 7][3, 2, 1]range(0, 3)3130", NULL},
    {"{{ l.append(1) }}", NULL, "access to attribute 'append' of 'list' object is unsafe."},
    {"{{ d.update({}) }}", NULL, "access to attribute 'update' of 'dict' object is unsafe."},
    {"{{ d.pop('a') }}", NULL, "access to attribute 'pop' of 'dict' object is unsafe."},
    {"{{ {[1]: 2} }}", NULL, "unhashable type: 'list'"},
    {"{{ none|length }}", NULL, "object of type 'NoneType' has no len()"},
    {"{{ range(1000000) }}", NULL, "over the limit: a range of more than 100000 items"},
    {"{{ l.index(9) }}", NULL, "the value is not in the list"},
};

static const jtest text_filters[] = {
    {"{{ s|trim }}|{{ 'xax'|trim('x') }}|{{ 'aB'|upper }}{{ 'aB'|lower }}{{ 'aB cD'|title }}{{ \"it's a-b (c)\"|title }}{{ 'aB'|capitalize }}{{ 5|upper }}|{{ nope|upper }}|{{ 'aaa'|replace('a', 'b', 2) }}{{ 5|replace(5, 6) }}", "Héllo, it's \"x\"|a|ABabAb CdIt's A-B (C)Ab5||bba6", NULL},
    {"{{ '<a href=\"x\">&\\''|e }}|{{ '<p>a  b</p> <!-- c --> d'|striptags }}|{{ 'a b/c?é'|urlencode }}|{{ {'a b': 1, 'c': 'd/e'}|urlencode }}|{{ {'class': 'a\"b', 'id': none}|xmlattr }}", "&lt;a href=&#34;x&#34;&gt;&amp;&#39;|a b d|a%20b/c%3F%C3%A9|a+b=1&c=d%2Fe| class=\"a&#34;b\"", NULL},
    {"{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb\\n\\nc'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(2, blank=true) }}|{{ 'a\\nb\\n'|indent('> ') }}|{{ ''|indent }}", "a\n    b\n\n    c|  a\n  b\n\n  c|a\n  \n  b|a\n> b\n|", NULL},
    {"{{ 'foo bar baz qux'|truncate(9) }}|{{ 'foo bar baz qux'|truncate(9, true) }}|{{ 'foo bar'|truncate(5, leeway=5) }}|{{ 'x'|center(5) }}|{{ 'a b c'|wordcount }}|{{ 1500|filesizeformat }}|{{ 2048|filesizeformat(true) }}|{{ 'a'|safe }}{{ 7|string ~ 1 }}", "foo...|foo ba...|foo bar|  x  |3|1.5 kB|2.0 KiB|a71", NULL},
    {"{{ ''|indent(2, true) }}|{{ 'a\n\n'|indent(2, true, true) }}|{{ 'a\x0b'|indent(1) }}|", "  |  a\n  \n  |a\n|", NULL},
    {"{{ '%%' % range(2) }}{{ 'x' % {} }}{{ 'x' % [1] }}", "%xx", NULL},
    {"{{ 'x' % {}.keys() }}", NULL, "not all arguments converted during string formatting"},
    {"{{ 'x'|nosuchfilter }}", NULL, "no filter named 'nosuchfilter'"},
    {"{{ 'x'|replace }}", NULL, "replace() missing required argument 'old'"},
    {"{{ 'x'|trim(q=1) }}", NULL, "trim() got an unexpected keyword argument"},
};

static const jtest number_filters[] = {
    {"{{ 3.7|int }}{{ '3.7'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ '0x1f'|int(0, 16) }} {{ ' 42 '|int }} {{ none|int }} {{ true|int }} {{ '2.5'|float }} {{ 'x'|float(1.5) }} {{ -3|abs }} {{ -3.5|abs }}", "33 0 5 31 42 0 1 2.5 1.5 3 3.5", NULL},
    {"{{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 2.567|round(1, 'floor') }} {{ 2.1|round(0, 'ceil') }} {{ 5|round }} {{ 2.675|round(2) }} {{ 1234|round(-2) }}", "2.0 4.0 2.57 2.5 3.0 5 2.67 1200", NULL},
    {"{{ l|sum }} {{ [1.5, 2]|sum }} {{ [{'x': 1}, {'x': 2}]|sum('x', 10) }} {{ [[1], [2]]|sum(start=[]) }} {{ l|max }}{{ l|min }} {{ m|max }}{{ m|min(case_sensitive=true) }} {{ []|max is undefined }}", "6 3.5 13 [1, 2] 31 cA True", NULL},
    {"{{ nope|int }}", NULL, "'nope' is undefined"},
    {"{{ 'a'|abs }}", NULL, "bad operand type for abs(): 'str'"},
    {"{{ ['a']|sum }}", NULL, "unsupported operand type(s) for +: 'int' and 'str'"},
};

static const jtest sequence_filters[] = {
    {"{{ l|sort }}{{ l|sort(reverse=true) }}{{ m|sort }}{{ m|sort(case_sensitive=true) }}{{ messages|sort(attribute='role')|map(attribute='role')|list }}{{ [[2, 'b'], [1, 'a'], [2, 'a']]|sort(attribute='0,1') }}", "[1, 2, 3][3, 2, 1]['A', 'a', 'b', 'c']['A', 'a', 'b', 'c']['assistant', 'tool', 'user'][[1, 'a'], [2, 'a'], [2, 'b']]", NULL},
    {"{{ {'b': 1, 'A': 2}|dictsort }}{{ {'b': 1, 'A': 2}|dictsort(true) }}{{ {'b': 1, 'A': 2}|dictsort(by='value', reverse=true) }}{{ {'b': 1}|items|list }}{{ nope|items|list }}", "[('A', 2), ('b', 1)][('A', 2), ('b', 1)][('A', 2), ('b', 1)][('b', 1)][]", NULL},
    {"{{ l|first }}{{ l|last }}{{ 'héy'|first }}{{ 'héy'|last }}{{ d|first }}{{ []|first is undefined }}{{ l|reverse|list }}{{ 'héy'|reverse }}{{ 'héy'|list }}{{ d|list }}{{ l|join }}{{ l|join('-') }}{{ messages|join(',', attribute='role') }}{{ 'abc'|join('.') }}", "32hyaTrue[2, 1, 3]yéh['h', 'é', 'y']['a', 'b', 'items']3123-1-2user,assistant,toola.b.c", NULL},
    {"{{ l|map('string')|list }}{{ messages|map(attribute='role')|list }}{{ messages|map(attribute='n.1', default=0)|list }}{{ [' a ']|map('trim')|list }}{{ ['a']|map('replace', 'a', 'b')|list }}", "['3', '1', '2']['user', 'assistant', 'tool'][0, 2.5, 0]['a']['b']", NULL},
    {"{{ l|select('odd')|list }}{{ l|reject('odd')|list }}{{ l|select('gt', 1)|list }}{{ [0, 1, none]|select|list }}{{ [0, 1]|reject|list }}{{ messages|selectattr('content')|list|length }}{{ messages|selectattr('role', '==', 'user')|map(attribute='content')|first }}{{ messages|rejectattr('content', 'none')|list|length }}{{ none|select|list }}", "[3, 1][2][3, 2][1][0]2hi <b>2[]", NULL},
    {"{{ [1, 2, 3, 4, 5]|batch(2)|list }}{{ [1, 2, 3]|batch(2, 'x')|list }}{{ [1, 2, 3, 4, 5]|slice(3)|list }}{{ [1, 2, 3, 4]|slice(3, 'x')|list }}{{ ['a', 'A', 'b']|unique|list }}{{ ['a', 'A']|unique(true)|list }}", "[[1, 2], [3, 4], [5]][[1, 2], [3, 'x']][[1, 2], [3, 4], [5]][[1, 2], [3, 'x'], [4, 'x']]['a', 'b']['a', 'A']", NULL},
    {"{% for g in [{'a': 1, 'b': 2}, {'a': 2}, {'a': 1}]|groupby('a') %}{{ g.grouper }}:{{ g.list|length }};{% endfor %}{% for k, v in [{'a': 'x'}, {'a': 'X'}]|groupby('a') %}{{ k }}{{ v|length }}{% endfor %}", "1:2;2:1;x2", NULL},
    {"{% set g = l|map('string') %}{{ g|join }}|{{ g|join }}|{{ none|default('d') }}{{ nope|default('d') }}{{ ''|default('d', true) }}{{ nope|d }}", "312||Nonedd", NULL},
    {"{{ l|map('string')|length }}", NULL, "object of type 'generator' has no len()"},
    {"{{ [3, 'a']|sort }}", NULL, "'<' not supported between instances of 'str' and 'int'"},
    {"{{ 5|list }}", NULL, "'int' object is not iterable"},
    {"{{ l|select('nosuchtest')|list }}", NULL, "no test named 'nosuchtest'"},
    {"{{ l|groupby }}", NULL, "groupby() missing required argument 'attribute'"},
};

static const jtest json[] = {
    {"{{ {'f': 1.0, 'e': 1e-7, 'n': none, 't': true, 's': 'q\"\\\\/\\n\\t<&>\\'é😀\\x00\\x7f', 'l': [], 'd': {}}|tojson }}", "{\"f\": 1.0, \"e\": 1e-07, \"n\": null, \"t\": true, \"s\": \"q\\\"\\\\/\\n\\t<&>'é😀\\u0000\177\", \"l\": [], \"d\": {}}", NULL},
    {"{{ d|tojson(indent=2) }}{{ [[]]|tojson(indent=1) }}{{ {}|tojson(indent=4) }}{{ (1, 'a')|tojson }}{{ 'é😀'|tojson(ensure_ascii=true) }}{{ {1: 2, none: 3, 1.5: 4, true: 5}|tojson }}", "{\n  \"a\": 1,\n  \"b\": {\n    \"c\": [\n      1,\n      2,\n      {\n        \"z\": null\n      }\n    ]\n  },\n  \"items\": 3\n}[\n []\n]{}[1, \"a\"]\"\\u00e9\\ud83d\\ude00\"{\"1\": 5, \"null\": 3, \"1.5\": 4}", NULL},
    {"{{ {'b': 1, 'a': [1]}|tojson(sort_keys=true) }}{{ {'b': [1, 2]}|tojson(separators=(',', ':')) }}{{ [1]|tojson(indent='\\t') }}{{ 1e400|tojson }}", "{\"a\": [1], \"b\": 1}{\"b\":[1,2]}[\n\t1\n]Infinity", NULL},
    {"{{ nope|tojson }}", NULL, "Object of type Undefined is not JSON serializable"},
    {"{{ {(1, 2): 3}|tojson }}", NULL, "keys must be str, int, float, bool or None, not tuple"},
    {"{{ l|map('int')|tojson }}", NULL, "Object of type generator is not JSON serializable"},
};

static const jtest repr[] = {
    {"{{ [\"it's\", 'q\"', 'a\\\\b\\n\\t\\x00\\x7f\\xa0\\u200b', 'é😀'] }}{{ [1.0, none, true, (1,), {'a': [nope]}] }}{{ s|list }}", "[\"it's\", 'q\"', 'a\\\\b\\n\\t\\x00\\x7f\\xa0\\u200b', 'é😀'][1.0, None, True, (1,), {'a': [Undefined]}][' ', ' ', 'H', 'é', 'l', 'l', 'o', ',', ' ', 'i', 't', \"'\", 's', ' ', '\"', 'x', '\"', '\\n']", NULL},
    {"{{ namespace(a=1) }}{{ range(1, 5, 2) }}{{ d.items() }}{% macro q() %}{% endmacro %}{{ q }}{{ q.name }}{{ q.arguments }}", "<Namespace {'a': 1}>range(1, 5, 2)dict_items([('a', 1), ('b', {'c': [1, 2, {'z': None}]}), ('items', 3)])<Macro 'q'>q()", NULL},
};

static const jtest test_names[] = {
    {"{{ 1 is defined }}{{ nope is undefined }}{{ none is none }}{{ 'a' is string }}{{ d is mapping }}{{ l is sequence }}{{ d is sequence }}{{ nope is iterable }}{{ 5 is iterable }}{{ 1 is number }}{{ true is integer }}{{ 1 is integer }}{{ 1.0 is float }}{{ true is boolean }}{{ true is true }}{{ 0 is false }}", "TrueTrueTrueTrueTrueTrueTrueTrueFalseTrueFalseTrueTrueTrueTrueFalse", NULL},
    {"{{ 3 is odd }}{{ 3 is even }}{{ 6 is divisibleby 3 }}{{ 6 is divisibleby(4) }}{{ 1 is eq 1 }}{{ 1 is equalto(2) }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 2 is ge(3) }}{{ 'a' is in 'abc' }}{{ 'A' is upper }}{{ 'a' is lower }}{{ range is callable }}{{ 'odd' is test }}{{ 'trim' is filter }}{{ none is sameas none }}{{ 1 is not none }}{{ not 1 is odd }}{{ 'a' is escaped }}", "TrueFalseTrueFalseTrueFalseTrueTrueFalseTrueTrueTrueTrueTrueTrueTrueTrueFalseFalse", NULL},
    {"{{ 1 is nosuchtest }}", NULL, "no test named 'nosuchtest'"},
    {"{{ 'a' is odd }}", NULL, "not all arguments converted during string formatting"},
};

static const jtest loops[] = {
    {"{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.changed(x > 1) }};{% endfor %}", "1032TrueFalse3a1True;2121FalseFalse3b32True;3210FalseTrue3a1True;", NULL},
    {"{% for k, v in {'x': 1, 'y': [2]}.items() %}{{ k }}={{ v }},{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for c in 'hé' %}{{ c }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}", "x=1,y=[2],123h;é;abitems", NULL},
    {"{% for x in [] %}x{% else %}none{% endfor %}{% for x in l if x > 5 %}x{% else %}none{% endfor %}{% for x in l if x != 1 %}{{ loop.index }}{{ x }}{% endfor %}{% for x in nope %}x{% endfor %}", "nonenone1322", NULL},
    {"{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}{% for i in l %}{% for j in l %}{{ i * j }}{% break %}{% endfor %}{% endfor %}", "013936", NULL},
    {"{% for x in [{'n': 1, 'c': [{'n': 2, 'c': [{'n': 3}]}]}] recursive %}{{ x.n }}@{{ loop.depth }}{% if x.c %}({{ loop(x.c) }}){% endif %}{% endfor %}", "1@1(2@2(3@3))", NULL},
    {"{% for x in 5 %}{% endfor %}", NULL, "'int' object is not iterable"},
    {"{% for a, b in [1] %}{% endfor %}", NULL, "cannot unpack non-iterable int object"},
    {"{% for a, b in [[1]] %}{% endfor %}", NULL, "not enough values to unpack (expected 2, got 1)"},
    {"{% for x in l %}", NULL, "expected {% endfor %} to close a block, found the end"},
    {"{% break %}", NULL, "'break' outside a loop"},
    {"{% for x in l if loop.index %}{% endfor %}", NULL, "'loop' is undefined"},
    {"{% for x in [1] %}{{ loop([2]) }}{% endfor %}", NULL, "the loop must have the 'recursive' marker to be called recursively"},
};

static const jtest conditions[] = {
    {"{% if l %}a{% elif d %}b{% else %}c{% endif %}{% if nope %}a{% elif 0 %}b{% else %}c{% endif %}{% if not nope %}d{% endif %}{% if 0.0 %}e{% endif %}{% if '' or [] or {} or none %}f{% endif %}", "acd", NULL},
    {"{% if %}{% endif %}", NULL, "expected an expression, found %}"},
    {"{% if 1 %}", NULL, "expected {% endif %} to close a block, found the end"},
    {"{% else %}", NULL, "expected a statement (for, if, set, macro, ...), found 'else'"},
};

static const jtest scopes[] = {
    {"{% set x = 1 %}{% for i in l %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if 1 %}{% set x = 3 %}{% endif %}{{ x }}{% for i in [1] %}{% set y = 1 %}{% endfor %}{{ y is defined }}", "12121213False", NULL},
    {"{% set ns = namespace(n=0, all=[]) %}{% for i in l %}{% set ns.n = ns.n + i %}{% set ns.all = ns.all + [i] %}{% endfor %}{{ ns.n }}{{ ns.all }}{{ ns.zz is defined }}", "6[3, 1, 2]False", NULL},
    {"{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, (e, g)) = (3, [4, 5]) %}{{ c }}{{ e }}{{ g }}{% set t = 1, %}{{ t }}", "12345(1,)", NULL},
    {"{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 9 %}{{ a }}{% endwith %}{{ a is defined }}{% set q %}[{{ l }}]{% set inner = 1 %}{% endset %}{{ q }}{{ inner is defined }}{% set z | upper | trim %} a {% endset %}{{ z }}", "129False[[3, 1, 2]]FalseA", NULL},
    {"{% filter upper|trim %} up{{ 1 }} {% endfilter %}{% generation %}{% set g = 1 %}g{% endgeneration %}{{ g is defined }}{% do l.count(1) %}", "UP1gFalse", NULL},
    {"{% set x.y = 1 %}", NULL, "'x' is undefined"},
    {"{% set l.y = 1 %}", NULL, "cannot assign attribute on non-namespace object"},
    {"{% set 1 = 2 %}", NULL, "expected a name to assign to, found '1'"},
    {"{% set a, b = [1] %}", NULL, "not enough values to unpack (expected 2, got 1)"},
    {"{% set none = 1 %}", NULL, "expected a name to assign to, found 'none'"},
};

static const jtest macros[] = {
    {"{% macro m(a, b=2, c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=1, a=2) }}{{ m() }}{{ m(*[1, 2], **{'c': 3}) }}", "[121][131][212][2][123]", NULL},
    {"{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m() }}{{ m(1, 2, x=3) }}", "(){}(1, 2){'x': 3}", NULL},
    {"{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}{% for x in [3] %}{{ m() }}{% endfor %}", "122", NULL},
    {"{% macro w(n) %}<{% for i in range(n) %}{{ caller(i, i * 2) }}{% endfor %}>{% endmacro %}{% call(a, b=0) w(2) %}{{ a }}-{{ b }};{% endcall %}", "<0-0;1-2;>", NULL},
    {"{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(3) }}{% set q = r %}{{ q(0) ~ 'x' }}{{ r is callable }}", "32100xTrue", NULL},
    {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", NULL, "macro 'm' takes not more than 1 argument(s)"},
    {"{% macro m(a) %}{% endmacro %}{{ m(z=1) }}", NULL, "macro 'm' takes no keyword argument 'z'"},
    {"{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}", NULL, "the macro got several values for argument 'a'"},
    {"{% macro m(a=1, b) %}{% endmacro %}", NULL, "expected parameters with a default after those without"},
    {"{% macro m(a) %}{{ a.b }}{% endmacro %}{{ m() }}", NULL, "parameter 'a' was not provided"},
    {"{% macro m() %}{% endmacro %}{% call m() %}{% endcall %}", NULL, "macro 'm' takes no keyword argument 'caller'"},
};

static const jtest globals[] = {
    {"{{ strftime_now('%Y-%m-%d %H:%M:%S %A %d %B %j %% %-d') }}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set j = joiner('|') %}{{ j() }}a{{ j() }}b{{ dict(a=1).a }}", "2026-01-15 10:30:00 Thursday 15 January 015 % 15abbaa|b1", NULL},
    {"{{ raise_exception('no ' ~ 1) }}", NULL, "no 1"},
    {"{{ cycler() }}", NULL, "at least one item has to be provided"},
};

static const jtest whitespace[] = {
    {"a {%- if 1 -%} b {%- endif -%} c", "abc", NULL},
    {"\n  {% if 1 %}\n  x\n  {% endif %}\ny", "\n  x\ny", NULL},
    {"  {%+ if 1 %}\nx{% endif +%}\ny", "  x\ny", NULL},
    {"{{ 1 }}\n{{ 2 }}\n", "1\n2", NULL},
    {"a  {{- 1 -}}  b {{ 2 }} c", "a1b 2 c", NULL},
    {"a\n{# c #}\nb {#- c -#} c\n  {# d +#}\ne", "a\nbc\n\ne", NULL},
    {"{% raw %}{{ x }}{% if %}{% endraw %}|{%- raw -%} a {%- endraw -%} |\n\t{% raw %}\n b\n {% endraw %}\nc", "{{ x }}{% if %}|a|\n\n b\nc", NULL},
    {"{%set x=1%}{{x}}{%if x%}y{%endif%}{{'}}'}}{{\"{%\"}}{{ {'a':[{}]}['a'] }}", "1y}}{%[{}]", NULL},
    {"\n\na\n\n", "\n\na\n", NULL},
};

static const jtest errors[] = {
    {"{{ 1 if }}", NULL, "expected an expression, found }}"},
    {"{{ x..y }}", NULL, "expected a name or number after '.', found '.'"},
    {"{{ (1 }}", NULL, "expected ')', found '}'"},
    {"{{ 1) }}", NULL, "unexpected ')'"},
    {"{% unknown %}", NULL, "expected a statement (for, if, set, macro, ...), found 'unknown'"},
    {"{% endif %}", NULL, "expected a statement (for, if, set, macro, ...), found 'endif'"},
    {"{# open", NULL, "expected #} to close a comment, found the end"},
    {"{% raw %}open", NULL, "expected {% endraw %} to close a raw block, found the end"},
    {"{{ a b }}", NULL, "expected }}, found 'b'"},
    {"{{ $ }}", NULL, "unexpected character '$' in a tag"},
    {"{% include 'x' %}", NULL, "'include' needs other templates, which a chat template has not"},
    {"{{ f(a=1, 2) }}", NULL, "expected arguments by position before those by name"},
    {"{{ f(**d, *l) }}", NULL, "misplaced * in a call"},
    {"{{ 1 is odd is even }}", NULL, "tests cannot be chained with 'is'"},
};

static const struct { const char *name; const jtest *v; size_t n; } groups[] = {
    {"literals", literals, NIB_ARRAY_LEN(literals)},
    {"arithmetic", arithmetic, NIB_ARRAY_LEN(arithmetic)},
    {"numbers as text", numbers_as_text, NIB_ARRAY_LEN(numbers_as_text)},
    {"comparisons", comparisons, NIB_ARRAY_LEN(comparisons)},
    {"lookups", lookups, NIB_ARRAY_LEN(lookups)},
    {"string methods", string_methods, NIB_ARRAY_LEN(string_methods)},
    {"formatting", formatting, NIB_ARRAY_LEN(formatting)},
    {"containers", containers, NIB_ARRAY_LEN(containers)},
    {"text filters", text_filters, NIB_ARRAY_LEN(text_filters)},
    {"number filters", number_filters, NIB_ARRAY_LEN(number_filters)},
    {"sequence filters", sequence_filters, NIB_ARRAY_LEN(sequence_filters)},
    {"json", json, NIB_ARRAY_LEN(json)},
    {"repr", repr, NIB_ARRAY_LEN(repr)},
    {"tests", test_names, NIB_ARRAY_LEN(test_names)},
    {"loops", loops, NIB_ARRAY_LEN(loops)},
    {"conditions", conditions, NIB_ARRAY_LEN(conditions)},
    {"scopes", scopes, NIB_ARRAY_LEN(scopes)},
    {"macros", macros, NIB_ARRAY_LEN(macros)},
    {"globals", globals, NIB_ARRAY_LEN(globals)},
    {"whitespace", whitespace, NIB_ARRAY_LEN(whitespace)},
    {"errors", errors, NIB_ARRAY_LEN(errors)},
};
/* clang-format on */

static nib_status render(const char *template, const json_t *vars, nib_rendered *r, nib_error *e) {
    nib_template *t;
    nib_render_options o = {.now = 1768473000}; /* 2026-01-15 10:30:00 */
    nib_status s = nib_template_parse(&t, template, strlen(template), e);
    if (s != NIB_OK) return s;
    s = nib_template_render(t, vars, &o, r, e);
    nib_template_free(t);
    return s;
}

static const char *without_line(const char *message) {
    const char *prefix = "template line 1: ";
    return strncmp(message, prefix, strlen(prefix)) ? message : message + strlen(prefix);
}

static bool run_one(const jtest *c, const json_t *vars) {
    nib_rendered r = {0};
    nib_error e = {0};
    nib_status s = render(c->template, vars, &r, &e);
    const char *got = s == NIB_OK ? (r.text.len ? r.text.data : "") : without_line(e.message);
    const char *want = c->text ? c->text : c->error;
    bool as_told = c->text ? s == NIB_OK : s == NIB_ERR_TEMPLATE || s == NIB_ERR_LIMIT;
    bool ok = as_told && !strcmp(got, want);
    if (!ok) print_message("%s\n  want %s\n  got  %s\n", c->template, want, got);
    nib_rendered_free(&r);
    return ok;
}

static void every_feature(void **state) {
    (void)state;
    nib_error e;
    json_t *vars;
    int n = 0, n_differ = 0;
    test_ok(nib_json_parse(variables, sizeof variables - 1, &vars, &e), &e);
    for (size_t g = 0; g < NIB_ARRAY_LEN(groups); g++) {
        int before = n_differ;
        for (size_t i = 0; i < groups[g].n; i++, n++) n_differ += !run_one(&groups[g].v[i], vars);
        if (n_differ > before)
            print_message("in %s: %d differ\n", groups[g].name, n_differ - before);
    }
    json_decref(vars);
    print_message("templates: %d cases in %zu groups, %d differ\n", n, NIB_ARRAY_LEN(groups),
                  n_differ);
    assert_int_equal(n_differ, 0);
}

/* Errors name the line they happen in, counted in the source as written, with any line ends. */
static void errors_name_their_line(void **state) {
    (void)state;
    static const struct {
        const char *template;
        int line;
    } cases[] = {
        {"a\nb\n{{ nope.x }}", 3},
        {"a\r\n{% if 1 %}\r\n{{ 'a' + 1 }}{% endif %}", 3},
        {"{# one\ntwo #}\n{{ 'x'|nosuch }}", 3},
        {"{{ 'a\nb' }}\n\n{%- if 1 -%}\n\n{{ 1 +\n none }}{% endif %}", 6},
        {"{% raw %}\n\n{% endraw %}{{ ( }}", 3},
        {"\n{% for x in y %}\n\n", 2},
    };
    json_t *vars = json_object();
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_rendered r = {0};
        nib_error e = {0};
        char want[40];
        assert_int_equal(render(cases[i].template, vars, &r, &e), NIB_ERR_TEMPLATE);
        snprintf(want, sizeof want, "template line %d: ", cases[i].line);
        if (strncmp(e.message, want, strlen(want))) fail_msg("case %zu: %s", i, e.message);
    }
    json_decref(vars);
}

static void raised_messages_stand_alone(void **state) {
    (void)state;
    json_t *vars = json_object();
    nib_rendered r;
    nib_error e;
    assert_int_equal(render("\n{{ raise_exception('Roles must alternate!') }}", vars, &r, &e),
                     NIB_ERR_TEMPLATE);
    assert_string_equal(e.message, "Roles must alternate!");
    json_decref(vars);
}

static void variables_hide_builtins(void **state) {
    (void)state;
    nib_rendered r;
    nib_error e;
    json_t *vars = json_pack("{s:s, s:s%}", "range", "mine", "nul", "a\0b", (size_t)3);
    test_ok(render("{{ range }}{{ nul|length }}{{ nul }}", vars, &r, &e), &e);
    assert_int_equal(r.text.len, 8);
    assert_memory_equal(r.text.data, "mine3a\0b", 8);
    nib_rendered_free(&r);
    json_decref(vars);
}

static void last_messages_can_go_on(void **state) {
    (void)state;
    static const struct {
        const char *text, *content, *want;
    } cases[] = {
        {"<u>a</u><a>so far</a>", "so far", "<u>a</u><a>so far"},
        {"x so x so end", "so", "x so x so"},
        {"<a>trimmed</a>", "  trimmed \n", "<a>trimmed"},
        {"<a>kept  </a>", "kept  ", "<a>kept  "},
        {"<a>", "absent", NULL},
        {"<a>", "", "<a>"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_error e;
        nib_rendered r;
        json_t *vars = json_pack("{s:s}", "text", cases[i].text);
        test_ok(render("T{{ text }}T", vars, &r, &e), &e);
        nib_status s = nib_rendered_continue(&r, cases[i].content, strlen(cases[i].content), &e);
        assert_int_equal(s, cases[i].want ? NIB_OK : NIB_ERR_NOT_FOUND);
        size_t end = 0;
        for (size_t k = 0; k < r.n_spans; k++) end += r.spans[k].len;
        assert_int_equal(end, r.text.len);
        if (cases[i].want && cases[i].content[0])
            assert_string_equal(r.text.data + 1, cases[i].want);
        nib_rendered_free(&r);
        json_decref(vars);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_feature),
        cmocka_unit_test(errors_name_their_line),
        cmocka_unit_test(raised_messages_stand_alone),
        cmocka_unit_test(variables_hide_builtins),
        cmocka_unit_test(last_messages_can_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
