// Takes a stream of gRPC messages over HTTP/2 on a unix socket as fast as it comes, and counts them; see counting.py.
//
// Usage: counting SOCKET SECONDS < BYTES. The bytes are sent as they are: preface, settings, windows, and the request as
// stream 1. Answers on standard output, all numbers of this machine's order: messages, bytes (uint64), seconds (double),
// then parts of a kind (uint32), a length (uint32) and content: every 1,000th message, and the fragments of headers.
// Ends with 1 and a word on standard error when the stream is not as it should be.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { DATA = 0, HEADERS = 1, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { END_STREAM = 1, ACK = 1 };
enum { FRAME = 9, MESSAGE = 5, ROOM = 1 << 20, FRAME_MAX = 1 << 16, EVERY = 1000 };
enum { SAMPLE = 1, FRAGMENT = 2 };
static const uint64_t REFILL = 1 << 28; // bytes after which the windows are filled again

static int end;
static uint64_t messages, size, taken;
static uint8_t head[MESSAGE]; // of the message that comes
static size_t head_has, left; // bytes of the header, and those of the message that have not come
static uint8_t *sample;       // the message, if it is one to be kept
static size_t sample_has;
static FILE *parts; // what is told at the end
static char *told;
static size_t told_size;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void send_all(const void *data, size_t length) {
    for (const uint8_t *at = data; length;) {
        ssize_t sent = send(end, at, length, MSG_NOSIGNAL);
        if (sent <= 0)
            fail("the server hung up");
        at += sent, length -= (size_t)sent;
    }
}

static void frame(uint8_t kind, uint8_t flags, uint32_t stream, const void *payload, uint8_t length) {
    uint8_t out[FRAME + 255] = {0, 0, length, kind, flags, 0, 0, 0, (uint8_t)stream};
    memcpy(out + FRAME, payload, length);
    send_all(out, FRAME + length);
}

static void part(uint32_t kind, const void *content, uint32_t length) {
    fwrite(&kind, 4, 1, parts);
    fwrite(&length, 4, 1, parts);
    fwrite(content, 1, length, parts);
}

static uint32_t big(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void done(void) {
    if (sample)
        part(SAMPLE, sample, (uint32_t)sample_has);
    free(sample);
    sample = NULL;
    messages++;
    head_has = 0;
}

static void content(const uint8_t *at, size_t length) {
    taken += length, size += length;
    while (length) {
        if (head_has < MESSAGE) {
            head[head_has++] = *at++, length--;
            if (head_has < MESSAGE)
                continue;
            if (head[0])
                fail("a message is compressed");
            left = big(head + 1);
            if (messages % EVERY == 0)
                sample = malloc(left + 1), sample_has = 0;
        }
        size_t some = left < length ? left : length;
        if (sample)
            memcpy(sample + sample_has, at, some), sample_has += some;
        at += some, length -= some, left -= some;
        if (!left)
            done();
    }
}

static void refill(void) {
    uint8_t more[4] = {(uint8_t)(taken >> 24), (uint8_t)(taken >> 16), (uint8_t)(taken >> 8), (uint8_t)taken};
    frame(WINDOW_UPDATE, 0, 0, more, 4);
    frame(WINDOW_UPDATE, 0, 1, more, 4);
    taken = 0;
}

static size_t read_all(uint8_t *into, size_t room) {
    size_t has = 0;
    for (ssize_t got; (got = read(STDIN_FILENO, into + has, room - has)) > 0;)
        has += (size_t)got;
    if (has == room)
        fail("a request is too long");
    return has;
}

static void begin(const char *path, int seconds, const uint8_t *said, size_t length) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = seconds};
    end = socket(AF_UNIX, SOCK_STREAM, 0);
    setsockopt(end, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    strncpy(to.sun_path, path, sizeof to.sun_path - 1);
    if (connect(end, (struct sockaddr *)&to, sizeof to))
        fail("nobody listens");
    send_all(said, length);
}

// One whole frame that is not content; whether the stream is over.
static int other(uint8_t kind, uint8_t flags, const uint8_t *payload, uint32_t length) {
    if (kind == HEADERS)
        part(FRAGMENT, payload, length);
    else if (kind == GOAWAY)
        fail("the server says goodbye in the middle of a stream");
    else if (kind == SETTINGS && !(flags & ACK))
        frame(SETTINGS, ACK, 0, "", 0);
    else if (kind == PING && !(flags & ACK))
        frame(PING, ACK, 0, payload, 8);
    return kind == HEADERS && flags & END_STREAM;
}

static void take(void) {
    static uint8_t buffer[ROOM];
    size_t has = 0;
    uint32_t data = 0; // bytes of a frame of content that have not come
    for (int over = 0; !over;) {
        ssize_t got = recv(end, buffer + has, sizeof buffer - has, 0);
        if (got <= 0)
            fail("the server hung up, or says nothing");
        has += (size_t)got;
        size_t at = 0;
        while (at < has && !over) {
            if (data) {
                size_t some = data < has - at ? data : has - at;
                content(buffer + at, some);
                at += some, data -= (uint32_t)some;
                continue;
            }
            if (has - at < FRAME)
                break;
            uint32_t length = big(buffer + at) >> 8;
            uint8_t kind = buffer[at + 3], flags = buffer[at + 4];
            if (kind == DATA) {
                if (flags)
                    fail("content with flags");
                data = length, at += FRAME;
                continue;
            }
            if (length > FRAME_MAX)
                fail("a frame is too long");
            if (has - at < FRAME + length)
                break;
            over = other(kind, flags, buffer + at + FRAME, length);
            at += FRAME + length;
        }
        memmove(buffer, buffer + at, has - at);
        has -= at;
        if (taken > REFILL)
            refill();
    }
}

int main(int argc, char **argv) {
    struct timespec from, to;
    if (argc != 3 || !(parts = open_memstream(&told, &told_size)))
        fail("usage: counting SOCKET SECONDS");
    static uint8_t said[1 << 16];
    size_t length = read_all(said, sizeof said);
    clock_gettime(CLOCK_MONOTONIC, &from);
    begin(argv[1], atoi(argv[2]), said, length);
    take();
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (head_has)
        fail("the stream ends in the middle of a message");
    double took = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    fclose(parts);
    fwrite(&messages, 8, 1, stdout);
    fwrite(&size, 8, 1, stdout);
    fwrite(&took, 8, 1, stdout);
    fwrite(told, 1, told_size, stdout);
    return 0;
}
