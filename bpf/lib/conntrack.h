/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connections: one entry per endpoint and connection, found by one lookup from either direction. */
#ifndef CPLANE_CONNTRACK_H
#define CPLANE_CONNTRACK_H

/* At most one trace record per direction of a live connection in this time, but for TCP flags. */
#ifndef CONFIG_report_interval_s
#define CONFIG_report_interval_s 5
#endif

#define TCP_REPORTED (TCP_SYN | TCP_FIN | TCP_RST)

/* Which connection a whole packet belongs to. */
static __always_inline void conntrack_connection(struct packet *p, const bool v6)
{
	struct l4_ports ports = { .source = p->sport, .dest = p->dport };

	if (p->protocol == icmp_protocol(v6))
		ports = icmp_ports(p->icmp_type, p->icmp_id, v6);
	if (v6)
		connection_set6(&p->connection, &p->saddr, &p->daddr, p->protocol, &ports);
	else
		connection_set4(&p->connection, p->saddr.word[0], p->daddr.word[0], p->protocol, &ports);
}

/* The transport ports of the packet inside an ICMP error; false if it has none that we know. */
static __always_inline bool conntrack_inner_ports(struct packet_ctx *ctx, u32 offset, u8 protocol,
						  struct l4_ports *ports, const bool v6)
{
	struct icmphdr header;	/* TCP and SCTP begin like UDP, and only 8 bytes are sure to be here */

	if (!l4_is_tracked(protocol, v6) || ctx_load(ctx, offset, &header, sizeof(header)))
		return false;
	if (protocol == icmp_protocol(v6)) {
		*ports = icmp_ports(header.type, header.id, v6);
		return true;
	}
	ports->source = ((struct udphdr *)&header)->source;
	ports->dest = ((struct udphdr *)&header)->dest;
	ports->icmp = false;
	return true;
}

static __always_inline void conntrack_related4(struct packet_ctx *ctx, struct packet *p)
{
	u32 offset = p->l4_offset + sizeof(struct icmphdr);
	struct l4_ports ports = {};
	struct iphdr inner;

	if (ctx_load(ctx, offset, &inner, sizeof(inner)) || !ipv4_is_sound(&inner) ||
	    ipv4_is_later_fragment(&inner))
		return;
	if (!conntrack_inner_ports(ctx, offset + ipv4_header_size(&inner), inner.protocol, &ports, false))
		return;
	p->shape = SHAPE_ERROR;
	p->error_to_sender = inner.saddr == p->daddr.word[0];
	p->error_by_receiver = inner.daddr == p->saddr.word[0];
	connection_set4(&p->related, inner.saddr, inner.daddr, inner.protocol, &ports);
}

static __always_inline void conntrack_related6(struct packet_ctx *ctx, struct packet *p)
{
	u32 offset = p->l4_offset + sizeof(struct icmphdr);
	struct l4_ports ports = {};
	struct ipv6hdr inner;
	struct ipv6_fragment fragment = {};
	u8 header;

	if (ctx_load(ctx, offset, &inner, sizeof(inner)))
		return;
	offset += sizeof(inner);
	header = inner.nexthdr;
	if (ipv6_skip(ctx, &offset, &header, &fragment) || fragment.later)
		return;
	if (!conntrack_inner_ports(ctx, offset, header, &ports, true))
		return;
	p->shape = SHAPE_ERROR;
	p->error_to_sender = addr_equal(&inner.saddr, &p->daddr);
	p->error_by_receiver = addr_equal(&inner.daddr, &p->saddr);
	connection_set6(&p->related, &inner.saddr, &inner.daddr, header, &ports);
}

/* An ICMP error names the packet that caused it. If that can be read, `p` becomes SHAPE_ERROR. */
static __always_inline void conntrack_related(struct packet_ctx *ctx, struct packet *p, const bool v6)
{
	if (v6)
		conntrack_related6(ctx, p);
	else
		conntrack_related4(ctx, p);
}

/* The live entry of an endpoint for a connection; NULL if there is none or it has expired. */
static __always_inline struct ct_entry *conntrack_entry(struct packet *p, struct connection *c, u16 lxc_id)
{
	struct ct_entry *entry;

	if (packet_is_v6(p))
		c->key.v6.lxc_id = lxc_id;
	else
		c->key.v4.lxc_id = lxc_id;
	entry = ct_map_lookup(&c->key, packet_is_v6(p));
	return entry && (s32)(entry->lifetime - p->now) > 0 ? entry : NULL;
}

/* True if `p` is an ICMP error about a live connection of the endpoint. An endpoint may only report on what
 * it received, to who sent it; it may only be told about what it sent, by anyone on the way.
 */
static __always_inline bool conntrack_is_related(struct packet *p, u16 lxc_id, const u8 direction)
{
	if (!p->error_to_sender || (direction == DIRECTION_EGRESS && !p->error_by_receiver))
		return false;
	return conntrack_entry(p, &p->related, lxc_id);
}

/* True if the packet goes the way of the connection's first one. */
static __always_inline bool conntrack_is_forward(const struct ct_entry *entry, const struct packet *p)
{
	return !!(entry->flags & CT_INITIATOR_LOW) == p->connection.source_low;
}

/* The entry to go on with; NULL also when a SYN opens a closing connection again, or one that a proxy had. */
static __always_inline struct ct_entry *conntrack_lookup(struct packet *p, u16 lxc_id)
{
	struct ct_entry *entry = conntrack_entry(p, &p->connection, lxc_id);

	if (entry && unlikely(entry->flags & (CT_CLOSING | CT_PROXIED)) && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return NULL;
	return entry;
}

/* Not 0 where a proxy speaks with the initiator's address from a port that the initiator itself has, too, and the
 * packet is of the one and the entry of the other. There is one entry for both: the proxy's, as it is the proxy whom the
 * other side answers.
 */
static __always_inline u8 conntrack_other(const struct ct_entry *entry, const struct packet *p, bool forward)
{
	/* Arithmetic, as in conntrack_proxy_port(). */
	return ((entry->flags / (CT_FROM_PROXY / PROXY_SENT)) ^ p->proxy) & PROXY_SENT & -(u8)forward;
}

/* The proxy port that the connection has; 0: none. Without a branch, as all of these are in every packet's way, and the
 * verifier walks each of them.
 */
static __always_inline __be16 conntrack_proxy_port(const struct ct_entry *entry)
{
	return entry->proxy_port & -(u16)!!(entry->flags & CT_PROXIED);
}

static __always_inline u8 conntrack_flags(u8 flags, const struct packet *p, bool forward)
{
	if (!(p->tcp_flags & TCP_SYN))
		flags |= CT_SEEN_NON_SYN;
	if (p->tcp_flags & TCP_FIN)
		flags |= forward ? CT_CLOSING_FWD : CT_CLOSING_REV;
	if (p->tcp_flags & TCP_RST)
		flags |= CT_CLOSING;
	return flags;
}

static __always_inline u32 conntrack_timeout(u8 flags, const struct packet *p)
{
	if (p->protocol != IPPROTO_TCP)
		return CONFIG(ct_any_s);
	if ((flags & CT_CLOSING) == CT_CLOSING)
		return CONFIG(ct_tcp_closing_s);
	return flags & CT_SEEN_NON_SYN ? CONFIG(ct_tcp_s) : CONFIG(ct_tcp_syn_s);
}

/* State and lifetime after this packet. Writes only what changes: several CPUs share the cache line. */
static __always_inline void conntrack_update(struct ct_entry *entry, const struct packet *p, bool forward)
{
	u8 flags = entry->flags;
	u32 lifetime;

	if (p->protocol == IPPROTO_TCP) {
		flags = conntrack_flags(flags, p, forward);
		/* A connection that both sides have closed does not live longer by what still trickles in. */
		if (flags == entry->flags && (flags & CT_CLOSING) == CT_CLOSING)
			return;
		if (flags != entry->flags)
			entry->flags = flags;
	}
	lifetime = p->now + conntrack_timeout(flags, p);
	if (entry->lifetime != lifetime)
		entry->lifetime = lifetime;
}

/* True if this packet is due a trace record: new TCP flags in its direction, or the interval has passed. */
static __always_inline bool conntrack_report(struct ct_entry *entry, const struct packet *p, bool forward)
{
	u8 *seen = forward ? &entry->seen_fwd : &entry->seen_rev;
	u16 *reported = forward ? &entry->reported_fwd : &entry->reported_rev;
	u8 flags = *seen | (p->tcp_flags & TCP_REPORTED);

	if (flags == *seen && (u16)(p->now - *reported) < CONFIG(report_interval_s))
		return false;
	*seen = flags;
	*reported = p->now;
	return true;
}

/* A connection begins with this packet, which was allowed under `epoch`. The key has the endpoint `lxc_id`. */
static __always_inline s32 conntrack_create(const struct packet_ctx *ctx, struct packet *p, u16 lxc_id,
					    u32 peer_identity, u64 epoch)
{
	struct ct_entry entry = {
		.epoch = epoch,
		.peer_identity = peer_identity,
		.cookie = p->cookie,
		.proxy_port = p->proxy_port,
		.reported_fwd = p->now,
		.reported_rev = p->now - CONFIG(report_interval_s),
		.seen_fwd = p->tcp_flags & TCP_REPORTED,
	};
	long error;

	entry.flags = (p->connection.source_low ? CT_INITIATOR_LOW : 0) | (p->audited ? CT_AUDITED : 0);
	entry.flags |= CT_PROXIED * !!p->proxy_port | CT_FROM_PROXY * !!(p->proxy & PROXY_SENT);
	entry.flags = conntrack_flags(entry.flags, p, true);
	entry.lifetime = p->now + conntrack_timeout(entry.flags, p);
	error = ct_map_update(&p->connection.key, &entry, packet_is_v6(p));
	if (error) {
		debug_error(ctx, lxc_id, HELPER_MAP_UPDATE_ELEM, error);
		return DROP(CT_MAP_INSERTION_FAILED, CONNTRACK);
	}
	debug(ctx, lxc_id, packet_is_v6(p) ? DBG_CT_CREATED6 : DBG_CT_CREATED4, 0, p->src_identity);
	return 0;
}

#endif
