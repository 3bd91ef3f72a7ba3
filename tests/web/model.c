/* Writes a model of random weights that is slow enough to watch: web_model FILE. */
#include "tinymodel.h"

int main(int argc, char **argv) {
    nib_error e;
    nib_buf b = {0};
    if (argc != 2) return 2;
    const char *path = test_tiny_model(
        "web.gguf", &(test_tiny){.name = "Slow Nonsense",
                                 .seed = 6, /* goes round in circles: long replies */
                                 .n_embd = 512,
                                 .n_layer = 8,
                                 .n_ctx = 2048,
                                 .chat_template = test_chatml});
    if (nib_file_read(path, SIZE_MAX, &b, &e) != NIB_OK ||
        nib_file_write(argv[1], b.data, b.len, &e) != NIB_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    nib_buf_free(&b);
    return 0;
}
