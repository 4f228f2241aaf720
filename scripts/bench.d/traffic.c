/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Traffic for scripts/bench: so small that the kernel is measured, and not the program.
 *
 *   traffic serve KIND PORT MS        answer connections one after another; prints "ready"
 *   traffic KIND ADDRESS PORT MS      one round; prints "COUNT NANOSECONDS"
 *   traffic probe FROM TO ADDRESS PORT US MS
 *                                     datagrams from a network namespace (a path) to another
 *
 * KIND is stream (bytes that arrived), rr (a byte there and back on one connection), crr (connect, a
 * byte there and back, close) or connect (connect, close). Everything ends by itself after MS milliseconds.
 *
 * probe sends a datagram every US microseconds until standard input ends. Then it prints a line for
 * each run of datagrams of one fate, "arrived|lost FIRST LAST COUNT"; the times are when they were
 * sent, by CLOCK_MONOTONIC.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NSEC_PER_SEC	1000000000ull
#define NSEC_PER_MSEC	1000000ull
#define NSEC_PER_USEC	1000ull
#define CHUNK		(128 * 1024)
#define PROBES_MAX	(1u << 21)
#define PROBE_PORT	40000
#define LINGER_NS	(50 * NSEC_PER_MSEC)	/* what is still on its way after the last datagram */

enum kind {
	KIND_STREAM,
	KIND_RR,
	KIND_CRR,
	KIND_CONNECT,
};

struct probe {
	uint64_t sent_ns;
	int arrived;
};

static const char *const kinds[] = { "stream", "rr", "crr", "connect" };
static char chunk[CHUNK];

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...)
{
	int number = errno;
	va_list arguments;

	fputs("traffic: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, ": %s\n", strerror(number));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NSEC_PER_SEC + now.tv_nsec;
}

static unsigned int number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (!*text || *end || value > INT32_MAX) {
		errno = EINVAL;
		fail("%s", text);
	}
	return value;
}

static enum kind kind_of(const char *name)
{
	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(name, kinds[i]))
			return i;
	errno = EINVAL;
	fail("%s", name);
}

static struct sockaddr_in address_of(const char *address, unsigned int port)
{
	struct sockaddr_in made = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, address, &made.sin_addr) != 1) {
		errno = EINVAL;
		fail("%s", address);
	}
	return made;
}

/* The process does not outlive its purpose, whatever its peer does. */
static void end_after(unsigned int ms)
{
	struct itimerval timer = { .it_value = { ms / 1000, ms % 1000 * 1000 } };

	if (setitimer(ITIMER_REAL, &timer, NULL))
		fail("setitimer");
}

static void set_option(int fd, int level, int option, int value)
{
	if (setsockopt(fd, level, option, &value, sizeof(value)))
		fail("setsockopt %d", option);
}

static int connected(const struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket");
	if (connect(fd, (const struct sockaddr *)to, sizeof(*to)))
		fail("connect");
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	return fd;
}

/* One byte there and back. */
static void exchange(int fd)
{
	char byte = 0;

	if (send(fd, &byte, 1, 0) != 1)
		fail("send");
	if (recv(fd, &byte, 1, 0) != 1)
		fail("recv");
}

static uint64_t stream(const struct sockaddr_in *to, uint64_t until)
{
	int fd = connected(to);
	uint64_t arrived;

	while (now_ns() < until)
		if (send(fd, chunk, sizeof(chunk), 0) < 0)
			fail("send");
	if (shutdown(fd, SHUT_WR))
		fail("shutdown");
	if (recv(fd, &arrived, sizeof(arrived), MSG_WAITALL) != sizeof(arrived))
		fail("recv");
	close(fd);
	return arrived;
}

static uint64_t request_response(const struct sockaddr_in *to, uint64_t until)
{
	int fd = connected(to);
	uint64_t count = 0;

	for (; now_ns() < until; count++)
		exchange(fd);
	close(fd);
	return count;
}

static uint64_t connect_request_close(const struct sockaddr_in *to, uint64_t until)
{
	uint64_t count = 0;

	for (; now_ns() < until; count++) {
		int fd = connected(to);

		exchange(fd);
		close(fd);
	}
	return count;
}

static uint64_t connect_close(const struct sockaddr_in *to, uint64_t until)
{
	uint64_t count = 0;

	for (; now_ns() < until; count++)
		close(connected(to));
	return count;
}

static void ask(enum kind kind, const struct sockaddr_in *to, unsigned int ms)
{
	uint64_t began = now_ns(), until = began + ms * NSEC_PER_MSEC, count = 0;

	switch (kind) {
	case KIND_STREAM:
		count = stream(to, until);
		break;
	case KIND_RR:
		count = request_response(to, until);
		break;
	case KIND_CRR:
		count = connect_request_close(to, until);
		break;
	case KIND_CONNECT:
		count = connect_close(to, until);
		break;
	}
	printf("%llu %llu\n", (unsigned long long)count, (unsigned long long)(now_ns() - began));
}

/* Until the peer has no more to say: bytes are counted, or each is sent back. */
static void answer(int fd, enum kind kind)
{
	uint64_t arrived = 0;
	ssize_t length;

	if (kind == KIND_STREAM) {
		while ((length = recv(fd, chunk, sizeof(chunk), 0)) > 0)
			arrived += length;
		if (send(fd, &arrived, sizeof(arrived), MSG_NOSIGNAL) < 0)
			fail("send");
		return;
	}
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	while ((length = recv(fd, chunk, 1, 0)) > 0)
		if (send(fd, chunk, length, MSG_NOSIGNAL) < 0)
			fail("send");
}

static void __attribute__((noreturn)) serve(enum kind kind, unsigned int port)
{
	struct sockaddr_in here = address_of("0.0.0.0", port);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (listener < 0)
		fail("socket");
	set_option(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) || listen(listener, 512))
		fail("listen on %u", port);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			fail("accept");
		answer(fd, kind);
		close(fd);
	}
}

/* A socket belongs to the namespace in which it was made, wherever its process is now. */
static int datagrams_in(const char *namespace)
{
	int file = open(namespace, O_RDONLY | O_CLOEXEC), fd;

	if (file < 0 || setns(file, CLONE_NEWNET))
		fail("%s", namespace);
	close(file);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		fail("socket");
	return fd;
}

static void take_in(int fd, struct probe *probes, unsigned int sent)
{
	uint32_t which;

	while (recv(fd, &which, sizeof(which), 0) == sizeof(which))
		if (which < sent)
			probes[which].arrived = 1;
	if (errno != EAGAIN && errno != ECONNREFUSED)
		fail("recv");
}

/* Sleeps until then, or until standard input ends, which it says. */
static int rest(uint64_t until)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	uint64_t now = now_ns();
	struct timespec left = { 0, now < until ? until - now : 0 };
	int ready = ppoll(&input, 1, &left, NULL);

	if (ready < 0)
		fail("ppoll");
	return ready > 0;
}

static void print_runs(const struct probe *probes, unsigned int sent)
{
	for (unsigned int first = 0, last; first < sent; first = last + 1) {
		for (last = first; last + 1 < sent && probes[last + 1].arrived == probes[first].arrived; last++)
			;
		printf("%s %llu %llu %u\n", probes[first].arrived ? "arrived" : "lost",
		       (unsigned long long)probes[first].sent_ns,
		       (unsigned long long)probes[last].sent_ns, last - first + 1);
	}
}

static void probe(int from, int to, const struct sockaddr_in *there, unsigned int us,
		  unsigned int ms)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(PROBE_PORT) };
	struct probe *probes = calloc(PROBES_MAX, sizeof(*probes));
	uint64_t next = now_ns(), until = next + ms * NSEC_PER_MSEC;
	uint32_t sent = 0;

	if (!probes)
		fail("calloc");
	set_option(to, SOL_SOCKET, SO_RCVBUF, 1 << 20);
	if (bind(to, (const struct sockaddr *)there, sizeof(*there)) ||
	    bind(from, (const struct sockaddr *)&here, sizeof(here)) ||
	    connect(from, (const struct sockaddr *)there, sizeof(*there)))
		fail("sockets for the probe");
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	puts("ready");
	fflush(stdout);
	while (sent < PROBES_MAX && next < until && !rest(next)) {
		probes[sent].sent_ns = now_ns();
		if (send(from, &sent, sizeof(sent), 0) != sizeof(sent))
			fail("send");
		take_in(to, probes, ++sent);
		next += us * NSEC_PER_USEC;
		if (next < now_ns())	/* late: the rest of the schedule moves on */
			next = now_ns();
	}
	for (until = now_ns() + LINGER_NS; now_ns() < until;)
		take_in(to, probes, sent);
	print_runs(probes, sent);
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc == 5 && !strcmp(argv[1], "serve")) {
		end_after(number(argv[4]));
		serve(kind_of(argv[2]), number(argv[3]));
	}
	if (argc == 8 && !strcmp(argv[1], "probe")) {
		struct sockaddr_in there = address_of(argv[4], number(argv[5]));
		int from = datagrams_in(argv[2]), to = datagrams_in(argv[3]);

		end_after(number(argv[7]) + 5000);
		probe(from, to, &there, number(argv[6]), number(argv[7]));
		return 0;
	}
	if (argc == 5) {
		struct sockaddr_in to = address_of(argv[2], number(argv[3]));

		end_after(number(argv[4]) + 10000);
		ask(kind_of(argv[1]), &to, number(argv[4]));
		return 0;
	}
	fputs("usage: see the top of traffic.c\n", stderr);
	return 2;
}
