/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ethernet and ARP. */
#ifndef CPLANE_ETH_H
#define CPLANE_ETH_H

#define ETH_HLEN 14
#define ETH_P_802_3_MIN 0x0600
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_IPV6 0x86dd

struct ethhdr {
	u8 dest[6];
	u8 source[6];
	__be16 proto;
};

#define ARP_REQUEST 1
#define ARP_REPLY 2

struct arp_packet {		/* RFC 826, for Ethernet and IPv4 */
	struct ethhdr eth;
	__be16 hardware;
	__be16 protocol;
	u8 hardware_len;
	u8 protocol_len;
	__be16 operation;
	u8 sender_mac[6];
	__be16 sender_ip[2];	/* in halves: the header leaves it unaligned */
	u8 target_mac[6];
	__be16 target_ip[2];
};

static __always_inline void mac_copy(u8 *to, const u8 *from)
{
	*(u16 *)to = *(const u16 *)from;
	*(u16 *)(to + 2) = *(const u16 *)(from + 2);
	*(u16 *)(to + 4) = *(const u16 *)(from + 4);
}

static __always_inline bool mac_equal(const u8 *a, const u8 *b)
{
	return *(const u16 *)a == *(const u16 *)b && *(const u16 *)(a + 2) == *(const u16 *)(b + 2) &&
	       *(const u16 *)(a + 4) == *(const u16 *)(b + 4);
}

static __always_inline u32 arp_ip(const __be16 *half)
{
	return half[0] | (u32)half[1] << 16;
}

static __always_inline bool arp_is_ipv4(const struct arp_packet *arp)
{
	return arp->hardware == bpf_htons(1) && arp->protocol == bpf_htons(ETH_P_IP) &&
	       arp->hardware_len == 6 && arp->protocol_len == 4;
}

/* The request becomes the answer: `mac` has the address that was asked for. */
static __always_inline void arp_answer(struct arp_packet *arp, const u8 *mac)
{
	u32 asked = arp_ip(arp->target_ip);
	u32 asker = arp_ip(arp->sender_ip);

	mac_copy(arp->eth.dest, arp->sender_mac);
	mac_copy(arp->eth.source, mac);
	arp->operation = bpf_htons(ARP_REPLY);
	mac_copy(arp->target_mac, arp->sender_mac);
	mac_copy(arp->sender_mac, mac);
	arp->target_ip[0] = asker;
	arp->target_ip[1] = asker >> 16;
	arp->sender_ip[0] = asked;
	arp->sender_ip[1] = asked >> 16;
}

#endif
