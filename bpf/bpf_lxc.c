/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The pod's device: two tcx programs on the host side of its veth.
 *
 *   from_container  tcx ingress: what the pod sends
 *   to_container    tcx egress: what the stack sends to the pod
 */
#include "lib/ctx.h"
#include "lib/config.h"
#include "lib/types.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/socket.h"
#include "lib/drop.h"
#include "lib/metrics.h"
#include "lib/eth.h"
#include "lib/ipv4.h"
#include "lib/ipv6.h"
#include "lib/l4.h"
#include "lib/record.h"
#include "lib/debug.h"
#include "lib/trace.h"
#include "lib/drop_notify.h"
#include "lib/eps.h"
#include "lib/lifetime.h"
#include "lib/conntrack.h"
#include "lib/policy.h"
#include "lib/mark.h"
#include "lib/proxy.h"
#include "lib/policy_log.h"
#include "lib/icmp6.h"
#include "lib/judge.h"
#include "lib/local_delivery.h"
#include "lib/lb.h"
#include "lib/jhash.h"
#include "lib/maglev.h"
#include "lib/nat.h"
#include "lib/fragment.h"
#include "lib/rewrite.h"
#include "lib/nat_error.h"
#include "lib/answer.h"
#include "lib/fib.h"
#include "lib/geneve.h"
#include "lib/dsr.h"
#include "lib/nodeport.h"

#ifndef CONFIG_lb
#define CONFIG_lb 0	/* the node serves clients outside: what its backends answer them leaves as the service's */
#endif

static __always_inline struct device_info *device_of(const struct packet_ctx *ctx)
{
	struct device_key key = { .ifindex = ctx->ifindex };

	return devices_map(&key);
}

static __always_inline struct judged judged_of(const struct device_info *device)
{
	struct judged pod = { .policy_id = device->policy_id, .lxc_id = device->lxc_id, .flags = device->flags };

	return pod;
}

/* The EtherType, in the packet's byte order. 802.1Q tags lie outside of the packet, and what they lead to is
 * not what we judge.
 */
static __always_inline s32 ethernet_type(struct packet_ctx *ctx)
{
	struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth));

	if (!eth || ctx->vlan_present || bpf_ntohs(eth->proto) < ETH_P_802_3_MIN)
		return DROP(UNSUPPORTED_L2, LXC);
	return eth->proto;
}

/* All that is known of a packet of one family before anything is looked up. */
static __always_inline s32 parse(struct packet_ctx *ctx, struct packet *p, const bool v6)
{
	struct ipv6_fragment fragment = {};
	s32 ret = v6 ? ipv6_parse(ctx, p, &fragment) : ipv4_parse(ctx, p);

	if (ret < 0)
		return ret;
	if (CONFIG(lb)) {
		nat_begin(p)->fragment_id = fragment.id;
		nat_of(p)->fragmented = fragment.present;
	}
	if (!l4_is_tracked(p->protocol, v6))
		return DROP(CT_UNKNOWN_L4, LXC);
	if (unlikely(p->shape == SHAPE_FRAGMENT))
		return 0;
	ret = l4_parse(ctx, p, v6);
	if (ret < 0)
		return ret;
	if (unlikely(p->protocol == icmp_protocol(v6) && icmp_is_error(p->icmp_type, v6)))
		conntrack_related(ctx, p, v6);
	conntrack_connection(p, v6);
	return 0;
}

/* A pod has one address per family and speaks with no other. */
static __always_inline bool source_is_own(const struct packet *p, const struct device_info *device)
{
	if (packet_is_v6(p))
		return addr_equal(&p->saddr, &device->ipv6) && !addr_is_zero(&device->ipv6);
	return p->saddr.word[0] == device->ipv4 && device->ipv4;
}

/* ARP of a pod: the node has every address but the pod's own. */
static __always_inline s32 from_container_arp(struct packet_ctx *ctx, const struct device_info *device)
{
	struct arp_packet *arp = ctx_at(ctx, 0, sizeof(*arp));

	if (!arp || !arp_is_ipv4(arp))
		return CTX_ACT_DROP;
	if (arp->operation == bpf_htons(ARP_REPLY)) {
		if (arp_ip(arp->sender_ip) != device->ipv4 || !mac_equal(arp->sender_mac, device->mac))
			return DROP(INVALID_SOURCE_IP, LXC);
		return CTX_ACT_OK;
	}
	if (arp->operation != bpf_htons(ARP_REQUEST) || arp_ip(arp->target_ip) == device->ipv4)
		return CTX_ACT_DROP;
	arp_answer(arp, device->node_mac);
	return redirect(ctx->ifindex, 0);
}

/* Instead of an action: a proxy of this node is to have it. */
#define FROM_CONTAINER_PROXY 0x10000

/* What a pod sends: judged by its own policy, then handed to a local pod or to the stack. */
static __always_inline s32 from_container_ip(struct packet_ctx *ctx, struct packet *p, const struct device_info *device)
{
	struct judged pod = judged_of(device);
	struct endpoint_info *to;
	bool local;
	s32 ret;
	u8 point;

	if (!source_is_own(p, device))
		return DROP(INVALID_SOURCE_IP, LXC);
	p->now = packet_now();
	to = endpoint_of(&p->daddr, p->family);
	if (to) {
		p->dst_identity = to->sec_id;
		p->dst_lxc = to->lxc_id;
	}
	local = to && !(to->flags & ENDPOINT_FLAG_HOST);
	ret = judge(ctx, p, &pod, !local, false, DIRECTION_EGRESS);
	if (ret < 0)
		return ret;
	metrics_count(ctx, METRIC_FORWARDED, METRICS_EGRESS);
	if (local && likely(!packet_is_proxied(p))) {
		ret = local_delivery(ctx, p, to);
		if (ret < 0)
			return ret;
	}
	if (unlikely(packet_is_proxied(p))) {
		p->judgement = ret;
		return FROM_CONTAINER_PROXY;
	}
	if (local) {
		point = TRACE_TO_ENDPOINT;
	} else {
		point = p->dst_identity == IDENTITY_HOST ? TRACE_TO_HOST : TRACE_TO_STACK;
		debug(ctx, p->src_lxc, point == TRACE_TO_HOST ? DBG_TO_HOST : DBG_TO_STACK, 0, 0);
	}
	if (ret & JUDGE_REPORT)
		trace_notify(ctx, p, point, ret & ~JUDGE_REPORT);
	if (local)
		return redirect_peer(to->ifindex, 0);
	if (CONFIG(lb) && ((p->flags & RECORD_REPLY) || unlikely(p->shape != SHAPE_WHOLE)))
		return nodeport_from_pod(ctx, p);
	return CTX_ACT_OK;
}

static __always_inline s32 from_container_packet(struct packet_ctx *ctx, struct packet *p)
{
	struct device_info *device = device_of(ctx);
	s32 ret;

	if (!device)
		return DROP(ENDPOINT_NOT_READY, LXC);
	p->src_identity = device->sec_id;
	p->src_lxc = device->lxc_id;
	ret = ethernet_type(ctx);
	if (ret < 0)
		return ret;
	if (ret == bpf_htons(ETH_P_IP))
		ret = parse(ctx, p, false);
	else if (ret == bpf_htons(ETH_P_IPV6))
		ret = parse(ctx, p, true);
	else if (ret == bpf_htons(ETH_P_ARP))
		return from_container_arp(ctx, device);
	else
		return DROP(UNSUPPORTED_L3, LXC);
	if (ret < 0)
		return ret;
	if (p->protocol == IPPROTO_ICMPV6 && icmp6_is_link_noise(p->icmp_type))
		return icmp6_from_container(ctx, p, device);
	return from_container_ip(ctx, p, device);
}

/* What the stack sends to a pod: judged by the pod's policy. */
static __always_inline s32 to_container_packet(struct packet_ctx *ctx, struct packet *p)
{
	struct device_info *device = device_of(ctx);
	struct judged pod;
	s32 ret;

	if (!device)
		return DROP(ENDPOINT_NOT_READY, LXC);
	p->dst_identity = device->sec_id;
	p->dst_lxc = device->lxc_id;
	ret = ethernet_type(ctx);
	if (ret < 0)
		return ret;
	if (ret == bpf_htons(ETH_P_IP))
		ret = parse(ctx, p, false);
	else if (ret == bpf_htons(ETH_P_IPV6))
		ret = parse(ctx, p, true);
	else if (ret == bpf_htons(ETH_P_ARP))
		return CTX_ACT_OK;
	else
		return DROP(UNSUPPORTED_L3, LXC);
	if (ret < 0)
		return ret;
	if (p->protocol == IPPROTO_ICMPV6 && icmp6_is_link_noise(p->icmp_type) && icmp6_is_of_link(ctx))
		return CTX_ACT_OK;
	p->now = packet_now();
	p->proxy = proxy_sender(ctx);
	pod = judged_of(device);
	ret = judge(ctx, p, &pod, true, true, DIRECTION_INGRESS);
	if (ret < 0)
		return ret;
	metrics_count(ctx, METRIC_FORWARDED, METRICS_INGRESS);
	if (unlikely(packet_is_proxied(p))) {
		s32 sent = proxy_send(ctx, p);

		if (sent >= 0 && ret & JUDGE_REPORT)
			trace_notify(ctx, p, TRACE_TO_PROXY, ret & ~JUDGE_REPORT);
		return sent;
	}
	if (ret & JUDGE_REPORT)
		trace_notify(ctx, p, TRACE_TO_ENDPOINT, ret & ~JUDGE_REPORT);
	return CTX_ACT_OK;
}

PROGRAM int from_container(struct packet_ctx *ctx)
{
	struct packet *p = packet_begin(RECORD_EGRESS);
	s32 ret;

	if (!p)
		return CTX_ACT_DROP;
	ret = from_container_packet(ctx, p);
	if (unlikely(ret == FROM_CONTAINER_PROXY)) {
		ret = proxy_take(ctx, p);
		if (ret >= 0 && p->judgement & JUDGE_REPORT)
			trace_notify(ctx, p, TRACE_TO_PROXY, p->judgement & ~JUDGE_REPORT);
	}
	return ret < 0 ? drop_packet(ctx, p, ret) : ret;
}

PROGRAM int to_container(struct packet_ctx *ctx)
{
	struct packet *p = packet_begin(0);
	s32 ret;

	if (!p)
		return CTX_ACT_DROP;
	ret = to_container_packet(ctx, p);
	return ret < 0 ? drop_packet(ctx, p, ret) : ret;
}
