/* The command as a user types it: every command, its errors and its exit status. */
#include <stdlib.h>
#include <unistd.h>
#include "testcmd.h"

static void test_help(void **state) {
    (void)state;
    static const char *const commands[] = {
#define NIB_CMD(name, ...) #name,
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help),   cmocka_unit_test(test_usage),
        cmocka_unit_test(test_doctor), cmocka_unit_test(test_completion),
        cmocka_unit_test(test_stdout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
