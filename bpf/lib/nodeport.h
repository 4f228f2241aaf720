/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services for who comes from outside: which packets are theirs, and what becomes of these.
 *
 * What is none of ours goes on to the stack as it came. There is no drop for what we cannot read.
 */
#ifndef CPLANE_NODEPORT_H
#define CPLANE_NODEPORT_H

#define NODEPORT_NONE 0		/* none of ours */
#define NODEPORT_STACK 1	/* for this node: translated it goes on to the stack */
#define NODEPORT_FORWARD 2	/* for another node, or for the client */
#define NODEPORT_NOT_OURS 0x100	/* no action of a program */

/* No header that we look for begins behind this. */
#define NODEPORT_OFFSET_MAX (CTX_REACH - 256)

/* The addresses, ports and shape of a packet that services may be about; false for any other. */
static __always_inline bool nodeport_parse(struct packet_ctx *ctx, struct packet *p, struct nat *nat, const bool v6)
{
	struct ipv6_fragment fragment = {};
	s32 ret = v6 ? ipv6_parse(ctx, p, &fragment) : ipv4_parse(ctx, p);

	if (ret < 0 || p->l4_offset > NODEPORT_OFFSET_MAX || !l4_is_tracked(p->protocol, v6))
		return false;
	nat->fragment_id = fragment.id;
	nat->fragmented = fragment.present;
	if (!v6)
		fragment_find4(ctx, nat);
	if (p->protocol == icmp_protocol(v6))
		return !nat->fragmented && l4_parse_at(ctx, p, ctx_offset(p->l4_offset), v6) >= 0 &&
		       icmp_is_error(p->icmp_type, v6) && error_parse(ctx, p, nat, v6);
	if (unlikely(p->shape == SHAPE_FRAGMENT)) {
		if (!fragment_ports(p, nat))
			return false;
	} else if (l4_parse_at(ctx, p, ctx_offset(p->l4_offset), v6) < 0) {
		return false;
	}
	nat_key(&nat->key, p);
	return true;
}

/* The frontend that is meant; NULL if there is none, or if it is not for who comes from outside. */
static __always_inline struct lb_service *nodeport_service(const struct packet *p)
{
	struct lb_service *service = lb_service_at(&p->daddr, p->dport, p->protocol, p->family);

	if (!service) {
		service = lb_service_any(p->dport, p->protocol, p->family);
		if (likely(!service) || identity_of(&p->daddr, p->family) != IDENTITY_HOST)
			return NULL;
	}
	return service->flags & LB_FLAG_OUTSIDE ? service : NULL;
}

/* False for clients that the service is not for. */
static __always_inline bool nodeport_admits(const struct lb_service *service, const struct packet *p)
{
	struct lb_range_key key = {
		.prefixlen = LB_RANGE_STATIC_BITS + (packet_is_v6(p) ? 128 : 32),
		.service_id = service->id,
		.family = p->family,
		.addr = p->saddr,
	};

	if (likely(!(service->flags & LB_FLAG_SOURCE_RANGES)))
		return true;
	return lb_ranges_map(&key) == !(service->flags & LB_FLAG_SOURCE_DENY);
}

/* The backend for a new connection; NULL if nobody takes any. Clients with affinity stay where they are. */
static __always_inline struct lb_backend *nodeport_choose(const struct lb_service *service, const struct packet *p)
{
	struct lb_affinity_key client = { .service_id = service->id, .client = p->saddr };
	bool local = service->flags & LB_FLAG_EXTERNAL_LOCAL;
	struct lb_backend *backend = NULL;

	if (service->affinity_s)
		backend = lb_affinity_backend(service, &client, p->now);
	if (backend && local && !(backend->flags & LB_BACKEND_LOCAL))
		backend = NULL;
	if (!backend && (service->flags & LB_FLAG_MAGLEV))
		backend = maglev_backend(service, p);
	if (!backend)
		backend = lb_backend_random(service, local, get_prandom_u32());
	if (backend && service->affinity_s)
		lb_affinity_set(&client, backend->id, p->now);
	return backend;
}

/* The address by which backends of other nodes see this one: that of the device by which they are reached, else of
 * the one by which the client came. False if there is none.
 */
static __always_inline bool nodeport_source(struct packet_ctx *ctx, const struct packet *p, struct nat *nat)
{
	struct lb_netdev *device;
	struct lb_flow *to = &nat->to;

	if (fib_route(ctx, p, &nat->fib, to, 0) < 0)
		return false;
	device = lb_netdevs_map(nat->fib.ifindex);
	if (!device)
		device = lb_netdevs_map(ctx_device(ctx));
	if (!device)
		return false;
	if (packet_is_v6(p))
		to->saddr = device->ipv6;
	else
		to->saddr.word[0] = device->ipv4;
	return !addr_is_zero(&to->saddr);
}

/* A connection begins: `nat->to` is what its packets become. */
static __always_inline s32 nodeport_open(struct packet_ctx *ctx, const struct packet *p, struct nat *nat,
					 const struct lb_service *service, const struct lb_backend *backend)
{
	bool local = (backend->flags & LB_BACKEND_LOCAL) || address_is_local(&backend->addr, p->family);
	struct lb_flow *to = &nat->to;

	to->saddr = p->saddr;
	to->daddr = backend->addr;
	to->dport = backend->port;
	to->backend_id = backend->id;
	to->service_id = service->id;
	to->flags = local ? 0 : service->flags & LB_FLAG_DSR ? LB_FLOW_DSR : LB_FLOW_SNAT;
	to->pad = 0;
	if ((to->flags & LB_FLOW_SNAT) && !nodeport_source(ctx, p, nat))
		return DROP(NAT_NO_MAPPING, NODEPORT);
	return nat_open(ctx, nat, p);
}

/* What its row says of a packet, and where it goes. */
static __always_inline s32 nodeport_known(struct nat *nat, const struct lb_flow *flow)
{
	nat->to = *flow;
	if (flow->flags & LB_FLOW_OWN)
		return NODEPORT_STACK;
	return flow->flags & (LB_FLOW_SNAT | LB_FLOW_DSR) ? NODEPORT_FORWARD : NODEPORT_STACK;
}

/* True if the backend of a row is one yet, and its number is not that of another one by now. */
static __always_inline bool nodeport_is_backend(const struct lb_flow *flow)
{
	struct lb_backend *backend = lb_backends_map(flow->backend_id);

	return backend && backend->port == flow->dport && addr_equal(&backend->addr, &flow->daddr);
}

/* A packet of the client of which no row says what it becomes, or of whose row that has to be asked. */
static __always_inline s32 nodeport_ask(struct packet_ctx *ctx, const struct packet *p, struct nat *nat,
					struct lb_flow *flow, u32 epoch)
{
	struct lb_service *service = nodeport_service(p);
	struct lb_backend *backend;
	s32 ret;

	if (likely(!service))
		return NODEPORT_NONE;
	if (!nodeport_admits(service, p))
		return DROP(SOURCE_RANGE, NODEPORT);
	if (flow && flow->service_id == service->id && nodeport_is_backend(flow)) {
		flow->epoch = epoch;
		return nodeport_known(nat, flow);
	}
	backend = nodeport_choose(service, p);
	if (!backend) {
		nat->answered = !(service->flags & LB_FLAG_DROP);
		return DROP(NO_BACKEND, NODEPORT);
	}
	nat->to.epoch = epoch;
	ret = nodeport_open(ctx, p, nat, service, backend);
	if (ret < 0)
		return ret;
	return nat->to.flags & (LB_FLOW_SNAT | LB_FLOW_DSR) ? NODEPORT_FORWARD : NODEPORT_STACK;
}

/* As `nodeport_decide`, where the row is not fresh, or not there. */
static __always_inline s32 nodeport_look(struct packet_ctx *ctx, struct packet *p, struct nat *nat,
					 struct lb_flow *flow, u32 epoch)
{
	p->now = packet_now();
	/* Whose packets may get lost says it again from time to time. */
	nat->told = p->protocol != IPPROTO_TCP || (p->tcp_flags & TCP_SYN);
	if (flow && (!nat_is_live(flow, p) || nat_is_reopened(flow, p) || !nat_touch(nat, flow, p)))
		flow = NULL;
	if (flow && ((flow->flags & LB_FLOW_REVERSE) || flow->epoch == epoch))
		return nodeport_known(nat, flow);
	return nodeport_ask(ctx, p, nat, flow, epoch);
}

/* An error goes where the packets of its row go, and leaves no trace of its own. */
static __always_inline s32 nodeport_error(struct packet *p, struct nat *nat, const struct lb_flow *flow)
{
	p->now = packet_now();
	if (!flow || !nat_is_live(flow, p))
		return NODEPORT_NONE;
	return nodeport_known(nat, flow);
}

/* What becomes of a packet that has come in from outside, whose row is `flow` if it has one. */
static __always_inline s32 nodeport_decide(struct packet_ctx *ctx, struct packet *p, struct nat *nat,
					   struct lb_flow *flow, u32 epoch)
{
	if (flow && ((flow->flags & (LB_FLOW_REVERSE | LB_FLOW_SNAT)) == LB_FLOW_REVERSE ||
		     (flow->flags & (LB_FLOW_REVERSE | LB_FLOW_OWN)) == LB_FLOW_OWN))
		return NODEPORT_NONE;	/* neither this node's backends nor the node itself speak from outside */
	if (unlikely(p->shape == SHAPE_ERROR))
		return nodeport_error(p, nat, flow);
	if (likely(flow && nat_is_fresh(flow, p, nat_tick()) &&
		   ((flow->flags & LB_FLOW_REVERSE) || flow->epoch == epoch)))
		return nodeport_known(nat, flow);
	return nodeport_look(ctx, p, nat, flow, epoch);
}

static __always_inline s32 nodeport_rewrite(struct packet_ctx *ctx, const struct packet *p, const struct nat *nat)
{
	if (unlikely(p->shape == SHAPE_ERROR))
		return error_rewrite(ctx, p, nat);
	return rewrite_packet(ctx, p, &nat->to);
}

/* Answers are given on tcx, where it is known that the packet was for us. */
static __always_inline s32 nodeport_too_big(struct packet_ctx *ctx, const struct packet *p, u16 mtu)
{
	return CTX_XDP ? CTX_ACT_OK : answer_too_big(ctx, p, mtu);
}

/* The node's address at the device by which a tunnelled packet leaves. */
static __always_inline s32 nodeport_outer(const struct packet *p, struct nat *nat, u32 ifindex)
{
	struct lb_netdev *device;

	if (!dsr_is_tunnelled(p, nat))
		return 0;
	device = lb_netdevs_map(ifindex);
	if (!device)
		return DROP(NAT_NO_MAPPING, NODEPORT);
	__builtin_memset(&nat->outer, 0, sizeof(nat->outer));
	if (packet_is_v6(p))
		nat->outer = device->ipv6;
	else
		nat->outer.word[0] = device->ipv4;
	return addr_is_zero(&nat->outer) ? DROP(NAT_NO_MAPPING, NODEPORT) : 0;
}

/* The packet becomes what it is to be on its way. */
static __always_inline s32 nodeport_change(struct packet_ctx *ctx, const struct packet *p, struct nat *nat)
{
	s32 ret = 0;

	nat->changed = true;
	if (CONFIG(dsr_dispatch) != DSR_IPIP || !dsr_is_asked(p, nat))
		ret = nodeport_rewrite(ctx, p, nat);
	return ret < 0 ? ret : dsr_tell(ctx, p, nat);
}

/* The packet leaves for where `nat->to` sends it. An XDP program leaves it to the stack as it came where it cannot
 * send it by itself; what runs on tcx then finds the same rows.
 */
static __always_inline s32 nodeport_forward(struct packet_ctx *ctx, struct packet *p, struct nat *nat,
					    struct lb_flow *flow)
{
	struct lb_route *route = &nat->to.route;
	u32 growth = dsr_growth(p, nat);
	u32 size = fib_packet_size(ctx, p) + growth;
	s32 way = FIB_SUCCESS;
	s32 ret;

	if (unlikely(!route->ifindex || size > route->mtu)) {
		way = fib_route(ctx, p, &nat->fib, &nat->to, size);
		if (way == FIB_SUCCESS)
			fib_keep(&nat->fib, route);
		if (way == FIB_SUCCESS && flow)
			flow->route = *route;
	}
	if (CTX_XDP && (way != FIB_SUCCESS || !fib_is_reached_by_xdp(ctx, route) || fib_is_unsummed(ctx, p))) {
		/* Who finds the row fresh tells nobody of the frontend. */
		if (nat->told && flow)
			flow->tick = 0;
		return CTX_ACT_OK;
	}
	if (way < 0)
		return DROP(FIB_LOOKUP_FAILED, NODEPORT);
	if (way == FIB_TOO_BIG)
		return nodeport_too_big(ctx, p, nat->fib.length - growth);
	if (way != FIB_SUCCESS)
		route->ifindex = 0;
	ret = nodeport_outer(p, nat, way == FIB_SUCCESS ? route->ifindex : nat->fib.ifindex);
	if (ret >= 0)
		ret = nodeport_change(ctx, p, nat);
	return ret < 0 ? ret : fib_forward(ctx, p, &nat->fib, route, dsr_is_tunnelled(p, nat));
}

/* What a device receives from outside: an action, a drop, or NODEPORT_NOT_OURS. */
static __always_inline s32 nodeport_from_outside(struct packet_ctx *ctx, struct packet *p, struct nat *nat)
{
	/* Read before the tables: a change in between leaves the older number, and so another look. */
	u32 epoch = state_number(STATE_EPOCH);
	struct lb_flow *flow = lb_flows_map(&nat->key);
	s32 ret = nodeport_decide(ctx, p, nat, flow, epoch);

	if (ret <= NODEPORT_NONE)
		return ret < 0 ? ret : NODEPORT_NOT_OURS;
	if (unlikely(nat->fragmented) && p->shape != SHAPE_FRAGMENT)
		fragment_remember(p, nat);
	if (ret == NODEPORT_FORWARD)
		return nodeport_forward(ctx, p, nat, flow);
	if (CTX_XDP)
		return CTX_ACT_OK;
	ret = nodeport_rewrite(ctx, p, nat);
	return ret < 0 ? ret : CTX_ACT_OK;
}

/* The live row of what a backend of this node answers, or of a connection of the node's own; NULL if there is none. */
static __always_inline struct lb_flow *nodeport_answer(struct packet *p, struct nat *nat)
{
	struct lb_flow *flow = lb_flows_map(&nat->key);

	if (likely(!flow) || !(flow->flags & (LB_FLOW_REVERSE | LB_FLOW_OWN)))
		return NULL;
	if (p->shape == SHAPE_ERROR || !nat_is_fresh(flow, p, nat_tick())) {
		p->now = packet_now();
		if (!nat_is_live(flow, p))
			return NULL;
		if (p->shape != SHAPE_ERROR)
			nat_touch(nat, flow, p);
	}
	if (unlikely(nat->fragmented) && p->shape != SHAPE_FRAGMENT)
		fragment_remember(p, nat);
	nat->to = *flow;
	return flow;
}

/* A connection of the node itself that would be taken for a client's gets another port on its way. 1: it is one. */
static __always_inline s32 nodeport_give_way(struct packet_ctx *ctx, struct packet *p, struct nat *nat)
{
	struct lb_flow *to = &nat->to;
	struct lb_flow *held;
	s32 ret;

	if (p->shape != SHAPE_WHOLE || (p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN))
		return 0;
	to->saddr = p->saddr;
	to->daddr = p->daddr;
	to->sport = p->sport;
	to->dport = p->dport;
	nat_turn(nat, to);
	held = lb_flows_map(&nat->twin_key);
	if (likely(!held) || (held->flags & (LB_FLOW_REVERSE | LB_FLOW_SNAT)) != (LB_FLOW_REVERSE | LB_FLOW_SNAT))
		return 0;
	p->now = packet_now();
	to->epoch = 0;
	to->backend_id = held->backend_id;
	to->service_id = held->service_id;
	to->flags = LB_FLOW_SNAT | LB_FLOW_OWN;
	to->pad = 0;
	ret = nat_open(ctx, nat, p);
	return ret < 0 ? ret : 1;
}

/* What the stack of this node sends by a device to the outside: answers of backends that have no device of their own,
 * and the node's own connections.
 */
static __always_inline s32 nodeport_to_outside(struct packet_ctx *ctx, struct packet *p, struct nat *nat)
{
	s32 ret;

	if (likely(!nodeport_answer(p, nat))) {
		ret = nodeport_give_way(ctx, p, nat);
		if (likely(ret <= 0))
			return ret < 0 ? ret : CTX_ACT_OK;
	}
	ret = nodeport_rewrite(ctx, p, nat);
	return ret < 0 ? ret : CTX_ACT_OK;
}

/* What a pod sends to somebody who is not on this node, and has been let through. The stack would not forward what
 * bears an address of the node.
 */
static __always_inline s32 nodeport_from_pod(struct packet_ctx *ctx, struct packet *p)
{
	struct nat *nat = nat_of(p);
	struct lb_flow *flow;

	if (p->l4_offset > NODEPORT_OFFSET_MAX)
		return CTX_ACT_OK;
	if (!packet_is_v6(p))
		fragment_find4(ctx, nat);
	if (p->shape == SHAPE_ERROR) {
		if (!(packet_is_v6(p) ? error_parse(ctx, p, nat, true) : error_parse(ctx, p, nat, false)))
			return CTX_ACT_OK;
	} else {
		if (p->shape == SHAPE_FRAGMENT && !fragment_ports(p, nat))
			return CTX_ACT_OK;
		nat_key(&nat->key, p);
	}
	flow = nodeport_answer(p, nat);
	return flow ? nodeport_forward(ctx, p, nat, flow) : CTX_ACT_OK;
}

#endif
