/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The backend's side of DSR (dsr.h): what another node has put to a packet is taken off, and remembered, so that what
 * the backend answers leaves as the frontend's. Only what names a frontend of such a service is believed: who sends the
 * rest could have us send in anybody's name.
 */
#ifndef CPLANE_DSR_RECEIVE_H
#define CPLANE_DSR_RECEIVE_H

/* The service that the packet's sender names; NULL if there is no such, or its backends do not answer by themselves.
 * A node port may be any node's, whose addresses are not all known here.
 */
static __always_inline struct lb_service *dsr_service(const struct packet *p, const struct addr *addr, __be16 port,
						      u8 protocol)
{
	struct lb_service *service = lb_service_at(addr, port, protocol, p->family);

	if (!service)
		service = lb_service_any(port, protocol, p->family);
	return service && (service->flags & LB_FLAG_DSR) ? service : NULL;
}

/* The client has asked for the frontend that `nat->key` names, and this is what the backend gets to see. */
static __always_inline void dsr_remember(const struct packet *p, struct nat *nat, u16 service_id)
{
	struct lb_flow *to = &nat->to;
	struct lb_flow *held;

	to->saddr = nat->key.saddr;
	to->sport = nat->key.sport;
	to->flags = nat_flags(LB_FLOW_DSR, p);
	to->lifetime = p->now + nat_timeout(to->flags, p->protocol);
	to->backend_id = 0;
	to->service_id = service_id;
	nat_turn(nat, to);
	held = lb_flows_map(&nat->twin_key);
	/* Answered just now: it is known, as well as its route. */
	if (held && nat_is_fresh(held, p, nat_tick()) && nat_is_twin(nat, held) && held->service_id == service_id)
		return;
	nat_twin(nat, to);
	lb_flows_set(&nat->twin_key, &nat->twin, BPF_ANY);
}

/* The packet in hand is for a backend already. */
static __always_inline void dsr_remember_frontend(struct packet *p, struct nat *nat, const struct addr *addr,
						  __be16 port, u16 service_id)
{
	p->now = packet_now();
	nat_key(&nat->key, p);
	nat->to.daddr = p->daddr;
	nat->to.dport = p->dport;
	nat->key.daddr = *addr;
	nat->key.dport = port;
	dsr_remember(p, nat, service_id);
}

static __always_inline s32 dsr_take_option4(struct packet_ctx *ctx, struct packet *p, struct nat *nat)
{
	struct lb_service *service;
	struct dsr_option4 option;
	struct addr frontend = {};
	u32 words[2], before;
	struct iphdr *ip;
	u64 change;

	if (p->l4_offset < ETH_HLEN + sizeof(*ip) + sizeof(option) ||
	    ctx_load(ctx, ETH_HLEN + sizeof(*ip), &option, sizeof(option)))
		return CTX_ACT_OK;
	if (option.type != DSR_OPTION4_TYPE || option.length != sizeof(option) || !address_is_local(&p->daddr, p->family))
		return CTX_ACT_OK;
	frontend.word[0] = bpf_htonl(option.addr);
	service = dsr_service(p, &frontend, bpf_htons(option.port), p->protocol);
	if (!service)
		return CTX_ACT_OK;
	dsr_remember_frontend(p, nat, &frontend, bpf_htons(option.port), service->id);
	__builtin_memcpy(words, &option, sizeof(words));
	if (skb_adjust_room(ctx, -(s32)sizeof(option), BPF_ADJ_ROOM_NET, BPF_F_FIXED_GSO))
		return DROP(WRITE_ERROR, NODEPORT);
	ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip));
	if (!ip)
		return DROP(WRITE_ERROR, NODEPORT);
	before = *(u32 *)ip;
	ip->version_ihl -= sizeof(option) / 4;
	ip->tot_len = bpf_htons((u16)(bpf_ntohs(ip->tot_len) - sizeof(option)));
	change = csum_word(csum_word(csum_word(0, before, *(u32 *)ip), words[0], 0), words[1], 0);
	ip->check = csum_changed(ip->check, change);
	return CTX_ACT_OK;
}

static __always_inline s32 dsr_take_option6(struct packet_ctx *ctx, struct packet *p, struct nat *nat)
{
	struct lb_service *service;
	struct dsr_option6 option;
	struct ipv6hdr *ip;

	if (p->l4_offset < ETH_HLEN + sizeof(*ip) + sizeof(option) ||
	    ctx_load(ctx, ETH_HLEN + sizeof(*ip), &option, sizeof(option)))
		return CTX_ACT_OK;
	ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip));
	if (!ip || ip->nexthdr != NEXTHDR_DEST || option.type != DSR_OPTION6_TYPE ||
	    option.header_length != sizeof(option) / 8 - 1 || option.length != sizeof(option) - 4 ||
	    !address_is_local(&p->daddr, p->family))
		return CTX_ACT_OK;
	service = dsr_service(p, &option.addr, option.port, p->protocol);
	if (!service)
		return CTX_ACT_OK;
	dsr_remember_frontend(p, nat, &option.addr, option.port, service->id);
	if (skb_adjust_room(ctx, -(s32)sizeof(option), BPF_ADJ_ROOM_NET, BPF_F_FIXED_GSO))
		return DROP(WRITE_ERROR, NODEPORT);
	ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip));
	if (!ip)
		return DROP(WRITE_ERROR, NODEPORT);
	ip->nexthdr = option.nexthdr;
	ip->payload_len = bpf_htons((u16)(bpf_ntohs(ip->payload_len) - sizeof(option)));
	return CTX_ACT_OK;
}

/* What a packet in a packet is: enough to find its service, or its connection. */
struct dsr_inner {
	struct addr saddr;
	struct addr daddr;
	__be16 sport;
	__be16 dport;
	u8 protocol;
	bool later;		/* a later fragment: no ports */
};

/* The packet at `offset`; false if it is none that services are about. */
static __always_inline bool dsr_inner(struct packet_ctx *ctx, u32 offset, struct dsr_inner *inner, const bool v6)
{
	struct ipv6_fragment fragment = {};
	struct ipv6hdr ip6;
	struct iphdr ip4;
	__be16 ports[2];

	__builtin_memset(inner, 0, sizeof(*inner));
	if (v6) {
		if (ctx_load(ctx, offset, &ip6, sizeof(ip6)) || *(u8 *)&ip6 >> 4 != 6)
			return false;
		inner->saddr = ip6.saddr;
		inner->daddr = ip6.daddr;
		inner->protocol = ip6.nexthdr;
		offset += sizeof(ip6);
		if (ipv6_is_extension(ip6.nexthdr) && ipv6_skip(ctx, &offset, &inner->protocol, &fragment))
			return false;
		inner->later = fragment.later;
	} else {
		if (ctx_load(ctx, offset, &ip4, sizeof(ip4)) || !ipv4_is_sound(&ip4))
			return false;
		inner->later = ipv4_is_later_fragment(&ip4);
		inner->saddr.word[0] = ip4.saddr;
		inner->daddr.word[0] = ip4.daddr;
		inner->protocol = ip4.protocol;
		offset += ipv4_header_size(&ip4);
	}
	if (inner->protocol == icmp_protocol(v6) || !l4_is_tracked(inner->protocol, v6))
		return false;
	if (inner->later)
		return true;
	if (ctx_load(ctx, offset, ports, sizeof(ports)))
		return false;
	inner->sport = ports[0];
	inner->dport = ports[1];
	return true;
}

/* True for an address that is in no cluster. Who could have another one taken out of a packet would be judged as
 * whoever has it, past all filters that look at packets' own headers.
 */
static __always_inline bool dsr_is_outside(const struct addr *addr, u8 family)
{
	u32 identity = identity_of(addr, family);

	return identity == identity_of_world(addr, family) || identity >> 24 == IDENTITY_SCOPE_LOCAL >> 24;
}

/* True if `inner` may have come in a packet of `p->saddr`. That is to be a node, if it is anybody in the cluster: what
 * others send is judged where they are, by their own addresses.
 */
static __always_inline bool dsr_is_plausible(const struct packet *p, const struct dsr_inner *inner)
{
	u32 sender = identity_of(&p->saddr, p->family);

	return dsr_is_outside(&inner->saddr, p->family) &&
	       (sender == IDENTITY_HOST || sender == IDENTITY_REMOTE_NODE || sender == IDENTITY_KUBE_APISERVER ||
		dsr_is_outside(&p->saddr, p->family));
}

#define DSR_PIECES_MAX 512	/* of the largest packet that the kernel makes */

/* The backend's port, where the outer header is IPv4's and says `port`. A large packet is cut when it leaves the other
 * node, and its pieces count on from there; so what another packet has told goes first. SYNs are never cut. `nat->key`
 * is the packet that has come.
 */
static __always_inline __be16 dsr_ipip_told(const struct packet *p, struct nat *nat, __be16 port)
{
	struct lb_flow *flow;
	u16 ahead;

	nat->key.kind = FLOW_KEY_TUNNELLED;
	flow = lb_flows_map(&nat->key);
	nat->key.kind = FLOW_KEY_PACKET;
	nat->known = false;
	if (!flow || !nat_is_live(flow, p) || !addr_equal(&flow->daddr, &nat->to.daddr) ||
	    (p->protocol == IPPROTO_TCP && (p->tcp_flags & TCP_SYN)))
		return port;
	ahead = bpf_ntohs(port) - bpf_ntohs(flow->dport);
	if (ahead >= DSR_PIECES_MAX)
		return port;
	nat->known = nat_is_fresh(flow, p, nat_tick());
	return flow->dport;
}

/* The packet's backend, for those that come after it. */
static __always_inline void dsr_ipip_tell(struct nat *nat)
{
	struct lb_flow *to = &nat->to;

	if (nat->known)
		return;
	to->epoch = 0;
	to->pad = 0;
	to->tick = nat_tick();
	__builtin_memset(&to->route, 0, sizeof(to->route));
	nat->key.kind = FLOW_KEY_TUNNELLED;
	lb_flows_set(&nat->key, to, BPF_ANY);
	nat->key.kind = FLOW_KEY_PACKET;
}

/* The port of the backend, which the tunnel's header says; if it does not, it is the frontend's. */
static __always_inline __be16 dsr_ipip_port(struct packet_ctx *ctx, __be16 dport, const bool v6)
{
	struct ipv6hdr *ip6 = ctx_at(ctx, ETH_HLEN, sizeof(*ip6));
	struct iphdr *ip4 = (struct iphdr *)ip6;
	__be16 port;

	if (!ip6)
		return dport;
	port = v6 ? bpf_htons((u16)bpf_htonl(ip6->version_class_flow)) : ip4->id;
	return port ? port : dport;
}

/* A packet to a backend of this node with another in it, which is to a frontend: the other one, to the backend. */
static __always_inline s32 dsr_unwrap_ipip(struct packet_ctx *ctx, struct packet *p, struct nat *nat, const bool v6)
{
	const u32 outer = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct addr backend = p->daddr;
	struct lb_service *service;
	struct dsr_inner inner;
	u16 service_id;
	__be16 port;

	if (p->protocol != (v6 ? IPPROTO_IPV6 : IPPROTO_IPIP) || p->l4_offset != ETH_HLEN + outer ||
	    !address_is_local(&p->daddr, p->family) || !dsr_inner(ctx, ETH_HLEN + outer, &inner, v6) || inner.later ||
	    !dsr_is_plausible(p, &inner))
		return CTX_ACT_OK;
	service = dsr_service(p, &inner.daddr, inner.dport, inner.protocol);
	if (!service)
		return CTX_ACT_OK;
	service_id = service->id;
	port = dsr_ipip_port(ctx, inner.dport, v6);
	if (skb_adjust_room(ctx, -(s32)outer, BPF_ADJ_ROOM_MAC,
			    BPF_F_FIXED_GSO | (v6 ? BPF_F_DECAP_L3_IPV6 : BPF_F_DECAP_L3_IPV4)))
		return DROP(WRITE_ERROR, NODEPORT);
	if (!nodeport_parse(ctx, p, nat, v6))
		return DROP(INVALID_PACKET, NODEPORT);
	p->now = packet_now();
	nat->to.daddr = backend;
	nat->to.dport = v6 ? port : dsr_ipip_told(p, nat, port);
	dsr_remember(p, nat, service_id);
	if (!v6)
		dsr_ipip_tell(nat);
	return rewrite_packet(ctx, p, &nat->to);
}

/* True if a packet with an option has told of the connection of `inner`, which has none. */
static __always_inline bool dsr_is_known(struct packet *p, struct nat *nat, const struct dsr_inner *inner)
{
	struct lb_flow_key *key = &nat->twin_key;
	struct lb_flow *flow;

	key->saddr = inner->daddr;
	key->daddr = inner->saddr;
	key->sport = inner->dport;
	key->dport = inner->sport;
	key->protocol = inner->protocol;
	key->family = p->family;
	key->kind = FLOW_KEY_PACKET;
	flow = lb_flows_map(key);
	p->now = packet_now();
	return flow && !inner->later && nat_is_live(flow, p) &&
	       (flow->flags & (LB_FLOW_DSR | LB_FLOW_REVERSE)) == (LB_FLOW_DSR | LB_FLOW_REVERSE);
}

/* The Geneve header of a packet to a backend of this node; false if that is not what it is, or if it has options, but
 * not exactly the one that we know.
 */
static __always_inline bool dsr_geneve_parse(struct packet_ctx *ctx, const struct packet *p, const struct nat *nat,
					     struct geneve *geneve, const bool v6)
{
	const u32 outer = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	u32 option;

	if (p->protocol != IPPROTO_UDP || p->dport != bpf_htons(GENEVE_PORT) || p->shape != SHAPE_WHOLE || nat->fragmented ||
	    p->l4_offset != ETH_HLEN + outer || !address_is_local(&p->daddr, p->family) ||
	    ctx_load(ctx, ETH_HLEN + outer + sizeof(struct udphdr), geneve, sizeof(*geneve)))
		return false;
	option = (u32)(geneve->version_length & GENEVE_LENGTH_MASK) * 4;
	return !(geneve->version_length >> GENEVE_VERSION_SHIFT) && !(geneve->flags & GENEVE_CONTROL) &&
	       geneve->protocol == bpf_htons(GENEVE_ETHERNET) && (!option || option == geneve_option_size(v6));
}

/* A Geneve packet to a backend of this node with a frame in it that is for the same one: what is in that frame. It bears
 * an option, or belongs to a connection of which one has told.
 */
static __always_inline s32 dsr_unwrap_geneve(struct packet_ctx *ctx, struct packet *p, struct nat *nat, const bool v6)
{
	const u32 offset = geneve_growth(v6, 0);	/* of the option; both Ethernet headers are of one size */
	struct lb_service *service = NULL;
	struct addr frontend = {};
	struct dsr_inner inner;
	struct geneve geneve;
	__be16 port = 0, kind;
	u16 service_id = 0;
	u32 option;

	if (likely(!dsr_geneve_parse(ctx, p, nat, &geneve, v6)))
		return CTX_ACT_OK;
	option = (u32)geneve.version_length * 4;
	if ((option && !geneve_option_read(ctx, offset, &frontend, &port, v6)) ||
	    ctx_load(ctx, offset + option + ETH_HLEN - sizeof(kind), &kind, sizeof(kind)) ||
	    kind != bpf_htons(v6 ? ETH_P_IPV6 : ETH_P_IP) || !dsr_inner(ctx, offset + option + ETH_HLEN, &inner, v6) ||
	    !addr_equal(&inner.daddr, &p->daddr) || !dsr_is_plausible(p, &inner))
		return CTX_ACT_OK;
	if (option) {
		service = dsr_service(p, &frontend, port, inner.protocol);
		if (!service)
			return CTX_ACT_OK;
		service_id = service->id;
	} else if (!dsr_is_known(p, nat, &inner)) {
		return CTX_ACT_OK;
	}
	if (skb_adjust_room(ctx, -(s32)(geneve_growth(v6, 0) + option), BPF_ADJ_ROOM_MAC,
			    BPF_F_FIXED_GSO | (v6 ? BPF_F_DECAP_L3_IPV6 : BPF_F_DECAP_L3_IPV4)))
		return DROP(WRITE_ERROR, NODEPORT);
	if (!option || inner.later)
		return CTX_ACT_OK;
	if (!nodeport_parse(ctx, p, nat, v6))
		return DROP(INVALID_PACKET, NODEPORT);
	dsr_remember_frontend(p, nat, &frontend, port, service_id);
	return CTX_ACT_OK;
}

/* What is none of ours, but may have come from another node that sends its clients here. */
static __always_inline s32 dsr_receive(struct packet_ctx *ctx, struct packet *p, struct nat *nat, bool parsed)
{
	bool v6 = packet_is_v6(p);

	if (CONFIG(dsr_dispatch) == DSR_IPIP) {
		if (parsed || !p->family)
			return CTX_ACT_OK;
		return v6 ? dsr_unwrap_ipip(ctx, p, nat, true) : dsr_unwrap_ipip(ctx, p, nat, false);
	}
	if (!parsed || p->shape != SHAPE_WHOLE)
		return CTX_ACT_OK;
	if (CONFIG(dsr_dispatch) == DSR_GENEVE)
		return v6 ? dsr_unwrap_geneve(ctx, p, nat, true) : dsr_unwrap_geneve(ctx, p, nat, false);
	return v6 ? dsr_take_option6(ctx, p, nat) : dsr_take_option4(ctx, p, nat);
}

#endif
