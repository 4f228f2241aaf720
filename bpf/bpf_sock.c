/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets: a connection to a service becomes one to a backend before its first packet exists.
 *
 *   sock_connect4/6      connect(): the backend takes the place of the frontend
 *   sock_sendmsg4/6      the same for datagrams of sockets that are not connected
 *   sock_recvmsg4/6      where a datagram comes from: the frontend, again
 *   sock_peername4/6     getpeername(): likewise
 *   sock_bind4/6         nobody on the node takes the port of a service of the node
 *   sock_release         what was remembered of a socket is forgotten
 */
#include "lib/ctx.h"
#include "lib/config.h"
#include "lib/types.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/drop.h"
#include "lib/eps.h"
#include "lib/lb.h"

#ifndef CONFIG_sock_hostns_only
#define CONFIG_sock_hostns_only 0	/* only sockets of the node's own network namespace */
#endif
#ifndef CONFIG_node_port_bind_protection
#define CONFIG_node_port_bind_protection 1
#endif

#define SOCK_PASS 1
#define SOCK_REFUSE 0
#define ECONNREFUSED 111
#define AF_INET 2

/* struct bpf_sock_addr, as far as programs read it. */
struct sock_addr_ctx {
	u32 user_family;
	u32 user_ip4;
	u32 user_ip6[4];
	u32 user_port;
	u32 family;
	u32 type;
	u32 protocol;
};

/* struct bpf_sock, likewise. */
struct sock_ctx {
	u32 bound_dev_if;
	u32 family;
	u32 type;
	u32 protocol;
	u32 mark;
	u32 priority;
	u32 src_ip4;
	u32 src_ip6[4];
	u32 src_port;		/* in the host's byte order */
	__be16 dst_port;
	u16 pad;
	u32 dst_ip4;
	u32 dst_ip6[4];
};

HELPER(long, map_delete_elem, 3, void *map, const void *key);
HELPER(u32, get_prandom_u32, 7, void);
HELPER(u64, get_socket_cookie, 46, void *ctx);
HELPER(u64, get_netns_cookie, 122, void *ctx);
HELPER(long, set_retval, 187, s64 value);

/* Fields of the context, read and written at constant offsets from its own register, as the verifier wants it. */
#define SOCK_LOAD(type, ctx, field) ({ \
	unsigned long __value; \
	asm volatile("%[value] = *(u32 *)(%[base] + %[at])" \
		     : [value] "=r"(__value) \
		     : [base] "r"(ctx), [at] "i"(__builtin_offsetof(type, field))); \
	(u32)__value; })
#define SOCK_STORE(ctx, field, what) ({ \
	unsigned long __value = (what); \
	asm volatile("*(u32 *)(%[base] + %[at]) = %[value]" \
		     : \
		     : [base] "r"(ctx), [at] "i"(__builtin_offsetof(struct sock_addr_ctx, field)), \
		       [value] "r"(__value) \
		     : "memory"); })
#define ADDR_LOAD(ctx, field) SOCK_LOAD(struct sock_addr_ctx, ctx, field)

/* The address that a call names, as a frontend or a backend would have it. */
struct sock_place {
	struct addr addr;
	__be16 port;
	u8 protocol;
	u8 family;
};

static __always_inline bool sock_is_mapped(u32 first, u32 second, u32 third)
{
	return !(first | second) && third == bpf_htonl(0xffff);
}

static __always_inline void sock_read(struct sock_addr_ctx *ctx, struct sock_place *place, const bool v6)
{
	__builtin_memset(place, 0, sizeof(*place));
	place->port = ADDR_LOAD(ctx, user_port);
	place->protocol = ADDR_LOAD(ctx, protocol);
	place->family = FAMILY_V4;
	if (!v6) {
		place->addr.word[0] = ADDR_LOAD(ctx, user_ip4);
		return;
	}
	place->addr.word[0] = ADDR_LOAD(ctx, user_ip6[0]);
	place->addr.word[1] = ADDR_LOAD(ctx, user_ip6[1]);
	place->addr.word[2] = ADDR_LOAD(ctx, user_ip6[2]);
	place->addr.word[3] = ADDR_LOAD(ctx, user_ip6[3]);
	if (!sock_is_mapped(place->addr.word[0], place->addr.word[1], place->addr.word[2])) {
		place->family = FAMILY_V6;
		return;
	}
	place->addr.word[0] = place->addr.word[3];
	place->addr.word[2] = 0;
	place->addr.word[3] = 0;
}

/* The family stays what `sock_read` has found. */
static __always_inline void sock_write(struct sock_addr_ctx *ctx, const struct addr *addr, __be16 port, u8 family,
				       const bool v6)
{
	SOCK_STORE(ctx, user_port, port);
	if (!v6) {
		SOCK_STORE(ctx, user_ip4, addr->word[0]);
	} else if (family == FAMILY_V4) {
		SOCK_STORE(ctx, user_ip6[3], addr->word[0]);
	} else {
		SOCK_STORE(ctx, user_ip6[0], addr->word[0]);
		SOCK_STORE(ctx, user_ip6[1], addr->word[1]);
		SOCK_STORE(ctx, user_ip6[2], addr->word[2]);
		SOCK_STORE(ctx, user_ip6[3], addr->word[3]);
	}
}

/* The agent says which network namespace is the node's: it need not be the machine's first one. */
static __always_inline bool sock_is_of_node(void *ctx)
{
	return get_netns_cookie(ctx) == state_number(STATE_NETNS);
}

/* The backend for a new connection of this socket. Clients with affinity stay where they are. */
static __always_inline struct lb_backend *sock_choose(struct sock_addr_ctx *ctx, const struct lb_service *service)
{
	bool local = service->kind == LB_KIND_LOCAL_REDIRECT || (service->flags & LB_FLAG_INTERNAL_LOCAL);
	struct lb_affinity_key client = { .service_id = service->id, .netns_cookie = 1 };
	struct lb_backend *backend;
	u64 cookie;
	u32 now;

	if (likely(!service->affinity_s))
		return lb_backend_random(service, local, get_prandom_u32());
	now = packet_now();
	cookie = get_netns_cookie(ctx);
	client.client.word[0] = cookie;
	client.client.word[1] = cookie >> 32;
	backend = lb_affinity_backend(service, &client, now);
	if (!backend)
		backend = lb_backend_random(service, local, get_prandom_u32());
	if (backend)
		lb_affinity_set(&client, backend->id, now);
	return backend;
}

/* The frontend that the call names becomes one of its backends. */
static __always_inline int sock_forward(struct sock_addr_ctx *ctx, const bool v6)
{
	struct lb_service *service;
	struct lb_backend *backend;
	struct sock_place place;
	bool of_node = sock_is_of_node(ctx);

	if (CONFIG(sock_hostns_only) && !of_node)
		return SOCK_PASS;
	sock_read(ctx, &place, v6);
	service = lb_service_lookup(&place.addr, place.port, place.protocol, place.family, of_node);
	if (likely(!service))
		return SOCK_PASS;
	backend = sock_choose(ctx, service);
	if (unlikely(!backend)) {
		set_retval(-ECONNREFUSED);
		return SOCK_REFUSE;
	}
	{
		struct lb_sock_key key = {
			.cookie = get_socket_cookie(ctx),
			.addr = backend->addr,
			.port = backend->port,
			.protocol = place.protocol,
		};
		struct lb_sock frontend = {
			.addr = place.addr,
			.port = place.port,
			.service_id = service->id,
			.backend_id = backend->id,
		};

		map_update_elem(MAP(SLOT_LB_SOCKS), &key, &frontend, BPF_ANY);
	}
	sock_write(ctx, &backend->addr, backend->port, place.family, v6);
	return SOCK_PASS;
}

/* The backend that the call would name becomes the frontend that the socket knows. */
static __always_inline int sock_reverse(struct sock_addr_ctx *ctx, const bool v6)
{
	struct sock_place place;
	struct lb_sock_key key = {};
	struct lb_sock *frontend;

	if (CONFIG(sock_hostns_only) && !sock_is_of_node(ctx))
		return SOCK_PASS;
	sock_read(ctx, &place, v6);
	key.cookie = get_socket_cookie(ctx);
	key.addr = place.addr;
	key.port = place.port;
	key.protocol = place.protocol;
	frontend = map_lookup_elem(MAP(SLOT_LB_SOCKS), &key);
	if (frontend)
		sock_write(ctx, &frontend->addr, frontend->port, place.family, v6);
	return SOCK_PASS;
}

static __always_inline int sock_bound(struct sock_ctx *ctx, u8 family)
{
	u32 port = SOCK_LOAD(struct sock_ctx, ctx, src_port);
	u8 protocol = SOCK_LOAD(struct sock_ctx, ctx, protocol);
	struct lb_service *service;

	if (!CONFIG(node_port_bind_protection) || !sock_is_of_node(ctx))
		return SOCK_PASS;
	service = lb_service_any(bpf_htons((u16)port), protocol, family);
	return service && service->kind == LB_KIND_NODE_PORT ? SOCK_REFUSE : SOCK_PASS;
}

PROGRAM int sock_connect4(struct sock_addr_ctx *ctx)
{
	return sock_forward(ctx, false);
}

PROGRAM int sock_connect6(struct sock_addr_ctx *ctx)
{
	return sock_forward(ctx, true);
}

PROGRAM int sock_sendmsg4(struct sock_addr_ctx *ctx)
{
	return sock_forward(ctx, false);
}

PROGRAM int sock_sendmsg6(struct sock_addr_ctx *ctx)
{
	return sock_forward(ctx, true);
}

PROGRAM int sock_recvmsg4(struct sock_addr_ctx *ctx)
{
	return sock_reverse(ctx, false);
}

PROGRAM int sock_recvmsg6(struct sock_addr_ctx *ctx)
{
	return sock_reverse(ctx, true);
}

PROGRAM int sock_peername4(struct sock_addr_ctx *ctx)
{
	return sock_reverse(ctx, false);
}

PROGRAM int sock_peername6(struct sock_addr_ctx *ctx)
{
	return sock_reverse(ctx, true);
}

PROGRAM int sock_bind4(struct sock_ctx *ctx)
{
	return sock_bound(ctx, FAMILY_V4);
}

PROGRAM int sock_bind6(struct sock_ctx *ctx)
{
	return sock_bound(ctx, FAMILY_V6);
}

PROGRAM int sock_release(struct sock_ctx *ctx)
{
	struct lb_sock_key key = {};

	key.cookie = get_socket_cookie(ctx);
	key.protocol = SOCK_LOAD(struct sock_ctx, ctx, protocol);
	key.port = ctx->dst_port;
	if (SOCK_LOAD(struct sock_ctx, ctx, family) == AF_INET) {
		key.addr.word[0] = SOCK_LOAD(struct sock_ctx, ctx, dst_ip4);
	} else {
		key.addr.word[0] = SOCK_LOAD(struct sock_ctx, ctx, dst_ip6[0]);
		key.addr.word[1] = SOCK_LOAD(struct sock_ctx, ctx, dst_ip6[1]);
		key.addr.word[2] = SOCK_LOAD(struct sock_ctx, ctx, dst_ip6[2]);
		key.addr.word[3] = SOCK_LOAD(struct sock_ctx, ctx, dst_ip6[3]);
		if (sock_is_mapped(key.addr.word[0], key.addr.word[1], key.addr.word[2])) {
			key.addr.word[0] = key.addr.word[3];
			key.addr.word[2] = 0;
			key.addr.word[3] = 0;
		}
	}
	map_delete_elem(MAP(SLOT_LB_SOCKS), &key);
	return SOCK_PASS;
}
