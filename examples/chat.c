/* chat: the smallest useful program on libnib. Talks with a model, a line at a time; Ctrl-D leaves.
 *
 *     cc chat.c $(pkg-config --cflags --libs nib) -o chat && ./chat model.gguf */
#include <nib.h>
#include <stdio.h>
#include <string.h>

static bool print(void *arg, const char *text, size_t n, bool thought) {
    (void)arg;
    if (!thought) fwrite(text, 1, n, stdout);
    fflush(stdout);
    return true; /* false would stop the reply */
}

int main(int argc, char **argv) {
    nib_error e;
    nib_model *model;
    nib_chat *chat;
    char line[4096];
    if (argc != 2) {
        fprintf(stderr, "usage: chat MODEL.gguf\n");
        return 2;
    }
    if (nib_open(&model, argv[1], &e)) {
        fprintf(stderr, "chat: %s\n", e.message);
        return 1;
    }
    nib_status s = nib_chat_open(&chat, model, NULL, &e);
    nib_close(model); /* the chat keeps it */
    if (s) {
        fprintf(stderr, "chat: %s\n", e.message);
        return 1;
    }
    nib_chat_set(chat, "max_tokens", "200", NULL);
    while (!s && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if ((s = nib_chat_say(chat, line, print, NULL, NULL, &e)))
            fprintf(stderr, "chat: %s\n", e.message);
        printf("\n");
    }
    nib_chat_close(chat);
    return s ? 1 : 0;
}
