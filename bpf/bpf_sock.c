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
#include "lib/ctx_sock.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/drop.h"
#include "lib/eps.h"
#include "lib/eth.h"
#include "lib/lb.h"
#include "lib/mark.h"
#include "lib/record.h"
#include "lib/sock_notify.h"

#ifndef CONFIG_sock_hostns_only
#define CONFIG_sock_hostns_only 0	/* only sockets of the node's own network namespace */
#endif
#ifndef CONFIG_node_port_bind_protection
#define CONFIG_node_port_bind_protection 1
#endif

/* The agent says which network namespace is the node's: it need not be the machine's first one. */
static __always_inline bool sock_is_of_node(void *ctx)
{
	return get_netns_cookie(ctx) == state_number(STATE_NETNS);
}

/* The frontend that the call names; NULL if it is no service. The node's loopback addresses are the node's for its
 * own sockets only, and so is no address at all, by which Linux means loopback, too: it is what a service of any
 * address is found by, but a pod that names it means itself. A pod that traffic is redirected to may have asked to
 * reach what was meant itself.
 */
static __always_inline struct lb_service *sock_service(struct sock_addr_ctx *ctx, const struct sock_place *place)
{
	struct lb_service *service = lb_service_at(&place->addr, place->port, place->protocol, place->family);

	if (service) {
		if (unlikely(addr_is_zero(&place->addr)) && !sock_is_of_node(ctx))
			return NULL;
		if (unlikely(service->flags & LB_FLAG_SKIP_BACKENDS) &&
		    lb_skips_map(get_netns_cookie(ctx), service->id))
			return lb_service_beneath(&place->addr, place->port, place->protocol, place->family);
		return service;
	}
	service = lb_service_any(place->port, place->protocol, place->family);
	if (likely(!service))
		return NULL;
	if (lb_is_loopback(&place->addr, place->family))
		return sock_is_of_node(ctx) ? service : NULL;
	return identity_of(&place->addr, place->family) == IDENTITY_HOST ? service : NULL;
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
	if (backend)
		return backend;
	backend = lb_backend_random(service, local, get_prandom_u32());
	if (backend)
		lb_affinity_set(&client, backend->id, now);
	return backend;
}

/* What a row of a socket is found by, where `place` is a backend. */
static __always_inline void sock_row(struct lb_sock_key *key, u64 cookie, const struct sock_place *place)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->cookie = cookie;
	key->addr = place->addr;
	key->port = place->port;
	key->family = place->family;
	key->protocol = place->protocol;
}

static __always_inline bool sock_is_backend(const struct lb_peer *peer, const struct addr *addr, __be16 port)
{
	return peer->state && peer->backend_port == port && addr_equal(&peer->backend, addr);
}

/* What was remembered of a socket that loses its place. */
static __always_inline void sock_move(const struct lb_peer *peer, u64 owner)
{
	struct lb_sock_key key = {
		.cookie = owner,
		.addr = peer->backend,
		.port = peer->backend_port,
		.family = peer->family,
		.protocol = peer->protocol,
	};
	struct lb_sock frontend = {
		.addr = peer->addr,
		.port = peer->port,
		.service_id = peer->service_id,
		.backend_id = peer->backend_id,
		.state = peer->state,
	};

	map_update_elem(MAP(SLOT_LB_SOCKS), &key, &frontend, BPF_ANY);
}

/* Whether the place is the socket's now, whosever it was; 2: it was before. Two sockets that want it at once both have
 * rows instead; that takes one that is 65,536 younger than the other.
 */
#define SOCK_TAKEN 1
#define SOCK_HELD 2
static __always_inline u8 sock_take(struct lb_peer *peer, u64 cookie)
{
	u64 owner = __sync_val_compare_and_swap(&peer->cookie, 0, cookie);

	if (likely(!owner))
		return SOCK_TAKEN;
	if (owner == cookie)
		return SOCK_HELD;
	peer->shared = 1;
	if (__sync_val_compare_and_swap(&peer->cookie, owner, cookie) != owner)
		return 0;
	if (peer->state)
		sock_move(peer, owner);
	peer->state = 0;
	peer->more = 0;
	return SOCK_TAKEN;
}

/* What comes from the backend comes from the frontend for the socket. False if that cannot be remembered.
 *
 * Datagrams of a socket may be sent by many at a time, so its place is written by the first of them, and else by
 * connect() only; for all others there are rows.
 */
static __always_inline bool sock_remember(struct sock_addr_ctx *ctx, const struct sock_place *place,
					  const struct lb_service *service, const struct lb_backend *backend,
					  const bool connects)
{
	u64 cookie = get_socket_cookie(ctx);
	struct lb_peer *peer = lb_peers_map(cookie);
	struct lb_sock frontend = {
		.addr = place->addr,
		.port = place->port,
		.service_id = service->id,
		.backend_id = backend->id,
		.state = connects ? LB_PEER_CONNECTED : LB_PEER_SENT,
	};
	struct lb_sock_key key;
	struct lb_sock *row;
	u8 whose;

	if (unlikely(!peer))
		return false;
	whose = sock_take(peer, cookie);
	if (likely(whose == SOCK_TAKEN || (whose == SOCK_HELD && connects))) {
		peer->backend = backend->addr;
		peer->backend_port = backend->port;
		peer->addr = place->addr;
		peer->port = place->port;
		peer->netns_cookie = get_netns_cookie(ctx);
		peer->backend_id = backend->id;
		peer->service_id = service->id;
		peer->protocol = place->protocol;
		peer->family = place->family;
		*(volatile u8 *)&peer->state = frontend.state;
		return true;
	}
	if (whose == SOCK_HELD) {
		if (sock_is_backend(peer, &backend->addr, backend->port)) {
			if (peer->state == LB_PEER_CONNECTED ||
			    (peer->port == place->port && addr_equal(&peer->addr, &place->addr)))
				return true;
			peer->state = 0;
		}
		peer->more = 1;
	}
	sock_row(&key, cookie, place);
	key.addr = backend->addr;
	key.port = backend->port;
	row = lb_socks_map(&key);
	if (row && !connects &&
	    (row->state == LB_PEER_CONNECTED || (row->port == place->port && addr_equal(&row->addr, &place->addr))))
		return true;
	return !map_update_elem(MAP(SLOT_LB_SOCKS), &key, &frontend, BPF_ANY);
}

/* The socket speaks with this place itself now, also if it is a backend that it reached by a frontend before; unless
 * that is what it is connected to: IPv6 sockets send to an IPv4 address by naming it, as if they were not connected.
 */
static __always_inline void sock_forget(struct sock_addr_ctx *ctx, const struct sock_place *place, const bool connects)
{
	u64 cookie = get_socket_cookie(ctx);
	struct lb_peer *peer = lb_peers_map(cookie);
	struct lb_sock_key key;
	struct lb_sock *row;

	if (unlikely(!peer))
		return;
	if (peer->cookie == cookie) {
		if (connects)
			peer->state = 0;
		else if (sock_is_backend(peer, &place->addr, place->port) && peer->state != LB_PEER_CONNECTED)
			peer->state = 0;
		if (!peer->more && !peer->shared)
			return;
	} else if (likely(!peer->shared)) {
		return;
	}
	sock_row(&key, cookie, place);
	row = lb_socks_map(&key);
	if (row && (connects || row->state != LB_PEER_CONNECTED))
		map_delete_elem(MAP(SLOT_LB_SOCKS), &key);
}

/* What is remembered of a socket that is connected to this very frontend, and names it again with a datagram: that goes
 * where the others go, as the kernel would drop what another backend answers. NULL: it is not, or not any more.
 */
static __always_inline struct lb_peer *sock_connected(struct sock_addr_ctx *ctx, const struct sock_place *place)
{
	struct sock_ctx *sk = ctx->sk;
	struct lb_peer *peer;
	u64 cookie;

	if (likely(!sk || sk->state != SOCK_CONNECTED))
		return NULL;
	cookie = get_socket_cookie(ctx);
	peer = lb_peers_map(cookie);
	if (!peer || peer->cookie != cookie || peer->state != LB_PEER_CONNECTED)
		return NULL;
	if (peer->port != place->port || peer->family != place->family || !addr_equal(&peer->addr, &place->addr))
		return NULL;
	return peer;
}

/* A proxy goes where its client has meant to go, for which the client's policy was asked. */
static __always_inline bool sock_is_of_proxy(struct sock_addr_ctx *ctx)
{
	struct sock_ctx *sk = ctx->sk;

	return sk && mark_is_from_proxy(sk->mark);
}

/* The frontend that the call names becomes one of its backends. */
static __always_inline int sock_forward(struct sock_addr_ctx *ctx, const bool v6, const bool connects)
{
	struct lb_service *service;
	struct lb_backend *backend;
	struct sock_place place;
	struct lb_peer *peer;

	if ((CONFIG(sock_hostns_only) && !sock_is_of_node(ctx)) || unlikely(sock_is_of_proxy(ctx)))
		return SOCK_PASS;
	sock_read(ctx, &place, v6);
	service = sock_service(ctx, &place);
	if (likely(!service)) {
		sock_forget(ctx, &place, connects);
		return SOCK_PASS;
	}
	peer = connects ? NULL : sock_connected(ctx, &place);
	if (unlikely(peer)) {
		sock_write(ctx, &peer->backend, peer->backend_port, place.family, v6);
		return SOCK_PASS;
	}
	backend = sock_choose(ctx, service);
	if (unlikely(!backend)) {
		set_retval(-ECONNREFUSED);
		return SOCK_REFUSE;
	}
	if (unlikely(!sock_remember(ctx, &place, service, backend, connects))) {
		set_retval(-ENOMEM);
		return SOCK_REFUSE;
	}
	if (connects)
		sock_notify(ctx, &place, backend);
	sock_write(ctx, &backend->addr, backend->port, place.family, v6);
	return SOCK_PASS;
}

/* The backend that the call would name becomes the frontend that the socket knows. */
static __always_inline int sock_reverse(struct sock_addr_ctx *ctx, const bool v6)
{
	u64 cookie = get_socket_cookie(ctx);
	struct lb_peer *peer = lb_peers_map(cookie);
	struct sock_place place;
	struct lb_sock_key key;
	struct lb_sock *row;

	if (unlikely(!peer))
		return SOCK_PASS;
	if (peer->cookie != cookie) {
		if (likely(!peer->shared))
			return SOCK_PASS;
		sock_read(ctx, &place, v6);
	} else {
		sock_read(ctx, &place, v6);
		if (sock_is_backend(peer, &place.addr, place.port)) {
			sock_write(ctx, &peer->addr, peer->port, place.family, v6);
			return SOCK_PASS;
		}
		if (!peer->more && !peer->shared)
			return SOCK_PASS;
	}
	sock_row(&key, cookie, &place);
	row = lb_socks_map(&key);
	if (row)
		sock_write(ctx, &row->addr, row->port, place.family, v6);
	return SOCK_PASS;
}

static __always_inline bool sock_is_node_port(const struct addr *addr, __be16 port, u8 protocol, u8 family)
{
	struct lb_service *service = lb_service_at(addr, port, protocol, family);

	if (!service)
		service = lb_service_any(port, protocol, family);
	return service && service->kind == LB_KIND_NODE_PORT;
}

/* A socket that is bound to :: may take IPv4 as well (nothing here says whether), so it may have neither port. */
static __always_inline int sock_bound(struct sock_ctx *ctx, const bool v6)
{
	__be16 port = bpf_htons((u16)SOCK_LOAD(struct sock_ctx, ctx, src_port));
	u8 protocol = SOCK_LOAD(struct sock_ctx, ctx, protocol);
	struct addr addr = {};
	u8 family = FAMILY_V4;

	if (!CONFIG(node_port_bind_protection) || !sock_is_of_node(ctx))
		return SOCK_PASS;
	if (!v6) {
		addr.word[0] = SOCK_LOAD(struct sock_ctx, ctx, src_ip4);
	} else {
		addr.word[0] = SOCK_LOAD(struct sock_ctx, ctx, src_ip6[0]);
		addr.word[1] = SOCK_LOAD(struct sock_ctx, ctx, src_ip6[1]);
		addr.word[2] = SOCK_LOAD(struct sock_ctx, ctx, src_ip6[2]);
		addr.word[3] = SOCK_LOAD(struct sock_ctx, ctx, src_ip6[3]);
		if (!sock_unmap(&addr))
			family = FAMILY_V6;
		if (addr_is_zero(&addr) && sock_is_node_port(&addr, port, protocol, FAMILY_V4))
			return SOCK_REFUSE;
	}
	return sock_is_node_port(&addr, port, protocol, family) ? SOCK_REFUSE : SOCK_PASS;
}

PROGRAM int sock_connect4(struct sock_addr_ctx *ctx)
{
	return sock_forward(ctx, false, true);
}

PROGRAM int sock_connect6(struct sock_addr_ctx *ctx)
{
	return sock_forward(ctx, true, true);
}

PROGRAM int sock_sendmsg4(struct sock_addr_ctx *ctx)
{
	return sock_forward(ctx, false, false);
}

PROGRAM int sock_sendmsg6(struct sock_addr_ctx *ctx)
{
	return sock_forward(ctx, true, false);
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
	return sock_bound(ctx, false);
}

PROGRAM int sock_bind6(struct sock_ctx *ctx)
{
	return sock_bound(ctx, true);
}

/* Its place is free; rows of it give way to others in time. */
PROGRAM int sock_release(struct sock_ctx *ctx)
{
	u64 cookie = get_socket_cookie(ctx);
	struct lb_peer *peer = lb_peers_map(cookie);

	if (peer && peer->cookie == cookie) {
		peer->state = 0;
		peer->more = 0;
		__sync_lock_test_and_set(&peer->cookie, 0);	/* only after the others */
	}
	return SOCK_PASS;
}
