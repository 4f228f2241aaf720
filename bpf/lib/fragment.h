/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets in pieces: only the first one has ports, which are remembered for the others. */
#ifndef CPLANE_FRAGMENT_H
#define CPLANE_FRAGMENT_H

#define IP_MORE_FRAGMENTS 0x2000

static __always_inline void fragment_key(struct lb_fragment_key *key, const struct packet *p, const struct nat *nat)
{
	key->saddr = p->saddr;
	key->daddr = p->daddr;
	key->id = nat->fragment_id;
	key->protocol = p->protocol;
	key->family = p->family;
	key->pad = 0;
}

/* Whether an IPv4 packet is a piece of another, and of which. */
static __always_inline void fragment_find4(struct packet_ctx *ctx, struct nat *nat)
{
	struct iphdr *ip = ctx_at(ctx, ETH_HLEN, sizeof(*ip));

	if (!ip)
		return;
	nat->fragment_id = ip->id;
	nat->fragmented = ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_OFFSET_MASK);
}

/* The ports of a later piece; false if its first one has not been seen, or was none of ours. */
static __always_inline bool fragment_ports(struct packet *p, const struct nat *nat)
{
	struct lb_fragment *ports;
	struct lb_fragment_key key;

	fragment_key(&key, p, nat);
	ports = lb_fragments_map(&key);
	if (!ports)
		return false;
	p->sport = ports->sport;
	p->dport = ports->dport;
	return true;
}

/* The other pieces will be needed to be told. */
static __always_inline void fragment_remember(const struct packet *p, const struct nat *nat)
{
	struct lb_fragment ports = { .sport = p->sport, .dport = p->dport };
	struct lb_fragment_key key;

	fragment_key(&key, p, nat);
	lb_fragments_set(&key, &ports);
}

#endif
