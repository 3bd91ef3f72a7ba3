/* The command as a user types it: every command, its errors and its exit status. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "testcmd.h"
#include "tinymodel.h"

static void test_help(void **state) {
    (void)state;
    static const char *const commands[] = {
#define NIB_CMD(name, ...)           #name,
#define NIB_CMD_AS(name, typed, ...) typed,
#include "cli/commands.def"
#undef NIB_CMD
    };
    test_nib(NULL, "--help");
    test_status(0);
    test_out_has("Usage: nib COMMAND");
    test_out_has("Example:");
    for (size_t i = 0; i < NIB_ARRAY_LEN(commands); i++) test_out_has(commands[i]);
    assert_null(strchr(ran.out.data, '\033')); /* no colour in a pipe */
    for (size_t i = 0; i < NIB_ARRAY_LEN(commands); i++) {
        test_nib(NULL, "%s --help", commands[i]);
        test_status(0);
        test_out_has("Usage: nib ");
        test_out_has("Example:");
        char example[64];
        snprintf(example, sizeof example, "nib %s", commands[i]);
        test_out_has(example);
        nib_buf help = ran.out;
        ran.out = (nib_buf){0};
        test_nib(NULL, "help %s", commands[i]);
        test_status(0);
        assert_string_equal(ran.out.data, help.data);
        nib_buf_free(&help);
        test_nib(NULL, "%s --no-such-option", commands[i]);
        test_failed(2, "unknown option '--no-such-option'");
    }
    print_message("%zu commands, each with help and an example\n", NIB_ARRAY_LEN(commands));
}

static void test_usage(void **state) {
    (void)state;
    test_nib(NULL, "--version");
    test_status(0);
    assert_string_equal(ran.out.data, "nib " NIB_VERSION "\n");
    test_nib(NULL, "doctr");
    test_failed(2, "did you mean 'doctor'?");
    test_nib(NULL, "qqqqqqqq");
    test_failed(2, "unknown command 'qqqqqqqq'");
    test_nib(NULL, "--verison");
    test_failed(2, "did you mean '--version'?");
    test_nib(NULL, "doctor --jsno");
    test_failed(2, "did you mean '--json'?");
    test_nib(NULL, "doctor --js --jsx");
    test_failed(2, "'--jsx'");
    test_nib(NULL, "doctor --json=yes");
    test_failed(2, "takes no value");
    test_nib(NULL, "doctor -q");
    test_failed(2, "unknown option '-q'");
    test_nib(NULL, "doctor extra");
    test_failed(2, "'extra'");
    test_nib(NULL, "help nothing");
    test_failed(2, "unknown command 'nothing'");
    test_nib(NULL, "completion");
    test_failed(2, "missing");
    test_nib(NULL, "completion tcsh");
    test_failed(2, "expected bash, zsh, fish or man");
    test_nib(NULL, " ");
    test_status(2);
    test_err_has("Usage: nib COMMAND");
}

static void test_doctor(void **state) {
    (void)state;
    test_nib(NULL, "doctor");
    test_status(0);
    test_out_has("kernels");
    test_out_has("available");
    test_out_has("JSON");
    test_nib(NULL, "doctor --json");
    test_status(0);
    test_out_has("\"kernels\": \"");
    test_out_has("\"stops_below\": ");
}

static void test_completion(void **state) {
    (void)state;
    static const char *const shells[] = {"bash", "zsh", "fish"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(shells); i++) {
        char path[256], check[512];
        test_nib(NULL, "completion %s", shells[i]);
        test_status(0);
        test_out_has("doctor");
        test_out_has("json");
        snprintf(path, sizeof path, "%s/completion.%s", test_tmp(), shells[i]);
        nib_error e;
        test_ok(nib_file_write(path, ran.out.data, ran.out.len, &e), &e);
        snprintf(check, sizeof check, "command -v %s >/dev/null || exit 0; %s -n %s", shells[i],
                 shells[i], path);
        assert_int_equal(system(check), 0);
    }
    test_nib(NULL, "completion man");
    test_status(0);
    test_out_has(".TH NIB 1");
    test_out_has(".SS nib doctor");
    test_out_has("\\fB/retention\\fR");
}

/* A reader that leaves ends nib quietly; an output that cannot be written is reported. */
static void test_stdout(void **state) {
    (void)state;
    char line[1024];
    snprintf(line, sizeof line,
             "'%s' completion man 2>&1 >/dev/full | grep -q 'cannot write to standard output'",
             NIB_COMMAND);
    if (access("/dev/full", W_OK) == 0) assert_int_equal(system(line), 0);
    snprintf(line, sizeof line,
             "test -z \"$('%s' completion man 2>&1 >&- | grep -v 'cannot write')\"", NIB_COMMAND);
    assert_int_equal(system(line), 0);
    snprintf(line, sizeof line,
             "test -z \"$( ( '%s' completion man | head -c 1 >/dev/null ) 2>&1)\"", NIB_COMMAND);
    assert_int_equal(system(line), 0);
}

static const char *tiny(void) {
    static const char *path;
    if (!path)
        path = test_tiny_model("tiny.gguf", &(test_tiny){.seed = 1, .chat_template = test_chatml});
    return path;
}
static const char *embedder(void) {
    static const char *path;
    if (!path) path = test_tiny_model("embedder.gguf", &(test_tiny){.seed = 2, .embedder = true});
    return path;
}
static const char *write_file(const char *name, const void *p, size_t n) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    nib_error e;
    test_ok(nib_file_write(path, p, n, &e), &e);
    return path;
}
static nib_buf read_file(const char *path) {
    nib_buf b = {0};
    nib_error e;
    test_ok(nib_file_read(path, 1 << 30, &b, &e), &e);
    return b;
}

static void test_show(void **state) {
    (void)state;
    test_nib(NULL, "show %s", tiny());
    test_status(0);
    test_out_has("tiny model");
    test_out_has("llama: 2 layers, width 64, 2 heads of 32 (1 for keys and values)");
    test_out_has(
        "256 bytes a token, 136 bytes in q8_0"); /* 2 layers, K and V, 32 halves; 34 bytes */
    test_out_has("fits");
    test_nib(NULL, "show %s --json", tiny());
    test_status(0);
    test_out_has("\"kv_bytes_per_token\": {\"default\": 256, \"q8_0\": 136}");
    test_out_has("\"default_fits\": true");
    test_nib(NULL, "show %s --template", tiny());
    test_status(0);
    assert_string_equal(ran.out.data, test_chatml);
    test_nib(NULL, "show %s --tensors --keys", tiny());
    test_status(0);
    test_out_has("blk.1.ffn_down.weight");
    test_out_has("llama.block_count = 2");
    test_nib(NULL, "show %s --template", embedder());
    test_failed(1, "no chat template");
    /* a name cannot steer the terminal */
    const char *escape =
        test_tiny_model("escape.gguf", &(test_tiny){.name = "a\033[31mb\n\302\233c\377"});
    test_nib(NULL, "show %s", escape);
    test_out_has("a[31mbc\357\277\275\n");
    /* a family nib does not know is shown, but does not run */
    const char *mystery = test_tiny_model("mystery.gguf", &(test_tiny){.arch = "mystery"});
    test_nib(NULL, "show %s --keys --tensors", mystery);
    test_status(0);
    test_out_has("no: ");
    test_out_has("'mystery' is not known");
    test_out_has("mystery.block_count = 2");
    test_out_has("blk.1.ffn_down.weight");
    test_nib(NULL, "show %s --json --keys --tensors", mystery);
    test_status(0);
    test_out_has("\"runs\": false");
    test_out_has("\"tokenizer.ggml.tokens\": {\"array_of\": 384}");
    test_out_has("{\"name\": \"blk.0.attn_k.weight\", \"type\": \"F32\", \"shape\": [64, 32]}");
    test_nib(NULL, "embed %s x", mystery);
    test_failed(1, "'mystery' is not known");
}

static void test_tokens(void **state) {
    (void)state;
    test_nib(NULL, "tokenize %s 'the cat'", tiny());
    test_status(0);
    assert_int_equal(strncmp(ran.out.data, "1 ", 2), 0);
    nib_buf ids = ran.out;
    ran.out = (nib_buf){0};
    test_nib("the cat", "tokenize %s", tiny()); /* from standard input */
    assert_string_equal(ran.out.data, ids.data);
    test_nib(NULL, "tokenize %s -f %s", tiny(), write_file("text", "the cat", 7));
    assert_string_equal(ran.out.data, ids.data);
    test_nib(ids.data, "detokenize %s", tiny());
    test_status(0);
    assert_string_equal(ran.out.data, " the cat\n");
    test_nib(ids.data, "detokenize %s --special", tiny());
    assert_string_equal(ran.out.data, "<s> the cat\n");
    nib_buf_free(&ids);
    test_nib(NULL, "tokenize %s --no-special --json a", tiny());
    test_status(0);
    test_out_has("{\"ids\": [");
    /* control tokens in text are text, unless asked */
    test_nib(NULL, "tokenize %s --no-special --parse-special '<|im_end|>'", tiny());
    test_out_has("260");
    test_nib(NULL, "tokenize %s --no-special '<|im_end|>'", tiny());
    assert_null(strstr(ran.out.data, "260"));
    test_nib("{\"text\": \"th\\u0000\", \"add_special\": true, \"parse_special\": false}\n\n"
             "{\"hex\": \"ff\", \"add_special\": false, \"parse_special\": false}\n"
             "{\"text\": \"<|im_end|>\", \"add_special\": false, \"parse_special\": true}",
             "tokenize %s --jsonl", tiny());
    test_status(0);
    test_out_has("{\"ids\": [1, ");
    test_out_has("\"detok\": \"<s> th\\u0000\"}\n");
    test_out_has("258], \"detok_hex\": \""); /* the byte ff */
    test_out_has("{\"ids\": [260], \"detok\": \"<|im_end|>\"}\n");
    test_nib("{\"ids\": [1, 260]}\n", "detokenize %s --jsonl", tiny());
    test_status(0);
    assert_string_equal(ran.out.data, "{\"ids\": [1, 260], \"detok\": \"<s><|im_end|>\"}\n");
    test_nib("{\"text\": 3}\n", "tokenize %s --jsonl", tiny());
    test_failed(1, "line 1: expected an object with one of");
    test_nib("{\"text\": \"a\"}\n{\n", "tokenize %s --jsonl", tiny());
    test_failed(1, "line 2: JSON");
    test_nib("{\"hex\": \"f\"}\n", "tokenize %s --jsonl", tiny());
    test_failed(1, "pairs of hexadecimal digits");
    test_nib(NULL, "detokenize %s 384", tiny());
    test_failed(1, "token id 384 at place 0 is out of range");
    test_nib(NULL, "detokenize %s -- -1", tiny());
    test_failed(1, "token id: expected a whole number");
    test_nib(NULL, "detokenize %s 1x", tiny());
    test_failed(1, "found '1x'");
    test_nib(NULL, "tokenize %s", tiny());
    test_status(0); /* an empty standard input is an empty text */
    test_nib(NULL, "tokenize");
    test_failed(2, "MODEL is missing");
    test_nib(NULL, "tokenize %s -f x y", tiny());
    test_failed(2, "given twice");
}

/* Every tokenizer case of the reference data, through the command. */
static void test_jsonl_reference(void **state) {
    (void)state;
    if (!test_shared()) test_skip("no reference data");
    test_nib("{\"text\": \"Hello world\", \"add_special\": true, \"parse_special\": false}\n",
             "tokenize %s --jsonl",
             test_shared_path("conformance/tokenizers/llama-spm/vocab.gguf"));
    test_status(0);
    assert_string_equal(ran.out.data,
                        "{\"ids\": [1, 15043, 3186], \"detok\": \"<s> Hello world\"}\n");
}

static void test_render(void **state) {
    (void)state;
    static const char vars[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi <|im_end|>\"}], "
        "\"add_generation_prompt\": true, \"name\": \"N\"}";
    test_nib(vars, "render --template %s --vars -", tiny());
    test_status(0);
    assert_string_equal(ran.out.data,
                        "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n");
    const char *t =
        write_file("t.jinja", "{{ name }} {{ strftime_now('%Y-%m-%d %H:%M') }}{{ bos_token }}", 63);
    test_nib(vars, "render --template %s --vars - --now 2026-01-15T10:30:00", t);
    test_status(0);
    assert_string_equal(ran.out.data, "N 2026-01-15 10:30"); /* exactly: no newline is added */
    test_nib(vars, "render --template %s --vars - --now yesterday", t);
    test_failed(2, "expected a time such as 2026-01-15T10:30:00");
    test_nib(NULL, "render --template %s", t);
    test_failed(2, "--vars is missing");
    test_nib("[]", "render --template %s --vars -", t);
    test_failed(1, "standard input: expected a JSON object");
    test_nib("{\"a\": 1", "render --template %s --vars -", t);
    test_failed(1, "standard input: JSON line 1");
    test_nib(vars, "render --template %s --vars -", write_file("t.jinja", "{% if %}", 8));
    test_failed(1, "t.jinja: ");
    test_nib(vars, "render --template %s --vars -",
             write_file("t.jinja", "{{ raise_exception('no way') }}", 31));
    test_failed(1, "no way");
    test_nib(vars, "render --template %s --vars -",
             write_file("t.jinja", "{% for i in range(99999999) %}{{ messages }}{% endfor %}", 57));
    test_status(1);
    test_nib(vars, "render --template %s --vars -", embedder());
    test_failed(1, "no chat template");
}

static void test_logits(void **state) {
    (void)state;
    char out[256];
    const char *ids = write_file("ids", "[1, 270\n271,272]", 16);
    snprintf(out, sizeof out, "%s/logits.f32", test_tmp());
    test_nib(NULL, "logits %s --tokens %s --out %s", tiny(), ids, out);
    test_status(0);
    nib_buf first = read_file(out);
    assert_int_equal(first.len, 4 * TEST_TINY_VOCAB * sizeof(float));
    /* the same bits at one thread, in chunks of one */
    test_nib(NULL, "logits %s --tokens %s --out %s --threads 1 --batch 1", tiny(), ids, out);
    test_status(0);
    nib_buf second = read_file(out);
    assert_memory_equal(first.data, second.data, first.len);
    nib_buf_free(&first);
    nib_buf_free(&second);
    test_nib(NULL, "logits %s --tokens %s", tiny(), ids);
    test_failed(2, "--out is missing");
    test_nib(NULL, "logits %s --tokens %s --out %s", tiny(), write_file("bad", "1 384", 5), out);
    test_failed(1, "token id 384 at place 1 is out of range");
    test_nib(NULL, "logits %s --tokens %s --out %s", tiny(), write_file("bad", "1 x", 3), out);
    test_failed(1, "found 'x'");
    test_nib(NULL, "logits %s --tokens %s --out %s", tiny(), write_file("bad", "", 0), out);
    test_failed(1, "found none");
    test_nib(NULL, "logits %s --tokens %s --out %s --ctx 2", tiny(), write_file("ids", "1 2 3", 5),
             out);
    test_failed(1, "context");
    test_nib(NULL, "logits %s --tokens %s --out /nonexistent/x", tiny(), write_file("ids", "1", 1));
    test_failed(1, "/nonexistent/x");
}

static void test_embed(void **state) {
    (void)state;
    test_nib(NULL, "embed %s 'the cat' 'a dog'", embedder());
    test_status(0);
    double sum = 0, x;
    int n = 0, used;
    const char *p = ran.out.data + 1;
    for (; sscanf(p, "%lf%n", &x, &used) == 1; p += used + 1, n++) {
        sum += x * x;
        if (p[used] == ']') {
            n++;
            break;
        }
    }
    assert_int_equal(n, 64);
    assert_true(sum > 0.9999 && sum < 1.0001);
    nib_buf two = ran.out;
    ran.out = (nib_buf){0};
    test_nib("the cat\na dog\n", "embed %s", embedder());
    test_status(0);
    assert_string_equal(ran.out.data, two.data);
    nib_buf_free(&two);
    test_nib("the cat\na dog\n", "embed %s -f - --format f32 --no-normalise", embedder());
    test_status(0);
    assert_int_equal(ran.out.len, 2 * 64 * sizeof(float));
    test_nib(NULL, "embed %s 'the cat'", tiny()); /* decoders have hidden states too */
    test_status(0);
    test_nib(NULL, "embed %s -f /nonexistent", embedder());
    test_failed(1, "cannot open '/nonexistent': No such file");
    char *text = nib_alloc(20000);
    memset(text, 'a', 19999);
    for (int i = 0; i < 19999; i += 2) text[i] = ' ';
    text[19999] = 0;
    test_nib(text, "embed %s", embedder());
    test_failed(1, "standard input, line 1: ");
    nib_free(text);
}

static void test_run(void **state) {
    (void)state;
    static const char ban[] =
        "--logit-bias 2=-inf --logit-bias 260=-inf"; /* else nonsense ends at random */
    test_nib(NULL, "run %s --raw --temp 0 -p 'once upon' -n 12 %s", tiny(), ban);
    test_status(0);
    assert_true(ran.out.len > 1 && ran.out.data[ran.out.len - 1] == '\n');
    nib_buf first = ran.out;
    ran.out = (nib_buf){0};
    test_nib("once upon", "run %s --raw --temp 0 -n 12 --threads 1 --batch 1 %s", tiny(), ban);
    assert_string_equal(ran.out.data, first.data); /* from standard input, at one thread */
    test_nib(NULL, "run %s --raw --temp 0 -n 12 -f %s %s", tiny(),
             write_file("prompt", "once upon", 9), ban);
    assert_string_equal(ran.out.data, first.data);
    test_nib(NULL, "run %s --raw --echo --temp 0 -n 12 -p 'once upon' %s", tiny(), ban);
    assert_int_equal(strncmp(ran.out.data, "once upon", 9), 0);
    assert_string_equal(ran.out.data + 9, first.data);
    nib_buf_free(&first);
    test_nib(NULL, "run %s -p hello -n 12 --seed 5 --json %s", tiny(), ban);
    test_status(0);
    test_out_has("\"finish\": \"length\"");
    test_out_has("\"generated\": 12");
    test_out_has("\"seed\": 5");
    test_out_has("\"thinking\": null");
    test_nib(NULL, "run %s -p hello -n 30 --seed 5 %s", tiny(), ban);
    first = ran.out;
    ran.out = (nib_buf){0};
    test_nib(NULL, "run %s -p hello -n 30 --seed 5 --threads 1 --stats %s", tiny(), ban);
    assert_string_equal(ran.out.data, first.data);
    test_err_has("[30 tokens, ");
    test_nib(NULL, "run %s -p hello -n 30 --seed 6 %s", tiny(), ban);
    assert_string_not_equal(ran.out.data, first.data);
    /* a stop string cuts the reply before it */
    char stop[8];
    snprintf(stop, sizeof stop, "%.1s", first.data + 10);
    if (strchr("' \\", stop[0]) || (signed char)stop[0] < 0)
        snprintf(stop, sizeof stop, "%.1s", first.data + 11);
    test_nib(NULL, "run %s -p hello -n 30 --seed 5 --stop '%s' %s", tiny(), stop, ban);
    test_status(0);
    assert_null(strpbrk(ran.out.data, stop));
    nib_buf_free(&first);
    /* what goes wrong */
    test_nib(NULL, "run %s -p x extra", tiny());
    test_failed(2, "one argument too many: 'extra'");
    test_nib(NULL, "run -p x");
    test_failed(2, "MODEL is missing");
    test_nib(NULL, "run %s -p x --tepm 1", tiny());
    test_failed(2, "did you mean '--temp'?");
    test_nib(NULL, "run %s -p x --temp hot", tiny());
    test_failed(2, "found 'hot'");
    test_nib(NULL, "run %s -p x --echo", tiny());
    test_failed(2, "--echo goes with --raw");
    test_nib(NULL, "run %s -p x --autocorrect both", tiny());
    test_failed(1, "autocorrect needs a dictionary");
    test_nib(NULL, "run %s -p x", embedder());
    test_failed(1, "embedding model");
    test_nib(NULL, "run %s -f /nonexistent", tiny());
    test_failed(1, "/nonexistent");
    char *text = nib_alloc(20000);
    for (int i = 0; i < 19999; i++) text[i] = i % 3 ? 'a' : ' ';
    text[19999] = 0;
    test_nib(text, "run %s", tiny());
    test_failed(1, "context");
    test_nib(text, "run %s --raw --ctx 64", tiny());
    test_failed(1, "context");
    nib_free(text);
    const char *broken =
        test_tiny_model("broken.gguf", &(test_tiny){.chat_template = "{% for m in %}"});
    test_nib(NULL, "run %s -p x", broken);
    test_failed(1, "chat template");
    test_nib(NULL, "run %s --raw -p x -n 2", broken);
    test_status(0);
}

/* The trained model tells its story, as the reference did. */
static void test_story(void **state) {
    (void)state;
    if (!test_shared()) test_skip("no reference data");
    nib_buf story = read_file(test_shared_path("golden/stories260k/greedy.txt"));
    test_nib(NULL, "run %s --raw --echo --temp 0 -p 'Once upon a time' -n 100 --kv f32",
             test_shared_path("golden/stories260k/model.gguf"));
    test_status(0);
    size_t n = ran.out.len - 1; /* without the newline */
    assert_true(n > 200 && n < story.len);
    assert_memory_equal(ran.out.data, story.data, n);
    nib_buf_free(&story);
}

/* Through pipes: a line in, a reply out, plain text. */
static void test_chat_pipe(void **state) {
    (void)state;
    static const char ban[] = "--logit-bias 2=-inf --logit-bias 260=-inf --seed 3 -n 8";
    char saved[512];
    snprintf(saved, sizeof saved, "%s/pipe.json", test_tmp());
    char input[1024];
    snprintf(input, sizeof input, "hello\n\n\"\"\"\ntwo\nlines\n\"\"\"\nup\\\ndown\n/save %s\n",
             saved);
    test_nib(input, "chat %s %s", tiny(), ban);
    test_status(0);
    assert_null(strchr(ran.out.data, '\033'));
    assert_null(strstr(ran.out.data, ">>>"));
    assert_null(strstr(ran.out.data, "tok/s"));
    assert_int_equal(ran.err.len, 0);
    nib_buf file = read_file(saved);
    assert_non_null(strstr(file.data, "\"two\\nlines\""));
    assert_non_null(strstr(file.data, "\"up\\ndown\""));
    nib_buf_free(&file);
    test_nib("hello\n", "chat %s %s", tiny(), ban);
    test_status(0);
    assert_true(ran.out.len > 1);
    test_nib("", "chat %s", tiny());
    test_status(0);
    assert_int_equal(ran.out.len, 0);
    test_nib("/frob\nhello\n", "chat %s", tiny()); /* the first error ends it */
    test_failed(1, "unknown command /frob");
    assert_int_equal(ran.out.len, 0);
    test_nib("/load /nonexistent\n", "chat %s", tiny());
    test_failed(1, "/nonexistent");
    snprintf(input, sizeof input,
             "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"Q\"}]");
    setenv("XDG_DATA_HOME", test_tmp(), 1); /* kept by name, in the store */
    test_nib("hello there\n/system Be odd.\n/save greeting\n/list\n", "chat %s %s", tiny(), ban);
    test_status(0);
    test_out_has("greeting (2)");
    test_nib("/load greeting\n/system\n/list hello\n", "chat %s", tiny());
    test_status(0);
    test_out_has("Be odd.\n");
    test_out_has("greeting");
    static const char long_said[] =
        "A message of more than sixty-four tokens, which this model has one of for each letter, so "
        "that there is a page of it to keep on disk.\n/save paged\n";
    test_nib(long_said, "chat %s %s", tiny(), ban);
    test_status(0);
    test_nib("/load paged\nmore\n/stats\n", "chat %s %s", tiny(), ban);
    test_status(0);
    test_out_has(" of them known from before");
    assert_null(strstr(ran.out.data, " tokens, 0 of them known"));
    test_nib("/load paged\nmore\n/stats\n", "chat %s %s --kv-disk 0", tiny(), ban);
    test_status(0);
    test_out_has(" tokens, 0 of them known");
    test_nib("/list frobnicate\n", "chat %s", tiny());
    test_status(0);
    test_out_has("Nothing of that kind");
    test_nib("/load nobody\n", "chat %s", tiny());
    test_failed(1, "no conversation named 'nobody'");
    snprintf(saved, sizeof saved, "/load %s\n/system\n/set\n",
             write_file("openai.json", input, strlen(input)));
    test_nib(saved, "chat %s", tiny()); /* as other programs keep conversations */
    test_status(0);
    assert_int_equal(strncmp(ran.out.data, "S\n", 2), 0);
    test_out_has("max_tokens");
    setenv("HF_HUB_CACHE", test_tmp(), 1); /* where nothing was pulled */
    test_nib(NULL, "chat");
    test_failed(1, "nib pull qwen2.5-0.5b");
    test_nib(NULL, "chat smollm2-135");
    test_failed(1, "did you mean 'smollm2-135m'?");
    test_nib(NULL, "chat /nonexistent.gguf");
    test_failed(1, "No such file");
    test_nib(NULL, "chat %s", embedder());
    test_failed(1, "embedding model");
}

/* Ctrl-C stops a run; what there was of the reply is printed. */
static void test_interrupted(void **state) {
    (void)state;
    const char *slow =
        test_tiny_model("slow.gguf", &(test_tiny){.n_embd = 512, .n_layer = 6, .n_ctx = 32768});
    int out[2], err[2], status;
    char text[4096];
    assert_int_equal(pipe(out) | pipe(err), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        close(out[0]), close(err[0]), close(out[1]), close(err[1]);
        execl(NIB_COMMAND, "nib", "run", slow, "-p", "x", "--logit-bias", "2=-inf", "--temp", "0",
              "--ctx", "32768", (char *)NULL);
        _exit(127);
    }
    close(out[1]), close(err[1]);
    assert_true(read(out[0], text, 1) == 1); /* it speaks */
    kill(pid, SIGINT);
    while (read(out[0], text, sizeof text) > 0) {
    }
    ssize_t n = read(err[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    assert_string_equal(text, "nib: interrupted\n");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 130);
    close(out[0]), close(err[0]);
}

/* Another program takes the machine's memory while a reply is made: the run ends in order, before
 * the machine swaps. */
static void test_watch(void **state) {
    (void)state;
    nib_sysinfo m;
    nib_sysinfo_read(&m);
    const uint64_t step = 1500000000;
    if (m.mem_available < 3 * step) {
        print_message("less than 4.5 GB free: the memory watch is not tried\n");
        return;
    }
    const char *slow =
        test_tiny_model("slow.gguf", &(test_tiny){.n_embd = 512, .n_layer = 6, .n_ctx = 32768});
    pid_t taker = fork();
    if (taker == 0) {
        usleep(700000);
        volatile char *p = malloc(2 * step);
        for (uint64_t i = 0; p && i < 2 * step; i += 4096) p[i] = 1;
        sleep(60);
        _exit(0);
    }
    test_nib(NULL, "run %s -p x --logit-bias 2=-inf --temp 0 --ctx 32768 --min-free-mem %llu", slow,
             (unsigned long long)(m.mem_available - step));
    kill(taker, SIGKILL);
    waitpid(taker, NULL, 0);
    test_failed(1, "stopped: only ");
    test_err_has("below the limit of ");
    assert_true(ran.out.len > 1); /* what there was of the reply */
}

static void test_bench(void **state) {
    (void)state;
    test_nib(NULL, "bench %s --pp 8 --tg 4 --depth 0,16 --batch 1,2 --reps 2 --no-probe --json",
             tiny());
    test_status(0);
    test_out_has("\"test\": \"pp8\"");
    test_out_has("\"test\": \"tg4 @16 x2\"");
    test_out_has("\"reps\": 2");
    test_nib(NULL, "bench %s --pp 16 --tg 0 --reps 1 --no-probe --profile", tiny());
    test_status(0);
    test_out_has("| waiting at barriers |");
    test_nib(NULL, "bench %s --pp 40 --tg 0 --reps 1 --no-probe --fast-prompt --csv", tiny());
    test_status(0);
    test_out_has(",pp40 fast,");
    test_nib(NULL, "bench %s --tg four", tiny());
    test_failed(2, "--tg 'four'");
    test_nib(NULL, "bench %s", embedder());
    test_failed(1, "embedding model");
}

/* Whatever is given as a model: one line that says what is wrong, exit status 1. */
static void test_bad_models(void **state) {
    (void)state;
    static const char *const commands[] = {"show %s",    "tokenize %s x", "detokenize %s 1",
                                           "embed %s x", "run %s -p x",   "chat %s"};
    nib_buf good = read_file(tiny());
    const struct {
        const char *path, *says;
    } bad[] = {
        {"/nonexistent.gguf", "No such file"},
        {"/tmp", "directory"},
        {"/dev/null", "device"},
        {strdup(write_file("text.gguf", "not a model at all, just text", 29)), "GGUF"},
        {strdup(write_file("empty.gguf", "", 0)), "empty.gguf"},
        {strdup(write_file("cut.gguf", good.data, 100)), "cut.gguf"},
        {strdup(write_file("half.gguf", good.data, good.len / 2)), "half.gguf"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++)
        for (size_t k = 0; k < NIB_ARRAY_LEN(commands); k++) {
            test_nib(NULL, commands[k], bad[i].path);
            test_failed(1, bad[i].says);
        }
    for (size_t i = 3; i < NIB_ARRAY_LEN(bad); i++) free((void *)(uintptr_t)bad[i].path);
    nib_buf_free(&good);
    print_message("%zu bad models, %zu commands\n", NIB_ARRAY_LEN(bad), NIB_ARRAY_LEN(commands));
}

static void test_memory(void **state) {
    (void)state;
    /* 32 layers with 64 floats of K and V each: 16 million tokens are 131 GB */
    const char *big =
        test_tiny_model("big.gguf", &(test_tiny){.seed = 1, .n_layer = 32, .n_ctx = 16000000});
    const char *ids = write_file("ids", "1 2", 3);
    char out[256];
    snprintf(out, sizeof out, "%s/logits.f32", test_tmp());
    test_nib(NULL, "logits %s --tokens %s --out %s --ctx 16000000 --kv f32", big, ids, out);
    test_failed(1, "a context of 16000000 tokens needs 131");
    test_err_has("with --kv q8_0");
    test_nib(NULL, "logits %s --tokens %s --out %s --ctx auto --kv q8_0", tiny(), ids, out);
    test_status(0);
    test_nib(NULL, "logits %s --tokens %s --out %s --min-free-mem 900T", tiny(), ids, out);
    test_failed(1, "less than the 900 TB of --min-free-mem");
    test_nib(NULL, "logits %s --tokens %s --out %s --min-free-mem 0", tiny(), ids, out);
    test_status(0);
    test_nib(NULL, "logits %s --tokens %s --out %s --min_free_mem=0", tiny(), ids, out);
    test_status(0); /* '_' serves for '-' */
    test_nib(NULL, "logits %s --tokens %s --out %s --min-free-mem much", tiny(), ids, out);
    test_failed(2, "expected a size such as 800M");
    test_nib(NULL, "logits %s --tokens %s --out %s --ctx many", tiny(), ids, out);
    test_failed(2, "expected a number of tokens or auto");
    test_nib(NULL, "logits %s --tokens %s --out %s --kv q4", tiny(), ids, out);
    test_failed(2, "kv: expected auto|i16|f16|f32|q8_0|bf16, found 'q4'");
    test_nib(NULL, "logits %s --tokens %s --out %s --threads 0", tiny(), ids, out);
    test_failed(2, "threads: expected a whole number from 1 to 256");
    test_nib(NULL, "logits %s --tokens %s --out %s --thread", tiny(), ids, out);
    test_failed(2, "wants a value");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help),        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_doctor),      cmocka_unit_test(test_completion),
        cmocka_unit_test(test_stdout),      cmocka_unit_test(test_show),
        cmocka_unit_test(test_tokens),      cmocka_unit_test(test_jsonl_reference),
        cmocka_unit_test(test_render),      cmocka_unit_test(test_logits),
        cmocka_unit_test(test_embed),       cmocka_unit_test(test_run),
        cmocka_unit_test(test_story),       cmocka_unit_test(test_chat_pipe),
        cmocka_unit_test(test_interrupted), cmocka_unit_test(test_watch),
        cmocka_unit_test(test_bench),       cmocka_unit_test(test_bad_models),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
