/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Internet checksums that follow a change (RFC 1624). A change is collected in 64 bits, so that nothing overflows,
 * and is the same in any byte order, as both the words and the checksum lie in the packet's.
 */
#ifndef CPLANE_CSUM_H
#define CPLANE_CSUM_H

#define CSUM_PSEUDO 1	/* what changed is in the pseudo-header */
#define CSUM_OPTIONAL 2	/* UDP: 0 means that there is none */
#define CSUM_IPV6 4	/* ... and no checksum of the network header makes up for it */

static __always_inline u64 csum_word(u64 change, u32 from, u32 to)
{
	return change + (u32)~from + to;
}

static __always_inline u64 csum_half(u64 change, u16 from, u16 to)
{
	return change + (u16)~from + to;
}

/* A change in 32 bits, as helpers take it. */
static __always_inline u32 csum_32(u64 change)
{
	change = (change & 0xffffffff) + (change >> 32);
	return change + (change >> 32);
}

/* The checksum after the change. */
static __always_inline u16 csum_changed(u16 check, u64 change)
{
	u64 sum = (u16)~check + (u64)csum_32(change);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#endif
